"""What serving workloads did, hour by hour, as the rules recorded it.

Each `Hour` ends at a full hour of the range; what the Prometheus does not have of it is None, never
0. The recording rules of rules/serving.yaml and rules/cost.yaml are needed.
"""

from __future__ import annotations

from collections import defaultdict
from math import ceil, isfinite
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from gpucost.advice.connection import Span
    from gpucost.advice.prometheus import Prometheus, Row

HOUR = 3600.0

_BY = "cluster, namespace, workload"
_RUNNING = "max without (instance, job) (gpucost_pod_requests_running{SELECTOR})"


def _hour(more: str, recorded: str) -> str:
    return f"sum by ({_BY}{more}) (avg_over_time({recorded}[1h]))"


QUESTIONS: Mapping[str, str] = {
    "requests_per_second": _hour(
        "", 'workload:gpucost_requests:rate5m{SELECTOR,outcome="success"}'
    ),
    "tokens_per_second": _hour(", direction", "workload:gpucost_tokens:rate5m{SELECTOR}"),
    "usd_per_second": _hour("", "workload:gpucost_serving_cost_usd:rate5m{SELECTOR}"),
    "gpus": _hour(", gpu_model", "workload:gpucost_gpu_seconds:rate5m{SELECTOR}"),
    "served": _hour(", engine, served_model", "workload:gpucost_requests:rate5m{SELECTOR}"),
    "running": f"avg_over_time((sum by ({_BY}) ({_RUNNING}))[1h:5m])",
    "replicas": f"avg_over_time((count by ({_BY}) (count by ({_BY}, pod) ({_RUNNING})))[1h:5m])",
}
"""What is asked; SELECTOR is which workloads."""

Key = tuple[str, str, str]
"""Cluster, namespace and workload."""


class Hour(Struct, frozen=True):
    """Means of an hour that ends at `end`, Unix seconds. None is not known.

    `cached_per_second` are input tokens that came from the prefix cache, and are not in `input`.
    """

    end: float
    requests_per_second: float | None = None
    input_per_second: float | None = None
    cached_per_second: float | None = None
    output_per_second: float | None = None
    running: float | None = None
    replicas: float | None = None
    gpus: float | None = None
    usd_per_second: float | None = None


class History(Struct, frozen=True):
    """A serving workload: what it mostly serves, with what and on what, and its hours in order."""

    key: Key
    served_model: str
    engine: str
    gpu_model: str
    hours: tuple[Hour, ...]


def remarks(prometheus: Prometheus) -> Iterator[str]:
    """What is to be said of the answers of a Prometheus."""
    if skewed := prometheus.skew_words:
        yield f"the {skewed}"
    for warning in prometheus.warnings:
        yield f"Prometheus remarks: {warning}"


def read(prometheus: Prometheus, span: Span, selector: str) -> list[History]:
    """The histories of the workloads of a selector, like `namespace="a"`.

    Raises SourceError, and ConfigError for a range without a full hour.
    """
    start, end = ceil(span.start / HOUR) * HOUR + HOUR, span.end // HOUR * HOUR
    if end < start:
        raise ConfigError("--from: no full hour before --to; figures here are by the hour.")
    found = {
        name: [
            row
            for piece in prometheus.over(
                question.replace("{SELECTOR", "{" + selector), start, end, HOUR, name
            )
            for row in piece
        ]
        for name, question in QUESTIONS.items()
    }
    return histories(found)


def histories(found: Mapping[str, Iterable[Row]]) -> list[History]:
    """Put the answers together."""
    figures: dict[Key, dict[float, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, field in (
        ("requests_per_second", _plain("requests_per_second")),
        ("tokens_per_second", _direction),
        ("usd_per_second", _plain("usd_per_second")),
        ("gpus", _plain("gpus")),
        ("running", _plain("running")),
        ("replicas", _plain("replicas")),
    ):
        for row in found[name]:
            for at, value in row.points:
                if isfinite(value):
                    hour = figures[_key(row)][at]
                    hour[field(row)] = hour.get(field(row), 0.0) + value
    models = _mostly(found["gpus"], ("gpu_model",))
    served = _mostly(found["served"], ("engine", "served_model"))
    found_histories = []
    for key, hours in sorted(figures.items()):
        engine, served_model = served.get(key, ("", ""))
        (gpu_model,) = models.get(key, ("",))
        ended = tuple(Hour(at, **hour) for at, hour in sorted(hours.items()))
        found_histories.append(History(key, served_model, engine, gpu_model, ended))
    return found_histories


def _plain(field: str) -> Callable[[Row], str]:
    return lambda _: field


_DIRECTIONS = {"cached_input": "cached_per_second"}


def _direction(row: Row) -> str:
    direction = row.labels.get("direction", "")
    return _DIRECTIONS.get(direction, f"{direction}_per_second")


def _key(row: Row) -> Key:
    labels = row.labels
    return labels.get("cluster", ""), labels.get("namespace", ""), labels.get("workload", "")


def _mostly(rows: Iterable[Row], names: tuple[str, ...]) -> dict[Key, tuple[str, ...]]:
    """The labels that most of a workload's figure has."""
    sums: dict[Key, dict[tuple[str, ...], float]] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        labels = tuple(row.labels.get(name, "") for name in names)
        sums[_key(row)][labels] += sum(value for _, value in row.points if isfinite(value))
    return {key: max(found, key=lambda it, found=found: found[it]) for key, found in sums.items()}  # type: ignore[misc]


def both(hours: Iterable[Hour], *fields: str) -> Iterator[tuple[float, ...]]:
    """The figures of the hours that have all of them."""
    for hour in hours:
        values = [getattr(hour, field) for field in fields]
        if None not in values:
            yield tuple(values)
