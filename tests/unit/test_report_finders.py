"""What is found in Facts, and what is not: each finder by its own small fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from gpucost.advice.report import buy, capacity, fit, free, serve
from gpucost.advice.report.facts import (
    WEEK_HOURS,
    Action,
    Claim,
    Facts,
    Key,
    Line,
    Node,
    OtherPrice,
    Pending,
    Service,
    Week,
)
from gpucost.advice.report.market import hardware, offers
from gpucost.advice.report.office import closed_hours, opening

if TYPE_CHECKING:
    from collections.abc import Callable

MONTH = 30 * 86_400.0
H100 = "NVIDIA H100 80GB HBM3"
GIB = 1 << 30
EVENLY = Week((1.0,) * WEEK_HOURS, (0.0,) * WEEK_HOURS, (4,) * WEEK_HOURS)


def key(workload: str = "chat", kind: str = "Deployment", capacity: str = "on_demand") -> Key:
    return Key("c", "serving", "web", workload, kind, H100, capacity, "pool")


def line(of: Key | None = None, **usd: float) -> Line:
    return Line(
        key=of or key(),
        usd=usd,
        usd_by_day={},
        held_hours=720,
        longest_hours=720,
        quiet_hours=0,
        first_seconds=1.0,
        last_seconds=MONTH,
        week=EVENLY,
    )


NODE = Node(
    *("c", "n1", "pool", "p5.48xlarge", "us-east-1", "us-east-1a", "on_demand", "aws", H100),
    gpus=8.0,
    free_gpus=0.0,
    always_free_gpus=0.0,
)


def facts(*lines: Line, **more: object) -> Facts:
    whole = Facts(start=0.0, end=MONTH, seen_seconds=MONTH, lines=lines, nodes=(NODE,))
    return replace(whole, **more)


# --- Idle ---------------------------------------------------------------------------------------


def test_pauses_between_requests_are_no_idleness() -> None:
    assert list(free.idle(facts(line(used=50.0, underused=30.0, idle=20.0)))) == []


def test_what_is_exempt_is_left_alone() -> None:
    spare = replace(line(idle=100.0), free_usd={"free_idle": 100.0})
    assert [it.kind for it in free.idle(facts(spare))] == ["free_idle"]
    assert list(free.idle(facts(replace(spare, idle_is_wanted=True)))) == []


def test_what_has_no_signal_is_never_called_idle() -> None:
    unknown = replace(line(unmeasured=100.0), quiet_hours=0)
    assert list(free.idle(facts(unknown))) == []
    assert list(fit.smaller(facts(unknown))) == []


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("Deployment", "scale_to_zero"), ("Notebook", "end_when_done"), ("Job", "end_when_done")],
)
def test_only_what_has_replicas_is_scaled_to_zero(kind: str, advice: str) -> None:
    it = replace(line(key(kind=kind), used=40.0, idle=60.0), free_usd={"free_idle": 50.0})
    [found] = free.idle(facts(it))
    assert found.kind == advice
    assert found.claims[0].ratio == pytest.approx(50 / 60), "what was recorded, and no more"


def test_what_starts_is_given_time() -> None:
    loading = replace(line(starting=10.0), held_hours=1)
    assert [it.kind for it in free.not_ready(facts(loading))] == ["slow_start"]
    assert [it.kind for it in free.not_ready(facts(replace(loading, held_hours=9)))] == [
        "never_ready"
    ]
    broken = replace(line(failing=10.0), held_hours=1)
    assert [it.kind for it in free.not_ready(facts(broken))] == ["never_ready"]


def week(busy: Callable[[int, int], bool]) -> Week:
    hours = [(at // 24, at % 24) for at in range(WEEK_HOURS)]
    used = tuple(4.0 if busy(*it) else 0.0 for it in hours)
    return Week(used, tuple(4.0 - it for it in used), (4,) * WEEK_HOURS)


def test_office_hours_are_found_with_their_days() -> None:
    closed = closed_hours(week(lambda day, hour: day < 5 and 9 <= hour < 17))
    assert closed is not None
    assert opening(closed).words == "Mon to Fri, 9:00 to 17:00"
    assert closed_hours(week(lambda day, hour: day in (1, 3) and hour >= 20)) is not None


def test_use_without_a_clock_has_no_office_hours() -> None:
    assert closed_hours(EVENLY) is None
    assert closed_hours(week(lambda day, hour: (day * 24 + hour) % 17 < 3)) is None
    assert closed_hours(week(lambda _day, hour: hour != 3)) is None, "an hour's pause is none"
    assert closed_hours(week(lambda _day, _hour: False)) is None
    seen_once = week(lambda day, hour: day < 5 and 9 <= hour < 17)
    unseen = replace(seen_once, hours=(0, *seen_once.hours[1:]))
    assert closed_hours(unseen) is None, "an hour of the week that nobody saw"


# --- GPUs that nobody holds -----------------------------------------------------------------------

NOBODY = Key("c", "", "", "", "", H100, "on_demand", "pool")
FREE = replace(NODE, name="n2", free_gpus=4.0, free_now={"nvidia_com_gpu": 4.0})


def reallocated(*pending: Pending, nodes: tuple[Node, ...] = (NODE, FREE)) -> list[Action]:
    it = line(NOBODY, unallocated=400.0)
    return list(capacity.reallocate(facts(it, nodes=nodes, pending=pending, hardware=hardware())))


def waiting(gpus: float, pods: int = 1, **more: object) -> Pending:
    return replace(Pending("c", "research", "tune", "nvidia_com_gpu", gpus, pods), **more)


def test_pods_that_wait_are_told_where_they_fit_by_count_and_by_memory() -> None:
    [found] = reallocated(waiting(2.0, 3, peak_bytes={"NVIDIA L4": 20.0 * GIB}))
    assert "2 of 3 of research/tune (2 gpu; others of theirs held 20 GiB of a GPU" in found.do
    assert found.claims == (Claim(NOBODY, "unallocated", 1.0),)
    [one] = reallocated(waiting(1.0))
    assert "the memory that they need is not known" in one.do
    assert one.claims[0].ratio == pytest.approx(0.25)


@pytest.mark.parametrize(
    "pending",
    [
        pytest.param(waiting(8.0), id="no node has so many free"),
        pytest.param(waiting(1.0, peak_bytes={"NVIDIA H200": 120.0 * GIB}), id="too little memory"),
        pytest.param(waiting(1.0, cluster="elsewhere"), id="another cluster"),
        pytest.param(waiting(1.0, resource="nvidia_com_mig_1g_10gb"), id="no such instance"),
    ],
)
def test_what_would_not_fit_is_not_told(pending: Pending) -> None:
    assert reallocated(pending) == []


def test_gpus_are_given_to_waiting_pods_once() -> None:
    """Four free GPUs in each of two pools: what found its place in one waits no more."""
    other = replace(NOBODY, node_pool="pool-b")
    nodes = (FREE, replace(FREE, node_pool="pool-b"))
    known = facts(
        line(NOBODY, unallocated=400.0),
        line(other, unallocated=400.0),
        nodes=nodes,
        pending=(waiting(2.0, 3), waiting(2.0, 1, workload="late")),
        hardware=hardware(),
    )
    first, second = capacity.reallocate(known)
    assert "2 of 3 of research/tune" in first.do
    assert "1 of 3 of research/tune" in second.do
    assert "1 of 1 of research/late" in second.do


def test_an_instance_is_for_who_asks_for_its_profile() -> None:
    cut = replace(FREE, free_now={"nvidia_com_mig_1g_10gb": 2.0})
    [found] = reallocated(waiting(1.0, resource="nvidia_com_mig_1g_10gb"), nodes=(cut,))
    assert found.claims[0].ratio == pytest.approx(1 / 7 / 4)
    assert reallocated(waiting(1.0), nodes=(cut,)) == [], "no whole GPU is free"


def test_free_gpus_are_given_back_as_far_as_they_were_recorded() -> None:
    it = replace(line(NOBODY, unallocated=400.0, stranded=50.0), free_usd={"drain": 300.0})
    [drain] = capacity.free_capacity(facts(it))
    assert (drain.kind, drain.claims[0].ratio) == ("drain", 0.75)
    assert drain.confidence == "medium", "pods have to be packed"
    gone = replace(NODE, free_gpus=8.0, always_free_gpus=8.0)
    [drain] = capacity.free_capacity(facts(it, nodes=(gone,)))
    assert drain.confidence == "high"
    assert "any GPU of n1" in drain.do


# --- A smaller fit --------------------------------------------------------------------------------


def small(peak: float, gib: float, **usd: float) -> Line:
    spent = usd or {"used": 10.0, "underused": 90.0}
    return replace(line(None, **spent), peak_activity=peak, memory_peak_bytes=gib * GIB, gpus=1.0)


def smaller(it: Line) -> dict[str, str]:
    known = facts(it, hardware=hardware(), offers=OFFERS, prices=(PRICE,))
    return {found.kind: found.title for found in fit.smaller(known)}


OFFERS = offers([NODE])
PRICE = OtherPrice(key().pool, 6.88, {"spot": 2.0, "reserved": 4.0})


def test_the_smallest_instance_that_peaks_fit_is_named() -> None:
    assert smaller(small(0.1, 6))["mig"].endswith("1g.10gb")
    assert smaller(small(0.1, 15))["mig"].endswith("1g.20gb"), "one slice with more memory"
    assert smaller(small(0.2, 15))["mig"].endswith("2g.20gb")
    assert "mig" not in smaller(small(0.7, 6))
    assert "mig" not in smaller(small(0.1, 70))


def test_a_cheaper_gpu_fits_in_memory_and_in_speed_and_is_of_the_same_cloud() -> None:
    found = smaller(small(0.05, 12))
    named = found["cheaper_gpu"].rsplit(" ", 1)[1]
    here = OFFERS["aws", "us-east-1", "on_demand"]
    offer = min((it for it in here if it.gpu_model == named), key=lambda it: it.usd_per_gpu_hour)
    assert offer.usd_per_gpu_hour < PRICE.usd_per_hour
    assert hardware()["h100-80gb"].memory_gib == 80
    assert "cheaper_gpu" not in smaller(small(0.8, 12)), "it would be too slow"
    other_cloud = replace(NODE, provider="oci")
    it = small(0.05, 12)
    known = facts(it, hardware=hardware(), offers=OFFERS, prices=(PRICE,), nodes=(other_cloud,))
    assert all(found.kind != "cheaper_gpu" for found in fit.smaller(known))


def test_prices_that_are_the_same_everywhere_are_of_every_region() -> None:
    """Oracle's: its cheaper GPUs are found too."""
    ashburn = replace(NODE, provider="oci", region="us-ashburn-1")
    it = small(0.05, 12)
    known = facts(
        it, hardware=hardware(), offers=offers([ashburn]), prices=(PRICE,), nodes=(ashburn,)
    )
    assert "cheaper_gpu" in {found.kind for found in fit.smaller(known)}


def test_what_is_half_busy_or_never_ran_is_not_made_smaller() -> None:
    assert smaller(small(0.9, 6, used=60.0, underused=40.0)) == {}
    assert smaller(small(0.1, 6, idle=100.0)) == {}
    assert smaller(small(0.1, 6, used=5.0, underused=5.0, failing=90.0)) == {}


def test_an_unknown_model_or_memory_is_left_out() -> None:
    it = small(0.1, 6)
    assert "mig" not in smaller(replace(it, memory_peak_bytes=None))
    assert smaller(replace(it, peak_activity=None)) == {}
    odd = replace(it, key=replace(it.key, gpu_model="ACME 9000"))
    assert smaller(odd) == {}


def test_replicas_that_the_peak_does_not_need_can_go() -> None:
    it = replace(small(0.4, 70), gpus=8.0)
    [fewer] = [found for found in fit.smaller(facts(it)) if found.kind == "fewer_replicas"]
    assert "on 4 GPUs in place of 8" in fewer.title
    assert fewer.claims[0].ratio == pytest.approx(0.5)


def test_time_slicing_needs_room_for_all_of_them() -> None:
    assert "with 3 like it" in smaller(small(0.1, 6))["time_slicing"]
    assert "with 1 like it" in smaller(small(0.4, 6))["time_slicing"]
    assert "time_slicing" not in smaller(small(0.1, 40)), "two do not fit its memory"


# --- A lower price --------------------------------------------------------------------------------


def test_spot_is_for_what_can_be_begun_again() -> None:
    def kinds(it: Line) -> list[str]:
        return [found.confidence for found in buy.spot(facts(it, prices=(PRICE,)))]

    assert kinds(line(key(kind="PyTorchJob"), used=100.0)) == ["medium"]
    assert kinds(replace(line(used=100.0), gpus=4.0)) == ["low"]
    assert kinds(replace(line(used=100.0), gpus=1.0)) == []
    assert kinds(line(key(kind="StatefulSet"), used=100.0)) == []
    brief = replace(line(key(kind="Pod"), used=100.0), longest_hours=3)
    assert kinds(brief) == ["medium"]
    assert kinds(replace(brief, longest_hours=30)) == []
    begun = replace(brief, held_hours=3)
    assert kinds(begun) == [], "its first hold goes on"
    assert kinds(replace(begun, last_seconds=MONTH / 2)) == ["medium"]
    assert kinds(replace(brief, key=key(kind="Notebook"))) == []
    assert kinds(line(key(kind="Job", capacity="spot"), used=100.0)) == []


def test_a_commitment_is_for_the_work_that_never_left() -> None:
    it = line(used=600.0, idle=400.0)
    floors = {key().pool: 0.5}  # USD of the cheapest hour: 360 of the 600 in the range
    known = facts(it, prices=(PRICE,), floors=floors)
    [found] = buy.reserved(known)
    saved = sum(claim.ratio * it.usd[claim.state] for claim in found.claims)
    assert saved == pytest.approx(360 * (1 - 4.0 / 6.88))
    assert {claim.state for claim in found.claims} == {"used"}
    assert list(buy.reserved(replace(known, seen_seconds=3 * 86_400.0))) == [], "three days"
    assert list(buy.reserved(replace(known, floors={key().pool: 0.0}))) == []


# --- Serving --------------------------------------------------------------------------------------


def service(workload: str = "chat", **figures: object) -> Service:
    plain = Service("c", "serving", workload, ("llama",), ("vllm",), usd=100.0)
    return replace(plain, **figures)


def test_a_batch_below_its_own_best_is_worth_fewer_replicas() -> None:
    two = replace(line(used=80.0, underused=20.0), gpus=2.0)
    served = service(batch=4.0, best_batch=16.0)
    [found] = serve.batching(facts(two, services=(served,)))
    assert found.claims[0].ratio == pytest.approx(0.375)
    assert "0 to 75%" in found.expected
    assert list(serve.batching(facts(replace(two, gpus=1.0), services=(served,)))) == []
    full = service(batch=14.0, best_batch=16.0)
    assert list(serve.batching(facts(two, services=(full,)))) == []
    assert list(serve.batching(facts(two, services=(service(),)))) == [], "not known"


def test_prefix_hits_below_their_own_best_are_told() -> None:
    it = line(used=100.0)
    served = service(input_tokens=800.0, cached_tokens=200.0, tokens=1000.0, best_hit_ratio=0.6)
    [found] = serve.caching(facts(it, services=(served,)))
    assert "20% of its input tokens came from the cache; in its best hour 60%" in found.why
    assert found.claims[0].ratio == pytest.approx(0.2)
    near = replace(served, best_hit_ratio=0.25)
    assert list(serve.caching(facts(it, services=(near,)))) == []


def test_requests_dearer_than_those_of_their_peers_are_found() -> None:
    names = ("a", "b", "c", "d", "dear")
    lines = [line(key(name), used=100.0) for name in names]
    peers = [service(name, requests=1000.0) for name in names[:-1]]
    dear = service("dear", requests=400.0)
    [found] = serve.dear_requests(facts(*lines, services=(*peers, dear)))
    assert found.place.workload == "dear"
    assert list(serve.dear_requests(facts(*lines, services=(*peers[:2], dear)))) == [], "too few"
    other = [replace(it, served_models=(f"model-{it.workload}",)) for it in (*peers, dear)]
    assert list(serve.dear_requests(facts(*lines, services=tuple(other)))) == [], "no peers"


def test_precision_is_spoken_of_only_where_the_model_s_name_tells_it() -> None:
    it = line(used=100.0)
    [found] = serve.precision(facts(it, services=(service(served_models=("llama-8b-bf16",)),)))
    assert "FP8" in found.title
    assert list(serve.precision(facts(it, services=(service(),)))) == []
    old = replace(it, key=replace(it.key, gpu_model="NVIDIA A100-SXM4-80GB"))
    wide = service(served_models=("llama-8b-bf16",))
    assert list(serve.precision(facts(old, services=(wide,)))) == []


def test_a_services_profile_is_realtime() -> None:
    it = replace(line(used=40.0, idle=60.0), free_usd={"free_idle": 50.0})
    [found] = free.idle(facts(it, services=(service(),)))
    assert "profile `realtime`" in found.do
