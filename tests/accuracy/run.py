"""How exact the bill is: a fleet with known truth, the real core, a real Prometheus, PromQL.

    run.py [--nodes 20] [--hours 48] [--scrapes 15 30 60]

Prints one line a figure: name, value, unit and goal. docs/accuracy.md says what they mean.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles

from fleet import USD_PER_HOUR, Machine, fleet
from prometheus import Prometheus, Series, series_of

from gpucost.exposition import families
from gpucost.gap import YOUNG_NODE_SECONDS
from gpucost.ledger import imbalance_usd

START = 1_793_750_400.0
"""2026-11-04 00:00:00 UTC: the hours lie in one month."""
FAMILIES = frozenset(
    ("gpucost_pod_cost_usd_total", "gpucost_workload_cost_usd_total", "gpucost_gpu_cost_usd_total")
)
DAY = 86_400.0
MIN_POD_SECONDS = 120.0
SHOWN_AFTER_SECONDS = 300.0
"""Before the end: a new pod's counters are shown at 0 for two scrape intervals."""
CRASH_EVERY_SECONDS = 24 * 3600.0
DOWN_SECONDS = (3.0, 40.0)
GAP_EVERY_SECONDS = 24 * 3600.0
LONGEST_GAP_SECONDS = 3600.0
ROLLOUT_EVERY_SECONDS = 20 * 3600.0


class Scraper:
    """Takes each node's page at its own moment of the interval, as Prometheus spreads them."""

    def __init__(self, store: Prometheus, interval: float, chance: random.Random) -> None:
        self._store, self._interval, self._chance = store, interval, chance
        self._due: dict[str, float] = {}
        self._blind: dict[str, float] = {}
        self._shown: dict[str, set[Series]] = {}

    def pass_by(self, machine: Machine, now: float) -> None:
        """Scrape, if it is time to; a page that is not there ends its series."""
        due = self._due.setdefault(machine.name, now + self._chance.uniform(0.0, self._interval))
        if now < due:
            return
        self._due[machine.name] = due + self._interval
        if self._chance.random() < self._interval / GAP_EVERY_SECONDS:
            self._blind[machine.name] = now + self._chance.uniform(60.0, LONGEST_GAP_SECONDS)
        page: dict[Series, float] = {}
        alive = machine.born <= now < machine.died and machine.report is not None
        if alive and now >= self._blind.get(machine.name, 0.0) and machine.report is not None:
            for family in families(machine.report, version="0"):
                if family.type == "counter":
                    for sample in family.samples:
                        if sample.name in FAMILIES:
                            page[series_of(sample)] = sample.value
        gone = self._shown.get(machine.name, set()) - page.keys()
        self._shown[machine.name] = set(page)
        if page or gone:
            self._store.write(due, [*page.items(), *((series, None) for series in gone)])


def simulate(machines: list[Machine], store: Prometheus, interval: float, end: float) -> None:
    """Let it all happen; every exporter in step, cycles of 5 s."""
    chance = random.Random(int(interval))  # noqa: S311 - a play
    scraper = Scraper(store, interval, chance)
    now = START
    while now < end + 2 * interval:
        rollout = now % ROLLOUT_EVERY_SECONDS < 5.0
        for machine in machines:
            if not machine.born <= now < machine.died:
                scraper.pass_by(machine, now)
                continue
            if now < end:
                machine.look(now)
                if rollout or chance.random() < 5.0 / CRASH_EVERY_SECONDS:
                    machine.crash(now, chance.uniform(*DOWN_SECONDS))
            scraper.pass_by(machine, now)
        now += 5.0


def worst(found: dict[str, float], truth: dict[str, float]) -> float:
    """The largest deviation, in per cent of the truth."""
    return max(100 * abs(found.get(key, 0.0) - usd) / usd for key, usd in truth.items() if usd > 0)


def by_namespace(machines: list[Machine], since: float, until: float) -> dict[str, float]:
    """The truth; what nobody held is under the empty name."""
    truth: defaultdict[str, float] = defaultdict(float)
    for machine in machines:
        whole = machine.owed(since, until)
        for holder, usd in machine.owed_by(since, until).items():
            truth[holder.namespace] += usd
            whole -= usd
        truth[""] += whole
    return dict(truth)


def figures(machines: list[Machine], store: Prometheus, interval: float, end: float) -> None:
    """Ask Prometheus, and print how far it is from the truth."""
    at = end + 2 * interval
    hours = math.ceil((at - START) / 3600) + 1

    def show(name: str, value: float, goal: str) -> None:
        print(f"accuracy_{name}_{interval:.0f}s {value:.4f} % {goal}", flush=True)

    alive = [machine for machine in machines if machine.report and machine.died > end]
    ledgers = [machine.report.ledger for machine in alive if machine.report]
    own = math.fsum(ledger.billed_usd for ledger in ledgers)
    owed = math.fsum(machine.owed(_first(machine), _last(machine)) for machine in alive)
    show("exporter_total", 100 * abs(own / owed - 1), "0.01")
    show("imbalance", 100 * max(abs(imbalance_usd(it)) for it in ledgers) / own, "0.0001")

    found = store.ask(
        "sum by (namespace) (max_over_time(gpucost_workload_cost_usd_total"
        f'{{month="2026-11"}}[{hours}h]))',
        at,
    )
    truth = by_namespace(machines, START, end)
    show("month_by_namespace", worst(_named(found), {k: v for k, v in truth.items() if k}), "0.02")
    for day in range(int((end - START) // DAY)):
        since, until = START + day * DAY, START + (day + 1) * DAY
        found = store.ask(
            "sum by (namespace) (increase(gpucost_workload_cost_usd_total[1d]))", until
        )
        wanted = {k: v for k, v in by_namespace(machines, since, until).items() if k}
        show(f"day_{day + 1}_by_namespace", worst(_named(found), wanted), "0.1")

    pods = store.ask(f"sum by (pod) (max_over_time(gpucost_pod_cost_usd_total[{hours}h]))", at)
    errors = []
    for machine in machines:
        for job in machine.jobs:
            whole = job.start > START and job.end < end - SHOWN_AFTER_SECONDS
            if whole and job.end - job.start >= MIN_POD_SECONDS:
                usd = job.share * (job.end - job.start) * USD_PER_HOUR / 3600
                errors.append(100 * abs(pods.get((job.holder.pod,), 0.0) - usd) / usd)
    found = store.ask(
        "sum by (state) (max_over_time(gpucost_workload_cost_usd_total"
        f'{{month="2026-11",namespace!=""}}[{hours}h]))',
        at,
    )
    states: defaultdict[str, float] = defaultdict(float)
    for machine in machines:
        for state, usd in machine.owed_in_states(START, end).items():
            states[state] += usd
    moved = math.fsum(abs(_named(found).get(state, 0.0) - usd) for state, usd in states.items())
    show("in_another_state", 100 * moved / 2 / math.fsum(states.values()), "-")
    show("pod_median", median(errors), "1")
    show("pod_95th", quantiles(errors, n=20)[-1], "1")
    show("pod_worst", max(errors), "-")
    print(f"accuracy_pods_{interval:.0f}s {len(errors)} pods of 2 minutes or more")
    print(
        f"accuracy_crashes_{interval:.0f}s {sum(m.crashes for m in machines)} crashes and rollouts"
    )


def _named(found: dict[tuple[str, ...], float]) -> dict[str, float]:
    return {(key[0] if key else ""): value for key, value in found.items()}


def _first(machine: Machine) -> float:
    """From when its ledger counts: a young node's from its boot."""
    started_at = machine.report.ledger.started_at if machine.report else machine.born
    young = started_at - machine.born < YOUNG_NODE_SECONDS
    return machine.born if young else started_at


def _last(machine: Machine) -> float:
    return machine.report.snapshot.wall_time if machine.report else machine.born


def main() -> int:
    """Run it for each scrape interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--hours", type=float, default=48.0)
    parser.add_argument("--scrapes", type=float, nargs="+", default=[15.0, 30.0, 60.0])
    given = parser.parse_args()
    for interval in given.scrapes:
        end = START + given.hours * 3600
        machines = fleet(given.nodes, given.hours, interval, START)
        with tempfile.TemporaryDirectory() as folder, Prometheus(Path(folder)) as store:
            simulate(machines, store, interval, end)
            figures(machines, store, interval, end)
    return 0


if __name__ == "__main__":
    sys.exit(main())
