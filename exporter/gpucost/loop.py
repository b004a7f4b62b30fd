"""The clock: gather, advance, publish, wait. It owns the only thing that changes.

    report = advance(report, gather(), elapsed, terms)

Time is charged by the monotonic clock, so a wall clock that steps charges nothing. When a
cycle takes long, the next one charges what has passed: no second is lost or charged twice. Of a
stretch in which no cycle ran at all (a stopped process), nobody saw anything: it is a gap.
"""

from __future__ import annotations

import gc
import logging
import time
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from gpucost.cycle import advance
from gpucost.gap import holds_of, interrupted
from gpucost.months import by_month

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable
    from zoneinfo import ZoneInfo

    from gpucost.cycle import Terms
    from gpucost.model import Ledger, Problem, Report, Snapshot

log = logging.getLogger("gpucost")

_ALIVE_SECONDS = 60.0
"""Cycles may take a while (a hung driver is waited for); when one is so long overdue, the loop
counts as dead, and what passed was not seen."""

RESTART_CURES = frozenset({"driver_mismatch", "access_lost"})
"""Kinds of NVML problem that only a new process cures: a driver that was upgraded under the
mapped library, device cgroup access lost to a `systemctl daemon-reload`
(NVIDIA/nvidia-container-toolkit issue 48)."""

_RESTART_AFTER_SECONDS = 120.0

_COLLECT_EVERY = 50_000
"""New objects between two looks for garbage in cycles; a dense node's Report has some thousands."""


class Gathers(Protocol):
    """Makes Snapshots."""

    def gather(self, wall_time: float, clock_seconds: float) -> Snapshot:
        """The node now."""


class Loop:
    """Runs cycles until it is stopped."""

    def __init__(
        self,
        gatherer: Gathers,
        terms: Callable[[Snapshot], tuple[Terms, tuple[Problem, ...]]],
        publish: Callable[[Report, float], None],
        resume: Callable[[float, float, ZoneInfo], Ledger] | None = None,
    ) -> None:
        """`terms` gives what a cycle runs on, and its own problems.

        `publish` takes the Report and the monotonic time up to which it is charged. `resume`
        gives the ledger to begin with, from wall time, monotonic time and billing time zone.
        """
        self._gatherer = gatherer
        self._terms = terms
        self._publish = publish
        self._resume = resume
        self._report: Report | None = None
        self._at = time.monotonic()
        self._cycle_seconds = 0.0
        self._problems: dict[tuple[str, str], Problem] = {}
        self._hopeless_since: float | None = None

    def alive(self) -> bool:
        """Whether cycles go on, and a restart would not do better."""
        now = time.monotonic()
        if self._hopeless_since is not None and now - self._hopeless_since > _RESTART_AFTER_SECONDS:
            return False
        return now - self._at < self._cycle_seconds + _ALIVE_SECONDS

    def step(self) -> Report:
        """One cycle, charged with the time since the last one."""
        now, wall = time.monotonic(), time.time()
        snapshot = self._gatherer.gather(wall, now)
        terms, problems = self._terms(snapshot)
        before, ledger, elapsed = self._report, None, 0.0
        if before is not None:
            elapsed = now - self._at
            if (unseen := elapsed - self._cycle_seconds) > _ALIVE_SECONDS:
                elapsed = self._cycle_seconds
                ledger = interrupted(
                    before.ledger,
                    by_month(wall - elapsed, unseen, terms.config.zone),
                    gpus=tuple(gpu.device.uuid for gpu in before.snapshot.gpus),
                    held=holds_of(before),
                )
        elif self._resume is not None:
            ledger = self._resume(wall, now, terms.config.zone)
        report = advance(before, snapshot, elapsed, terms, ledger=ledger)
        if problems:
            report = replace(report, problems=(*report.problems, *problems))
        self._report, self._at = report, now
        self._tell(report.problems)
        hopeless = any(p.source == "nvml" and p.kind in RESTART_CURES for p in report.problems)
        if not hopeless:
            self._hopeless_since = None
        elif self._hopeless_since is None:
            self._hopeless_since = now
        self._publish(report, now)
        return report

    def run(self, stop: threading.Event, cycle_seconds: Callable[[], float]) -> None:
        """Cycle until `stop` is set."""
        due = time.monotonic()
        while not stop.is_set():
            first = self._report is None
            try:
                self.step()
            except Exception:
                # The border: the ledger lives in memory, and a bug met in one cycle must not
                # take it along. The next cycle charges the time; without one `alive` ends.
                log.exception("a cycle failed: please report this with `gpucost record`")
            if first and self._report is not None:
                calm_collector()
            self._cycle_seconds = cycle_seconds()
            due = max(due + self._cycle_seconds, time.monotonic())
            stop.wait(due - time.monotonic())

    def _tell(self, problems: Iterable[Problem]) -> None:
        """Log each problem when it comes and when it goes, once."""
        now = {(p.source, p.kind): p for p in problems}
        for key, problem in now.items():
            if key not in self._problems:
                log.warning(
                    "%s: %s: %s %s", problem.source, problem.kind, problem.message, problem.remedy
                )
        for key in self._problems.keys() - now.keys():
            log.info("%s: %s: over", *key)
        self._problems = now


def calm_collector() -> None:
    """Have Python look for garbage in cycles seldom, and not among what is there for good.

    A Report refers to nothing that refers back to it, so it goes with its last reference; by
    default the collector would search the newest one, and every import, several times a cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)
