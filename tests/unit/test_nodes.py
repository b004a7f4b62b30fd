"""Every recorded machine of tests/nodes gives the exposition it must, and keeps the laws.

A scenario is a recording (docs/operations.md, "Recordings") with two files beside it:

    scenario.toml   what it promises; when it starts, how long it goes on; figures by hand
    expected.prom   the whole page, compared to the letter

`UPDATE_NODES=1` writes expected.prom anew: read the difference before you commit it. The figures
of scenario.toml are reckoned by hand and never written by a program, and the laws are computed
from the page alone, so a wrong page cannot become the expected one unseen.
"""

from __future__ import annotations

import math
import os
import subprocess
import tomllib
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gpucost.catalog import FAMILIES
from gpucost.cli import main
from gpucost.model import HOLDER_STATES, NODE_STATES, State
from programs import ROOT, program

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NODES = ROOT / "tests/nodes"
SCENARIOS = sorted(path.parent for path in NODES.glob("*/scenario.toml"))

Labels = dict[str, str]


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """scenario.toml. `figures` gives series by any of their labels, `absent` what must not be.

    `seconds` are those that a GPU was charged for, by UUID, where they are not the whole time.
    `price_changes` says that a price did not stand still, `let_go` that the counters of a pod
    ended with it.
    """

    promise: str
    at: str
    advance: float
    figures: dict[str, str]
    absent: tuple[str, ...] = ()
    seconds: dict[str, float] = {}
    price_changes: bool = False
    let_go: bool = False


class Page:
    """The samples of a page."""

    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        parse = parse_openmetrics if openmetrics else parse_text
        self.samples = [sample for family in parse(text) for sample in family.samples]

    def find(self, selector: str) -> list[float]:
        """The values of all series with the selector's name and labels."""
        (wanted,) = (s for family in parse_text(f"{selector} 0\n") for s in family.samples)
        return [
            sample.value
            for sample in self.samples
            if sample.name == wanted.name and wanted.labels.items() <= sample.labels.items()
        ]

    def family(self, name: str) -> list[tuple[Labels, float]]:
        return [(sample.labels, sample.value) for sample in self.samples if sample.name == name]

    def total(self, name: str, **labels: str) -> float:
        return math.fsum(v for found, v in self.family(name) if labels.items() <= found.items())

    def sums(self, name: str, label: str = "uuid") -> dict[str, float]:
        sums: dict[str, list[float]] = defaultdict(list)
        for labels, value in self.family(name):
            sums[labels[label]].append(value)
        return {key: math.fsum(values) for key, values in sums.items()}


@pytest.fixture(params=SCENARIOS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def replayed(
    folder: Path, scenario: Scenario, capfdbinary: pytest.CaptureFixture[bytes], *more: str
) -> str:
    """What the command prints."""
    advance = str(scenario.advance)
    status = main(
        ["once", "--replay", str(folder), "--advance", advance, "--at", scenario.at, *more]
    )
    out = capfdbinary.readouterr().out.decode()
    assert status == 0
    return out


def read_scenario(folder: Path) -> Scenario:
    return msgspec.convert(tomllib.loads((folder / "scenario.toml").read_text()), Scenario)


def stable(page: str) -> str:
    """The page without the exporter's version, in 12 digits.

    Python 3.12 adds floats more exactly than 3.11, which shows in the sixteenth.
    """
    lines = []
    for line in page.removesuffix("\n").split("\n"):  # others end lines too, within a label
        if "gpucost_build_info" in line:
            continue
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            figure = float(value)
            line = f"{series} {0.0 if abs(figure) < 1e-12 else figure:.12g}"  # noqa: PLW2901
        lines.append(line)
    return "\n".join(lines) + "\n"


def test_a_recorded_node_gives_the_exposition_it_must_and_keeps_the_laws(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    scenario = read_scenario(folder)
    text = replayed(folder, scenario, capfdbinary)
    page = Page(text)
    seconds = elapsed(folder, scenario)

    check_figures(page, scenario)
    check_states(page, scenario, seconds)
    check_bill(page, scenario)
    check_shares(page)
    check_labels(page)
    check_format(text)
    openmetrics = Page(replayed(folder, scenario, capfdbinary, "--openmetrics"), openmetrics=True)
    assert openmetrics.samples == page.samples

    expected = folder / "expected.prom"
    if os.environ.get("UPDATE_NODES"):
        expected.write_text(stable(text))
    assert stable(text) == expected.read_text()


def elapsed(folder: Path, scenario: Scenario) -> float:
    frames = [float(path.name[1:]) for path in folder.iterdir() if path.is_dir()]
    return max(frames, default=0.0) + scenario.advance


def check_figures(page: Page, scenario: Scenario) -> None:
    """What was reckoned by hand is there, and what must be missing is."""
    assert scenario.figures
    for selector, reckoned in scenario.figures.items():
        value = eval(reckoned, {"__builtins__": {}})  # noqa: S307 - arithmetic, in our own files
        assert page.find(selector) == [pytest.approx(value, rel=1e-9, abs=1e-9)], selector
    for selector in scenario.absent:
        assert page.find(selector) == [], selector


def check_states(page: Page, scenario: Scenario, seconds: float) -> None:
    """Of each GPU, the states sum to the time, and their dollars to the integral of its price."""
    by_state = page.sums("gpucost_gpu_seconds_total")
    spent = page.sums("gpucost_gpu_cost_usd_total")
    prices = {labels["uuid"]: usd for labels, usd in page.family("gpucost_gpu_price_usd_per_hour")}
    assert by_state
    assert spent.keys() >= prices.keys()
    for uuid, counted in by_state.items():
        charged = scenario.seconds.get(uuid, seconds)
        assert counted == pytest.approx(charged), uuid
        if not scenario.price_changes:
            assert (uuid in spent) == (uuid in prices)
            if uuid in prices:
                assert spent[uuid] == pytest.approx(prices[uuid] * charged / 3600), uuid
    assert page.total("gpucost_unpriced_gpus") == len(
        {labels["uuid"] for labels, _ in page.family("gpucost_gpu_info")} - prices.keys()
    )


def check_bill(page: Page, scenario: Scenario) -> None:
    """Holders + node = the bill, in dollars and in seconds, by pod and by month."""
    assert page.find("gpucost_ledger_imbalance_usd") == [pytest.approx(0, abs=1e-9)]
    for unit in ("cost_usd", "gpu_seconds"):
        bill = page.total(f"gpucost_gpu_{unit.removeprefix('gpu_')}_total")
        node = page.total(f"gpucost_workload_{unit}_total", namespace="")
        pods = page.total(f"gpucost_pod_{unit}_total")
        assert page.total(f"gpucost_workload_{unit}_total") == pytest.approx(bill)
        if scenario.let_go:
            assert pods + node < bill
        else:
            assert pods + node == pytest.approx(bill)


def check_shares(page: Page) -> None:
    """The shares of every GPU sum to 1."""
    shares = page.sums("gpucost_pod_gpu_share_ratio")
    gpus = {labels["uuid"] for labels, _ in page.family("gpucost_gpu_info")}
    assert shares == dict.fromkeys(gpus, pytest.approx(1.0))


def check_labels(page: Page) -> None:
    """Every series has the catalogue's labels, a finite value, and all its states beside it."""
    subjects: dict[tuple[str, frozenset[tuple[str, str]]], set[str]] = defaultdict(set)
    for sample in page.samples:
        family = FAMILIES[sample.name]
        stated = {*family.labels, "node"}
        assert stated <= sample.labels.keys() if family.open_labels else stated == {*sample.labels}
        assert math.isfinite(sample.value)
        if "state" in sample.labels:
            rest = frozenset((k, v) for k, v in sample.labels.items() if k != "state")
            subjects[sample.name, rest].add(sample.labels["state"])
    assert len({sample.labels["node"] for sample in page.samples}) == 1
    series = [(sample.name, frozenset(sample.labels.items())) for sample in page.samples]
    assert len(set(series)) == len(series), "a series is there twice"
    for (name, labels), states in subjects.items():
        if name.startswith("gpucost_gpu_"):
            assert states == {*State}
        elif dict(labels)["namespace"]:
            assert {*HOLDER_STATES} <= states <= {*HOLDER_STATES, State.UNHEALTHY}
        else:
            assert states == {*NODE_STATES}


def check_format(text: str) -> None:
    """Prometheus's own linter finds no fault."""
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def named(paths: Iterable[Path]) -> set[str]:
    return {path.name for path in paths}


def test_every_folder_is_a_scenario() -> None:
    assert named(path for path in NODES.iterdir() if path.is_dir()) == named(SCENARIOS)


def test_every_real_page_is_replayed() -> None:
    pages = {path.resolve() for path in NODES.glob("*/dcgm.prom")}
    samples = ROOT / "tests/samples/dcgm"
    assert {path.resolve() for path in samples.glob("*.prom")} <= pages
