"""Evaluates rule files over a past: what a Prometheus would have recorded, had it been there.

Each rule is asked as a range query, those that others read first, and its answer is written back.
(`promtool tsdb create-blocks-from rules` does not order them.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from promql_names import metrics_of
from real_prometheus import STALE
from render_rules import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from real_prometheus import Labels, Prometheus

Rule = dict[str, Any]


def rules_of(texts: Iterable[str]) -> list[Rule]:
    """The rules of rule files."""
    return [
        rule
        for text in texts
        for group in yaml.safe_load(text)["groups"]
        for rule in group["rules"]
    ]


def in_order(rules: Sequence[Rule]) -> list[Rule]:
    """Recording rules, those that others read before them; one that reads itself is no obstacle."""
    by_name: dict[str, list[Rule]] = {}
    for rule in rules:
        if "record" in rule:
            by_name.setdefault(rule["record"], []).append(rule)
    ordered: list[Rule] = []
    begun: set[str] = set()

    def put(name: str) -> None:
        if name in begun or name not in by_name:
            return
        begun.add(name)
        for rule in by_name[name]:
            for read in sorted(metrics_of(rule["expr"])):
                put(read)
        ordered.extend(by_name[name])

    # What keeps a series reads it, and is read back by it: the series comes first.
    for name in sorted(by_name, key=lambda name: not name.endswith(":kept")):
        put(name)
    return ordered


def record(
    prometheus: Prometheus, rules: Sequence[Rule], start: float, end: float, step: float
) -> None:
    """Write what the rules record, and ALERTS of those that fire, every `step` seconds."""
    for rule in in_order(rules):
        if rule["record"] in metrics_of(rule["expr"]):  # what it reads of itself must be there
            prometheus.write(_recorded(prometheus, rule, start, start, step))
        prometheus.write(_recorded(prometheus, rule, start, end, step))
    for rule in rules:
        if "alert" in rule:
            _alert(prometheus, rule, start, end, step)


def _recorded(
    prometheus: Prometheus, rule: Rule, start: float, end: float, step: float
) -> dict[Labels, list[tuple[int, float]]]:
    """What a rule records. Branches of an `or` may answer under other metric names: one series."""
    name = ("__name__", rule["record"])
    points: dict[Labels, list[tuple[float, float]]] = {}
    for it in prometheus.over(rule["expr"], start, end, step):
        labels = _labels({**it.labels, **rule.get("labels", {})}, name)
        points.setdefault(labels, []).extend(it.points)
    return {labels: _ended(sorted(its), end, step) for labels, its in points.items()}


def _alert(prometheus: Prometheus, rule: Rule, start: float, end: float, step: float) -> None:
    wait = seconds_of(str(rule.get("for", "0s")))
    fired: dict[Labels, list[tuple[int, float]]] = {}
    for it in prometheus.over(rule["expr"], start, end, step):
        since = last = None
        firing = []
        for at, _ in it.points:
            if last is None or at - last > 1.5 * step:
                since = at
            last = at
            if since is not None and at - since >= wait:
                firing.append((at, 1.0))
        if firing:
            more = {"alertname": rule["alert"], "alertstate": "firing", **rule.get("labels", {})}
            labels = _labels({**it.labels, **more}, ("__name__", "ALERTS"))
            fired[labels] = _ended(firing, end, step)
    if fired:
        prometheus.write(fired)


def _labels(labels: dict[str, str], name: tuple[str, str]) -> Labels:
    return tuple(sorted((*((k, v) for k, v in labels.items() if k != "__name__" and v), name)))


def _ended(points: list[tuple[float, float]], end: float, step: float) -> list[tuple[int, float]]:
    """The points, with a stale mark wherever the next step has none."""
    out: list[tuple[int, float]] = []
    for number, (at, value) in enumerate(points):
        out.append((round(at * 1000), value))
        after = points[number + 1][0] if number + 1 < len(points) else end + step
        if after - at > 1.5 * step and at + step <= end:
            out.append((round((at + step) * 1000), STALE))
    return out
