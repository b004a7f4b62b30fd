"""Pieces of PromQL that the boards share.

Recorded series (rules/) come first: they are few, however many GPUs there are. Money is recorded
per second; `hourly` makes it per hour, and everything of money is multiplied by the reader's
currency factor.
"""

from __future__ import annotations

from dashboards.build.board import MONEY_FACTOR

WASTE = 'state=~"idle|underused|starting|failing|terminating"'
NODE_BORNE = 'state=~"unallocated|stranded|unhealthy|provisioning|unattributed"'
FREE = 'state=~"unallocated|stranded"'
UNKNOWN = 'state=~"unmeasured|unattributed"'

CLUSTER = 'cluster=~"$cluster"'


def usd(expression: str) -> str:
    """An expression of USD, in the reader's currency."""
    return f"${MONEY_FACTOR} * {expression}"


def hourly(expression: str) -> str:
    """A rate of USD per second, per hour and in the reader's currency."""
    return f"${MONEY_FACTOR} * 3600 * {expression}"


def total(by: str, rate: str, window: str = "$__range", seconds: str = "$__range_s") -> str:
    """What a recorded 5-minute rate adds up to in a window, by labels (empty: all together).

    Its mean over the window, 0 where it was not there, times the window. The steps are counted,
    not assumed: Prometheus before 3 takes one more of them than later ones do.
    """
    head = f"sum by ({by}) " if by else "sum"
    steps = f"scalar(count_over_time(vector(1)[{window}:5m]))"
    return f"{seconds} * {head}(sum_over_time({rate}[{window}:5m])) / {steps}"


def of_each(period: str, by: str, rate: str) -> str:
    """What a recorded rate adds up to in the hour (1h) or day (1d) that ends at each point."""
    return total(by, rate, period, {"1h": "3600", "1d": "86400"}[period])


def owned(by: str, expression: str) -> str:
    """The expression, with a name in `by` for what has no namespace, team or workload."""
    for label, name in NOBODY.items():
        if label in by.split(", "):
            expression = f'label_replace({expression}, "{label}", "{name}", "{label}", "")'
    return expression


NOBODY = {"namespace": "(held by nobody)", "team": "(no team)", "workload": "(none)"}
