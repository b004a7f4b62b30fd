"""What a dcgm-exporter page says: of real pages, and of every trap known in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.model import Activity, Efficiency, Holder, Holding, Signal
from gpucost.sources.base import DeviceRead, SourceError
from gpucost.sources.dcgm import parse_dcgm

SAMPLES = Path(__file__).parents[1] / "samples" / "dcgm"

GPU = "GPU-00000000-0000-0000-0000-00000000000a"
MIB = 1 << 20

GR_ENGINE = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
UTIL = "DCGM_FI_DEV_GPU_UTIL"
SM = "DCGM_FI_PROF_SM_ACTIVE"
USED = "DCGM_FI_DEV_FB_USED"
FREE = "DCGM_FI_DEV_FB_FREE"
RESERVED = "DCGM_FI_DEV_FB_RESERVED"
POWER = "DCGM_FI_DEV_POWER_USAGE"
ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
CLOCK = "DCGM_FI_DEV_SM_CLOCK"


def sample(name: str) -> DeviceRead:
    return parse_dcgm((SAMPLES / f"{name}.prom").read_bytes())


def row(name: str, value: object, **labels: object) -> str:
    named = {"gpu": 0, "UUID": GPU, **labels}
    text = ",".join(f'{key}="{label}"' for key, label in named.items())
    return f"{name}{{{text}}} {value}\n"


def mig_row(name: str, value: object, gi: int, profile: str = "1g.5gb", **labels: object) -> str:
    return row(name, value, GPU_I_PROFILE=profile, GPU_I_ID=gi, **labels)


def kinds(read: DeviceRead) -> list[str]:
    return [problem.kind for problem in read.problems]


def held(read: DeviceRead) -> list[tuple[str, str]]:
    """Who holds what, as `namespace/pod/container` and device id."""
    assert read.holdings is not None
    return [
        (f"{it.holder.namespace}/{it.holder.pod}/{it.holder.container}", it.device_id)
        for it in read.holdings.holdings
    ]


# --- Real pages -------------------------------------------------------------------------------


def test_a100_with_three_mig_instances_gives_each_its_own_activity_and_memory() -> None:
    read = sample("a100_mig_3_instances")
    [gpu] = read.gpus
    assert (gpu.device.uuid, gpu.device.model, gpu.device.index, gpu.device.minor) == (
        "GPU-7099682b-a20d-2bcc-74ab-b9060454d81e",
        "NVIDIA A100-SXM4-40GB",
        0,
        None,
    )
    assert [(it.gi, it.ci, it.profile, it.compute_slices) for it in gpu.device.mig or ()] == [
        (5, 0, "2g.10gb", 2),
        (7, 0, "1g.5gb", 1),
        (9, 0, "1g.5gb", 1),
    ]
    assert [it.memory_bytes for it in gpu.device.mig or ()] == [9855 * MIB, 4864 * MIB, 4864 * MIB]
    assert [it.activity for it in gpu.instances] == [
        Activity(ratio, ratio, Signal.DCGM_GR_ENGINE) for ratio in (0.000036, 0.000062, 0.999917)
    ]
    assert gpu.instances[2].efficiency == Efficiency(tensor=0.000118, memory=0.647986)
    assert [it.memory_used_bytes for it in gpu.instances] == [153 * MIB, 98 * MIB, 4384 * MIB]
    assert gpu.reading.activity is None
    assert read.holdings is not None
    assert read.holdings.holdings == ()
    assert read.problems == ()


def test_a100_power_and_energy_repeated_on_its_mig_rows_count_once() -> None:
    [gpu] = sample("a100_mig_3_instances").gpus
    assert gpu.power_watts == 116.163
    assert gpu.energy_joules == pytest.approx(57585.599)
    assert gpu.temperature_celsius == 37
    assert gpu.sm_clock_hertz == 1.41e9


def test_a100_in_mig_mode_without_an_instance_looks_like_a_whole_gpu() -> None:
    [gpu] = sample("a100_mig_no_instance").gpus
    assert gpu.device.mig is None
    assert gpu.reading.activity == Activity(0.000033, 0.000033, Signal.DCGM_GR_ENGINE)
    assert gpu.device.memory_bytes is None
    assert gpu.power_watts == 75.96


def test_t4_page_names_the_holder_and_a_free_gpu() -> None:
    read = sample("t4_pods")
    assert held(read) == [
        (
            "runai-reservation/runai-reservation-gpu-qa-mig-worker-gpu-1-kvltw/runai-reservation",
            "GPU-7a2e92f2-be71-d37e-a744-541600ffc722",
        )
    ]
    first, second = read.gpus
    assert first.device.memory_bytes == 14959 * MIB
    # 0.0039 % by the graphics engine, though GPU_UTIL says 0: the better signal is used.
    assert first.reading.activity == Activity(0.000039, 0.000039, Signal.DCGM_GR_ENGINE)
    assert (second.device.index, second.power_watts) == (1, 17.035)


def test_l40s_page_without_labels_on_the_free_gpu_knows_it_is_free() -> None:
    read = sample("l40s_pods")
    assert [gpu.device.index for gpu in read.gpus] == [0, 1, 2]
    assert held(read) == [
        ("redacted/tensorflow-0/tensorflow", "GPU-585834da-79ca-0599-5140-4ffdb131ae93"),
        ("redacted/tensorflow-0/tensorflow", "GPU-8f8001ff-73ba-2e83-3cdc-4156ae4f3912"),
    ]


def test_v100_page_with_empty_pod_labels_has_work_and_no_holder() -> None:
    read = sample("v100_empty_pod_labels")
    [gpu] = read.gpus
    assert gpu.device.model == "unknown"
    assert gpu.reading.activity == Activity(0.44, 0.44, Signal.DCGM_GPU_UTIL)
    # Above 2**31: a count that passes the 32-bit sentinels is not one of them.
    assert gpu.energy_joules == pytest.approx(4335301.032)
    assert held(read) == []


def test_readme_page_without_pod_labels_says_nothing_of_holders() -> None:
    read = sample("readme_sentinel")
    [gpu] = read.gpus
    assert gpu.sm_clock_hertz == 139e6
    assert gpu.temperature_celsius is None
    assert gpu.reading.activity is None
    assert read.holdings is None


# --- No value, and values that cannot be ------------------------------------------------------


@pytest.mark.parametrize("name", [GR_ENGINE, UTIL, SM, USED, POWER, CLOCK])
@pytest.mark.parametrize(
    "blank",
    [
        *(2147483632 + n for n in range(4)),
        *(9223372036854775792 + n for n in range(4)),
        *(f"{140737488355328 + n}.000000" for n in range(4)),
        "NaN",
    ],
)
def test_a_sentinel_is_absent_and_no_problem(name: str, blank: object) -> None:
    read = parse_dcgm(row(name, blank))
    [gpu] = read.gpus
    assert (gpu.reading.activity, gpu.reading.efficiency) == (None, None)
    assert (gpu.reading.memory_used_bytes, gpu.power_watts, gpu.sm_clock_hertz) == (None,) * 3
    assert read.problems == ()


@pytest.mark.parametrize("blank", [9223372036854775792, 9223372036854775794, "NaN"])
def test_energy_knows_only_the_64_bit_sentinels(blank: object) -> None:
    assert parse_dcgm(row(ENERGY, blank)).gpus[0].energy_joules is None
    passing = parse_dcgm(row(ENERGY, 2147483634)).gpus[0]
    assert passing.energy_joules == pytest.approx(2147483.634)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (GR_ENGINE, -0.1),
        (GR_ENGINE, 1.6),
        (GR_ENGINE, "-Inf"),
        (UTIL, 160),
        (USED, -1),
        (POWER, 1e6),
        (CLOCK, -5),
    ],
)
def test_a_value_that_cannot_be_true_is_left_out_and_is_a_problem(name: str, value: object) -> None:
    read = parse_dcgm(row(name, value))
    [gpu] = read.gpus
    assert (gpu.reading.activity, gpu.reading.memory_used_bytes) == (None, None)
    assert (gpu.power_watts, gpu.sm_clock_hertz) == (None, None)
    assert kinds(read) == ["implausible"]


def test_a_ratio_slightly_above_one_is_one() -> None:
    # 1.294 was seen on MIG: NVIDIA/DCGM issue 152.
    read = parse_dcgm(row(SM, 1.294) + row(UTIL, 101))
    assert read.gpus[0].reading.efficiency == Efficiency(sm=1.0)
    assert read.gpus[0].reading.activity == Activity(1.0, 1.0, Signal.DCGM_GPU_UTIL)
    assert read.problems == ()


# --- Units and signals ------------------------------------------------------------------------


def test_the_graphics_engine_is_preferred_to_gpu_utilisation() -> None:
    [gpu] = parse_dcgm(row(UTIL, 90) + row(GR_ENGINE, 0.3)).gpus
    assert gpu.reading.activity == Activity(0.3, 0.3, Signal.DCGM_GR_ENGINE)


def test_memory_in_all_is_used_free_and_reserved() -> None:
    assert parse_dcgm(row(USED, 10) + row(FREE, 80)).gpus[0].device.memory_bytes == 90 * MIB
    [gpu] = parse_dcgm(row(USED, 10) + row(FREE, 80) + row(RESERVED, 5)).gpus
    assert gpu.device.memory_bytes == 95 * MIB
    assert gpu.reading.memory_used_bytes == 10 * MIB
    assert parse_dcgm(row(USED, 10)).gpus[0].device.memory_bytes is None


def test_the_names_of_dcgm_4_mean_the_same() -> None:
    page = (
        row("DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", 0.5)
        + row("DCGM_FI_PROF_SM_UTIL_RATIO", 0.4)
        + row("DCGM_FI_PROF_TENSOR_UTIL_RATIO", 0.3)
        + row("DCGM_FI_PROF_DRAM_UTIL_RATIO", 0.2)
        + row("DCGM_FI_DEV_BOARD_POWER_WATTS", 300)
        + row("DCGM_FI_DEV_GPU_TEMP_CELSIUS", 50)
    )
    [gpu] = parse_dcgm(page).gpus
    assert gpu.reading.activity == Activity(0.5, 0.5, Signal.DCGM_GR_ENGINE)
    assert gpu.reading.efficiency == Efficiency(0.4, 0.3, 0.2)
    assert (gpu.power_watts, gpu.temperature_celsius) == (300, 50)


def test_the_names_of_dcgm_exporter_1_mean_the_same() -> None:
    page = (
        f'dcgm_gpu_utilization{{gpu="0",uuid="{GPU}"}} 42\n'
        f'dcgm_power_usage{{gpu="0",uuid="{GPU}"}} 31.5\n'
        f'dcgm_total_energy_consumption{{gpu="0",uuid="{GPU}"}} 7.824041e+06\n'
        f'dcgm_sm_clock{{gpu="0",uuid="{GPU}"}} 135\n'
        f'dcgm_fb_used{{gpu="0",uuid="{GPU}"}} 10\n'
        f'dcgm_fb_free{{gpu="0",uuid="{GPU}"}} 90\n'
    )
    [gpu] = parse_dcgm(page).gpus
    assert gpu.reading.activity == Activity(0.42, 0.42, Signal.DCGM_GPU_UTIL)
    assert gpu.reading.memory_used_bytes == 10 * MIB
    assert gpu.device.memory_bytes == 100 * MIB
    assert (gpu.power_watts, gpu.energy_joules) == (31.5, 7824.041)
    assert gpu.sm_clock_hertz == 135e6
    [gpu] = parse_dcgm(page + f'dcgm_fi_prof_gr_engine_active{{gpu="0",uuid="{GPU}"}} 0.4\n').gpus
    assert gpu.reading.activity == Activity(0.4, 0.4, Signal.DCGM_GR_ENGINE)


def test_a_page_in_openmetrics_means_the_same() -> None:
    page = (
        f"# TYPE {ENERGY} counter\n"
        f'{ENERGY}_total{{UUID="{GPU}",gpu="0"}} 5000.0 1700000000.123 # {{trace="x"}} 1.0\n'
        f'{ENERGY}_created{{UUID="{GPU}",gpu="0"}} 1600000000.5\n'
        f'# TYPE {UTIL} gauge\n{UTIL}{{UUID="{GPU}",gpu="0"}} 4.2e1 1700000000.123\n# EOF\n'
    )
    read = parse_dcgm(page)
    [gpu] = read.gpus
    assert gpu.energy_joules == 5.0
    assert gpu.reading.activity == Activity(0.42, 0.42, Signal.DCGM_GPU_UTIL)
    assert read.problems == ()


def test_a_utilisation_whose_unit_depends_on_the_release_is_not_guessed() -> None:
    [gpu] = parse_dcgm(row("DCGM_FI_DEV_GPU_UTIL_RATIO", 1)).gpus
    assert gpu.reading.activity is None


@pytest.mark.parametrize(
    ("value", "faults"), [(0, ()), (1, ("row_remap_failure",)), (2147483632, ())]
)
def test_a_failed_row_remap_is_a_fault(value: int, faults: tuple[str, ...]) -> None:
    assert parse_dcgm(row("DCGM_FI_DEV_ROW_REMAP_FAILURE", value)).gpus[0].faults == faults


def test_the_last_xid_is_neither_a_count_nor_a_fault() -> None:
    [gpu] = parse_dcgm(row("DCGM_FI_DEV_XID_ERRORS", 79)).gpus
    assert (gpu.xid_events, gpu.faults) == ({}, ())


def test_a_gpu_with_no_field_that_is_used_is_still_there() -> None:
    read = parse_dcgm(row("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 0, modelName="NVIDIA L4"))
    assert [gpu.device.model for gpu in read.gpus] == ["NVIDIA L4"]


# --- MIG --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "slices"),
    [("1g.5gb", 1), ("1c.3g.20gb", 1), ("2c.7g.40gb", 2), ("1g.10gb+me", 1), ("MIG 4g.20gb", 4)],
)
def test_slices_come_from_the_profile(profile: str, slices: int) -> None:
    [gpu] = parse_dcgm(mig_row(GR_ENGINE, 0.5, 3, profile)).gpus
    [instance] = gpu.device.mig or ()
    assert instance.compute_slices == slices
    assert instance.profile == profile.removeprefix("MIG ")


def test_an_instance_of_unknown_profile_is_a_problem_and_the_others_stay() -> None:
    read = parse_dcgm(mig_row(GR_ENGINE, 0.5, 3, "big") + mig_row(GR_ENGINE, 0.5, 4))
    assert [it.gi for it in read.gpus[0].device.mig or ()] == [4]
    assert len(read.gpus[0].instances) == 1
    assert kinds(read) == ["unknown_profile"]


def test_gpu_utilisation_on_a_partitioned_gpu_is_unknown_not_idle() -> None:
    # Some versions write 0 on every instance: dcgm-exporter issue 216.
    page = mig_row(UTIL, 0, 3) + row(UTIL, 0)
    [gpu] = parse_dcgm(page).gpus
    assert [it.activity for it in gpu.instances] == [None]
    assert gpu.reading.activity is None


def test_a_parent_row_beside_its_instances_is_the_whole_gpu() -> None:
    page = row(GR_ENGINE, 0.25) + mig_row(GR_ENGINE, 0.5, 3) + row(USED, 10) + row(FREE, 20)
    [gpu] = parse_dcgm(page).gpus
    assert gpu.reading.activity == Activity(0.25, 0.25, Signal.DCGM_GR_ENGINE)
    assert gpu.instances[0].activity == Activity(0.5, 0.5, Signal.DCGM_GR_ENGINE)
    assert gpu.device.memory_bytes == 30 * MIB


def test_one_gpu_instance_id_on_two_gpus_is_two_instances() -> None:
    page = mig_row(GR_ENGINE, 0.1, 3) + mig_row(GR_ENGINE, 0.2, 3, gpu=1, UUID="GPU-b")
    read = parse_dcgm(page)
    ratios = [it.activity.ratio for gpu in read.gpus for it in gpu.instances if it.activity]
    assert ratios == [0.1, 0.2]


@given(
    watts=st.lists(st.floats(0, 700), min_size=1, max_size=7),
    joules=st.lists(st.integers(0, 2**53), min_size=1, max_size=7),
)
def test_nothing_of_the_whole_gpu_is_summed_over_its_instances(
    watts: list[float], joules: list[int]
) -> None:
    page = "".join(mig_row(POWER, value, gi) for gi, value in enumerate(watts))
    page += "".join(mig_row(ENERGY, value, gi) for gi, value in enumerate(joules))
    [gpu] = parse_dcgm(page).gpus
    assert gpu.power_watts == max(watts)
    assert gpu.energy_joules == pytest.approx(max(joules) / 1000)


# --- Shared devices, duplicates ---------------------------------------------------------------


def test_the_device_row_counts_where_pods_have_rows_of_their_processes() -> None:
    # dcgm-exporter PR 594: both are on the page, under one name.
    page = (
        row(UTIL, 10, pod="a", namespace="n", container="c", vgpu=0)
        + row(UTIL, 20, pod="b", namespace="n", container="c", vgpu=1)
        + row(UTIL, 35)
    )
    read = parse_dcgm(page)
    assert read.gpus[0].reading.activity == Activity(0.35, 0.35, Signal.DCGM_GPU_UTIL)
    assert read.problems == ()


@given(copies=st.integers(1, 20), ratio=st.floats(0, 1))
def test_copies_for_each_pod_of_a_shared_gpu_count_once(copies: int, ratio: float) -> None:
    page = "".join(
        row(GR_ENGINE, ratio, pod=f"p{n}", namespace="n", container="c", vgpu=n)
        for n in range(copies)
    )
    read = parse_dcgm(page)
    assert read.gpus[0].reading.activity == Activity(ratio, ratio, Signal.DCGM_GR_ENGINE)
    assert len(held(read)) == copies
    assert read.problems == ()


def test_two_values_of_one_series_are_a_problem_and_the_higher_counts() -> None:
    read = parse_dcgm(row(GR_ENGINE, 0.2) + row(GR_ENGINE, 0.4))
    assert read.gpus[0].reading.activity == Activity(0.4, 0.4, Signal.DCGM_GR_ENGINE)
    assert kinds(read) == ["conflict"]


def test_rows_about_switches_links_and_cpus_are_no_gpus_and_no_problem() -> None:
    read = parse_dcgm(
        row(POWER, 1)
        + 'DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT{nvswitch="0",Hostname="gpu-1"} 40\n'
        + 'DCGM_FI_DEV_NVSWITCH_LINK_STATUS{nvlink="3",nvswitch="nvswitch0"} 3\n'
        + 'DCGM_FI_DEV_CPU_TEMP_CURRENT{cpu="0"} 50\n'
        + 'DCGM_FI_DEV_CPU_UTIL_TOTAL{cpucore="7",cpu="0"} 0.5\n'
    )
    assert [gpu.device.uuid for gpu in read.gpus] == [GPU]
    assert read.problems == ()


def test_rows_that_name_no_gpu_are_a_problem_beside_those_that_do() -> None:
    read = parse_dcgm(row(POWER, 1) + row(POWER, 2, UUID="") + mig_row(POWER, 3, -1))
    assert len(read.gpus) == 1
    assert kinds(read) == ["incomplete_row"]


# --- Holders ----------------------------------------------------------------------------------

LABELLED = {"namespace": "n", "pod": "p", "container": "c"}


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (row(POWER, 1, **LABELLED), [("n/p/c", GPU)]),
        (row(POWER, 1, pod_namespace="n", pod_name="p", container_name="c"), [("n/p/c", GPU)]),
        (row(POWER, 1, vgpu=2, **LABELLED), [("n/p/c", f"{GPU}::2")]),
        (mig_row(POWER, 1, 3, **LABELLED), [("n/p/c", f"MIG-{GPU}/3/0")]),
        (mig_row(POWER, 1, 3, vgpu=1, **LABELLED), [("n/p/c", f"MIG-{GPU}/3/0::1")]),
        (
            row(POWER, 1, dra_claim_name="x", dra_device_name="gpu-0", **LABELLED),
            [("n/p/c", GPU)],
        ),
        (row(POWER, 1, **LABELLED) + row(UTIL, 1, **LABELLED), [("n/p/c", GPU)]),
    ],
)
def test_pod_labels_become_holders(page: str, expected: list[tuple[str, str]]) -> None:
    assert held(parse_dcgm(page)) == expected


def test_where_prometheus_moved_the_holder_the_exporters_own_pod_holds_nothing() -> None:
    own = {"pod": "dcgm-exporter-x", "namespace": "gpu-operator", "container": "exporter"}
    page = row(POWER, 1, **own, exported_pod="p", exported_namespace="n", exported_container="c")
    page += row(POWER, 1, gpu=1, UUID="GPU-b", **own)
    assert held(parse_dcgm(page)) == [("n/p/c", GPU)]


def test_the_old_names_of_the_holder_are_believed_beside_the_exporters_own_pod() -> None:
    own = {"job": "dcgm", "instance": "x", "pod": "dcgm-exporter-x", "namespace": "gpu-operator"}
    read = parse_dcgm(
        row(POWER, 1, **own, pod_name="p", pod_namespace="n", container_name="c")
        + row(POWER, 1, **own, gpu=1, UUID="GPU-b")
    )
    assert held(read) == [("n/p/c", GPU)]
    # A label of the pod itself that is called so.
    assert held(parse_dcgm(row(POWER, 1, **LABELLED, pod_name="x"))) == [("n/p/c", GPU)]


def test_a_page_relayed_by_prometheus_with_one_pod_label_says_nothing_of_holders() -> None:
    relayed = {"job": "dcgm", "instance": "10.0.0.1:9400"}
    read = parse_dcgm(row(POWER, 1, pod="dcgm-exporter-x", namespace="gpu-operator", **relayed))
    assert read.holdings is None
    assert kinds(read) == ["relayed"]


def test_a_pod_without_its_namespace_leaves_nobody_sure_that_a_gpu_is_free() -> None:
    read = parse_dcgm(row(POWER, 1, pod="p") + row(UTIL, 1, pod="p"))
    assert read.holdings is not None
    assert (read.holdings.holdings, read.holdings.unresolved) == ((), 1)
    assert kinds(read) == ["incomplete_holder"]


@given(pod=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_holder_of_any_name_is_kept_as_it_is(pod: str) -> None:
    escaped = pod.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    read = parse_dcgm(row(POWER, 1, pod=escaped, namespace="n", container="c"))
    assert read.holdings is not None
    assert read.holdings.holdings == (Holding(Holder("n", pod, "c"), "", GPU),)


# --- Pages that must not be taken -------------------------------------------------------------


@pytest.mark.parametrize(
    "page", ["", "\n", "# HELP DCGM_FI_DEV_GPU_UTIL x\n", "go_threads 7\n", row(POWER, 1, UUID="")]
)
def test_a_page_without_a_gpu_is_a_failed_read_not_an_empty_node(page: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_dcgm(page)
    assert caught.value.kind == "empty"
    assert caught.value.remedy


def test_a_page_cut_off_in_a_line_is_a_failed_read() -> None:
    page = (SAMPLES / "l40s_pods.prom").read_text()
    with pytest.raises(SourceError) as caught:
        parse_dcgm(page[: page.rindex("}")])
    assert caught.value.kind == "malformed"


def two_hosts(label: str) -> str:
    return row(POWER, 1, **{label: "a"}) + row(POWER, 2, gpu=1, UUID="GPU-b", **{label: "b"})


@pytest.mark.parametrize("label", ["Hostname", "hostname"])
def test_of_several_hosts_only_this_nodes_rows_are_taken(label: str) -> None:
    [gpu] = parse_dcgm(two_hosts(label), node_name="b").gpus
    assert gpu.device.uuid == "GPU-b"
    with pytest.raises(SourceError) as caught:
        parse_dcgm(two_hosts(label), node_name="c")
    assert caught.value.kind == "ambiguous"


def test_a_single_host_need_not_be_called_like_the_node() -> None:
    assert parse_dcgm(row(POWER, 1, Hostname="dcgm-exporter-x"), node_name="n").gpus


def test_the_lower_case_uuid_label_is_understood() -> None:
    assert parse_dcgm(f'DCGM_FI_DEV_POWER_USAGE{{gpu="0",uuid="{GPU}"}} 1').gpus


@given(page=st.text() | st.text('DCGM_FI_DEV_POWER_USAGE{}=",\\ \n1.UUIDgpu#'))
def test_arbitrary_text_is_read_or_refused(page: str) -> None:
    try:
        parse_dcgm(page)
    except SourceError as error:
        assert error.kind in {"malformed", "empty"}  # noqa: PT017 - not raising is as good
