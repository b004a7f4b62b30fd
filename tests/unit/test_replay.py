"""Replay: the recording's own clock, its own settings, and the same figures every time."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.config import ConfigError
from gpucost.ledger import imbalance_usd
from gpucost.model import State
from gpucost.pages import encode
from gpucost.replay import MAX_STEPS, RecordingError, replay, steps
from programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from gpucost.model import Report

NODES = ROOT / "tests/nodes"
AT = 1795348800.0
"""2026-11-22T12:00:00Z"""


def gpu(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """A GPU that stands still."""
    activity = {"ratio": 0.0, "peak": 0.0, "signal": "gpm_graphics_util"}
    return {
        "device": {"uuid": "GPU-1", "model": "NVIDIA H100 80GB HBM3", "index": 0},
        "reading": {"activity": activity},
        **more,
    }


def machine(folder: Path, *, config: str = "", **nvml: Any) -> Path:  # noqa: ANN401 - JSON
    """A plain machine with one GPU at 3.60 USD an hour."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nvml.json").write_text(json.dumps({"gpus": [gpu()], **nvml}))
    price = "prices: {fallback: {H100-80GB: 3.60}}\n"
    (folder / "config.yaml").write_text(config or price)
    return folder


def spent(report: Report) -> float:
    return math.fsum(report.ledger.gpus["GPU-1"].account.usd.values())  # type: ignore[union-attr]


# --- The clock ----------------------------------------------------------------------------------


@given(
    seconds=st.floats(min_value=0, max_value=366 * 86_400),
    cycle=st.floats(min_value=1, max_value=300),
)
def test_steps_cover_a_stretch_and_are_bounded(seconds: float, cycle: float) -> None:
    cut = list(steps(seconds, cycle))
    assert math.fsum(cut) == pytest.approx(seconds)
    assert len(cut) <= MAX_STEPS + 1
    assert all(step > 0 for step in cut)
    assert max(cut, default=0.0) <= max(cycle, seconds / MAX_STEPS) * (1 + 1e-9)


def test_nothing_is_charged_before_time_passes(tmp_path: Path) -> None:
    report = replay(machine(tmp_path), 0.0, "", AT)
    assert report.ledger.clock_seconds == 0
    assert report.ledger.billed_usd == 0
    assert report.snapshot.wall_time == AT


@pytest.mark.parametrize("advance", [0.5, 5, 7.25, 3600, 86_400])
def test_exactly_the_time_asked_for_is_charged(tmp_path: Path, advance: float) -> None:
    report = replay(machine(tmp_path), advance, "", AT)
    assert report.snapshot.wall_time == pytest.approx(AT + advance)
    assert spent(report) == pytest.approx(0.001 * advance)
    assert imbalance_usd(report.ledger) == pytest.approx(0, abs=1e-9)


def test_a_frame_holds_until_the_next_and_the_last_for_the_advance(tmp_path: Path) -> None:
    machine(tmp_path)
    for at, fault in ((0, ()), (10, ("lost",)), (40, ())):
        path = tmp_path / f"t{at}" / "nvml.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"gpus": [gpu(faults=fault)]}))
    states = replay(tmp_path, 100.0, "", AT).ledger.gpus["GPU-1"].account.seconds
    assert states[State.UNHEALTHY] == pytest.approx(30)
    assert states[State.UNALLOCATED] == pytest.approx(10 + 100)


def test_a_recording_starts_when_it_says_and_at_overrides_it(tmp_path: Path) -> None:
    machine(tmp_path, recorded_at=AT)
    assert replay(tmp_path, 60.0, "", None).ledger.started_at == AT
    assert replay(tmp_path, 60.0, "", AT + 7).ledger.started_at == AT + 7


def test_without_any_moment_it_starts_now(tmp_path: Path) -> None:
    assert replay(machine(tmp_path), 0.0, "", None).ledger.started_at > AT - 366 * 86_400


@pytest.mark.parametrize("name", sorted(path.name for path in NODES.iterdir()))
def test_how_often_the_node_is_read_does_not_move_a_dollar(tmp_path: Path, name: str) -> None:
    """The law of slicing: 10 x 1 s equals 1 x 10 s, on every recorded node.

    Where a threshold in time lies between, a cycle is charged as it ends: a step's difference.
    """
    folder = tmp_path / "node"
    shutil.copytree(NODES / name, folder)
    fine, coarse = (_sums(_replayed(folder, cycle)) for cycle in (1, 10))
    thresholds = {"kubelet-falls-silent": 10.0, "kubelet-silent-and-pod-gone": 10.0}
    assert fine.keys() == coarse.keys()
    for key, value in fine.items():
        assert coarse[key] == pytest.approx(value, abs=1e-6 + thresholds.get(name, 0.0)), key


def _replayed(folder: Path, cycle_seconds: int) -> Report:
    for path in [folder, *(path for path in folder.iterdir() if path.is_dir())]:
        config = path / "config.yaml"
        if config.exists() or path == folder:
            text = config.read_text() if config.exists() else ""
            kept = [line for line in text.splitlines() if not line.startswith("cycle_seconds")]
            config.write_text("\n".join([f"cycle_seconds: {cycle_seconds}", *kept]))
    return replay(folder, 600.0, "", AT)


def _sums(report: Report) -> dict[tuple[str, State], float]:
    return {
        (uuid, state): gpu.account.seconds.get(state, 0.0)
        for uuid, gpu in report.ledger.gpus.items()
        for state in State
    }


# --- Names and settings -------------------------------------------------------------------------


def test_one_replay_equals_the_next() -> None:
    first, second = (
        encode(replay(NODES / "gke-device-ids", 600.0, "", AT), reveal=True) for _ in range(2)
    )
    assert first == second


def test_a_node_that_nothing_names_is_called_recorded(tmp_path: Path) -> None:
    assert replay(machine(tmp_path), 0.0, "", AT).snapshot.node.name == "recorded"
    assert replay(tmp_path, 0.0, "mine", AT).snapshot.node.name == "mine"


def test_a_node_keeps_its_name_when_a_later_frame_is_broken(tmp_path: Path) -> None:
    """A name that changed would start every series anew."""
    shutil.copytree(NODES / "unpriced", tmp_path, dirs_exist_ok=True)
    (tmp_path / "t60").mkdir()
    (tmp_path / "t60/node.json").write_text("torn")
    report = replay(tmp_path, 60.0, "", AT)
    assert report.snapshot.node.name == "gpu-node-1"
    assert [p.kind for p in report.problems if p.source == "kubernetes"] == ["malformed"]


def test_wrong_settings_at_the_start_are_refused_with_folder_and_field(tmp_path: Path) -> None:
    machine(tmp_path, config="cycle_seconds: fast\n")
    with pytest.raises(ConfigError) as raised:
        replay(tmp_path, 0.0, "", AT)
    assert f"{tmp_path}: config.yaml: cycle_seconds: " in str(raised.value)


def test_empty_settings_are_the_defaults_and_later_the_ones_in_force(tmp_path: Path) -> None:
    machine(tmp_path)
    (tmp_path / "t10").mkdir()
    (tmp_path / "t10/config.yaml").write_text(" \n")
    assert spent(replay(tmp_path, 10.0, "", AT)) == pytest.approx(0.001 * 20)
    (tmp_path / "config.yaml").write_text("")
    assert replay(tmp_path, 10.0, "", AT).ledger.billed_usd == 0


def test_labels_that_never_come_are_shown_as_they_would_be_after_the_wait(tmp_path: Path) -> None:
    """A pod that the API does not list: `unknown` after a minute, however short the run."""
    shutil.copytree(NODES / "node-is-old", tmp_path, dirs_exist_ok=True)
    (tmp_path / "pods.json").write_text('{"items": []}')
    page = encode(replay(tmp_path, 30.0, "", AT), reveal=True).decode()
    assert 'pod="train-0",state="used",team="unknown",workload="unknown"' in page


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError):
        replay(tmp_path, 0.0, "", AT)
