"""How exact the bill is: a fleet with known truth, the real core, a real Prometheus, PromQL.

    run.py [--nodes 20] [--hours 48] [--scrapes 15 30 60] [--linger 300]

Prints one line a figure: name, value, unit and goal. docs/accuracy.md says what they mean.

The hours are the last of a month, so that the month is over when it is read. One fleet is looked
at by as many scrapers as there are intervals; a processor has a part of the nodes.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
from array import array
from bisect import bisect_left
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, NamedTuple

from fleet import USD_PER_HOUR, Job, Machine, fleet
from msgspec.structs import replace
from prometheus import STALE, Prometheus, Writer

from gpucost.exposition import families
from gpucost.gap import YOUNG_NODE_SECONDS
from gpucost.ledger import imbalance_usd

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

MONTH = "2026-11"
MONTH_END = 1_796_083_200.0
"""2026-12-01 00:00:00 UTC."""
FAMILIES = frozenset(("gpucost_workload_cost_usd", "gpucost_pod_cost_usd"))
CYCLE = 5.0
DAY = 86_400.0
DAYS_BEGIN_EVERY = 6 * 3600.0
MIN_POD_SECONDS = 120.0
AWAY_SECONDS = 120.0
"""Two scrapes of a minute: a node that was not scraped for longer was not only between two."""
PLAYED_ON_SECONDS = 4200.0
"""After the month's end: longer than the longest scrape gap, so that all of it is seen."""
CRASH_EVERY_SECONDS = 24 * 3600.0
DOWN_SECONDS = (3.0, 40.0)
GAP_EVERY_SECONDS = 24 * 3600.0
GAP_SECONDS = (60.0, 3600.0)
ROLLOUT_EVERY_SECONDS = 20 * 3600.0
TOGETHER_SECONDS = 1200.0
"""No processor is further ahead than this: Prometheus takes no samples much older than others."""


class Scraper:
    """Takes a node's page at its own moment of the interval, as Prometheus spreads them."""

    def __init__(self, machine: Machine, interval: float, writer: Writer, start: float) -> None:
        """From `start` on."""
        self._machine, self._interval, self._writer = machine, interval, writer
        self._chance = random.Random(f"{machine.name} {interval}")  # noqa: S311 - a play
        self._due = start + self._chance.uniform(0.0, interval)
        self._shown: dict[tuple[str, ...], int] = {}
        self._blind_until = start
        self.scrapes = array("d")
        """When there was a page."""

    def pass_by(self, now: float) -> None:
        """Scrape, if it is time to; a page that is not there ends its series."""
        while self._due <= now:
            self._scrape(self._due)
            self._due += self._interval

    def _scrape(self, at: float) -> None:
        if self._chance.random() < self._interval / GAP_EVERY_SECONDS:
            self._blind_until = at + self._chance.uniform(*GAP_SECONDS)
        machine, shown = self._machine, {}
        values: dict[int, float] = {}
        report = machine.report if machine.born <= at < machine.died else None
        if report is not None and at >= self._blind_until:
            self.scrapes.append(at)
            for family in families(replace(report, hold_seconds=2 * self._interval), version="0"):
                if family.name in FAMILIES:
                    for sample in family.samples:
                        key = (sample.name, *sample.labels.values())
                        number = self._shown.pop(key, None)
                        if number is None:
                            number = self._writer.series(
                                {
                                    "__name__": sample.name,
                                    "scrape": f"{self._interval:.0f}",
                                    **sample.labels,
                                }
                            )
                        shown[key] = number
                        values[number] = sample.value
        self._writer.add(at, {**values, **dict.fromkeys(self._shown.values(), STALE)})
        self._shown = shown


class Played(NamedTuple):
    """What came of a node: its bill, the true one, and when who looked."""

    billed_usd: float
    owed_usd: float
    imbalance_usd: float
    away: list[tuple[float, float]]
    scrapes: dict[float, array[float]]
    """By interval."""


def play(
    machines: list[Machine],
    url: str,
    intervals: list[float],
    span: tuple[float, float],
    barrier: Barrier,
) -> dict[str, Played]:
    """Let it all happen to some of the nodes; every exporter in step."""
    start, end = span
    writer = Writer(url)
    watched = [
        (machine, [Scraper(machine, it, writer, start) for it in intervals]) for machine in machines
    ]
    for step in range(int((end - start) / CYCLE) + 1):
        now = start + step * CYCLE
        if now % TOGETHER_SECONDS < CYCLE:
            writer.flush()
            barrier.wait()
        rollout = step > 0 and (now - start) % ROLLOUT_EVERY_SECONDS < CYCLE
        for machine, scrapers in watched:
            # A page shows the last cycle before its scrape.
            for scraper in scrapers:
                scraper.pass_by(now)
            if machine.born <= now < machine.died:
                machine.look(now)
                if rollout or machine.chance.random() < CYCLE / CRASH_EVERY_SECONDS:
                    machine.crash(now, machine.chance.uniform(*DOWN_SECONDS))
    writer.flush()
    return {
        machine.name: _played(machine, dict(zip(intervals, scrapers, strict=True)))
        for machine, scrapers in watched
    }


def _played(machine: Machine, scrapers: dict[float, Scraper]) -> Played:
    report = machine.report
    scrapes = {interval: scraper.scrapes for interval, scraper in scrapers.items()}
    if report is None:  # its last one crashed
        return Played(0.0, 0.0, 0.0, machine.away, scrapes)
    ledger = report.ledger
    # A young node's ledger counts from its boot.
    young = ledger.started_at - machine.born < YOUNG_NODE_SECONDS
    since = machine.born if young else ledger.started_at
    owed = machine.owed(since, report.snapshot.wall_time)
    return Played(ledger.billed_usd, owed, abs(imbalance_usd(ledger)), machine.away, scrapes)


class Figures:
    """What Prometheus says, and how far it is from the truth, at one scrape interval."""

    def __init__(
        self,
        store: Prometheus,
        machines: list[Machine],
        played: dict[str, Played],
        interval: float,
        start: float,
    ) -> None:
        """Of what happened from `start` until the month's end."""
        self._store, self._machines, self._played = store, machines, played
        self._interval, self._start = interval, start
        self._scrape = f'scrape="{interval:.0f}"'
        self._range = f"{math.ceil((MONTH_END - start + PLAYED_ON_SECONDS) / 3600) + 1}h"
        self._at = MONTH_END + PLAYED_ON_SECONDS

    def show(self) -> None:
        """Print them all."""
        self._months()
        self._days()
        self._states()
        self._pods()

    def _line(self, name: str, value: float, goal: str, unit: str = "%") -> None:
        print(f"accuracy_{name}_{self._interval:.0f}s {value:.4f} {unit} {goal}", flush=True)

    def _series(self, name: str, *matchers: str) -> str:
        return f"{name}{{{','.join((self._scrape, *matchers))}}}"

    def _month(self, by: str, *matchers: str) -> dict[str, float]:
        series = self._series("gpucost_workload_cost_usd_total", f'month="{MONTH}"', *matchers)
        return self._store.ask(f"sum by ({by}) (max_over_time({series}[{self._range}]))", self._at)

    def _months(self) -> None:
        found, truth = self._month("namespace"), self._by_namespace(self._start, MONTH_END)
        self._line("month_total", _off(sum(found.values()), sum(truth.values())), "0.02")
        self._line("month_by_namespace", _worst(found, truth), "0.02")

    def _days(self) -> None:
        """The worst of the days that begin every six hours.

        Apart from them those at an end of which a node was not scraped.
        """
        series = self._series("gpucost_workload_cost_usd_total")
        whole: list[float] = []
        cut: list[float] = []
        since = self._start
        while since + DAY <= MONTH_END:
            found = self._store.ask(f"sum by (namespace) (increase({series}[1d]))", since + DAY)
            off = _worst(found, self._by_namespace(since, since + DAY))
            blind = any(
                not self._scraped(machine, edge - AWAY_SECONDS, edge)
                or not self._scraped(machine, edge, edge + AWAY_SECONDS)
                for machine in self._machines
                for edge in (since, since + DAY)
                if machine.born < edge - AWAY_SECONDS
                and edge + AWAY_SECONDS < machine.died
                and edge > self._start
            )
            (cut if blind else whole).append(off)
            since += DAYS_BEGIN_EVERY
        if whole:
            self._line(f"{len(whole)}_days_by_namespace", max(whole), "0.1")
        if cut:
            self._line(f"{len(cut)}_days_cut_by_gaps_by_namespace", max(cut), "-")

    def _states(self) -> None:
        found = self._month("state", 'namespace!=""')
        states: defaultdict[str, float] = defaultdict(float)
        for machine in self._machines:
            for state, usd in machine.owed_in_states(self._start, MONTH_END).items():
                states[state] += usd
        moved = math.fsum(abs(found.get(state, 0.0) - usd) for state, usd in states.items())
        self._line("in_another_state", 100 * moved / 2 / math.fsum(states.values()), "-")

    def _pods(self) -> None:
        """Pods of two minutes or more; apart those of whose end or beginning nobody saw a thing."""
        seen: list[float] = []
        unseen: defaultdict[str, list[float]] = defaultdict(list)
        for machine in self._machines:
            series = self._series("gpucost_pod_cost_usd_total", f'node="{machine.name}"')
            pods = self._store.ask(
                f"sum by (pod) (max_over_time({series}[{self._range}]))", self._at
            )
            for job in machine.jobs:
                whole = job.start > self._start and job.end < MONTH_END
                if whole and job.end - job.start >= MIN_POD_SECONDS:
                    usd = job.share * (job.end - job.start) * USD_PER_HOUR / 3600
                    off = _off(pods.get(job.holder.pod, 0.0), usd)
                    why = self._unseen(machine, job)
                    (unseen[why] if why else seen).append(off)
        self._line("pods", len(seen), "-", "pods")
        self._line("pod_median", median(seen), "1")
        hundredths = quantiles(seen, n=100)
        self._line("pod_95th", hundredths[94], "1")
        self._line("pod_99th", hundredths[98], "1")
        self._line("pod_worst", max(seen), "1")
        self._line("pods_over_1", sum(off > 1 for off in seen), "0", "pods")
        for why, offs in sorted(unseen.items()):
            self._line(f"pods_{why}", len(offs), "-", "pods")
            self._line(f"pods_{why}_median", median(offs), "-")

    def _unseen(self, machine: Machine, job: Job) -> str:
        """Why a pod's dollars cannot all be known to Prometheus; empty where they can."""
        played = self._played[machine.name]
        if job.end >= machine.died:
            return "died_with_their_node"
        if any(
            since <= edge <= until + CYCLE
            for since, until in played.away
            for edge in (job.start, job.end)
        ):
            return "began_or_ended_unmetered"
        if not self._scraped(machine, job.end + CYCLE, job.end + machine.linger_seconds):
            return "ended_unscraped"
        return ""

    def _scraped(self, machine: Machine, since: float, until: float) -> bool:
        scrapes = self._played[machine.name].scrapes[self._interval]
        place = bisect_left(scrapes, since)
        return place < len(scrapes) and scrapes[place] <= until

    def _by_namespace(self, since: float, until: float) -> dict[str, float]:
        """The truth."""
        truth: defaultdict[str, float] = defaultdict(float)
        for machine in self._machines:
            whole = machine.owed(since, until)
            for holder, usd in machine.owed_by(since, until).items():
                truth[holder.namespace] += usd
                whole -= usd
            truth[""] += whole
        return dict(truth)


def _off(found: float, truth: float) -> float:
    """A deviation, in per cent of the truth."""
    return 100 * abs(found / truth - 1)


def _worst(found: dict[str, float], truth: dict[str, float]) -> float:
    """The largest deviation of a namespace's."""
    return max(_off(found.get(name, 0.0), usd) for name, usd in truth.items() if name)


def main() -> int:
    """Play it once, and ask for each scrape interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--hours", type=float, default=48.0)
    parser.add_argument("--scrapes", type=float, nargs="+", default=[15.0, 30.0, 60.0])
    parser.add_argument("--linger", type=float, default=300.0, help="linger_seconds")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    start = MONTH_END - given.hours * 3600
    machines = fleet(given.nodes, given.hours, start, given.linger)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Prometheus(Path(folder)) as store:
        played = played_by_several(
            machines,
            store.url,
            given.scrapes,
            (start, MONTH_END + PLAYED_ON_SECONDS),
            given.processes,
        )
        own = math.fsum(it.billed_usd for it in played.values())
        owed = math.fsum(it.owed_usd for it in played.values())
        worst = max(it.imbalance_usd for it in played.values())
        away = sum(len(it.away) for it in played.values())
        print(f"accuracy_exporter_total {_off(own, owed):.4f} % 0.01")
        print(f"accuracy_imbalance {100 * worst / own:.4f} % 0.0001")
        print(f"accuracy_crashes_and_rollouts {away} times -")
        for interval in given.scrapes:
            Figures(store, machines, played, interval, start).show()
    print(f"accuracy_took {time.monotonic() - began:.0f} s -")
    return 0


def played_by_several(
    machines: list[Machine],
    url: str,
    intervals: list[float],
    span: tuple[float, float],
    processes: int,
) -> dict[str, Played]:
    """What came of each node, by its name."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(processes), context.SimpleQueue()

    def work(part: list[Machine]) -> None:
        try:
            queue.put(play(part, url, intervals, span, barrier))
        except Exception as error:
            barrier.abort()
            queue.put(error)
            raise

    workers = [
        context.Process(target=work, args=(machines[number::processes],))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    played: dict[str, Played] = {}
    for _ in workers:
        found = queue.get()
        if isinstance(found, Exception):
            raise found
        played |= found
    for worker in workers:
        worker.join()
    return played


if __name__ == "__main__":
    sys.exit(main())
