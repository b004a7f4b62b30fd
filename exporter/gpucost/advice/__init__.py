"""Advice in dollars, from Prometheus and the price list: for people, never for the serving pod.

What serves imports nothing of this package; a command of it is imported when it is run. Nothing
here changes a cluster.
"""
