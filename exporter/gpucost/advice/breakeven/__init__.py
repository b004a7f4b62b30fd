"""Where one way to serve gets cheaper than another: dedicated, scaled to zero, serverless, an API.

    flags, or a workload's week -> Demand -> what each Way costs -> where they cross -> text, page

All of it is pure; ../histories.py asks for the week.
"""
