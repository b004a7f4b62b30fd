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


def total(by: str, rate: str, window: str = "$__range") -> str:
    """What a recorded rate adds up to in a window, by labels (empty: all together).

    Every point stands for the seconds between two evaluations of the rules; where it was not
    recorded there is nothing to add. A range of the series, and no subquery: Prometheus reads that
    one series after the other, so a month of very many workloads fits into its limit of samples.
    """
    head = f"sum by ({by}) " if by else "sum"
    seconds = f"scalar(max(avg_over_time(gpucost:evaluation_interval_seconds:setting[{window}])))"
    return f"{head}(sum_over_time({rate}[{window}])) * {seconds}"


def foremost(many: int, by: str, expression: str, rank: str) -> str:
    """Of an expression's series by labels, those that rank highest at the end of the time range.

    `rank` is an instant vector by the same labels, its selectors `@ end()`: so the same few are
    drawn throughout.
    """
    return f"({expression} and on ({by}) topk({many}, {rank}))"


def owned(by: str, expression: str) -> str:
    """The expression, with a name in `by` for what has no namespace, team or workload."""
    for label, name in NOBODY.items():
        if label in by.split(", "):
            expression = f'label_replace({expression}, "{label}", "{name}", "{label}", "")'
    return expression


NOBODY = {"namespace": "(held by nobody)", "team": "(no team)", "workload": "(none)"}
