"""The clock: time is charged by the monotonic one, once, and trouble is told when it comes."""

from __future__ import annotations

import gc
import logging
import threading
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from gpucost import loop as loop_module
from gpucost.cycle import Terms
from gpucost.loop import RESTART_CURES, Loop
from gpucost.model import Holder, Problem, Report, Snapshot
from gpucost.pricing import Catalogue
from stage import ADA, NOW, Stage, by_label, gpu, pod

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 60.0
LOST = Problem("nvml", "gpu_lost", "GPU 3 fell off the bus.", "Drain the node.")
AWAY = Problem("kubelet", "unreachable", "No socket.", "Is it mounted?")


class Clock:
    """Both clocks, wound by the test."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW, 5000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


class Node:
    """What the loop gathers, and the terms it runs on."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.problems: tuple[Problem, ...] = ()
        self.terms_problems: tuple[Problem, ...] = ()
        self.fails = False
        self.asked: list[tuple[float, float]] = []
        self.reports: list[Report] = []

    def gather(self, wall_time: float, clock_seconds: float) -> Snapshot:
        self.asked.append((wall_time, clock_seconds))
        if self.fails:
            raise ZeroDivisionError("a bug")
        self.stage.wall = wall_time
        return replace(self.stage.snapshot(), problems=self.problems)

    def terms(self, _: Snapshot) -> tuple[Terms, tuple[Problem, ...]]:
        return Terms(self.stage.config, Catalogue()), self.terms_problems

    def loop(self) -> Loop:
        return Loop(self, self.terms, lambda report, _: self.reports.append(report))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(loop_module, "time", found)
    return found


@pytest.fixture
def collector() -> Iterator[None]:
    """Put the garbage collector back as it was: a running loop calms it for good."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def charged(report: Report) -> float:
    return sum(by_label(report, "gpucost_gpu_seconds_total", "state").values())


# --- Time ---------------------------------------------------------------------------------------


def test_the_first_cycle_charges_nothing_and_each_next_one_what_has_passed(clock: Clock) -> None:
    node = Node()
    loop = node.loop()
    clock.pass_time(100.0)  # between the start and the first cycle
    assert charged(loop.step()) == 0
    clock.pass_time(5.0)
    assert charged(loop.step()) == 5.0
    clock.pass_time(3600.0)  # a cycle that took long
    assert charged(loop.step()) == 3605.0


@pytest.mark.parametrize("jump", [-86_400.0 * 3650, -3600.0, -5.0, 0.5, 3600.0, 86_400.0 * 3650])
def test_a_wall_clock_that_is_set_charges_only_the_time_that_passed(
    clock: Clock, jump: float
) -> None:
    node = Node()
    loop = node.loop()
    loop.step()
    for _ in range(3):
        clock.pass_time(5.0)
        clock.wall += jump
        report = loop.step()
    assert charged(report) == pytest.approx(15.0)
    assert report.ledger.billed_usd == pytest.approx(0.015)
    assert report.snapshot.wall_time == clock.wall


def test_what_gathering_takes_is_charged_in_the_next_cycle(clock: Clock) -> None:
    node = Node()
    loop = node.loop()
    loop.step()
    clock.pass_time(5.0)
    gather = node.gather

    def slow(wall_time: float, clock_seconds: float) -> Snapshot:
        clock.pass_time(4.0)
        return gather(wall_time, clock_seconds)

    node.gather = slow  # type: ignore[method-assign]
    assert charged(loop.step()) == 5.0
    node.gather = gather  # type: ignore[method-assign]
    clock.pass_time(1.0)
    assert charged(loop.step()) == 10.0


def test_both_clocks_are_read_before_the_sources_are(clock: Clock) -> None:
    node = Node()
    node.loop().step()
    assert node.asked == [(NOW, clock.steady)]


def test_on_the_real_clock_no_second_is_lost_and_none_counts_twice() -> None:
    node = Node()
    loop = node.loop()
    before = time.monotonic()
    loop.step()
    began = time.monotonic()
    for _ in range(20):
        time.sleep(0.01)
        ended = time.monotonic()
        report = loop.step()
    assert ended - began <= charged(report) <= time.monotonic() - before


# --- Reports ------------------------------------------------------------------------------------


def test_every_cycles_report_is_published_with_all_its_problems(clock: Clock) -> None:
    node = Node()
    node.problems, node.terms_problems = (LOST,), (AWAY,)
    loop = node.loop()
    reports = [loop.step()]
    clock.pass_time(5.0)
    reports.append(loop.step())
    assert node.reports == reports
    assert all({LOST, AWAY} <= set(report.problems) for report in reports)


@pytest.mark.usefixtures("collector")
def test_a_bug_in_one_cycle_takes_nothing_along(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node()
    loop = node.loop()
    stop = threading.Event()
    turns = iter(range(6))

    def cycle_seconds() -> float:
        turn = next(turns)
        node.fails = turn in (1, 2)
        if turn == 5:
            stop.set()
        clock.pass_time(5.0)
        return 0.0

    loop.run(stop, cycle_seconds)
    assert len(node.asked) == 6
    assert len(node.reports) == 4
    assert charged(node.reports[-1]) == 25.0
    assert caplog.text.count("a cycle failed") == 2
    assert "ZeroDivisionError: a bug" in caplog.text


# --- Running ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("collector")
def test_it_runs_until_it_is_stopped_and_stops_at_once() -> None:
    node = Node()
    loop = node.loop()
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop, lambda: 0.01))
    thread.start()
    deadline = time.monotonic() + LONG
    while len(node.reports) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join(LONG)
    assert not thread.is_alive()
    assert len(node.reports) >= 5


@pytest.mark.usefixtures("collector")
def test_stopping_does_not_wait_for_the_next_cycle() -> None:
    node = Node()
    stop = threading.Event()
    thread = threading.Thread(target=node.loop().run, args=(stop, lambda: 3600.0))
    thread.start()
    deadline = time.monotonic() + LONG
    while not node.reports and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join(LONG)
    assert not thread.is_alive()
    assert len(node.reports) == 1


# --- Alive --------------------------------------------------------------------------------------


def test_a_loop_is_alive_while_cycles_go_on(clock: Clock) -> None:
    loop = Node().loop()
    assert loop.alive()
    clock.pass_time(59.0)
    assert loop.alive()
    loop.step()
    clock.pass_time(59.0)
    assert loop.alive()
    clock.pass_time(2.0)
    assert not loop.alive()
    loop.step()
    assert loop.alive()


@pytest.mark.usefixtures("collector")
def test_a_long_cycle_is_not_taken_for_a_dead_loop(clock: Clock) -> None:
    loop = Node().loop()
    stop = threading.Event()

    def cycle_seconds() -> float:
        stop.set()
        return 300.0

    loop.run(stop, cycle_seconds)
    clock.pass_time(300.0 + 59.0)
    assert loop.alive()
    clock.pass_time(2.0)
    assert not loop.alive()


@pytest.mark.usefixtures("collector")
def test_a_loop_of_which_every_cycle_fails_is_dead_in_the_end(clock: Clock) -> None:
    node = Node()
    node.fails = True
    loop = node.loop()
    stop = threading.Event()
    turns = iter(range(20))

    def cycle_seconds() -> float:
        clock.pass_time(5.0)
        if next(turns) == 19:
            stop.set()
        return 0.0

    loop.run(stop, cycle_seconds)
    assert not loop.alive()


@pytest.mark.parametrize("kind", sorted(RESTART_CURES))
def test_what_only_a_restart_cures_ends_the_loops_life_after_a_while(
    clock: Clock, kind: str
) -> None:
    node = Node()
    loop = node.loop()
    node.problems = (replace(LOST, kind=kind),)
    for _ in range(24):
        loop.step()
        assert loop.alive()
        clock.pass_time(5.0)
    loop.step()
    clock.pass_time(1.0)
    assert not loop.alive()
    # It may cure itself.
    node.problems = ()
    loop.step()
    assert loop.alive()
    node.problems = (replace(LOST, kind=kind),)
    loop.step()
    assert loop.alive()


def test_another_sources_problem_of_that_kind_does_not(clock: Clock) -> None:
    node = Node()
    loop = node.loop()
    node.problems = (Problem("dcgm", next(iter(RESTART_CURES)), "x"), LOST)
    for _ in range(50):
        loop.step()
        clock.pass_time(5.0)
    assert loop.alive()


# --- Problems in the log ------------------------------------------------------------------------


def test_a_problem_is_logged_when_it_comes_and_when_it_goes_and_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="gpucost")
    node = Node()
    loop = node.loop()
    for problems in ((LOST,), (LOST, AWAY), (LOST, AWAY), (AWAY,), (), (), (LOST,)):
        node.problems = problems
        loop.step()
        clock.pass_time(5.0)
    assert [record.getMessage() for record in caplog.records] == [
        "nvml: gpu_lost: GPU 3 fell off the bus. Drain the node.",
        "kubelet: unreachable: No socket. Is it mounted?",
        "nvml: gpu_lost: over",
        "kubelet: unreachable: over",
        "nvml: gpu_lost: GPU 3 fell off the bus. Drain the node.",
    ]
    assert [record.levelname for record in caplog.records] == [
        *("WARNING", "WARNING", "INFO", "INFO", "WARNING")
    ]


def test_a_problem_whose_words_change_is_the_same_problem(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node()
    loop = node.loop()
    for seconds in range(5):
        node.problems = (replace(AWAY, message=f"silent for {seconds} s"),)
        loop.step()
        clock.pass_time(5.0)
    assert len(caplog.records) == 1


def test_a_process_that_was_stopped_charges_what_it_missed_to_who_held_throughout(
    clock: Clock,
) -> None:
    node = Node()
    ben = Holder("research", "jupyter-ben-0", "notebook")
    node.stage.gpus = (gpu(0, activity=1.0), gpu(1, activity=1.0))
    node.stage.hold(ADA, 0, shown=pod())
    node.stage.hold(ben, 1, shown=pod(ben))
    loop = node.loop()
    loop.step()
    clock.pass_time(5.0)
    loop.step()
    clock.pass_time(600.0)  # SIGSTOP; meanwhile another pod takes the second GPU
    node.stage.end(ben)
    eve = Holder("research", "jupyter-eve-0", "notebook")
    node.stage.hold(eve, 1, shown=pod(eve))
    report = loop.step()
    states = by_label(report, "gpucost_gpu_seconds_total", "state")
    assert states == pytest.approx({"used": 10.0, "unmeasured": 600.0, "unattributed": 600.0})
    assert not by_label(report, "gpucost_pod_cost_usd_total", "state", pod=eve.pod)
    assert report.ledger.clock_seconds == 5.0
