"""Budget: spent, left, forecast, and the day it runs out."""

from __future__ import annotations

from dashboards.build.board import Board, Variable
from dashboards.build.panels import (
    FROM_NOW,
    GREEN,
    NUMBER,
    ORANGE,
    RATIO,
    RED,
    USD,
    YELLOW,
    Query,
    Row,
    bars,
    chart,
    stat,
)
from dashboards.build.promql import hourly, usd
from dashboards.build.tables import Column, Label, table

ON = '{budget=~"$budget"}'
NONE = "no budget is set"
SPENT = ((None, GREEN), (0.5, YELLOW), (0.9, ORANGE), (1.0, RED))
LIMITS = {
    "matcher": {"id": "byRegexp", "options": "/limit$/"},
    "properties": [
        {"id": "custom.lineStyle", "value": {"dash": [8, 6], "fill": "dash"}},
        {"id": "custom.fillOpacity", "value": 0},
    ],
}
# Within the month: a new one begins with a new budget.
RUNS_OUT = (
    f"budget:gpucost_exhaustion:timestamp_seconds{ON}"
    " < on () group_left () (time() + gpucost:billing_month_left:seconds)"
)
# The evenly spread rate: the budget over the whole month.
PACE = (
    f"(budget:gpucost_usd:setting{ON}"
    " / on () group_left () (86400 * days_in_month(gpucost:billing_month_start:timestamp_seconds"
    " + 15 * 86400)))"
)

BOARD = Board(
    uid="gpucost-budget",
    title="GPU cost / Budget",
    description="Budgets of the calendar month: what is spent and left, what the month comes to, and"
    " the day a budget runs out. Budgets are set in the rules' settings.",
    alerts='budget=~"$budget"',
    variables=(
        Variable(
            "budget", "Budget", "budget:gpucost_usd:setting", "Budgets of the rules' settings."
        ),
    ),
    since="now-7d",
    rows=(
        Row(
            "",
            (
                stat(
                    "Budgets past their limit",
                    "Budgets whose month to date is past the limit.",
                    f"count(budget:gpucost_spent:ratio{ON} >= 1) or 0 * count(budget:gpucost_spent:ratio{ON})",
                    NUMBER,
                    thresholds=((None, GREEN), (1, RED)),
                    trend=False,
                    may_be_empty=NONE,
                ),
                stat(
                    "Budgets that will not last",
                    "Budgets whose forecast by the last day's rate is past the limit.",
                    "count(budget:gpucost_forecast_usd:rate1d"
                    f"{ON} > on (budget) group_left () budget:gpucost_usd:setting)"
                    f" or 0 * count(budget:gpucost_forecast_usd:rate1d{ON})",
                    NUMBER,
                    thresholds=((None, GREEN), (1, ORANGE)),
                    trend=False,
                    may_be_empty=NONE,
                ),
                stat(
                    "Most spent",
                    "The chosen budget that is spent furthest.",
                    f"max(budget:gpucost_spent:ratio{ON})",
                    RATIO,
                    decimals=0,
                    thresholds=SPENT,
                    may_be_empty=NONE,
                ),
                stat(
                    "Runs out first",
                    "When the first budget is spent at the last day's rate, if that is this month.",
                    f"1000 * min({RUNS_OUT})",
                    FROM_NOW,
                    trend=False,
                    may_be_empty="none this month",
                ),
                stat(
                    "Rest of the month",
                    "Time left in the calendar month, in the billing time zone.",
                    "max(gpucost:billing_month_left:seconds)",
                    "s",
                    decimals=1,
                    trend=False,
                ),
                stat(
                    "Watched since",
                    "Nodes that were gone before are in no budget: the rules did not see them.",
                    "1000 * max(gpucost:month_watched_since:timestamp_seconds)",
                    FROM_NOW,
                    trend=False,
                ),
            ),
        ),
        Row(
            "Budgets",
            (
                table(
                    "All budgets",
                    "Spent and remaining in the calendar month; the forecast is month to date and the"
                    " rest at the rate of the last day.",
                    (Label("budget", "Budget"),),
                    (
                        Column(
                            "Limit",
                            usd(f"sum by (budget) (budget:gpucost_usd:setting{ON})"),
                            USD,
                            decimals=0,
                        ),
                        Column(
                            "Spent",
                            usd(f"sum by (budget) (budget:gpucost_cost_usd:month_to_date{ON})"),
                            USD,
                            decimals=2,
                        ),
                        Column(
                            "Spent, share",
                            f"sum by (budget) (budget:gpucost_spent:ratio{ON})",
                            RATIO,
                            decimals=0,
                            bar=True,
                            thresholds=SPENT,
                            maximum=1,
                        ),
                        Column(
                            "Remaining",
                            usd(f"sum by (budget) (budget:gpucost_remaining_usd:month{ON})"),
                            USD,
                            decimals=2,
                            thresholds=((None, RED), (0, "text")),
                        ),
                        Column(
                            "Forecast",
                            usd(f"sum by (budget) (budget:gpucost_forecast_usd:rate1d{ON})"),
                            USD,
                            decimals=0,
                        ),
                        Column(
                            "Forecast, share",
                            f"sum by (budget) (budget:gpucost_forecast_usd:rate1d{ON}"
                            " / on (budget) group_left () budget:gpucost_usd:setting)",
                            RATIO,
                            decimals=0,
                            thresholds=((None, GREEN), (0.9, ORANGE), (1, RED)),
                        ),
                        Column(
                            "Now, per hour",
                            hourly(f"sum by (budget) (budget:gpucost_cost_usd:rate5m{ON})"),
                            USD,
                            decimals=2,
                        ),
                        Column(
                            "Runs out",
                            f"1000 * max by (budget) ({RUNS_OUT})",
                            FROM_NOW,
                        ),
                    ),
                    height=7,
                    sort="Spent, share",
                    may_be_empty=NONE,
                ),
                bars(
                    "Spent, share of the limit",
                    "Month to date over the limit.",
                    f"sort_desc(max by (budget) (budget:gpucost_spent:ratio{ON}))",
                    "{{budget}}",
                    RATIO,
                    width=12,
                    decimals=0,
                    thresholds=SPENT,
                    maximum=1,
                    may_be_empty=NONE,
                ),
                bars(
                    "Forecast, share of the limit",
                    "What the month comes to at the last day's rate, over the limit.",
                    f"sort_desc(max by (budget) (budget:gpucost_forecast_usd:rate1d{ON}"
                    " / on (budget) group_left () budget:gpucost_usd:setting))",
                    "{{budget}}",
                    RATIO,
                    width=12,
                    decimals=0,
                    maximum=1,
                    thresholds=((None, GREEN), (0.9, ORANGE), (1, RED)),
                    may_be_empty=NONE,
                ),
            ),
        ),
        Row(
            "Through the month",
            (
                chart(
                    "Month to date, and the limit",
                    "Solid: spent so far. Dashed: the limit.",
                    (
                        Query(
                            usd(f"max by (budget) (budget:gpucost_cost_usd:month_to_date{ON})"),
                            "{{budget}}",
                        ),
                        Query(
                            usd(f"max by (budget) (budget:gpucost_usd:setting{ON})"),
                            "{{budget}} limit",
                        ),
                    ),
                    USD,
                    height=9,
                    overrides=(LIMITS,),
                    may_be_empty=NONE,
                ),
                chart(
                    "Forecast, and the limit",
                    "What the month comes to at the rate of the last day, and of the last six"
                    " hours: when both are past the limit, the alert fires.",
                    (
                        Query(
                            usd(f"max by (budget) (budget:gpucost_forecast_usd:rate1d{ON})"),
                            "{{budget}} by a day",
                        ),
                        Query(
                            usd(f"max by (budget) (budget:gpucost_forecast_usd:rate6h{ON})"),
                            "{{budget}} by six hours",
                        ),
                        Query(
                            usd(f"max by (budget) (budget:gpucost_usd:setting{ON})"),
                            "{{budget}} limit",
                        ),
                    ),
                    USD,
                    height=9,
                    overrides=(LIMITS,),
                    may_be_empty=NONE,
                ),
                chart(
                    "Burn",
                    "Spend rate over the rate that spreads the budget evenly over the month: 1 ends"
                    " exactly on it.",
                    (
                        Query(
                            f"max by (budget) (budget:gpucost_cost_usd:rate6h{ON} / on (budget)"
                            f" group_left () {PACE})",
                            "{{budget}}",
                        ),
                    ),
                    NUMBER,
                    decimals=2,
                    may_be_empty=NONE,
                ),
                chart(
                    "Spend per hour",
                    "What each budget spends.",
                    (
                        Query(
                            hourly(f"max by (budget) (budget:gpucost_cost_usd:rate5m{ON})"),
                            "{{budget}}",
                        ),
                    ),
                    USD,
                    may_be_empty=NONE,
                ),
            ),
        ),
    ),
)
