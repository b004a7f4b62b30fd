"""Settings of the rules that cannot be meant: what scripts/render_rules.py says, by its path.

The chart takes the same settings and must refuse the same.
"""

from __future__ import annotations

WRONG_SETTINGS = (
    ("thresholds: {idle_after_second: 1}", "idle_after_second"),
    ("thresholds: {underused_ratio: 2}", "$.thresholds.underused_ratio"),
    ("thresholds: {idle_after_seconds: soon}", "$.thresholds.idle_after_seconds"),
    ("budgets: [{name: a, usd_per_month: 0}]", "$.budgets[0].usd_per_month"),
    ("budgets: [{name: a, usd_per_month: .nan}]", "$.budgets[0].usd_per_month"),
    ("budgets: [{name: 'a b', usd_per_month: 1}]", "$.budgets[0].name"),
    ("budgets: [{name: a, usd_per_month: 1, match: {pod: x}}]", "pod"),
    (
        'budgets: [{name: a, usd_per_month: 1, match: {team: "a\\nb"}}]',
        "$.budgets[0].match.team",
    ),
    ("budgets: [{name: a, usd_per_month: 1, match: {team: []}}]", "$.budgets[0].match.team"),
    (
        "budgets: [{name: a, usd_per_month: 1}, {name: a, usd_per_month: 2}]",
        "two budgets are named 'a'",
    ),
    ("budgets: [{name: a, usd_per_month: 1, shares: {50: loud}}]", "$.budgets[0].shares"),
    ("overrides: [{idle_after_seconds: 3}]", "$.overrides[0]"),
    ("interval: 5m", "$.interval"),
    ("interval: 1 minute", "$.interval"),
    ("alerts: {GPUIdel: {enabled: false}}", "GPUIdel"),
    ("alerts: {GPUIdle: {for: 10}}", "$.alerts"),
    ("alerts: {GPUIdle: {severity: loud}}", "$.alerts"),
    ("targets: [{namespace: a, workload: b, usd_per_request: -1}]", "usd_per_request"),
    (
        "api_prices: [{namespace: a, workload: b, api: c, input: 1, output: -1}]",
        "$.api_prices[0].output",
    ),
    (
        "scaling: [{namespace: a, workload: b, up_ratio: 0.3, down_ratio: 0.3}]",
        "$.scaling[0].down_ratio",
    ),
    (
        "scaling: [{namespace: a, workload: b, min_replicas: 3, max_replicas: 2}]",
        "$.scaling[0].min_replicas",
    ),
    (
        "scaling: [{namespace: a, workload: b, queue: gpucost_pod_cost_per_request_usd}]",
        "falls when the load rises",
    ),
    (
        "scaling: [{namespace: a, workload: b}, {namespace: a, workload: b}]",
        "two scaling are named 'a/b'",
    ),
    ("energy: {pue_ratio: 0.5}", "$.energy.pue_ratio"),
)
