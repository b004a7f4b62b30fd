"""The rules load and say the same everywhere: Prometheus 2.42, Prometheus 3, VictoriaMetrics.

One scraped day of the played fleet is given to each, and each evaluates all rules over it by its
own engine. Thanos and Mimir evaluate with Prometheus' engine; their rule files are checked by
Prometheus' parser. `make rulers` brings the programs.
"""

from __future__ import annotations

import math
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

import render_rules
from board_data import SETTINGS, rules, scraped
from cluster.place import Place
from cluster.programs import PROMETHEUS, build
from cluster.programs import program as built
from played_fleet import START
from programs import ROOT, program
from real_prometheus import prometheus, victoria_metrics
from recorded_rules import record
from victoria import AGES, victoria

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from played_fleet import Store
    from real_prometheus import Labels, Prometheus

pytestmark = pytest.mark.slow

HOURS, SCRAPE_SECONDS = 12.0, 60.0
FIRST, RULE_SECONDS = START + 7.0, 222.0
"""No range of a rule is a multiple of it, so that none ends at a sample: Prometheus 3 leaves out
the one at the beginning, 2 does not."""
MOMENTS = [FIRST + RULE_SECONDS * count for count in (25, 66, 124, 149, 199)]

EVERYTHING = (
    SETTINGS.replace("usd_per_month: 45000", "usd_per_month: 40000")
    + "thresholds: {expensive_after_seconds: 3600}\n"
)
"""No pod of the day is older than a day, and no forecast may lie beside its budget."""

EXACT = {"": 1e-9}
NEAR = {
    r"^cluster:gpucost_cost_usd:rate5m|:month_to_date$|:last$": 1e-8,
    r":rate|ratio1h|:max30m|^budget:|_served|waste_usd|co2e": 0.25,
    "": 1e-8,
}
"""VictoriaMetrics does not extrapolate, so a rate that is just changing is another there (and it
keeps twelve digits). What is read or adds up is the same."""

Answers = dict[float, dict[str, dict["Labels", float]]]
"""Values by moment, recorded name and labels."""


@pytest.fixture(scope="module")
def newest() -> Callable[[str], str]:
    """The path of a program of Prometheus 3, which is built where it is not there yet."""
    programs = Place.of_environment().programs
    build((PROMETHEUS,), programs)
    return lambda name: str(built(PROMETHEUS, name, programs))


@pytest.fixture(scope="module")
def store() -> Store:
    return scraped(HOURS, SCRAPE_SECONDS)[0]


@pytest.fixture(scope="module")
def expected(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the tests' own Prometheus says."""
    with prometheus(tmp_path_factory.mktemp("own")) as it:
        return answers(it, store)


def answers(it: Prometheus, store: Store) -> Answers:
    """Give it the day, evaluate the rules there, and ask what they recorded."""
    it.write(store.series)
    pack = rules(EVERYTHING)
    record(it, pack, FIRST, START + HOURS * 3600, RULE_SECONDS)
    names = sorted({rule["record"] for rule in pack if "record" in rule} | {"ALERTS"})
    return {at: {name: values(it, name, at) for name in names} for at in MOMENTS}


def values(it: Prometheus, name: str, at: float) -> dict[Labels, float]:
    return {tuple(sorted(row.labels.items())): row.points[0][1] for row in it.at(name, at)}


def differences(
    expected: Answers, found: Answers, tolerances: Mapping[str, float] = EXACT
) -> list[str]:
    """Where two do not say the same: the tolerance of the first pattern that finds the name."""
    said = []
    for at, by_name in expected.items():
        for name, rows in by_name.items():
            near = next(it for pattern, it in tolerances.items() if re.search(pattern, name))
            others = found[at][name]
            when = f"{(at - START) / 3600:g} h: {name}"
            said += [f"{when}: only one has {labels}" for labels in rows.keys() ^ others.keys()]
            said += [
                f"{when}: {rows[labels]} and {others[labels]} {labels}"
                for labels in rows.keys() & others.keys()
                if not math.isclose(rows[labels], others[labels], rel_tol=near, abs_tol=1e-9)
            ]
    return said


def test_the_day_has_every_kind_of_row(expected: Answers) -> None:
    """Two that say nothing would say the same."""
    empty = {
        name
        for name in expected[MOMENTS[0]]
        if not any(by_name[name] for by_name in expected.values())
    }
    # No LiteLLM there, and no node that dies while the rules stand still.
    assert {name for name in empty if not re.search("_api_cost_|:seen$", name)} == set()


def test_prometheus_3_records_the_same(
    expected: Answers, store: Store, newest: Callable[[str], str], tmp_path: Path
) -> None:
    with prometheus(tmp_path, newest("prometheus")) as it:
        assert differences(expected, answers(it, store)) == []


@pytest.mark.parametrize("age", AGES)
def test_victoria_metrics_records_the_same(
    age: str, expected: Answers, store: Store, tmp_path: Path
) -> None:
    with victoria_metrics(tmp_path, victoria(age)("victoria-metrics")) as it:
        assert differences(expected, answers(it, store), NEAR) == []


@pytest.mark.parametrize("settings", ["default", "demo", "tests"])
def test_every_ruler_loads_every_file(
    settings: str, newest: Callable[[str], str], tmp_path: Path
) -> None:
    chosen = render_rules.read_settings(ROOT / f"rules/settings/{settings}.yaml")
    pack = render_rules.rendered(chosen, sorted((ROOT / "rules").glob("*.yaml")))
    for name, text in pack.items():
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in pack]
    for promtool in (program("promtool"), newest("promtool")):
        run([promtool, "check", "rules", "--lint-fatal", *files])
    for age in AGES:
        run([victoria(age)("vmalert"), "-dryRun", *(f"-rule={file}" for file in files)])


def run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
