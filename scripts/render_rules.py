"""Renders the Prometheus rule files for a settings file.

    render_rules.py                                  write rules/settings.yaml for the defaults
    render_rules.py --check                          write nothing; exit 1 if it would change
    render_rules.py --settings FILE --out DIR        all rule files, for these settings

Thresholds and budgets become recording rules of rules/settings.yaml: no number of the settings
stands in an alert's expression. The other files pass through as text; only the lines that an
alert's own settings name (`for`, `severity`), the interval, the links' beginnings and the workloads
that are scaled change, so comments and layout stay. Settings that cannot be used are refused with
the path of the field.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "rules"
DEFAULTS = RULES / "settings" / "default.yaml"
RENDERED = "settings.yaml"

TENANT_THRESHOLDS = (
    "idle_after_seconds",
    "underused_ratio",
    "expensive_usd_per_hour",
    "expensive_after_seconds",
)
"""Those that overrides may set by namespace and team."""

HEAD = """\
# Made by scripts/render_rules.py from the settings; edit those.
#
# A threshold is a series, so that alerts compare with it and people can look at it. Those that
# differ by namespace and team have one series for each that holds a GPU.
"""

Duration = Annotated[str, Meta(pattern=r"^([0-9]+(ms|s|m|h|d|w))+$")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f]*$", max_length=500)]
Query = Annotated[str, Meta(min_length=1, max_length=2000)]
Number = Annotated[float, Meta(ge=0, le=1e12)]
Ratio = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[int, Meta(ge=1, le=1000)]
Severity = Literal["critical", "warning", "info"]

SCALING_INTERVAL = "15s"
"""Of what replicas are scaled by, as in rules/scaling.yaml."""

MAX_INTERVAL_SECONDS = 240
"""With five minutes of lookback, a series recorded less often has holes (since Prometheus 3 the
range is open at its start)."""


class SettingsError(Exception):
    """Settings that cannot be used; the message names the field."""


class _Section(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Thresholds(_Section, frozen=True):
    """As rules/settings/default.yaml explains them."""

    idle_after_seconds: Number = 1800
    underused_ratio: Ratio = 0.2
    expensive_usd_per_hour: Number = 20
    expensive_after_seconds: Number = 86400
    underused_min_usd_per_month: Number = 100
    never_ready_after_seconds: Number = 1200
    stuck_activity_ratio: Ratio = 0.95
    stuck_sm_ratio: Ratio = 0.02
    stuck_power_ratio: Ratio = 0.25
    unallocated_ratio: Ratio = 0.2
    unallocated_min_usd_per_month: Number = 500
    spot_min_usd_per_month: Number = 500
    memory_pressure_ratio: Ratio = 0.97
    high_activity_ratio: Ratio = 0.9
    fast_burn_ratio: Ratio = 0.02
    anomaly_ratio: Annotated[float, Meta(ge=1, le=1000)] = 1.5
    anomaly_min_usd_per_hour: Number = 10
    price_age_max_seconds: Number = 7776000
    unattributed_ratio: Ratio = 0.05
    imbalance_max_usd: Number = 0.01
    stale_after_seconds: Number = 300


class Override(_Section, frozen=True):
    """Other thresholds for a namespace or team."""

    cluster: Text | None = None
    namespace: Text | None = None
    team: Text | None = None
    idle_after_seconds: Number | None = None
    underused_ratio: Ratio | None = None
    expensive_usd_per_hour: Number | None = None
    expensive_after_seconds: Number | None = None


# Not Annotated: such a type beside a tuple in a union makes msgspec 0.22 crash now and then when
# the garbage is collected.
Names = str | tuple[str, ...]


class Match(_Section, frozen=True):
    """What a budget selects: a name or several, by label."""

    cluster: Names | None = None
    namespace: Names | None = None
    team: Names | None = None
    workload: Names | None = None
    workload_kind: Names | None = None
    gpu_model: Names | None = None
    capacity_type: Names | None = None
    node_pool: Names | None = None


class ModelApis(_Section, frozen=True):
    """Whose spend on model APIs a budget counts too: a name or several, by label."""

    cluster: Names | None = None
    team: Names | None = None
    model: Names | None = None


SHARES: Mapping[Share, Severity | None] = {50: "info", 90: "warning", 100: "critical"}
"""What a budget pages at, but for what its own `shares` change."""


class Budget(_Section, frozen=True):
    """USD of a calendar month."""

    name: Name
    usd_per_month: Annotated[float, Meta(gt=0, le=1e12)]
    match: Match = Match()
    shares: dict[Share, Severity | None] = {}
    cost: Literal["plain", "loaded"] = "plain"
    model_apis: ModelApis | None = None


class Target(_Section, frozen=True):
    """What a request of a workload may cost."""

    namespace: Text
    workload: Text
    usd_per_request: Annotated[float, Meta(gt=0, le=1e9)]


class ApiPrice(_Section, frozen=True):
    """What an API takes for the tokens of a workload: USD per million, at list price."""

    namespace: Text
    workload: Text
    api: Text
    input: Annotated[float, Meta(ge=0, le=1e6)]
    output: Annotated[float, Meta(ge=0, le=1e6)]
    cached_input: Annotated[float, Meta(ge=0, le=1e6)] | None = None


class Work(_Section, frozen=True):
    """What counts a workload's requests, where its engines do not, or not all of them.

    Both are PromQL that gives one value, in requests a second.
    """

    namespace: Text
    workload: Text
    requests: Query | None = None
    cache_hits: Query | None = None


class Scaling(_Section, frozen=True):
    """A service that is scaled on cost: what rules/scaling.yaml reckons with."""

    namespace: Text
    workload: Text
    cluster: Text | None = None
    up_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.7
    down_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.3
    requests_per_replica: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    usd_per_request: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    usd_per_hour: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    min_replicas: Annotated[int, Meta(ge=0, le=10_000)] = 0
    max_replicas: Annotated[int, Meta(ge=1, le=10_000)] = 10
    queue: Query | None = None
    arrivals: Query | None = None


class Energy(_Section, frozen=True):
    """From joules to grams of CO2e."""

    carbon_grams_per_kwh: Annotated[float, Meta(ge=0, le=10_000)] | None = None
    pue_ratio: Annotated[float, Meta(ge=1, le=10)] = 1


class Alert(_Section, frozen=True):
    """What of an alert is changed."""

    enabled: bool = True
    for_: Duration | None = msgspec.field(default=None, name="for")
    severity: Severity | None = None


class Settings(_Section, frozen=True):
    """The whole file."""

    interval: Duration = "1m"
    runbook_url: Text = "rules/RUNBOOK.md"
    grafana_url: Text = ""
    thresholds: Thresholds = Thresholds()
    overrides: tuple[Override, ...] = ()
    budgets: tuple[Budget, ...] = ()
    targets: tuple[Target, ...] = ()
    api_prices: tuple[ApiPrice, ...] = ()
    work: tuple[Work, ...] = ()

    scaling: tuple[Scaling, ...] = ()
    energy: Energy = Energy()
    alerts: dict[str, Alert] = {}


class Rule(Struct, frozen=True):
    """A recording rule."""

    record: str
    expr: str
    labels: Mapping[str, str] = {}


# --- Reading ----------------------------------------------------------------------------------


def read_settings(path: Path) -> Settings:
    """The settings of a file; SettingsError names the field that is wrong."""
    try:
        return parse_settings(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse_settings(text: str) -> Settings:
    """Settings from YAML; SettingsError names the field that is wrong."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"not YAML: {error}") from error
    try:
        settings = msgspec.convert(document or {}, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(str(error)) from error
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    for number, budget in enumerate(settings.budgets):
        _check_names(budget.match, f"$.budgets[{number}].match")
        if budget.model_apis is not None:
            _check_names(budget.model_apis, f"$.budgets[{number}].model_apis")
    _check_once((budget.name for budget in settings.budgets), "budgets")
    _check_once((f"{it.namespace}/{it.workload}" for it in settings.targets), "targets")
    _check_once((f"{it.namespace}/{it.workload}" for it in settings.api_prices), "api_prices")
    _check_once((f"{it.namespace}/{it.workload}" for it in settings.work), "work")
    for number, work in enumerate(settings.work):
        if work.requests is None and work.cache_hits is None:
            raise SettingsError(f"needs requests or cache_hits - at `$.work[{number}]`")

    _check_once((f"{it.namespace}/{it.workload}" for it in settings.scaling), "scaling")
    for number, scaling in enumerate(settings.scaling):
        _check_scaling(scaling, f"$.scaling[{number}]")
    for number, override in enumerate(settings.overrides):
        if override.namespace is None and override.team is None and override.cluster is None:
            raise SettingsError(
                f"needs a namespace, team or cluster; without one set `thresholds` -"
                f" at `$.overrides[{number}]`"
            )
    if not 0 < seconds_of(settings.interval) <= MAX_INTERVAL_SECONDS:
        raise SettingsError("must be above 0 and at most 4m - at `$.interval`")


def _check_names(match: Match | ModelApis, path: str) -> None:
    for label, value in _matched(match).items():
        names = (value,) if isinstance(value, str) else value
        if not (names and all(map(str.isprintable, names))):
            raise SettingsError(
                f"must be one or more names of printable characters - at `{path}.{label}`"
            )


def _check_scaling(scaling: Scaling, path: str) -> None:
    if scaling.down_ratio >= scaling.up_ratio:
        raise SettingsError(f"must be below up_ratio - at `{path}.down_ratio`")
    if scaling.min_replicas > scaling.max_replicas:
        raise SettingsError(f"must be at most max_replicas - at `{path}.min_replicas`")
    for name in ("queue", "arrivals"):
        if "cost_per_" in (getattr(scaling, name) or ""):
            raise SettingsError(
                f"a cost per request or token falls when the load rises, so it says nothing of"
                f" demand; ask the gateway for requests - at `{path}.{name}`"
            )


def _check_once(names: Iterable[str], field: str) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise SettingsError(f"two {field} are named {name!r} - at `$.{field}`")


def seconds_of(duration: str) -> float:
    """Seconds of a Prometheus duration like 1h30m."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
    return sum(
        float(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|s|m|h|d|w)", duration)
    )


# --- settings.yaml ----------------------------------------------------------------------------


def settings_rules(settings: Settings) -> Iterator[Rule]:
    """The recording rules that carry the settings."""
    for name in Thresholds.__struct_fields__:
        value = getattr(settings.thresholds, name)
        if name in TENANT_THRESHOLDS:
            yield Rule(f"tenant:gpucost_{name}:setting", _by_tenant(name, value, settings))
        else:
            yield Rule(f"gpucost:{name}:setting", f"vector({_number(value)})")
    # What one point of a recorded rate stands for: boards add rates up to dollars with it.
    yield Rule(
        "gpucost:evaluation_interval_seconds:setting",
        f"vector({_number(seconds_of(settings.interval))})",
    )
    yield Rule("gpucost:pue_ratio:setting", f"vector({_number(settings.energy.pue_ratio)})")
    if settings.energy.carbon_grams_per_kwh is not None:
        carbon = _number(settings.energy.carbon_grams_per_kwh)
        yield Rule("gpucost:carbon_grams_per_kwh:setting", f"vector({carbon})")
    for target in settings.targets:
        yield Rule(
            "workload:gpucost_target_usd_per_request:setting",
            f"vector({_number(target.usd_per_request)})",
            {"namespace": target.namespace, "workload": target.workload},
        )
    for price in settings.api_prices:
        yield from api_rules(price)
    for work in settings.work:
        yield from work_rules(work)


def api_rules(price: ApiPrice) -> Iterator[Rule]:
    """An API's prices by the directions of gpucost_pod_tokens_total."""
    cached = price.input if price.cached_input is None else price.cached_input
    usd = {"input": price.input, "cached_input": cached, "output": price.output}
    for direction, value in usd.items():
        yield Rule(
            "workload:gpucost_api_usd_per_million_tokens:setting",
            f"vector({_number(value)})",
            {
                "namespace": price.namespace,
                "workload": price.workload,
                "api": price.api,
                "direction": direction,
            },
        )


def work_rules(work: Work) -> Iterator[Rule]:
    """What the settings name as a workload's work, as series under its name."""
    labels = {"namespace": work.namespace, "workload": work.workload}
    for name, query in (("named_requests", work.requests), ("cache_hits", work.cache_hits)):
        if query is not None:
            one = f"sum by (cluster) (\n  {' '.join(query.split())}\n)"
            yield Rule(f"workload:gpucost_{name}:rate5m", one, labels)


def scaling_rules(scaling: Scaling) -> Iterator[Rule]:
    """What a service is scaled by, and what its gateway says, by its namespace and workload."""
    labels = {
        label: value
        for label in ("cluster", "namespace", "workload")
        if (value := getattr(scaling, label)) is not None
    }
    for name in (
        "up_ratio",
        "down_ratio",
        "requests_per_replica",
        "usd_per_request",
        "usd_per_hour",
        "min_replicas",
        "max_replicas",
    ):
        value = getattr(scaling, name)
        if value is not None:
            yield Rule(f"scaling:gpucost_{name}:setting", f"vector({_number(value)})", labels)
    if scaling.queue is not None:
        yield Rule("scaling:gpucost_queue:setting", "vector(1)", labels)
    for name, query in (
        ("queue_requests", scaling.queue),
        ("arrivals_per_second", scaling.arrivals),
    ):
        if query is not None:
            one = f"sum({' '.join(query.split())})"
            yield Rule(f"scaling:gpucost_{name}:external", one, labels)


def _by_tenant(name: str, value: float, settings: Settings) -> str:
    terms = []
    for override in settings.overrides:
        other = getattr(override, name)
        if other is not None:
            labels = {
                label: getattr(override, label)
                for label in ("cluster", "namespace", "team")
                if getattr(override, label) is not None
            }
            terms.append(f"{_number(other)} * tenant:gpucost_holders:info{_selector(labels)}")
    terms.append(f"{_number(value)} * tenant:gpucost_holders:info")
    return "\nor\n".join(terms)


def budget_rules(budget: Budget) -> Iterator[Rule]:
    """What a budget is, what of it is spent, and how fast: labelled with what it selects.

    A budget adds up whatever it matches, over clusters too. Zero is said only where exporters
    are there to know it.
    """
    matched = _matched(budget.match)
    owner = {label: value for label, value in matched.items() if isinstance(value, str)}
    labels = {"budget": budget.name, **owner}
    metric = "gpucost_loaded_cost_usd" if budget.cost == "loaded" else "gpucost_cost_usd"

    def counted(span: str) -> str:
        of_gpus = f"workload:{metric}:{span}{_selector(matched)}"
        if budget.model_apis is None:
            return of_gpus
        selector = _selector(_matched(budget.model_apis))
        return f"{of_gpus} or team_model:gpucost_api_cost_usd:{span}{selector}"

    yield Rule("budget:gpucost_usd:setting", f"vector({_number(budget.usd_per_month)})", labels)
    for share, severity in sorted({**SHARES, **budget.shares}.items()):
        if severity is not None:
            yield Rule(
                "budget_share:gpucost_ratio:setting",
                f"vector({_number(share / 100)})",
                {**labels, "share": str(share), "severity": severity},
            )
    yield Rule(
        "budget:gpucost_cost_usd:month_to_date",
        f"sum by (month) ({counted('month_to_date')})\n"
        "or\n"
        "0 * gpucost:billing_month_start:timestamp_seconds",
        labels,
    )
    yield Rule(
        "budget:gpucost_cost_usd:rate5m",
        f"sum({counted('rate5m')})\nor\n0 * group(gpucost_build_info)",
        labels,
    )


def _matched(match: Match | ModelApis) -> dict[str, str | tuple[str, ...]]:
    return {
        label: value
        for label in match.__struct_fields__
        if (value := getattr(match, label)) is not None
    }


def _selector(labels: Mapping[str, str | tuple[str, ...]]) -> str:
    if not labels:
        return ""
    parts = []
    for label, value in labels.items():
        if isinstance(value, str):
            parts.append(f"{label}={_quoted(value)}")
        else:
            parts.append(f"{label}=~{_quoted('|'.join(re.escape(name) for name in value))}")
    return "{" + ", ".join(parts) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _number(value: float) -> str:
    return f"{value:.12g}"


def settings_file(settings: Settings) -> str:
    """The text of rules/settings.yaml."""
    lines = [HEAD + "groups:"]
    lines += _group("gpucost-settings.rules", settings, settings_rules(settings))
    for budget in settings.budgets:
        name = f"gpucost-budget-{budget.name}.rules"
        lines += ["", *_group(name, settings, budget_rules(budget))]
    for scaling in settings.scaling:
        name = f"gpucost-scaling-{scaling.namespace}-{scaling.workload}.rules"
        lines += ["", *_group(name, settings, scaling_rules(scaling), SCALING_INTERVAL)]
    return "\n".join(lines) + "\n"


def _group(
    name: str, settings: Settings, rules: Iterable[Rule], interval: str = ""
) -> Iterator[str]:
    yield f"  - name: {name}"
    yield f"    interval: {interval or settings.interval}"
    yield "    rules:"
    for rule in rules:
        yield f"      - record: {rule.record}"
        if "\n" in rule.expr:
            yield "        expr: |"
            yield from (f"          {line}" for line in rule.expr.split("\n"))
        else:
            yield f"        expr: {rule.expr}"
        if rule.labels:
            yield "        labels:"
            for label, value in rule.labels.items():
                yield f"          {label}: {msgspec.json.encode(value).decode()}"


# --- The other files --------------------------------------------------------------------------


def rendered(settings: Settings, sources: Sequence[Path]) -> dict[str, str]:
    """File names and texts of the whole pack; SettingsError for an alert that is not there."""
    texts = {path.name: path.read_text() for path in sources if path.name != RENDERED}
    known = {name for text in texts.values() for name in re.findall(r"- alert: (\S+)", text)}
    for name in settings.alerts:
        if name not in known:
            raise SettingsError(f"no alert of this name - at `$.alerts[{name!r}]`")
    changed = {name: _changed(text, settings) for name, text in texts.items()}
    return {RENDERED: settings_file(settings), **changed}


def _changed(text: str, settings: Settings) -> str:
    if scaled := tuple(sorted({it.workload for it in settings.scaling})):
        text = text.replace('workload=~"none"', _selector({"workload": scaled})[1:-1])
    text = re.sub(r"(?m)^    interval: \S+$", f"    interval: {settings.interval}", text)
    text = text.replace("runbook_url: rules/RUNBOOK.md#", f"runbook_url: {settings.runbook_url}#")
    text = text.replace("dashboard_url: '/d/", f"dashboard_url: '{settings.grafana_url}/d/")
    for name, alert in settings.alerts.items():
        text = re.sub(
            # The alert with the comment above it, up to the next rule's, the next group or the end.
            rf"(?ms)(?P<comment>(?:^      #[^\n]*\n)*)^      - alert: {re.escape(name)}\n.*?"
            r"(?=^(?:      #|      - |  - |  #)|\Z)",
            partial(_alert, alert),
            text,
        )
    return text


def _alert(alert: Alert, found: re.Match[str]) -> str:
    text = found[0]
    if not alert.enabled:
        return ""
    if alert.severity is not None:
        if "        labels:\n" not in text:
            text = text.replace("        annotations:\n", "        labels:\n        annotations:\n")
        text = re.sub(r"(?m)^          severity: \S+\n", "", text, count=1)
        text = text.replace(
            "        labels:\n", f"        labels:\n          severity: {alert.severity}\n"
        )
    if alert.for_ is not None:
        text = re.sub(r"(?m)^        for: \S+\n", "", text)
        place = "        labels:\n" if "        labels:\n" in text else "        annotations:\n"
        text = text.replace(place, f"        for: {alert.for_}\n{place}", 1)
    return text


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Render the rule files for a settings file.")
    parser.add_argument("--settings", type=Path, default=DEFAULTS)
    parser.add_argument("--out", type=Path, default=RULES)
    parser.add_argument("--check", action="store_true", help="write nothing; say what would change")
    options = parser.parse_args(arguments)
    try:
        pack = rendered(read_settings(options.settings), sorted(RULES.glob("*.yaml")))
    except SettingsError as error:
        print(f"render_rules: {error}", file=sys.stderr)
        return 2
    if options.out.resolve() == RULES and options.settings.resolve() != DEFAULTS:
        print("render_rules: rules/ holds the defaults; give --out DIR", file=sys.stderr)
        return 2
    stale = [
        name
        for name, text in pack.items()
        if not (options.out / name).exists() or (options.out / name).read_text() != text
    ]
    if options.check:
        for name in stale:
            print(f"{options.out / name} is out of date; run: scripts/render_rules.py")
        return 1 if stale else 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (options.out / name).write_text(pack[name])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
