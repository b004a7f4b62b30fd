"""Who holds which share: every form of device id, and every way a device can be shared."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gpucost.attribution import DeviceIndex, attribute, is_replica
from gpucost.model import (
    Device,
    Holder,
    Holding,
    Holdings,
    Method,
    MigInstance,
    Share,
    State,
    unit_of,
)
from histories import A100, GIB, H100, mig_device

if TYPE_CHECKING:
    from typing import Literal

    from gpucost.model import Problem

WHOLE = Device("GPU-aaaa", H100, index=0, minor=3, memory_bytes=80 * GIB)
OTHER = Device("GPU-bbbb", H100, index=1, minor=0, memory_bytes=80 * GIB)
# Two GPU instances; the second is cut into compute instances of one and two slices.
SLICED = replace(mig_device("GPU-cccc", A100, ((4,), (1, 2)), 2), minor=5)
DEVICES = (WHOLE, OTHER, SLICED)
FOUR, ONE, TWO = (unit_of("GPU-cccc", instance) for instance in SLICED.mig or ())

ADA = Holder("research", "jupyter-ada", "notebook")
BOB = Holder("research", "train-bob", "main")


def held(*ids: str, by: Holder = ADA) -> tuple[Holding, ...]:
    return tuple(Holding(by, "nvidia.com/gpu", device_id) for device_id in ids)


def shares_of(
    *holdings: Holding,
    devices: tuple[Device, ...] = (WHOLE,),
    offered: tuple[str, ...] | None = None,
    unresolved: int = 0,
    mig_split: Literal["compute", "memory"] = "compute",
) -> tuple[tuple[Share, ...], list[str]]:
    shares, problems = attribute(devices, Holdings(holdings, offered, unresolved), mig_split)
    return shares, [problem.kind for problem in problems]


def split(shares: tuple[Share, ...]) -> dict[str | State, float]:
    """Ratio by pod, or by the state of what nobody holds."""
    found: dict[str | State, float] = {}
    for share in shares:
        assert (share.holder is None) == (share.state is not None)
        whose = share.holder.pod if share.holder else share.state or ""
        found[whose] = found.get(whose, 0.0) + share.ratio
    return found


# --- Ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device_id", "unit"),
    [
        # NVIDIA's device plugin: UUIDs, with ::<n> for a replica
        ("GPU-aaaa", "GPU-aaaa"),
        ("gpu-AAAA", "GPU-aaaa"),
        ("GPU-aaaa::0", "GPU-aaaa"),
        ("GPU-aaaa::17", "GPU-aaaa"),
        ("MIG-GPU-cccc-1-0", FOUR),
        ("mig-gpu-CCCC-2-1", TWO),
        ("MIG-GPU-cccc-2-0::3", ONE),
        # The path form of drivers before R470
        ("MIG-GPU-cccc/1/0", FOUR),
        ("MIG-GPU-cccc/2/0", ONE),
        ("mig-gpu-CCCC/2/1", TWO),
        ("MIG-GPU-cccc/2/1::0", TWO),
        # GKE's device plugin: by the device's minor, not by its index
        ("nvidia3", "GPU-aaaa"),
        ("nvidia0", "GPU-bbbb"),
        ("nvidia3/vgpu1", "GPU-aaaa"),
        ("nvidia5/gi1", FOUR),
        ("nvidia5/gi1/vgpu2", FOUR),
    ],
)
def test_every_form_of_id_names_its_unit(device_id: str, unit: str) -> None:
    assert DeviceIndex(DEVICES).resolve(device_id) == unit


@pytest.mark.parametrize(
    "device_id",
    [
        *("GPU-zzzz", "MIG-zzzz", "nvidia1", "nvidia7/gi1", "nvidia5/gi9", "MIG-GPU-cccc/9/0"),
        # The id and the MIG mode disagree: the plugin has not yet seen a change of the mode
        *("GPU-cccc", "GPU-cccc::0", "nvidia5", "nvidia3/gi1", "MIG-GPU-aaaa/1/0"),
        # No ids at all
        *("", "::", "::0", "/vgpu0", "nvidia", "nvidia-1", "nvidia٣", "nvidia²", "GPU-aaaa\n"),
        *(
            "nvidia3\n",
            "GPU-aaaa::",
            "GPU-aaaa::x",
            "nvidia" + "9" * 5000,
            "nvidia5/gi" + "1" * 5000,
        ),
        "MIG-GPU-cccc/1/" + "0" * 5000,
        "MIG-GPU-cccc/\u0661/0",
    ],
)
def test_an_id_that_names_nothing_here_is_none(device_id: str) -> None:
    assert DeviceIndex(DEVICES).resolve(device_id) is None


@given(st.text(max_size=60))
def test_any_text_is_an_id_or_none(device_id: str) -> None:
    unit = DeviceIndex(DEVICES).resolve(device_id)
    assert unit is None or unit.split("/")[0] in {"GPU-aaaa", "GPU-bbbb", "GPU-cccc"}


@pytest.mark.parametrize(
    ("device_id", "replica"),
    [("GPU-a::0", True), ("nvidia0/vgpu0", True), ("GPU-a", False), ("MIG-GPU-a/1/0", False)],
)
def test_replicas_are_told_by_their_ids(device_id: str, *, replica: bool) -> None:
    assert is_replica(device_id) is replica


def test_an_instance_of_unknown_uuid_is_found_by_its_path() -> None:
    nameless = tuple(replace(instance, uuid=None) for instance in SLICED.mig or ())
    index = DeviceIndex((replace(SLICED, mig=nameless),))
    assert index.resolve("MIG-GPU-cccc/1/0") == FOUR
    assert index.resolve("MIG-GPU-cccc-1-0") is None


# --- Whole GPUs ---------------------------------------------------------------------------------


def test_one_holder_has_all_of_it() -> None:
    [share], problems = shares_of(*held("GPU-aaaa"))
    assert (share.holder, share.ratio, share.method) == (ADA, 1.0, Method.EXCLUSIVE)
    assert share.measured
    assert problems == []


def test_a_device_listed_twice_for_one_holder_is_its_own_once() -> None:
    [share], problems = shares_of(*held("GPU-aaaa", "nvidia3"))
    assert (share.holder, share.ratio, share.method) == (ADA, 1.0, Method.EXCLUSIVE)
    assert problems == []


def test_a_device_that_nobody_holds_is_unallocated() -> None:
    shares, problems = shares_of()
    assert split(shares) == {State.UNALLOCATED: 1.0}
    assert problems == []


def test_shares_come_in_the_order_of_the_devices_with_the_seat_and_the_readings_place() -> None:
    shares, _ = shares_of(*held("MIG-GPU-cccc/2/0"), devices=DEVICES)
    assert [(share.gpu_uuid, share.slot) for share in shares] == [
        *(("GPU-aaaa", None), ("GPU-bbbb", None)),
        *(("GPU-cccc", 0), ("GPU-cccc", 1), ("GPU-cccc", 2)),
    ]
    assert [share.seat.holder for share in shares if share.holder] == [ADA]
    assert {share.seat.gpu_model for share in shares} == {H100, A100}


# --- Unknown is not free ------------------------------------------------------------------------


def test_without_anyones_word_every_free_part_is_unattributed_and_none_unallocated() -> None:
    shares, problems = attribute((WHOLE, replace(SLICED, mig=(SLICED.mig or ())[:1])), None)
    assert split(shares) == {State.UNATTRIBUTED: 1.0 + 4 / 7, State.STRANDED: pytest.approx(3 / 7)}
    assert problems == ()


def test_while_something_is_held_in_an_unknown_form_nobody_knows_what_is_free() -> None:
    shares, _ = shares_of(*held("GPU-aaaa"), devices=(WHOLE, OTHER), unresolved=1)
    assert split(shares) == {ADA.pod: 1.0, State.UNATTRIBUTED: 1.0}


def test_while_an_unknown_device_is_held_nobody_knows_what_is_free() -> None:
    shares, problems = shares_of(*held("GPU-gone"), devices=(WHOLE, OTHER))
    assert split(shares) == {State.UNATTRIBUTED: 2.0}
    assert problems == ["unknown_device"]


def test_many_unknown_devices_make_one_problem_of_bounded_length() -> None:
    holdings = Holdings(held(*(f"GPU-gone-{n:03}" for n in range(300))))
    _, (problem,) = attribute((WHOLE,), holdings)
    assert "GPU-gone-003 by research/jupyter-ada and 296 more" in problem.message
    assert "GPU-gone-004" not in problem.message
    assert problem.remedy


# --- MIG ----------------------------------------------------------------------------------------


def test_a_mig_instance_takes_its_compute_slices_and_the_rest_is_free_or_stranded() -> None:
    device = mig_device("GPU-cccc", A100, ((3,), (2,)), 0)
    shares, problems = shares_of(*held("MIG-GPU-cccc/1/0"), devices=(device,))
    assert split(shares) == {
        ADA.pod: pytest.approx(3 / 7),
        State.UNALLOCATED: pytest.approx(2 / 7),
        State.STRANDED: pytest.approx(2 / 7),
    }
    assert {share.method for share in shares} == {Method.MIG}
    assert problems == []


def test_a_mig_instance_can_be_charged_by_its_memory() -> None:
    device = mig_device("GPU-cccc", A100, ((4,), (3,)), 0)  # 40 and 30 of 80 GiB
    shares, _ = shares_of(*held("MIG-GPU-cccc/1/0"), devices=(device,), mig_split="memory")
    assert split(shares) == {
        ADA.pod: pytest.approx(4 / 8),
        State.UNALLOCATED: pytest.approx(3 / 8),
        State.STRANDED: pytest.approx(1 / 8),
    }


def test_a_partitioned_gpu_without_instances_is_stranded_in_whole() -> None:
    shares, _ = shares_of(devices=(replace(SLICED, mig=()),))
    assert split(shares) == {State.STRANDED: 1.0}


def test_a_fully_covered_gpu_has_no_stranded_part() -> None:
    device = mig_device("GPU-cccc", A100, ((1,),) * 7, 0)
    shares, _ = shares_of(devices=(device,))
    assert len(shares) == 7
    assert split(shares) == {State.UNALLOCATED: pytest.approx(1.0)}


def test_instances_that_claim_more_than_the_gpu_are_charged_no_more_than_it() -> None:
    device = replace(mig_device("GPU-cccc", A100, ((4,), (4,)), 0), mig_slices=7)
    shares, _ = shares_of(*held("MIG-GPU-cccc/2/0"), devices=(device,))
    assert split(shares) == {ADA.pod: pytest.approx(3 / 7), State.UNALLOCATED: pytest.approx(4 / 7)}


# --- Sharing: charged once in total -------------------------------------------------------------


def test_two_exclusive_holders_split_the_device_evenly_and_are_named() -> None:
    holdings = Holdings((*held("GPU-aaaa"), *held("GPU-aaaa", by=BOB)))
    shares, (problem,) = attribute((WHOLE,), holdings)
    assert split(shares) == {ADA.pod: 0.5, BOB.pod: 0.5}
    assert {(share.method, share.measured) for share in shares} == {(Method.EVEN, False)}
    assert problem.kind == "conflict"
    assert "GPU-aaaa by research/jupyter-ada, GPU-aaaa by research/train-bob" in problem.message


def test_a_device_given_out_both_whole_and_in_replicas_is_charged_once_and_told() -> None:
    shares, problems = shares_of(
        *held("GPU-aaaa"),
        *held("GPU-aaaa::1", by=BOB),
        offered=tuple(f"GPU-aaaa::{n}" for n in range(4)),
    )
    assert split(shares) == {ADA.pod: pytest.approx(0.8), BOB.pod: pytest.approx(0.2)}
    assert problems == ["conflict"]


def test_one_replica_with_two_holders_is_charged_to_both_once_and_told() -> None:
    shares, problems = shares_of(
        *held("GPU-aaaa::1"),
        *held("GPU-aaaa::1", by=BOB),
        offered=tuple(f"GPU-aaaa::{n}" for n in range(4)),
    )
    assert split(shares) == {ADA.pod: 0.125, BOB.pod: 0.125, State.UNALLOCATED: 0.75}
    assert problems == ["conflict"]


def test_containers_of_one_pod_may_share_what_is_the_pods() -> None:
    sidecar = replace(ADA, container="proxy")
    shares, problems = shares_of(*held("GPU-aaaa"), *held("GPU-aaaa", by=sidecar))
    assert [share.ratio for share in shares] == [0.5, 0.5]
    assert problems == []


def test_shares_of_a_size_are_charged_by_it_the_pods_of_a_claim_evenly_and_the_rest_is_free() -> (
    None
):
    by_two = [
        Holding(h, "", "GPU-aaaa", "x/two#1", shareable=True, fraction=0.5) for h in (ADA, BOB)
    ]
    by_one = Holding(ADA, "", "GPU-aaaa", "x/one#1", shareable=True, fraction=0.25)
    shares, problems = shares_of(*by_two, by_one)
    assert split(shares) == {ADA.pod: 0.5, BOB.pod: 0.25, State.UNALLOCATED: 0.25}
    assert {share.method for share in shares} == {Method.FRACTION}
    assert problems == []


def test_a_share_of_a_size_beside_one_of_none_is_no_conflict_and_beside_a_whole_gpu_it_is() -> None:
    stated = Holding(ADA, "", "GPU-aaaa", "x/one#1", shareable=True, fraction=0.25)
    unstated = Holding(BOB, "", "GPU-aaaa", "x/two#1", shareable=True)
    shares, problems = shares_of(stated, unstated)
    assert split(shares) == {ADA.pod: pytest.approx(0.2), BOB.pod: pytest.approx(0.8)}
    assert problems == []
    shares, problems = shares_of(stated, *held("GPU-aaaa", by=BOB))
    assert split(shares) == {ADA.pod: pytest.approx(0.2), BOB.pod: pytest.approx(0.8)}
    assert problems == ["conflict"]


def test_replicas_are_charged_by_what_was_offered_and_the_rest_is_free() -> None:
    offered = tuple(f"GPU-aaaa::{n}" for n in range(4))
    shares, problems = shares_of(
        *held("GPU-aaaa::0"), *held("GPU-aaaa::2", "GPU-aaaa::3", by=BOB), offered=offered
    )
    assert split(shares) == {ADA.pod: 0.25, BOB.pod: 0.5, State.UNALLOCATED: 0.25}
    assert {(share.method, share.measured) for share in shares} == {(Method.REPLICAS, False)}
    assert [share.of_unit for share in shares] == [0.25, 0.5, 0.25]
    assert problems == []


def test_the_one_holder_of_some_replicas_did_all_that_was_done() -> None:
    offered = tuple(f"GPU-aaaa::{n}" for n in range(4))
    own, rest = shares_of(*held("GPU-aaaa::0"), offered=offered)[0]
    assert (own.holder, own.measured, rest.holder, rest.measured) == (ADA, True, None, False)
    own, rest = shares_of(*held("GPU-aaaa::0"), offered=offered, unresolved=1)[0]
    assert (own.measured, rest.state) == (False, State.UNATTRIBUTED)


def test_a_holder_of_every_replica_is_alone_and_measured() -> None:
    offered = ("GPU-aaaa::0", "GPU-aaaa::1")
    [share], _ = shares_of(*held(*offered), offered=offered)
    assert (share.ratio, share.method, share.measured) == (1.0, Method.REPLICAS, True)


def test_replicas_of_an_unknown_number_are_charged_in_whole_to_those_who_hold_them() -> None:
    shares, problems = shares_of(
        *held("GPU-aaaa::0"), *held("GPU-aaaa::1", "GPU-aaaa::2", by=BOB), offered=None
    )
    assert split(shares) == {ADA.pod: pytest.approx(1 / 3), BOB.pod: pytest.approx(2 / 3)}
    assert problems == []


def test_more_replicas_held_than_offered_are_still_one_device() -> None:
    shares, _ = shares_of(
        *held("GPU-aaaa::0", "GPU-aaaa::1"),
        *held("GPU-aaaa::2", by=BOB),
        offered=("GPU-aaaa::0", "GPU-aaaa::1"),
    )
    assert split(shares) == {ADA.pod: pytest.approx(2 / 3), BOB.pod: pytest.approx(1 / 3)}


def test_replicas_of_a_mig_instance_split_the_instance() -> None:
    names = tuple(f"MIG-GPU-cccc-1-0::{n}" for n in range(2))
    shares, _ = shares_of(*held(names[0]), devices=(SLICED,), offered=names)
    assert split(shares) == {
        ADA.pod: pytest.approx(2 / 7),
        State.UNALLOCATED: pytest.approx(5 / 7),
    }


def test_offered_devices_that_are_no_replicas_say_nothing_of_shares() -> None:
    shares, problems = shares_of(*held("GPU-aaaa"), offered=("GPU-aaaa", "GPU-bbbb"))
    assert split(shares) == {ADA.pod: 1.0}
    assert problems == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from((ADA, BOB, Holder("x", "y", "z"))),
            st.sampled_from(("GPU-aaaa", "GPU-bbbb", "MIG-GPU-cccc/1/0", "nvidia5/gi2", "GPU-no")),
            st.sampled_from(("", "::0", "::1", "::2")),
            st.sampled_from((None, None, None, 0.25, 0.75)),
            st.sampled_from(("", "", "x/claim", "y/claim")),
        ),
        max_size=12,
    ),
    st.none() | st.integers(0, 5),
    st.sampled_from(("compute", "memory")),
)
def test_shares_sum_to_1_however_devices_are_held(
    holdings: list[tuple[Holder, str, str, float | None, str]],
    replicas: int | None,
    mig_split: Literal["compute", "memory"],
) -> None:
    offered = None if replicas is None else tuple(f"GPU-aaaa::{n}" for n in range(replicas))
    shares, _ = shares_of(
        *(
            Holding(holder, "nvidia.com/gpu", name + replica, fraction=part, claim=claim)
            for holder, name, replica, part, claim in holdings
        ),
        devices=DEVICES,
        offered=offered,
        mig_split=mig_split,
    )
    for device in DEVICES:
        ratios = [share.ratio for share in shares if share.gpu_uuid == device.uuid]
        assert abs(math.fsum(ratios) - 1) < 1e-9
        assert all(ratio >= 0 for ratio in ratios)


@given(
    st.dictionaries(
        st.sampled_from(("x/one#1", "x/one#2", "x/two#1", "y/three#1")),
        st.tuples(
            st.floats(0.01, 1),
            st.sets(st.sampled_from((ADA, BOB, Holder("x", "y", "z"))), min_size=1),
        ),
    )
)
def test_a_share_of_a_size_costs_its_pods_that_and_all_shares_together_one_gpu_at_most(
    claims: dict[str, tuple[float, set[Holder]]],
) -> None:
    shares, problems = shares_of(
        *(
            Holding(holder, "", "GPU-aaaa", claim, shareable=True, fraction=part)
            for claim, (part, holders) in claims.items()
            for holder in holders
        )
    )
    reserved: dict[Holder, float] = {}
    for part, holders in claims.values():
        for holder in holders:
            reserved[holder] = reserved.get(holder, 0.0) + part / len(holders)
    more = max(1.0, math.fsum(reserved.values()))
    charged = {share.holder: share.ratio for share in shares if share.holder is not None}
    assert charged == {holder: pytest.approx(part / more) for holder, part in reserved.items()}
    assert math.fsum(share.ratio for share in shares) == pytest.approx(1)
    assert problems == []


def test_problems_say_what_to_do() -> None:
    problems: tuple[Problem, ...]
    _, problems = attribute((WHOLE,), Holdings(held("GPU-x", "GPU-aaaa::0")))
    assert all(problem.remedy for problem in problems)
    assert {problem.source for problem in problems} == {"attribution"}


def test_an_instance_without_slices_gets_nothing_and_takes_nothing_from_the_others() -> None:
    empty = MigInstance(gi=7, ci=0, profile="0g", compute_slices=0, uuid="MIG-empty")
    device = replace(SLICED, mig=(*(SLICED.mig or ()), empty))
    shares, _ = shares_of(*held("MIG-empty"), devices=(device,))
    assert math.fsum(share.ratio for share in shares) == pytest.approx(1.0)
    assert split(shares)[ADA.pod] == 0
