"""`gpucost report`: what was spent and wasted, and what to do about it.

    questions -> Facts -> finders -> Actions -> selection -> Report -> page

`observe.py` asks, by way of `asking.py`; `market.py` and `invoice.py` read files; all else is pure.
Rules of the folder:

- A figure that is not known is None and is left out; what is missing is said in the report's head,
  with what that does to the figures.
- Every dollar is saved at most once. Actions on the same dollars are alternatives.
- Every action carries the queries that a reader can check it by.
"""
