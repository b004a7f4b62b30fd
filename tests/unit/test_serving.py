"""Work counted over restarts, and what a request and a token cost: a node on a stage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.checkpoint import decode, encode
from gpucost.config import Config
from gpucost.model import Count, Holder, ModelReading, Part, Service, Serving, WorkSample
from gpucost.serving import MAX_SERVICES, carried
from gpucost.unit_cost import MAX_SAMPLES, moved_on, shares_of, unit_costs
from stage import USD_PER_HOUR, Stage, by_label, gpu, pod, samples, values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.model import Report, WorkAccount

LLM = Holder("serving", "llm-0", "vllm")
WINDOW = 600.0
PER_SECOND = USD_PER_HOUR / 3600
COSTS = ("gpucost_pod_cost_per_request_usd", "gpucost_pod_cost_per_million_tokens_usd")


NOTHING: Mapping[str, float] = {}


def said(
    model: str = "llama",
    *,
    engine: str = "vllm",
    running: float | None = None,
    waiting: float | None = None,
    batch: float | None = None,
    started_at: float | None = None,
    done: Mapping[str, float] = NOTHING,
    **counts: float,
) -> ModelReading:
    """A reading in which each count is one series."""
    return ModelReading(
        engine,
        model,
        {Count(name): {0: value} for name, value in (dict(done) | counts).items()},
        running,
        waiting,
        batch,
        started_at,
    )


class Server:
    """A pod that serves on a stage: asked every 15 s, at so many requests and tokens a second."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - whatever Config takes
        self.stage = Stage(gpu(0, 0.5), **settings)
        self.stage.cycle(times=2)  # somebody looks before the pod comes
        self.stage.hold(LLM, shown=pod(LLM, workload="llm"))
        self.done = dict.fromkeys(
            ("success", "prompt", "cached", "output", "prefill_seconds", "decode_seconds"), 0.0
        )

    def run(self, seconds: float, **per_second: float) -> Report:
        """Go on for a while; what is asked per second is added to the counts."""
        report = self.stage.cycle(0.0)
        for _ in range(round(seconds / 15)):
            for name, rate in per_second.items():
                self.done[name] = self.done.get(name, 0.0) + rate * 15
            report = self.stage.cycle(times=3)
            self.stage.answer(said(done=self.done), holder=LLM)
            report = self.stage.cycle(0.0)
        return report


# --- Counters ---------------------------------------------------------------------------------


def test_requests_and_tokens_of_a_pod_are_counted_and_directions_are_disjoint() -> None:
    report = Server().run(600, success=2, prompt=100, cached=40, output=30)
    assert by_label(report, "gpucost_pod_requests_total", "outcome") == {"success": 1200}
    assert by_label(report, "gpucost_pod_tokens_total", "direction") == {
        "input": 36_000,
        "cached_input": 24_000,
        "output": 18_000,
    }
    [sample] = samples(report, "gpucost_pod_requests_total")
    assert sample.labels == {
        "node": "node-1",
        "namespace": "serving",
        "pod": "llm-0",
        "workload": "llm",
        "engine": "vllm",
        "served_model": "llama",
        "outcome": "success",
    }


def test_a_new_counter_is_shown_at_0_for_two_scrapes_while_it_goes_on_underneath() -> None:
    server = Server()
    assert values(server.run(30, success=2), "gpucost_pod_requests_total") == [0]
    assert values(server.run(45, success=2), "gpucost_pod_requests_total") == [150]


def test_what_an_engine_did_before_anybody_looked_is_not_counted() -> None:
    stage = Stage(gpu(0, 0.5))
    stage.hold(LLM, shown=pod(LLM))
    stage.answer(said(success=1_000_000), holder=LLM)
    stage.cycle()
    stage.answer(said(success=1_000_007), holder=LLM)
    assert by_label(stage.cycle(), "gpucost_pod_requests_total", "outcome") == {"success": 7}


def test_what_a_new_pods_engine_did_before_its_first_answer_is_counted() -> None:
    stage = Stage(gpu(0, 0.5))
    stage.cycle(times=3)
    stage.hold(LLM, shown=pod(LLM))
    stage.cycle()
    stage.answer(said(success=5), holder=LLM)
    assert by_label(stage.cycle(), "gpucost_pod_requests_total", "outcome") == {"success": 5}


def test_a_count_that_appears_with_the_first_request_begins_at_0() -> None:
    stage = Stage(gpu(0, 0.5))
    stage.hold(LLM, shown=pod(LLM))
    stage.answer(said(running=0), holder=LLM)
    stage.cycle()
    stage.answer(said(success=1), holder=LLM)
    assert by_label(stage.cycle(), "gpucost_pod_requests_total", "outcome") == {"success": 1}


def test_one_reading_is_counted_once_however_many_cycles_it_lasts() -> None:
    server = Server()
    server.run(60, success=1)
    report = server.stage.cycle(times=50)
    assert by_label(report, "gpucost_pod_requests_total", "outcome") == {"success": 60}


def total(account: WorkAccount, count: Count = Count.SUCCESS) -> float:
    return account.counts[count]


def read(*readings: ModelReading, watched: bool = True) -> WorkAccount:
    account = None
    for reading in readings:
        account = carried(account, reading, "uid", 0.0, watched=watched)
    assert account is not None
    return account


def test_a_restarted_engine_is_counted_on() -> None:
    assert total(read(said(success=10), said(success=3), said(success=4))) == 14


def test_a_restart_that_the_process_itself_tells_of_is_seen_though_no_count_is_less() -> None:
    before, after = said(success=10, started_at=100.0), said(success=12, started_at=500.0)
    assert total(read(before, after)) == 22
    same = said(success=12, started_at=100.4)
    assert total(read(before, same)) == 12


def test_another_engine_in_the_same_pod_is_another_service() -> None:
    server = Server()
    server.run(60, success=1)
    server.stage.answer(said(engine="sglang", success=4), holder=LLM)
    report = server.stage.cycle()
    assert by_label(report, "gpucost_pod_requests_total", "engine") == {"vllm": 60, "sglang": 4}


def test_a_worker_that_goes_takes_nothing_along_and_the_others_go_on() -> None:
    def workers(**values: float) -> ModelReading:
        series = {int(name[1:]): value for name, value in values.items()}
        return ModelReading("vllm", "m", {Count.SUCCESS: series})

    account = read(workers(w1=100, w2=50), workers(w2=60), workers(w2=60, w3=5))
    assert total(account) == 165


def test_input_and_successes_wait_rather_than_fall_where_an_engine_counts_in_two_steps() -> None:
    account = read(
        said(prompt=100, cached=20, finished=10, failure=1),
        said(prompt=100, cached=90, finished=10, failure=5),
        said(prompt=200, cached=90, finished=20, failure=5),
    )
    assert total(account, Count.INPUT) == 110
    assert total(account) == 15
    half = read(said(prompt=100, cached=20), said(prompt=100, cached=90))
    assert total(half, Count.INPUT) == 80


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.data())
def test_counts_never_fall_and_restarts_lose_and_double_nothing(
    done: list[int], data: st.DataObject
) -> None:
    """The work between two readings is counted exactly wherever a restart can be seen."""
    account, page, expected, started = None, 0, 0, 1000.0
    for more in done:
        if data.draw(st.booleans()):
            page, started = 0, started + 60
        page += more
        expected += more
        reading = said(success=page, started_at=started)
        after = carried(account, reading, "uid", 0.0, watched=True)
        assert account is None or total(after) >= total(account)
        account = after
    assert account is not None
    assert total(account) == expected


def test_a_restart_of_the_exporter_counts_on_where_it_was() -> None:
    server = Server()
    server.run(120, success=1, prompt=10)
    server.stage.restart(60)
    server.done["success"] += 60
    report = server.run(60, success=1)
    assert by_label(report, "gpucost_pod_requests_total", "outcome") == {"success": 240}


def test_a_checkpoint_holds_the_work() -> None:
    server = Server()
    server.run(120, success=1, prompt=10)
    found = decode(server.stage.checkpoint())
    assert server.stage.report is not None
    assert found.ledger.work == server.stage.report.ledger.work
    assert decode(encode(found)) == found


def test_a_pod_recreated_under_its_name_counts_on() -> None:
    server = Server()
    server.run(60, success=1)
    server.stage.show(pod(LLM, workload="llm", uid="another"))
    server.stage.cycle()
    server.stage.answer(said(success=70, prompt=0), holder=LLM)
    report = server.stage.cycle()
    assert by_label(report, "gpucost_pod_requests_total", "outcome") == {"success": 130}


def test_counters_linger_when_the_pod_is_gone_and_gauges_go_at_once() -> None:
    server = Server()
    server.done["success"] = 0
    server.run(120, success=1)
    server.stage.end(LLM)
    server.stage.engines = {}
    report = server.stage.cycle()
    assert values(report, "gpucost_pod_requests_total") == [120]
    assert not any(values(report, name) for name in COSTS)
    report = server.stage.cycle(100, times=4)
    assert values(report, "gpucost_pod_requests_total") == []
    assert report.ledger.work == {}


def test_services_of_a_node_are_limited_and_a_problem_says_so() -> None:
    stage = Stage(gpu(0, 0.5))
    stage.hold(LLM, shown=pod(LLM))
    stage.cycle()
    stage.answer(*(said(f"m{n}", success=1) for n in range(MAX_SERVICES + 1)), holder=LLM)
    report = stage.cycle()
    assert len(report.ledger.work) == MAX_SERVICES
    assert [p.kind for p in report.problems] == ["service_limit"]


# --- Cost per request and per token -----------------------------------------------------------


def test_cost_per_request_is_price_over_throughput() -> None:
    report = Server().run(900, success=2)
    assert values(report, COSTS[0]) == [pytest.approx(PER_SECOND / 2)]
    assert by_label(report, COSTS[0], "split") == {"whole": pytest.approx(PER_SECOND / 2)}


def test_cost_is_taken_at_the_moment_of_the_page_and_not_of_the_cycle() -> None:
    """Pages read at any moment between two cycles give the same figure."""
    stage = Stage(gpu(0, 0.5))
    stage.cycle(times=2)
    stage.hold(LLM, shown=pod(LLM))
    for n in range(8):
        age = (n * 1.7) % 5
        stage.cycle(times=3)
        stage.steady += 5
        stage.answer(said(success=2 * (stage.steady - age)), holder=LLM, age=age)
        stage.steady -= 5
        report = stage.cycle()
    assert values(report, COSTS[0]) == [pytest.approx(PER_SECOND / 2)]


def test_there_is_no_cost_where_nothing_was_asked() -> None:
    report = Server().run(300)
    assert not any(values(report, name) for name in COSTS)
    assert values(report, "gpucost_pod_requests_total", reveal=True) == [0]


def test_the_cost_goes_when_the_window_holds_no_work_any_more() -> None:
    server = Server()
    assert values(server.run(300, success=1), COSTS[0])
    # From the first page to the last: 585 s, in which 285 requests were finished.
    assert values(server.run(300), COSTS[0]) == [pytest.approx(PER_SECOND * 585 / 285)]
    assert not values(server.run(330), COSTS[0])


def test_there_is_no_cost_without_a_price_and_the_work_is_counted() -> None:
    server = Server()
    server.stage.config = Config()
    report = server.run(300, success=1, prompt=10)
    assert not any(values(report, name) for name in COSTS)
    assert by_label(report, "gpucost_pod_requests_total", "outcome") == {"success": 300}


def test_failures_are_told_apart_and_paid_by_the_successes() -> None:
    report = Server().run(600, success=1, failure=3, aborted=1)
    assert by_label(report, "gpucost_pod_requests_total", "outcome") == {
        "success": 600,
        "failure": 1800,
        "aborted": 600,
    }
    assert values(report, COSTS[0]) == [pytest.approx(PER_SECOND)]


def per_million(report: Report, method: str) -> dict[str, float]:
    return by_label(report, COSTS[1], "direction", method=method)


def test_tokens_cost_by_the_time_of_prefill_and_decode() -> None:
    report = Server().run(
        600, success=1, prompt=100, cached=50, output=20, prefill_seconds=0.2, decode_seconds=0.6
    )
    assert per_million(report, "prefill_decode_time") == {
        "input": pytest.approx(PER_SECOND * 0.25 / 50 * 1e6),
        "output": pytest.approx(PER_SECOND * 0.75 / 20 * 1e6),
    }


def test_tokens_cost_alike_where_the_engine_does_not_tell_its_times() -> None:
    server = Server()
    for name in ("prefill_seconds", "decode_seconds"):
        del server.done[name]
    report = server.run(600, success=1, prompt=100, cached=50, output=20)
    each = pytest.approx(PER_SECOND / 70 * 1e6)
    assert per_million(report, "tokens") == {"input": each, "output": each}


def test_the_prefix_cache_saves_what_its_tokens_would_have_cost() -> None:
    report = Server().run(600, success=1, prompt=100, cached=75)
    [saved] = values(report, "gpucost_pod_cache_savings_usd_per_hour")
    assert saved == pytest.approx(3 * USD_PER_HOUR)


def test_running_waiting_and_batch_are_shown() -> None:
    server = Server()
    server.done |= {"batched": 0.0, "batches": 0.0}
    server.run(300, success=1, batched=40, batches=5)
    server.stage.answer(said(running=3, waiting=0, done=server.done), holder=LLM)
    report = server.stage.cycle()
    assert values(report, "gpucost_pod_requests_running") == [3]
    assert values(report, "gpucost_pod_requests_waiting") == [0]
    assert values(report, "gpucost_pod_batch_size") == [pytest.approx(8)]


# --- Several models, several pods -------------------------------------------------------------


A = Service("serving", "llm-0", "llm", "vllm", "a")
B = Service("serving", "llm-0", "llm", "vllm", "b")


@pytest.mark.parametrize(
    ("one", "two", "split", "share"),
    [
        (
            {Count.SUCCESS: 1, Count.OUTPUT: 9, Count.COMPUTE_SECONDS: 3},
            {Count.SUCCESS: 1, Count.OUTPUT: 1, Count.COMPUTE_SECONDS: 1},
            "compute_time",
            0.75,
        ),
        (
            {Count.SUCCESS: 1, Count.PREFILL_SECONDS: 1, Count.DECODE_SECONDS: 2},
            {Count.SUCCESS: 1, Count.COMPUTE_SECONDS: 1},
            "compute_time",
            0.75,
        ),
        (
            {Count.SUCCESS: 1, Count.OUTPUT: 9, Count.COMPUTE_SECONDS: 3},
            {Count.SUCCESS: 1, Count.INPUT: 1},
            "tokens",
            0.9,
        ),
        (
            {Count.SUCCESS: 4, Count.OUTPUT: 9},
            {Count.SUCCESS: 0, Count.FAILURE: 1},
            "requests",
            0.8,
        ),
        ({Count.SUCCESS: 4}, {Count.SUCCESS: 0, Count.COMPUTE_SECONDS: 9}, "requests", 1.0),
    ],
)
def test_models_of_one_pod_share_its_cost_by_time_else_tokens_else_requests(
    one: dict[Count, float], two: dict[Count, float], split: str, share: float
) -> None:
    found, shares = shares_of({A: one, B: two})
    assert found == split
    assert shares == {A: pytest.approx(share), B: pytest.approx(1 - share)}


def test_models_that_nobody_asked_have_no_shares_and_one_alone_has_all() -> None:
    assert shares_of({A: {}, B: {Count.SUCCESS: 0}}) == ("", {})
    assert shares_of({A: {}}) == ("whole", {A: 1.0})


_COUNTS = st.dictionaries(st.sampled_from(list(Count)), st.floats(0, 1e9), max_size=8)


@given(
    st.lists(_COUNTS, min_size=1, max_size=5),
    st.floats(1e-6, 1e6),
    st.sampled_from(list(Part)),
)
def test_the_parts_of_a_pod_add_up_to_it_and_no_figure_is_0_nor_infinite(
    done: list[dict[Count, float]], usd: float, part: Part
) -> None:
    services = [Service("n", "p", "w", "vllm", f"m{n}") for n in range(len(done))]
    window = [
        WorkSample(0.0, 5.0, {service: {} for service in services}),
        WorkSample(600.0, 5.0 + usd, dict(zip(services, done, strict=True))),
    ]
    costs = unit_costs(
        [(it, ModelReading("vllm", it.served_model, {})) for it in services], window, part
    )
    shares = [cost.share for cost in costs if cost.share is not None]
    if shares:
        assert math.fsum(shares) == pytest.approx(1)
    for cost, work in zip(costs, done, strict=True):
        figures = (cost.usd_per_request, cost.usd_per_million_input, cost.usd_per_million_output)
        assert all(it is None or (0 <= it < math.inf) for it in figures)
        assert part is Part.ALONE or figures == (None, None, None)
        taken, made = work.get(Count.INPUT, 0.0), work.get(Count.OUTPUT, 0.0)
        if cost.usd_per_million_input is not None or cost.usd_per_million_output is not None:
            tokens = (cost.usd_per_million_input or 0.0) * taken
            tokens += (cost.usd_per_million_output or 0.0) * made
            assert tokens / 1e6 == pytest.approx(usd * (cost.share or 0.0), rel=1e-6, abs=1e-12)


def test_two_models_of_a_pod_are_shown_with_their_shares() -> None:
    stage = Stage(gpu(0, 0.5))
    stage.cycle(times=2)
    stage.hold(LLM, shown=pod(LLM))
    for n in range(10):
        stage.answer(
            said("a", success=10 * n, compute_seconds=9 * n),
            said("b", success=30 * n, compute_seconds=3 * n),
            holder=LLM,
        )
        report = stage.cycle(15)
    assert by_label(report, "gpucost_pod_served_model_share_ratio", "served_model") == {
        "a": pytest.approx(0.75),
        "b": pytest.approx(0.25),
    }
    assert by_label(report, COSTS[0], "served_model", split="compute_time") == {
        "a": pytest.approx(PER_SECOND * 15 * 0.75 / 10),
        "b": pytest.approx(PER_SECOND * 15 * 0.25 / 30),
    }


@pytest.mark.parametrize(
    ("part", "counts"), [(Part.ALONE, True), (Part.MEMBER, True), (Part.HELPER, False)]
)
def test_a_pod_that_is_a_part_of_several_has_no_cost_of_its_own_work(
    part: Part, *, counts: bool
) -> None:
    server = Server()
    server.stage.show(pod(LLM, workload="llm", serving=Serving(part=part)))
    report = server.run(300, success=1, prompt=10)
    assert bool(values(report, COSTS[0])) is (part is Part.ALONE)
    assert bool(values(report, "gpucost_pod_requests_total")) is counts
    server.stage.answer(said(running=2, done=server.done), holder=LLM)
    assert values(server.stage.cycle(), "gpucost_pod_requests_running") == [2]


# --- The window -------------------------------------------------------------------------------


def test_the_window_is_as_long_as_the_settings_say_and_holds_few_samples() -> None:
    window: tuple[WorkSample, ...] = ()
    for n in range(5000):
        window = moved_on(window, WorkSample(float(n), n * 1.0, {}), WINDOW)
        assert len(window) <= MAX_SAMPLES + 2
    assert window[-1].at == 4999
    assert WINDOW <= window[-1].at - window[0].at <= WINDOW * (1 + 2 / MAX_SAMPLES)


def test_the_window_begins_anew_after_a_long_silence_and_where_dollars_fell() -> None:
    window = moved_on((), WorkSample(0.0, 1.0, {}), WINDOW)
    assert len(moved_on(window, WorkSample(599.0, 2.0, {}), WINDOW)) == 2
    assert len(moved_on(window, WorkSample(601.0, 2.0, {}), WINDOW)) == 1
    assert len(moved_on(window, WorkSample(60.0, 0.5, {}), WINDOW)) == 1
    assert len(moved_on(window, WorkSample(60.0, None, {}), WINDOW)) == 1


def test_a_short_silence_keeps_the_window_and_shows_nothing_meanwhile() -> None:
    server = Server()
    server.run(300, success=1)
    answers = server.stage.engines
    server.stage.engines = {}
    report = server.stage.cycle(times=6)
    assert not values(report, COSTS[0])
    assert not values(report, "gpucost_pod_batch_size")
    server.stage.engines = answers
    report = server.run(15, success=3)
    assert values(report, COSTS[0]) == [pytest.approx(PER_SECOND, rel=0.02)]
