"""Serving: what a request and a million tokens cost, and whether the replicas fit the load."""

from __future__ import annotations

from dashboards.build.board import TO_WORKLOAD, Board, Variable
from dashboards.build.panels import (
    BLUE,
    NUMBER,
    RATIO,
    REQUESTS_PER_SECOND,
    USD,
    Query,
    Row,
    chart,
    coloured,
    stat,
    timeline,
)
from dashboards.build.promql import CLUSTER, foremost, hourly, usd
from dashboards.build.tables import Column, Label, table

ON = f'{CLUSTER}, namespace=~"$namespace", workload=~"$workload"'
NAME = "namespace, workload"
LEGEND = "{{namespace}}/{{workload}}"
REQUESTS = f'workload:gpucost_requests:rate5m{{{ON}, outcome="success"}}'
COST = f"workload:gpucost_serving_cost_usd:rate5m{{{ON}}}"
COMPUTED = f'workload:gpucost_tokens:rate5m{{{ON}, direction=~"input|output"}}'
CACHED = f'workload:gpucost_tokens:rate5m{{{ON}, direction="cached_input"}}'
INPUT = f'workload:gpucost_tokens:rate5m{{{ON}, direction=~"input|cached_input"}}'
NOTHING = "no inference server is read"

SHOWN = 20
DEAREST = f"The {SHOWN} dearest workloads at the end of the time range."


def _dearest(expression: str) -> str:
    return foremost(SHOWN, NAME, expression, f"sum by ({NAME}) ({COST} @ end())")


TARGETS = {
    "matcher": {"id": "byRegexp", "options": "/^target of/"},
    "properties": [
        {"id": "custom.lineStyle", "value": {"dash": [8, 6], "fill": "dash"}},
        {"id": "custom.fillOpacity", "value": 0},
        {"id": "color", "value": {"mode": "fixed", "fixedColor": "#C4162A"}},
    ],
}


UNSCALED = "no service is scaled on cost"
SCALING = tuple(
    {
        "matcher": {"id": "byRegexp", "options": f"/: {name}$/"},
        "properties": [
            {"id": "color", "value": {"mode": "fixed", "fixedColor": colour}},
            {"id": "custom.lineWidth", "value": width},
        ],
    }
    for name, colour, width in (
        ("there", "#8AB8FF", 3),
        ("wanted", "#56A64B", 2),
        ("need", "#F2CC0C", 1),
        ("affordable", "#B877D9", 1),
        ("budget", "#E5731B", 1),
        ("maximum", "#8E8E9B", 1),
    )
)
THRESHOLDS = {
    "matcher": {"id": "byRegexp", "options": "/(above|below)$/"},
    "properties": [
        {"id": "custom.lineStyle", "value": {"dash": [8, 6], "fill": "dash"}},
        {"id": "custom.fillOpacity", "value": 0},
        {"id": "color", "value": {"mode": "fixed", "fixedColor": "#8E8E9B"}},
    ],
}


def _threshold(which: str) -> str:
    return (
        f"scaling:gpucost_replicas:count{{{ON}}}"
        f" * on (cluster, namespace, workload) scaling:gpucost_{which}_ratio:setting"
    )


def _now(recorded: str) -> str:
    return f"max by (namespace, workload) ({recorded}{{{ON}}})"


def _by_model(metric: str, more: str = "") -> str:
    selector = f"{ON}, {more}" if more else ON
    return f"max by (namespace, workload, pod, engine, served_model) ({metric}{{{selector}}})"


PER_MILLION = f"sum({COST}) / (sum({COMPUTED}) > 0) * 1e6"
BOARD = Board(
    uid="gpucost-serving",
    title="GPU cost / Serving",
    description="Inference servers: the cost of a request and of a million tokens, what the prefix"
    " cache saves, queues, and whether replicas fit the load.",
    alerts='namespace=~"$namespace", workload=~"$workload"',
    variables=(
        Variable(
            "namespace",
            "Namespace",
            f"workload:gpucost_requests:rate5m{{{CLUSTER}}}",
            "Namespaces with inference servers.",
        ),
        Variable(
            "workload",
            "Workload",
            f'workload:gpucost_requests:rate5m{{{CLUSTER}, namespace=~"$namespace"}}',
            "Workloads whose requests are counted.",
        ),
    ),
    rows=(
        Row(
            "",
            (
                stat(
                    "Cost per request",
                    "All that the chosen workloads cost over their successful requests, now.",
                    usd(f"sum({COST}) / (sum({REQUESTS}) > 0)"),
                    USD,
                    decimals=6,
                    may_be_empty=NOTHING,
                ),
                stat(
                    "Cost per million tokens",
                    "All that they cost over the input and output tokens they computed. Tokens from"
                    " the prefix cache are not computed and not counted.",
                    usd(PER_MILLION),
                    USD,
                    decimals=2,
                    may_be_empty=NOTHING,
                ),
                stat(
                    "Requests per second",
                    "Successful requests.",
                    f"sum({REQUESTS})",
                    REQUESTS_PER_SECOND,
                    decimals=1,
                    may_be_empty=NOTHING,
                ),
                stat(
                    "Output tokens per second",
                    "Tokens generated.",
                    f'sum(workload:gpucost_tokens:rate5m{{{ON}, direction="output"}})',
                    NUMBER,
                    decimals=0,
                    may_be_empty=NOTHING,
                ),
                stat(
                    "Waiting",
                    "Requests in the engines' queues.",
                    f"sum(max without (instance, job) (gpucost_pod_requests_waiting{{{ON}}}))",
                    NUMBER,
                    may_be_empty=NOTHING,
                ),
                stat(
                    "Saved by the cache, per hour",
                    "What it would cost to compute the input that came from the prefix cache.",
                    usd(
                        "sum(max without (instance, job)"
                        f" (gpucost_pod_cache_savings_usd_per_hour{{{ON}}}))"
                    ),
                    USD,
                    decimals=2,
                    may_be_empty=NOTHING,
                ),
            ),
        ),
        Row(
            "Unit cost",
            (
                chart(
                    "Cost per request",
                    f"Of an hour. {DEAREST} It falls when load rises and rises when replicas idle:"
                    " a figure to look at, and no trigger for scaling.",
                    (
                        Query(
                            usd(_dearest(f"workload:gpucost_cost_per_request_usd:ratio1h{{{ON}}}")),
                            LEGEND,
                        ),
                        Query(
                            usd(
                                "workload:gpucost_target_usd_per_request:setting"
                                '{namespace=~"$namespace", workload=~"$workload"}'
                            ),
                            "target of " + LEGEND,
                        ),
                    ),
                    USD,
                    decimals=6,
                    overrides=(TARGETS,),
                    may_be_empty=NOTHING,
                ),
                chart(
                    "Cost per million tokens",
                    f"Over the input and output tokens that a workload computed. {DEAREST}",
                    (
                        Query(
                            usd(
                                "1e6 * "
                                + _dearest(
                                    f"sum by ({NAME}) ({COST}) / (sum by ({NAME}) ({COMPUTED}) > 0)"
                                )
                            ),
                            LEGEND,
                        ),
                    ),
                    USD,
                    decimals=2,
                    may_be_empty=NOTHING,
                ),
                chart(
                    "Cost per hour, and the same tokens at an API's list price",
                    "For workloads whose `api_prices` are in the rules' settings: what they cost, and"
                    " what the API named there would take for the tokens that they served.",
                    (
                        Query(
                            hourly(
                                f"sum by ({NAME}) ({COST} and on (cluster, namespace, workload)"
                                f" workload:gpucost_api_cost_usd:rate5m{{{ON}}})"
                            ),
                            LEGEND,
                        ),
                        Query(
                            hourly(
                                f"sum by ({NAME}, api) (workload:gpucost_api_cost_usd:rate5m{{{ON}}})"
                            ),
                            LEGEND + " at {{api}}",
                        ),
                    ),
                    USD,
                    width=24,
                    height=7,
                    decimals=2,
                    may_be_empty="no api_prices in the rules' settings",
                ),
                table(
                    "Served models",
                    "A row a pod and model: what the exporter reckons over its trailing window.",
                    (
                        Label("served_model", "Model"),
                        Label(
                            "workload",
                            "Workload",
                            TO_WORKLOAD,
                        ),
                        Label("namespace", "Namespace"),
                        Label("engine", "Engine"),
                        Label("pod", "Pod"),
                    ),
                    (
                        Column(
                            "Per request",
                            usd(_by_model("gpucost_pod_cost_per_request_usd")),
                            USD,
                            decimals=6,
                        ),
                        Column(
                            "Input, per million",
                            usd(
                                _by_model(
                                    "gpucost_pod_cost_per_million_tokens_usd", 'direction="input"'
                                )
                            ),
                            USD,
                            decimals=2,
                        ),
                        Column(
                            "Output, per million",
                            usd(
                                _by_model(
                                    "gpucost_pod_cost_per_million_tokens_usd", 'direction="output"'
                                )
                            ),
                            USD,
                            decimals=2,
                        ),
                        Column("Batch", _by_model("gpucost_pod_batch_size"), NUMBER, decimals=1),
                        Column(
                            "Running", _by_model("gpucost_pod_requests_running"), NUMBER, decimals=0
                        ),
                        Column(
                            "Waiting", _by_model("gpucost_pod_requests_waiting"), NUMBER, decimals=0
                        ),
                    ),
                    height=8,
                    sort="Per request",
                    may_be_empty=NOTHING,
                ),
            ),
        ),
        Row(
            "Load",
            (
                chart(
                    "Requests per second, by workload",
                    f"Finished with success. {DEAREST}",
                    (Query(_dearest(f"sum by ({NAME}) ({REQUESTS})"), LEGEND),),
                    REQUESTS_PER_SECOND,
                    width=8,
                    style="stack",
                    may_be_empty=NOTHING,
                ),
                chart(
                    "Tokens per second",
                    "Computed input, input from the prefix cache, and output.",
                    (
                        Query(
                            f"sum by (direction) (workload:gpucost_tokens:rate5m{{{ON}}})",
                            "{{direction}}",
                        ),
                    ),
                    NUMBER,
                    width=8,
                    style="stack",
                    may_be_empty=NOTHING,
                ),
                chart(
                    "Running and waiting",
                    "Requests that the engines work on, and their queues.",
                    (
                        Query(
                            f"sum(max without (instance, job) (gpucost_pod_requests_running{{{ON}}}))",
                            "running",
                        ),
                        Query(
                            f"sum(max without (instance, job) (gpucost_pod_requests_waiting{{{ON}}}))",
                            "waiting",
                        ),
                    ),
                    NUMBER,
                    width=8,
                    style="stack",
                    overrides=(coloured("running", "#3274D9"), coloured("waiting", "#E5731B")),
                    may_be_empty=NOTHING,
                ),
                chart(
                    "Failed requests, share",
                    "Requests that failed, of all finished; not those that their callers gave up."
                    f" {DEAREST}",
                    (
                        Query(
                            _dearest(
                                f'sum by ({NAME}) (workload:gpucost_requests:rate5m{{{ON}, outcome="failure"}})'
                                f" / (sum by ({NAME}) (workload:gpucost_requests:rate5m{{{ON}}}) > 0)"
                            ),
                            LEGEND,
                        ),
                    ),
                    RATIO,
                    width=8,
                    decimals=1,
                    may_be_empty="none failed",
                ),
                chart(
                    "Input from the prefix cache, share",
                    f"Of the input tokens, those that did not have to be computed. {DEAREST}",
                    (
                        Query(
                            _dearest(
                                f"sum by ({NAME}) ({CACHED}) / (sum by ({NAME}) ({INPUT}) > 0)"
                            ),
                            LEGEND,
                        ),
                    ),
                    RATIO,
                    width=8,
                    maximum=1,
                    may_be_empty=NOTHING,
                ),
                chart(
                    "Saved by the cache, per hour",
                    "What it would cost to compute the input that came from the prefix cache."
                    f" {DEAREST}",
                    (
                        Query(
                            usd(
                                _dearest(
                                    f"sum by ({NAME}) (max without (instance, job)"
                                    f" (gpucost_pod_cache_savings_usd_per_hour{{{ON}}}))"
                                )
                            ),
                            LEGEND,
                        ),
                    ),
                    USD,
                    width=8,
                    style="stack",
                    may_be_empty=NOTHING,
                ),
            ),
        ),
        Row(
            "Do the replicas fit the load?",
            (
                chart(
                    "Cost per hour",
                    DEAREST,
                    (Query(hourly(_dearest(f"sum by ({NAME}) ({COST})")), LEGEND),),
                    USD,
                    width=8,
                    style="stack",
                    may_be_empty=NOTHING,
                ),
                chart(
                    "Activity, by workload",
                    "Share of time that the GPUs were busy. Near 1 with a queue: too few replicas."
                    f" Low without a queue: too many, or too large. {DEAREST}",
                    (
                        Query(
                            _dearest(f"workload:gpucost_activity:ratio{{{ON}}}"),
                            LEGEND,
                        ),
                    ),
                    RATIO,
                    width=8,
                    maximum=1,
                    may_be_empty="not measured",
                ),
                chart(
                    "Batch size, by workload",
                    "Requests worked on together, mean of a workload's pods: what makes a request cheap."
                    f" {DEAREST}",
                    (Query(_dearest(f"avg by ({NAME}) (gpucost_pod_batch_size{{{ON}}})"), LEGEND),),
                    NUMBER,
                    width=8,
                    decimals=1,
                    may_be_empty=NOTHING,
                ),
            ),
        ),
        Row(
            "Scaling on cost",
            (
                chart(
                    "Replicas: what the load needs, the traffic pays for and the budget allows",
                    "Need is what the load asks for; affordable, what the traffic pays for at the"
                    " stated cost per request; budget, what the stated dollars an hour allow. The"
                    " smallest of them rules, within minimum and maximum.",
                    (
                        Query(f"scaling:gpucost_replicas:count{{{ON}}}", "{{workload}}: there"),
                        Query(f"scaling:gpucost_replicas:desired{{{ON}}}", "{{workload}}: wanted"),
                        Query(f"scaling:gpucost_need_replicas:value{{{ON}}}", "{{workload}}: need"),
                        Query(
                            f"scaling:gpucost_affordable_replicas:value{{{ON}}}",
                            "{{workload}}: affordable",
                        ),
                        Query(
                            f"scaling:gpucost_budget_replicas:value{{{ON}}}", "{{workload}}: budget"
                        ),
                        Query(
                            f"scaling:gpucost_max_replicas:setting{{{ON}}}", "{{workload}}: maximum"
                        ),
                    ),
                    NUMBER,
                    width=16,
                    height=9,
                    decimals=0,
                    style="steps",
                    overrides=SCALING,
                    may_be_empty=UNSCALED,
                ),
                chart(
                    "Load, in full replicas",
                    "Requests over what one replica can work on, or the GPUs' activity; the mean of a"
                    " minute. Between the dashed thresholds the present number of replicas is held.",
                    (
                        Query(f"scaling:gpucost_load_replicas:avg1m{{{ON}}}", "{{workload}}"),
                        Query(_threshold("up"), "{{workload}}: more above"),
                        Query(_threshold("down"), "{{workload}}: fewer below"),
                    ),
                    NUMBER,
                    width=8,
                    height=9,
                    decimals=2,
                    overrides=(THRESHOLDS,),
                    may_be_empty=UNSCALED,
                ),
                timeline(
                    "Which one rules",
                    "The answer that the wanted number of replicas comes from. Several, where they"
                    " agree.",
                    (
                        Query(
                            f"max by (namespace, workload, rule) (scaling:gpucost_rule:info{{{ON}}})",
                            "{{workload}}: {{rule}}",
                        ),
                    ),
                    ((1, "rules", BLUE),),
                    width=12,
                    height=7,
                    may_be_empty=UNSCALED,
                ),
                table(
                    "Scaled services",
                    "What each is scaled by, now.",
                    (Label("workload", "Workload"), Label("namespace", "Namespace")),
                    (
                        Column("There", _now("scaling:gpucost_replicas:count"), NUMBER, decimals=0),
                        Column(
                            "Wanted", _now("scaling:gpucost_replicas:desired"), NUMBER, decimals=0
                        ),
                        Column(
                            "Need", _now("scaling:gpucost_need_replicas:value"), NUMBER, decimals=0
                        ),
                        Column(
                            "Affordable",
                            _now("scaling:gpucost_affordable_replicas:value"),
                            NUMBER,
                            decimals=0,
                        ),
                        Column(
                            "Budget",
                            _now("scaling:gpucost_budget_replicas:value"),
                            NUMBER,
                            decimals=0,
                        ),
                        Column(
                            "Replica, per hour",
                            usd(_now("scaling:gpucost_replica_usd_per_hour:last")),
                            USD,
                            decimals=2,
                        ),
                    ),
                    width=12,
                    height=7,
                    may_be_empty=UNSCALED,
                ),
            ),
        ),
    ),
)
