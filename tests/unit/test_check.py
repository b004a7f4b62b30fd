"""Preflight: what is looked at, how bad it is, what to do, and what the exit status says.

The nodes are recorded ones, so each finding is about a Report that the real code made.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from gpucost.check import Finding, dollars_flow, findings, render
from gpucost.model import unit_of
from gpucost.replay import replay
from programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

AT = 1795348800.0
ADVANCE = {"kubelet-falls-silent": 600.0}


def look_at(scenario: Path | str) -> tuple[Finding, ...]:
    folder = ROOT / "tests/nodes" / scenario  # an absolute path stays itself
    return findings(replay(folder, ADVANCE.get(folder.name, 1.0), "", AT))


def about(found: tuple[Finding, ...], subject: str) -> list[Finding]:
    return [finding for finding in found if finding.subject == subject]


@pytest.mark.parametrize(
    ("scenario", "flow"),
    [
        ("dcgm-and-kubelet-annotated-price", True),
        ("a100-mig-dcgm-fills-nvml", True),
        ("h100-every-state", True),
        ("plain-vm", True),
        ("no-api-server", True),
        ("time-slicing-replicas", True),
        ("p5-one-gpu-missing", True),
        ("unpriced", False),
        ("reserved-is-not-on-demand", False),
        ("kubelet-falls-silent", False),
        ("dcgm-v100-no-help", False),
    ],
)
def test_dollars_flow_where_gpus_have_prices_and_holders_are_known(
    scenario: str, *, flow: bool
) -> None:
    found = look_at(scenario)
    assert dollars_flow(found) is flow
    page = render(found)
    assert page.endswith("\nDollars will flow.\n" if flow else "\nDollars will not flow yet.\n")
    assert ("fail  " in page) is not flow


@pytest.mark.parametrize(
    ("scenario", "level", "subject", "message", "remedy"),
    [
        ("dcgm-and-kubelet-annotated-price", "ok", "source dcgm", "answers in ", ""),
        ("dcgm-and-kubelet-annotated-price", "ok", "GPU 0", "activity from dcgm_gr_engine", ""),
        ("dcgm-and-kubelet-annotated-price", "ok", "GPU 0", "1.8000 USD/h by node_annotation", ""),
        ("dcgm-and-kubelet-annotated-price", "ok", "holders", "2 pods hold GPUs", ""),
        ("dcgm-and-kubelet-annotated-price", "warn", "node", "instance_type, region unk", "Label"),
        ("a100-mig-dcgm-fills-nvml", "ok", "GPU 0", "3 MIG instances", ""),
        ("h100-every-state", "warn", "GPU 5", "no activity signal: held", "dcgm-exporter"),
        ("h100-every-state", "warn", "GPU 7", "lost", "Drain the node"),
        ("a100-mig-dcgm-fills-nvml", "ok", "GPU 0", "also tells efficiency, memory, power", ""),
        ("a100-mig-dcgm-fills-nvml", "warn", "GPU 0", "no energy: no source", "dcgm-exporter"),
        ("gke-device-ids", "warn", "GPU 2", "memory on 1 of 1 MIG instances: no source", "dcgm"),
        ("no-api-server", "ok", "rights", "may read the kubelet's socket", ""),
        ("a100-mig-dcgm-fills-nvml", "ok", "rights", "socket, pods, the Node", ""),
        ("a100-mig-dcgm-fills-nvml", "warn", "rights", "whose processes", "hostPID: true"),
        ("time-slicing-work-is-told-apart", "ok", "rights", "whose processes are on", ""),
        ("p5-one-gpu-missing", "ok", "node", "gpu-node-1: p5.48xlarge, us-east-1, on_demand", ""),
        ("p5-one-gpu-missing", "ok", "GPU 0", "6.8800 USD/h by catalogue: p5.48xlarge", ""),
        ("p5-one-gpu-missing", "warn", "pricing", "missing_gpu: p5.48xlarge has 8 GPUs", "Xid"),
        ("on-premises-measured-power", "ok", "GPU 1", "(estimated) by on_premises", ""),
        (
            "unpriced",
            "fail",
            "GPU 0",
            "no price: nothing in prices matches",
            "kubectl annotate node",
        ),
        ("reserved-is-not-on-demand", "fail", "GPU 7", "as reserved", "prices.table"),
        ("kubelet-falls-silent", "fail", "source kubelet", "malformed: ", "gpucost record"),
        ("kubelet-falls-silent", "fail", "holders", "all time will be unattributed", "Mount"),
        ("driver-stops-answering", "fail", "source nvml", "malformed: nvml.json", "Record"),
        ("no-api-server", "ok", "holders", "2 pods hold GPUs", ""),
        ("unpriced", "ok", "holders", "1 pod holds GPUs", ""),
        ("gke-device-ids", "warn", "GPU 2", "signal on 1 of 1 MIG instances", "Hopper"),
        ("no-api-server", "warn", "node", "labels not read", "service account"),
        ("plain-vm", "warn", "holders", "by GPU and state, not by pod", ""),
        ("plain-vm", "ok", "node", "g4dn.xlarge, us-east-1, on_demand", ""),
        ("dcgm-readme-sentinel", "warn", "node", "unknown", "Set them under `node:`"),
        ("time-slicing-replicas", "warn", "attribution", "shared_unmeasured: ", "hostPID"),
        ("holder-of-unknown-device", "warn", "attribution", "unknown_device: ", "sees every GPU"),
        ("dra-without-slices", "warn", "dra", "unknown_device: ", "resourceslices"),
        ("bad-config-later", "warn", "config", "prices.table[0].gpu_usd_per_hour", "Mend"),
    ],
)
def test_each_thing_looked_at_says_how_it_is_and_what_to_do(
    scenario: str, level: str, subject: str, message: str, remedy: str
) -> None:
    found = about(look_at(scenario), subject)
    assert any(
        it.level == level and message.lower() in it.message.lower() and remedy in it.remedy
        for it in found
    ), found


def test_a_signal_that_is_missing_is_told_with_its_reasons() -> None:
    report = replay(ROOT / "tests/nodes/unpriced", 1.0, "", AT)
    first, *others = report.snapshot.gpus
    bare = replace(first, energy_joules=None, power_watts=None, temperature_celsius=30.0)
    report = replace(report, snapshot=replace(report.snapshot, gpus=(bare, *others)))
    unit = unit_of(first.device.uuid)
    found = findings(report, {(unit, "power"): "denied", (unit, "energy"): "denied"})
    told = [it.message for it in about(found, "GPU 0")]
    assert "no power, energy: denied" in told
    assert any(line.startswith("also tells ") and "temperature" in line for line in told)


def test_pods_that_may_not_be_read_are_told_with_the_right_that_is_missing(
    tmp_path: Path,
) -> None:
    shutil.copytree(ROOT / "tests/nodes/h100-every-state", tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("pods.json"):
        file.write_text("torn")
    [rights] = [it for it in about(look_at(tmp_path), "rights") if "pods not read" in it.message]
    assert (rights.level, rights.remedy) == (
        "warn",
        "Give the service account list and watch on pods.",
    )


def test_a_node_that_shows_no_gpu_fails(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests/nodes/unpriced", tmp_path, dirs_exist_ok=True)
    (tmp_path / "nvml.json").write_text('{"gpus": []}')
    found = look_at(tmp_path)
    (gpus,) = about(found, "GPUs")
    assert gpus.level == "fail"
    assert "NVIDIA_VISIBLE_DEVICES" in gpus.remedy
    assert not dollars_flow(found)


def test_another_source_of_devices_makes_a_broken_driver_a_warning(tmp_path: Path) -> None:
    folder = ROOT / "tests/nodes/dcgm-and-kubelet-annotated-price"
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "nvml.json").write_text("torn")
    found = look_at(tmp_path)
    assert [it.level for it in about(found, "source nvml")] == ["warn"]
    assert dollars_flow(found)


def test_everything_that_is_not_well_has_a_remedy() -> None:
    scenarios = sorted(path.name for path in (ROOT / "tests/nodes").iterdir())
    for scenario in scenarios:
        for finding in look_at(scenario):
            spoken = finding.level == "ok" or finding.remedy or finding.subject == "holders"
            assert spoken, (scenario, finding)


def test_the_page_lines_up_and_shows_each_remedy_once() -> None:
    found = (
        Finding("ok", "source nvml", "answers in 2 ms", "not shown"),
        Finding("fail", "GPU 0", "no price", "Annotate the Node."),
        Finding("fail", "GPU 1", "no price", "Annotate the Node."),
    )
    assert render(found) == (
        "  ok  source nvml  answers in 2 ms\n"
        "fail  GPU 0        no price\n"
        "                   -> Annotate the Node.\n"
        "fail  GPU 1        no price\n"
        "\n"
        "Dollars will not flow yet.\n"
    )
