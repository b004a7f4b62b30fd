"""Team: the bill by namespace, team and workload, to be handed on."""

from __future__ import annotations

from dashboards.build.board import TO_WORKLOAD, Board, Choice, Variable
from dashboards.build.panels import (
    HIGH_IS_GOOD,
    LOW_IS_GOOD,
    NUMBER,
    RATIO,
    STATES,
    USD,
    Query,
    Row,
    bars,
    chart,
    stat,
)
from dashboards.build.promql import CLUSTER, WASTE, foremost, hourly, owned, total, usd
from dashboards.build.tables import Column, Label, table

TENANT = f'{CLUSTER}, namespace=~"$namespace", team=~"$team"'
MONTH = f"workload:${{basis}}:month_to_date{{{TENANT}}}"
RATE = f"tenant:${{basis}}:rate5m{{{TENANT}}}"
PLAIN = f"tenant:gpucost_cost_usd:rate5m{{{TENANT}}}"
WASTED = f"tenant:gpucost_cost_usd:rate5m{{{TENANT}, {WASTE}}}"
OF_WORKLOADS = f"workload:${{basis}}:rate5m{{{TENANT}}}"
PLAIN_OF_WORKLOADS = f"workload:gpucost_cost_usd:rate5m{{{TENANT}}}"
WASTED_OF_WORKLOADS = f"workload:gpucost_waste_usd:rate5m{{{TENANT}}}"
PAID = f'team_model:gpucost_api_cost_usd:rate5m{{{CLUSTER}, team=~"$team"}}'
PAYER = "namespace, team, workload, workload_kind"


def _row(expression: str) -> str:
    return owned(PAYER, expression)


BOARD = Board(
    uid="gpucost-team",
    title="GPU cost / Team",
    description="Showback and chargeback: what each namespace, team and workload cost this month"
    " and in the time range, plain or fully loaded. The tables can be taken as CSV (panel menu,"
    " Inspect, Data).",
    alerts='namespace=~"$namespace"',
    variables=(
        Variable(
            "namespace",
            "Namespace",
            f"tenant:gpucost_holders:info{{{CLUSTER}}}",
            "Namespaces that hold GPUs.",
        ),
        Variable(
            "team",
            "Team",
            f'tenant:gpucost_holders:info{{{CLUSTER}, namespace=~"$namespace"}}',
            "Teams, from the pod label that the exporter's settings name.",
        ),
        Choice(
            "basis",
            "Cost",
            "Plain: what a workload's own GPUs cost. Fully loaded: what nobody used is laid on"
            " those who used the same pool and model, in proportion, so that the rows add up to the"
            " bill. What nobody at all used stays in a row without a namespace.",
            (("plain", "gpucost_cost_usd"), ("fully loaded", "gpucost_loaded_cost_usd")),
        ),
    ),
    rows=(
        Row(
            "",
            (
                stat(
                    "Month to date",
                    "What the chosen ones cost in the calendar month at the end of the time range.",
                    usd(f"sum({MONTH})"),
                    USD,
                    decimals=2,
                    trend=False,
                ),
                stat(
                    "Forecast of the month",
                    "Month to date, and the rest of the month at the mean rate of the last day.",
                    usd(
                        f"(sum({MONTH}) + avg_over_time(sum({RATE})[1d:10m])"
                        " * on () group_left () gpucost:billing_month_left:seconds)"
                    ),
                    USD,
                    decimals=0,
                    trend=False,
                ),
                stat(
                    "Spend now, per hour",
                    "What the chosen ones cost at this moment.",
                    hourly(f"sum({RATE})"),
                    USD,
                    decimals=2,
                ),
                stat(
                    "Share of the bill",
                    "Of all that the month has cost so far, nodes' own costs included.",
                    f"sum({MONTH}) / scalar(sum(workload:gpucost_cost_usd:month_to_date"
                    f"{{{CLUSTER}}}))",
                    RATIO,
                    decimals=0,
                    trend=False,
                ),
                stat(
                    "Wasted in the time range",
                    "Share of the spend that was held and not used.",
                    f"{total('', WASTED)} / ({total('', PLAIN)})",
                    RATIO,
                    decimals=0,
                    trend=False,
                    thresholds=LOW_IS_GOOD,
                    may_be_empty="none",
                ),
                stat(
                    "Activity",
                    "Share of time that the held GPUs were busy.",
                    f"sum(tenant:gpucost_active_gpus:sum{{{TENANT}}})"
                    f" / sum(tenant:gpucost_measured_gpus:sum{{{TENANT}}})",
                    RATIO,
                    decimals=0,
                    thresholds=HIGH_IS_GOOD,
                ),
            ),
        ),
        Row(
            "The bill",
            (
                table(
                    "Chargeback",
                    "A row a workload: the month so far, and the time range. Column filters and CSV"
                    " export (panel menu, Inspect, Data) work on it.",
                    (
                        Label("namespace", "Namespace"),
                        Label("team", "Team"),
                        Label("workload", "Workload", TO_WORKLOAD),
                        Label("workload_kind", "Kind"),
                    ),
                    (
                        Column(
                            "Month to date",
                            usd(_row(f"sum by ({PAYER}) ({MONTH})")),
                            USD,
                            decimals=2,
                        ),
                        Column(
                            "Time range", usd(_row(total(PAYER, OF_WORKLOADS))), USD, decimals=2
                        ),
                        Column(
                            "GPU-hours",
                            _row(
                                total(PAYER, f"workload:gpucost_gpu_seconds:rate5m{{{TENANT}}}")
                                + " / 3600"
                            ),
                            NUMBER,
                            decimals=1,
                        ),
                        Column(
                            "Wasted", usd(_row(total(PAYER, WASTED_OF_WORKLOADS))), USD, decimals=2
                        ),
                        Column(
                            "Wasted share",
                            _row(
                                f"{total(PAYER, WASTED_OF_WORKLOADS)} / ({total(PAYER, PLAIN_OF_WORKLOADS)})"
                            ),
                            RATIO,
                            decimals=0,
                            bar=True,
                            thresholds=LOW_IS_GOOD,
                            maximum=1,
                        ),
                        Column(
                            "Now, per hour",
                            hourly(_row(f"sum by ({PAYER}) ({OF_WORKLOADS})")),
                            USD,
                            decimals=2,
                        ),
                    ),
                    height=11,
                    sort="Month to date",
                    total=("Month to date", "Time range", "GPU-hours", "Wasted"),
                ),
                table(
                    "By namespace",
                    "The month so far by namespace.",
                    (Label("namespace", "Namespace"),),
                    (
                        Column(
                            "Month to date",
                            usd(owned("namespace", f"sum by (namespace) ({MONTH})")),
                            USD,
                            decimals=2,
                        ),
                        Column(
                            "Share",
                            owned(
                                "namespace", f"sum by (namespace) ({MONTH}) / scalar(sum({MONTH}))"
                            ),
                            RATIO,
                            decimals=0,
                            bar=True,
                            maximum=1,
                        ),
                    ),
                    width=8,
                    height=8,
                    sort="Month to date",
                    total=("Month to date",),
                ),
                table(
                    "By team",
                    "The month so far by team. A row without a team: pods that lack the label.",
                    (Label("team", "Team"),),
                    (
                        Column(
                            "Month to date",
                            usd(owned("team", f"sum by (team) ({MONTH})")),
                            USD,
                            decimals=2,
                        ),
                        Column(
                            "Share",
                            owned("team", f"sum by (team) ({MONTH}) / scalar(sum({MONTH}))"),
                            RATIO,
                            decimals=0,
                            bar=True,
                            maximum=1,
                        ),
                    ),
                    width=8,
                    height=8,
                    sort="Month to date",
                    total=("Month to date",),
                ),
                table(
                    "By GPU model and capacity type",
                    "The month so far by what it was spent on.",
                    (Label("gpu_model", "GPU model"), Label("capacity_type", "Capacity")),
                    (
                        Column(
                            "Month to date",
                            usd(f"sum by (gpu_model, capacity_type) ({MONTH})"),
                            USD,
                            decimals=2,
                        ),
                    ),
                    width=8,
                    height=8,
                    sort="Month to date",
                    total=("Month to date",),
                ),
                table(
                    "Model APIs",
                    "Paid for model APIs through LiteLLM, by its own figures, beside what GPUs cost:"
                    " it is in no other row here, and in those budgets that name it.",
                    (Label("team", "Team"), Label("model", "Model")),
                    (
                        Column(
                            "Time range",
                            usd(owned("team", total("team, model", PAID))),
                            USD,
                            decimals=2,
                        ),
                        Column(
                            "Now, per hour",
                            hourly(owned("team", f"sum by (team, model) ({PAID})")),
                            USD,
                            decimals=2,
                        ),
                    ),
                    width=24,
                    height=6,
                    sort="Time range",
                    total=("Time range",),
                    may_be_empty="no LiteLLM is scraped",
                ),
            ),
        ),
        Row(
            "Over time",
            (
                chart(
                    "Spend per hour, by team",
                    "What each team's GPUs cost.",
                    (Query(hourly(owned("team", f"sum by (team) ({RATE})")), "{{team}}"),),
                    USD,
                    style="stack",
                ),
                chart(
                    "Spend per hour, by workload",
                    "The ten dearest workloads at the end of the time range.",
                    (
                        Query(
                            hourly(
                                owned(
                                    "namespace, workload",
                                    foremost(
                                        10,
                                        "namespace, workload",
                                        f"sum by (namespace, workload) ({OF_WORKLOADS})",
                                        f"sum by (namespace, workload) ({OF_WORKLOADS} @ end())",
                                    ),
                                )
                            ),
                            "{{namespace}}/{{workload}}",
                        ),
                    ),
                    USD,
                    style="stack",
                ),
                chart(
                    "Cost of each hour",
                    "What each clock hour cost, by team, drawn at its end.",
                    (Query(usd(owned("team", total("team", RATE, "1h"))), "{{team}}"),),
                    USD,
                    style="bars",
                    interval="1h",
                    legend=("sum",),
                    may_be_empty="no hour is over",
                ),
                chart(
                    "Cost of each day",
                    "What each day (UTC) cost, by team, drawn at its end. Choose a range of weeks.",
                    (Query(usd(owned("team", total("team", RATE, "1d"))), "{{team}}"),),
                    USD,
                    style="bars",
                    interval="1d",
                    legend=("sum",),
                    may_be_empty="no day is over",
                ),
                chart(
                    "Waste per hour, by reason",
                    "What was held and not used.",
                    (Query(hourly(f"sum by (state) ({WASTED})"), "{{state}}"),),
                    USD,
                    style="stack",
                    overrides=STATES,
                    may_be_empty="no waste",
                ),
                bars(
                    "Least active workloads",
                    "Share of time that the GPUs were busy, of the fifteen workloads where they were it least.",
                    f"sort(bottomk(15, workload:gpucost_activity:ratio{{{TENANT}}}))",
                    "{{namespace}}/{{workload}}",
                    RATIO,
                    width=12,
                    decimals=0,
                    maximum=1,
                    thresholds=HIGH_IS_GOOD,
                ),
            ),
        ),
        Row(
            "Energy",
            (
                chart(
                    "Power, by team",
                    "Power drawn by the GPUs that each team holds, by share.",
                    (
                        Query(
                            f"sum by (team) (tenant:gpucost_energy_joules:rate5m{{{TENANT}}})",
                            "{{team}}",
                        ),
                    ),
                    "watt",
                    style="stack",
                ),
                chart(
                    "CO2e per hour, by team",
                    "Grams of CO2e, by the carbon intensity that the rules' settings state; without"
                    " one there is none.",
                    (
                        Query(
                            f'3600 * team:gpucost_co2e_grams:rate5m{{{CLUSTER}, team=~"$team"}}',
                            "{{team}}",
                        ),
                    ),
                    "massg",
                    style="stack",
                    may_be_empty="no carbon intensity is set",
                ),
            ),
        ),
    ),
)
