"""What a page says of a Report, in both formats, read by real parsers and linted by promtool."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gpucost.catalog import FAMILIES
from gpucost.config import PriceRow
from gpucost.exposition import ledger_name
from gpucost.model import (
    HOLDER_STATES,
    WASTE_STATES,
    Count,
    Efficiency,
    Holder,
    MigInstance,
    ModelReading,
    Problem,
    Report,
    SourceStatus,
    State,
    UnitReading,
)
from gpucost.pages import encode
from programs import program
from sample_report import empty_report, sample_report
from stage import ADA, H100, NOW, Stage, by_label, gpu, pod, samples, values

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric
    from prometheus_client.samples import Sample


def served(times: int) -> ModelReading:
    """What an inference server says that has done everything so many times."""
    done = {count: {0: float(times)} for count in Count}
    done[Count.PROMPT] = {0: 3.0 * times}
    return ModelReading("vllm", "llama", done, running=1, waiting=2)


def full_report() -> Report:
    """A Report with every family that there is."""
    reading = gpu(
        0,
        (0.6, 0.9),
        memory_used_bytes=5,
        power_watts=300.0,
        energy_joules=17.0,
        temperature_celsius=60.0,
        sm_clock_hertz=1.9e9,
        xid_events={79: 1},
    )
    reading = replace(
        reading,
        device=replace(reading.device, memory_bytes=80),
        reading=replace(reading.reading, efficiency=Efficiency(0.5, 0.25, 0.125)),
    )
    sliced = replace(
        gpu(1),
        device=replace(gpu(1).device, mig=(MigInstance(1, 0, "3g.40gb", 3, uuid="MIG-1"),)),
        instances=(UnitReading(),),
    )
    stage = Stage(reading, sliced)
    spot = PriceRow(capacity_type="spot", gpu_usd_per_hour=1.0)
    stage.config = replace(stage.config, prices=replace(stage.config.prices, table=(spot,)))
    stage.hold(shown=pod(labels={"app.kubernetes.io/name": "x"}, annotations={"owner": "ada"}))
    for n in range(8):
        stage.answer(served(n))
        report = stage.cycle(15)
    return replace(
        report,
        snapshot=replace(
            report.snapshot,
            sources=(SourceStatus("nvml", up=True, duration_seconds=0.01, last_success=NOW),),
        ),
        problems=(Problem("nvml", "lost", "a", "b"), Problem("nvml", "lost", "c", "d")),
        price_dates={"fallback": NOW},
        config_read_at=NOW,
    )


def read(families: Iterable[Metric]) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    return {
        (sample.name, frozenset(sample.labels.items()), float(sample.value))
        for family in families
        for sample in family.samples
    }


def the(found: list[Sample]) -> Sample:
    [sample] = found
    return sample


# --- Formats ------------------------------------------------------------------------------------

REPORTS = {"full": full_report, "sample": sample_report, "empty": empty_report}


@pytest.mark.parametrize("name", REPORTS)
def test_promtool_finds_nothing_to_mend(name: str) -> None:
    lint = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=encode(REPORTS[name]()),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (lint.returncode, lint.stderr.decode(), lint.stdout.decode()) == (0, "", "")


@pytest.mark.parametrize("name", REPORTS)
def test_both_formats_say_the_same(name: str) -> None:
    report = REPORTS[name]()
    text = read(parse_text(encode(report).decode()))
    page = encode(report, openmetrics=True).decode()
    assert text == read(parse_openmetrics(page))  # type: ignore[no-untyped-call]
    assert text


@pytest.mark.parametrize("openmetrics", [False, True])
def test_no_series_tells_when_it_was_created(*, openmetrics: bool) -> None:
    assert b"_created" not in encode(full_report(), openmetrics=openmetrics)


def test_every_family_of_the_catalogue_can_be_seen() -> None:
    shown = {sample[0] for sample in read(parse_text(encode(full_report()).decode()))}
    assert shown == set(FAMILIES)


def test_families_come_in_the_order_of_the_catalogue_with_its_words() -> None:
    lines = encode(full_report()).decode().splitlines()
    names = [line.split(" ", 3)[2] for line in lines if line.startswith("# TYPE")]
    assert names == list(FAMILIES)
    for family in FAMILIES.values():
        assert f"# HELP {family.name} {family.help}" in lines
        assert f"# TYPE {family.name} {family.type}" in lines


def test_a_node_on_which_nothing_is_known_still_has_a_page() -> None:
    page = {sample[0] for sample in read(parse_text(encode(empty_report()).decode()))}
    assert "gpucost_build_info" in page
    assert not [name for name in page if name.startswith(("gpucost_gpu_", "gpucost_pod_"))]


# --- Names --------------------------------------------------------------------------------------

HOSTILE = (
    *('a"b', "a\nb", "a\\b", "a\\nb", '"', "\\", "\n", "", " ", "a\tb", "a\rb", "a\u2028b"),
    *("{}", 'x="y",z="', "# HELP", "ünïcode ☃ \U0001d518", "\x00", "\x85", "\ufeff", "a\\", 'a\\"'),
)


def hostile_report(text: str) -> Report:
    """A Report in which a text stands wherever others choose the words."""
    holder = Holder(text or "n", text or "p", text or "c")
    stage = Stage(gpu(power_watts=1.0))
    stage.node = replace(
        stage.node,
        name=text,
        instance_type=text,
        region=text,
        zone=text,
        node_pool=text,
        capacity_type=text,
        provider=text,
    )
    stage.hold(
        holder,
        shown=pod(
            holder,
            workload=text,
            workload_kind=text,
            team=text,
            labels={"app": text},
            annotations={"note": text},
        ),
    )
    device = replace(stage.gpus[0].device, model=text or "m")
    stage.gpus = (replace(stage.gpus[0], device=device),)
    return stage.cycle(times=12)


def check_round_trip(text: str) -> None:
    report = hostile_report(text)
    for openmetrics, parse in ((False, parse_text), (True, parse_openmetrics)):
        page = encode(report, openmetrics=openmetrics).decode()
        found = [sample for family in parse(page) for sample in family.samples]
        assert all(sample.labels["node"] == text for sample in found)
        info = the([it for it in found if it.name == "gpucost_pod_labels"])
        assert info.labels["label_app"] == info.labels["annotation_note"] == text
        held = the([it for it in found if it.name == "gpucost_pod_gpu_seconds_total"]).labels
        assert [held[name] for name in ("workload", "workload_kind", "team")] == [text] * 3
        assert (held["namespace"], held["pod"], held["gpu_model"]) == (
            text or "n",
            text or "p",
            text or "m",
        )


@pytest.mark.parametrize("text", HOSTILE)
def test_any_label_value_comes_back_as_it_was(text: str) -> None:
    check_round_trip(text)


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=30))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    check_round_trip(text)


def test_promtool_reads_hostile_names() -> None:
    page = encode(hostile_report('a"b\\\n{}=,☃'))
    lint = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=page,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (lint.returncode, lint.stderr) == (0, b"")


# --- What is shown and what is not --------------------------------------------------------------


def test_what_is_not_known_is_absent_and_not_0() -> None:
    stage = Stage(gpu(activity=None, seen=False))
    stage.hold(shown=pod())
    report = stage.cycle(times=12)
    names = {sample.name for name in FAMILIES for sample in samples(report, name)}
    assert not names & {
        "gpucost_gpu_activity_ratio",
        "gpucost_gpu_efficiency_ratio",
        "gpucost_gpu_memory_used_bytes",
        "gpucost_gpu_memory_bytes",
        "gpucost_gpu_power_watts",
        "gpucost_gpu_energy_joules_total",
        "gpucost_gpu_temperature_celsius",
        "gpucost_gpu_sm_clock_hertz",
        "gpucost_gpu_healthy",
        "gpucost_pod_activity_ratio",
        "gpucost_pod_memory_used_bytes",
        "gpucost_pod_memory_peak_bytes",
        "gpucost_pod_energy_joules_total",
        "gpucost_pod_last_active_timestamp_seconds",
        "gpucost_mig_info",
        "gpucost_price_table_timestamp_seconds",
    }


@pytest.mark.parametrize(
    ("faults", "seen", "healthy"),
    [((), True, [1]), (("lost",), True, [0]), (("lost",), False, [0]), ((), False, [])],
)
def test_health_is_shown_where_it_is_known(
    faults: tuple[str, ...],
    seen: bool,  # noqa: FBT001 - a column of the table
    healthy: list[int],
) -> None:
    report = Stage(gpu(faults=faults, seen=seen)).cycle()
    assert values(report, "gpucost_gpu_healthy") == healthy


def test_mig_instances_of_unknown_uuid_are_told_apart() -> None:
    mig = tuple(MigInstance(gi, 0, "1g.10gb", 1) for gi in range(1, 8))
    sliced = replace(gpu(), device=replace(gpu().device, mig=mig), instances=(UnitReading(),) * 7)
    report = Stage(sliced).cycle()
    names = {sample.labels["mig_uuid"] for sample in samples(report, "gpucost_mig_info")}
    assert names == {f"GPU-0/{gi}/0" for gi in range(1, 8)}
    shares = {
        sample.labels["mig_uuid"] for sample in samples(report, "gpucost_pod_gpu_share_ratio")
    }
    assert shares == names


def test_the_free_part_of_a_gpu_is_a_share_without_a_pod() -> None:
    share = the(samples(Stage().cycle(), "gpucost_pod_gpu_share_ratio"))
    assert share.labels == {
        "node": "node-1",
        "namespace": "",
        "pod": "",
        "container": "",
        "gpu": "0",
        "uuid": "GPU-0",
        "mig_uuid": "",
        "method": "exclusive",
    }
    assert share.value == 1


def test_what_a_pod_costs_now_and_why_it_is_waste() -> None:
    stage = Stage(gpu(0, (0.6, 0.9)), gpu(1, 0.0))
    stage.hold(index=0, shown=pod())
    stage.hold(index=1)
    report = stage.cycle()
    assert values(report, "gpucost_pod_cost_usd_per_hour") == [pytest.approx(7.2)]
    waste = samples(report, "gpucost_pod_waste_usd_per_hour")
    assert {sample.labels["reason"]: sample.value for sample in waste} == {
        **dict.fromkeys(WASTE_STATES, 0.0),
        State.UNDERUSED: pytest.approx(3.6 * 0.4),
        State.IDLE: pytest.approx(3.6),
    }
    assert values(report, "gpucost_pod_activity_ratio") == [pytest.approx(0.3)]


def test_the_activity_of_a_pod_is_the_mean_of_the_gpus_that_have_a_signal() -> None:
    stage = Stage(gpu(0, 0.8), gpu(1, None))
    stage.hold(index=0, shown=pod())
    stage.hold(index=1)
    assert values(stage.cycle(), "gpucost_pod_activity_ratio") == [pytest.approx(0.8)]


def test_gauges_of_a_pod_go_with_it_and_its_counters_linger() -> None:
    stage = Stage(gpu(activity=0.5, memory_used_bytes=3, power_watts=9.0))
    stage.hold(shown=pod())
    stage.cycle(times=12)
    stage.end()
    report = stage.cycle()
    shown = {name for name in FAMILIES if samples(report, name, pod=ADA.pod)}
    assert shown == {
        "gpucost_pod_cost_usd_total",
        "gpucost_pod_gpu_seconds_total",
        "gpucost_pod_energy_joules_total",
    }


def test_all_states_of_a_pod_and_a_gpu_are_there_from_the_first() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    report = stage.cycle(times=2)
    rent = samples(report, "gpucost_pod_cost_usd_total")
    assert [sample.labels["state"] for sample in rent] == list(HOLDER_STATES)
    rent = samples(report, "gpucost_gpu_cost_usd_total")
    assert [sample.labels["state"] for sample in rent] == list(State)


def test_published_labels_are_named_as_kube_state_metrics_names_them() -> None:
    stage = Stage()
    stage.hold(shown=pod(labels={"app.kubernetes.io/name": "x"}, annotations={"a/b-c": "y"}))
    info = the(samples(stage.cycle(), "gpucost_pod_labels"))
    assert info.labels == {
        "node": "node-1",
        "namespace": ADA.namespace,
        "pod": ADA.pod,
        "label_app_kubernetes_io_name": "x",
        "annotation_a_b_c": "y",
    }
    plain, idle = pod(), pod(labels={"a": "b"}, gpu_containers=())
    for it in (plain, idle, pod(labels={"a": "b"}, phase="Failed")):
        stage.show(it)
        assert samples(stage.cycle(), "gpucost_pod_labels") == []


def test_published_keys_that_become_one_name_are_told_apart_as_kube_state_metrics_does() -> None:
    stage = Stage()
    stage.hold(shown=pod(labels={"a.b": "1", "a-b": "2", "a_b": "3"}))
    info = the(samples(stage.cycle(), "gpucost_pod_labels"))
    published = {name: value for name, value in info.labels.items() if name.startswith("label_")}
    assert published == {
        "label_a_b_conflict1": "2",
        "label_a_b_conflict2": "1",
        "label_a_b_conflict3": "3",
    }


def test_problems_are_counted_by_source_and_kind() -> None:
    assert by_label(full_report(), "gpucost_problems", "kind") == {"lost": 2}


def test_a_source_that_never_worked_has_no_last_success() -> None:
    report = full_report()
    status = SourceStatus("dcgm", up=False, duration_seconds=3.0)
    report = replace(report, snapshot=replace(report.snapshot, sources=(status,)))
    assert values(report, "gpucost_source_up", source="dcgm") == [0]
    assert values(report, "gpucost_source_last_success_timestamp_seconds") == []


def test_a_ledger_is_named_by_its_start() -> None:
    assert ledger_name(NOW) == "20261122T195603Z"
    names = {
        sample.labels["ledger"]
        for sample in samples(full_report(), "gpucost_workload_cost_usd_total")
    }
    assert names == {"20261122T195603Z"}


def test_node_borne_states_have_no_namespace_and_only_they() -> None:
    rent = samples(full_report(), "gpucost_workload_cost_usd_total")
    borne = {sample.labels["state"] for sample in rent if not sample.labels["namespace"]}
    held = {sample.labels["state"] for sample in rent if sample.labels["namespace"]}
    assert held == set(HOLDER_STATES)
    assert borne == set(State) - held


def test_the_price_of_a_gpu_says_where_it_is_from() -> None:
    price = the(samples(Stage().cycle(), "gpucost_gpu_price_usd_per_hour"))
    assert price.value == pytest.approx(3.6)
    assert price.labels["price_source"] == "fallback"
    assert price.labels["split"] == "per_gpu"
    assert price.labels["gpu_model"] == H100


def test_help_is_a_sentence_on_one_line() -> None:
    for family in FAMILIES.values():
        assert re.fullmatch(r"[A-Z0-9][^\n]+\.", family.help), family.name
