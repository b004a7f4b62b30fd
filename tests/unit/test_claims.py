"""What DRA claims hold: joined to devices, without those that hold nothing."""

from __future__ import annotations

from msgspec.structs import replace

from gpucost.claims import resolved, with_reserved, with_unlisted
from gpucost.model import (
    Claimable,
    Claimed,
    ClaimResult,
    ContainerClaim,
    ContainerStatus,
    Device,
    Holder,
    Holding,
    Holdings,
    MigInstance,
    Reserved,
)
from gpucost.sources.base import DraRead
from stage import H100, pod

ADA = Holder("research", "ada", "main")
BOB = Holder("research", "bob", "main")
GPU = Device("GPU-a", H100)
ONE = Claimed(ADA, "research/one", "node-1", "gpu-0")
OFFER = {("node-1", "gpu-0"): Claimable("gpu", "GPU-a")}


def names(holdings: Holdings) -> list[tuple[str, str, str]]:
    return [(it.holder.pod, it.device_id, it.claim) for it in holdings.holdings]


def test_a_claims_device_is_held_by_its_uuid_beside_what_the_plugin_gave() -> None:
    plugin = Holding(BOB, "nvidia.com/gpu", "GPU-b")
    holdings, problems = resolved(
        Holdings((plugin,), claimed=(ONE,)), DraRead(OFFER, {}), (GPU,), None
    )
    assert names(holdings) == [("bob", "GPU-b", ""), ("ada", "GPU-a", "research/one")]
    assert (holdings.unresolved, holdings.claimed, problems) == (0, (), ())


def test_a_device_that_no_slice_shows_is_unresolved_once_and_named_with_its_pods() -> None:
    both = (ONE, replace(ONE, holder=BOB))
    for dra in (None, DraRead({}, {})):
        holdings, (problem,) = resolved(Holdings(claimed=both), dra, (GPU,), None)
        assert (holdings.unresolved, holdings.holdings) == (1, ())
        assert "node-1/gpu-0 by research/ada (claim research/one)" in problem.message
        assert "resourceslices" in problem.remedy


def test_many_unknown_devices_make_one_problem_of_bounded_length() -> None:
    many = tuple(replace(ONE, device=f"gpu-{n:03}") for n in range(300))
    holdings, (problem,) = resolved(Holdings(claimed=many), None, (GPU,), None)
    assert holdings.unresolved == 300
    assert "and 296 more" in problem.message
    assert len(problem.message) < 500


def test_an_admins_claim_holds_nothing() -> None:
    admin = DraRead(OFFER, {"research/one": (ClaimResult("r", "node-1", "gpu-0", admin=True),)})
    holdings, problems = resolved(Holdings(claimed=(ONE,)), admin, (GPU,), None)
    assert (names(holdings), holdings.unresolved, problems) == ([], 0, ())


def test_a_container_that_names_requests_holds_their_devices_only() -> None:
    offer = {("node-1", f"gpu-{n}"): Claimable("gpu", f"GPU-{n}") for n in (0, 1, 2)}
    claim = tuple(
        ClaimResult(request, "node-1", f"gpu-{n}") for n, request in enumerate(("a", "b/big", "c"))
    )
    dra = DraRead(offer, {"research/one": claim})
    listed = Holdings(claimed=tuple(replace(ONE, device=f"gpu-{n}") for n in (0, 1, 2)))

    def held(*requests: str) -> list[str]:
        uses = tuple(ContainerClaim("main", "research/one", request) for request in requests)
        other = ContainerClaim("other", "research/one", "a")
        shown = {("research", "ada"): pod(ADA, claims=(*uses, other))}
        return [device for _, device, _ in names(resolved(listed, dra, (), shown)[0])]

    assert held("a") == ["GPU-0"]
    assert held("b") == ["GPU-1"]
    assert held("b/big", "c") == ["GPU-1", "GPU-2"]
    assert held("") == ["GPU-0", "GPU-1", "GPU-2"]
    assert held() == ["GPU-0", "GPU-1", "GPU-2"]


def test_shares_of_a_device_are_grants_of_their_own() -> None:
    listed = Holdings(claimed=(replace(ONE, share_id="s1"),))
    (holding,) = resolved(listed, DraRead(OFFER, {}), (GPU,), None)[0].holdings
    assert (holding.claim, holding.shareable) == ("research/one#s1", True)


def test_a_share_is_the_part_of_the_capacity_that_is_consumed_most() -> None:
    whole = {"memory": 80e9, "multiprocessors": 132.0, "broken": 0.0}
    offer = {("node-1", "gpu-0"): replace(OFFER["node-1", "gpu-0"], capacity=whole)}

    def part(*consumed: dict[str, float]) -> float | None:
        """Of a device that one claim has by several shares, the kubelet telling none apart."""
        results = tuple(
            ClaimResult(f"r{n}", "node-1", "gpu-0", f"s{n}", consumed=taken)
            for n, taken in enumerate(consumed)
        )
        dra = DraRead(offer, {"research/one": results})
        (holding,) = resolved(Holdings(claimed=(ONE,)), dra, (GPU,), None)[0].holdings
        return holding.fraction

    assert part({"memory": 20e9}) == 0.25
    assert part({"memory": 20e9, "multiprocessors": 66.0}) == 0.5
    assert part({"memory": 20e9}, {"memory": 40e9}) == 0.75
    assert part({"memory": 60e9}, {"memory": 60e9}) == 1.0
    for nothing in ({}, {"memory": 0.0}, {"unheard-of": 1.0}, {"broken": 1.0}):
        assert part(nothing) is None


def test_a_dynamic_mig_device_is_found_by_parent_profile_and_placement() -> None:
    parts = tuple(
        MigInstance(gi, 0, profile, 1, uuid=f"MIG-{gi}", placement=placement)
        for gi, profile, placement in ((7, "1g.10gb", 0), (8, "1g.10gb", 1), (3, "2g.20gb", 2))
    )
    device = replace(GPU, mig=parts)

    def find(profile: str, placement: int | None, on: Device = device) -> list[str]:
        offer = Claimable("mig", None, "gpu-A", profile, placement)
        dra = DraRead({("node-1", "gpu-0"): offer}, {})
        found, problems = resolved(Holdings(claimed=(ONE,)), dra, (on,), None)
        assert bool(problems) is not bool(found.holdings)
        return [device for _, device, _ in names(found)]

    assert find("1g.10gb", 1) == ["MIG-GPU-a/8/0"]
    assert find("2g.20gb", 2) == ["MIG-GPU-a/3/0"]
    assert find("2g.20gb", 4) == []
    assert find("1g.20gb", 0) == []
    # Where a placement is not told, the only one of its profile is it, and of two neither.
    blind = replace(device, mig=tuple(replace(it, placement=None) for it in parts))
    assert find("2g.20gb", 2, blind) == ["MIG-GPU-a/3/0"]
    assert find("1g.10gb", 1, blind) == []
    assert find("1g.10gb", None) == []


def test_a_static_mig_device_is_its_uuid_and_where_only_dcgm_sees_it_the_one_of_its_profile() -> (
    None
):
    offer = {("node-1", "gpu-0"): Claimable("mig", "MIG-7", "GPU-a", "1g.10gb", 0)}
    seen = replace(GPU, mig=(MigInstance(7, 0, "1g.10gb", 1, uuid="MIG-7"),))
    by_dcgm = replace(GPU, mig=(MigInstance(7, 0, "1g.10gb", 1), MigInstance(3, 0, "2g.20gb", 2)))
    twins = replace(GPU, mig=(MigInstance(7, 0, "1g.10gb", 1), MigInstance(8, 0, "1g.10gb", 1)))
    for device, found in ((seen, ["MIG-7"]), (by_dcgm, ["MIG-GPU-a/7/0"]), (twins, [])):
        holdings, _ = resolved(Holdings(claimed=(ONE,)), DraRead(offer, {}), (device,), None)
        assert [device_id for _, device_id, _ in names(holdings)] == found
    holdings, _ = resolved(Holdings(claimed=(ONE,)), DraRead(offer, {}), (), None)
    assert [device_id for _, device_id, _ in names(holdings)] == ["MIG-7"]


# --- HAMi, and init containers -----------------------------------------------------------------


def test_a_reserved_part_is_the_greater_of_memory_and_cores_and_replaces_the_kubelets_ids() -> None:
    gib = 1 << 30
    device = replace(GPU, memory_bytes=80 * gib)
    reserved = (
        Reserved("main", "gpu-A", 20 * gib, 0.1),
        Reserved("side", "GPU-a", 8 * gib, 0.3),
        Reserved("main", "GPU-b", 200 * gib),
        Reserved("main", "GPU-b"),
    )
    shown = {("research", "ada"): pod(ADA, reserved=reserved)}
    listed = Holdings(
        (Holding(ADA, "nvidia.com/gpu", "GPU-a-7"), Holding(BOB, "nvidia.com/gpu", "GPU-b"))
    )
    found = with_reserved(listed, (device, Device("GPU-b", H100, memory_bytes=80 * gib)), shown)
    assert [(it.holder.container, it.device_id, it.fraction) for it in found.holdings] == [
        ("main", "GPU-b", None),
        ("main", "gpu-A", 0.25),
        ("side", "GPU-a", 0.3),
        ("main", "GPU-b", 1.0),
        ("main", "GPU-b", None),
    ]


def test_a_pod_that_the_kubelet_does_not_list_holds_nothing_it_reserved() -> None:
    shown = {("research", "ada"): pod(ADA, reserved=(Reserved("main", "GPU-a", 1),))}
    assert with_reserved(Holdings(), (GPU,), shown).holdings == ()


GPUS = "nvidia.com/gpu"


def test_what_only_an_init_container_asked_for_is_held_and_listed_for_nobody() -> None:
    init = (ContainerStatus("fetch", init=True), ContainerStatus("main", running=True))
    asking = pod(ADA, gpu_containers=("fetch",), containers=init, init_gpus={GPUS: 2})
    by_claim = replace(asking, init_gpus={}, claims=(ContainerClaim("fetch", "research/one"),))
    key = ("research", "ada")
    for shown, count in ((asking, 2), (by_claim, 1)):
        held, (problem,) = with_unlisted(Holdings(), {key: shown})
        assert held.unresolved == count
        assert "research/ada" in problem.message
    listed = Holdings((Holding(ADA, GPUS, "GPU-a"), Holding(ADA, GPUS, "GPU-b")))
    for holdings, shown in (
        (listed, asking),
        (Holdings(), replace(asking, phase="Succeeded")),
        (Holdings(), replace(asking, gpu_containers=("fetch", "main"))),
        (Holdings(), replace(asking, gpu_containers=(), init_gpus={})),
        (Holdings(), replace(asking, containers=())),
    ):
        assert with_unlisted(holdings, {key: shown}) == (holdings, ())


def test_what_an_init_container_asked_for_beyond_the_others_is_held_too() -> None:
    init = (ContainerStatus("fetch", init=True), ContainerStatus("main", running=True))
    asking = pod(
        ADA, gpu_containers=("fetch", "main"), containers=init, init_gpus={GPUS: 4, "x/mig": 1}
    )
    listed = Holdings((Holding(ADA, GPUS, "GPU-a"), Holding(ADA, "x/mig", "MIG-a")))
    held, (problem,) = with_unlisted(listed, {("research", "ada"): asking})
    assert held.unresolved == 3
    assert "research/ada" in problem.message
    for other in (
        {"init_gpus": {GPUS: 1}},
        {"phase": "Failed"},
        {"claims": (ContainerClaim("main", "research/one"),)},  # of DRAExtendedResource
        {"reserved": (Reserved("main", "GPU-a", 1),)},
    ):
        shown = {("research", "ada"): replace(asking, **other)}
        assert with_unlisted(listed, shown) == (listed, ())
