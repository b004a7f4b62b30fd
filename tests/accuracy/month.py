"""How exact the month to date is: a churning month, a Prometheus that keeps ten days, the rules.

    month.py [--nodes 20] [--days 30] [--scrape 30] [--seed 1]

Pods, nodes and namespaces come and go at any moment of a month, with known truth. What their
exporters show (each workload's dollars of the month, as of the last cycle) is scraped every 30 s,
with failures of up to an hour, and nodes that die between two scrapes; some come back under their
name with an empty disk. A real Prometheus with `retention.time=10d` holds it, and the rules of
rules/month.yaml are evaluated there every four minutes, the most that the settings allow. Then the
same month twice more, with two hours in whose middle a node dies: the ruler stands still while
scraping goes on, and the Prometheus is away.

Of the scrapes between two evaluations the last is written, and a failure after it: the rules of
the month read last values, and none of them sees another. What no rule reads of an evaluation
before it is evaluated at the end.

Prints one line a figure: name, value, unit and goal: the worst namespace against the truth, and
against what was scraped, which is the rules' own part. docs/accuracy.md says what they mean.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections import defaultdict, deque
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts")]

from promql_names import metrics_of  # noqa: E402 - after the path
from real_prometheus import STALE, prometheus  # noqa: E402
from recorded_rules import rules_of  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from real_prometheus import Labels, Prometheus
    from recorded_rules import Rule

START = 1_775_001_600.0
"""2026-04-01 00:00:00 UTC. A past month, since remote write refuses the future."""
MONTH = "2026-04"
DAY = 86_400.0
CYCLE, EVALUATION, KEPT = 5.0, 240.0, 600.0
GPUS, USD_PER_SECOND = 8, 3.6 / 3600
NAMESPACES = ("research", "serving", "batch", "vision", "late")
LATE_DAYS = 14.0
"""Before then nobody is in the namespace `late`."""
LIFE_DAYS = (0.02, 9.0)
JOB_SECONDS = (120.0, DAY)
GAPS_A_DAY = 1.0
GAP_SECONDS = (60.0, 3600.0)
AWAY_SECONDS = 7200.0
MONTHS = 20
COST = "gpucost_workload_cost_usd_total"
FIGURE = "namespace:gpucost_cost_usd:month_to_date"

Row = tuple[str, str]
"""Namespace and workload."""

Away = tuple[float, float]
"""From when until when."""


NEVER: Away = (0.0, 0.0)


class Case(NamedTuple):
    """What stands still for two hours in whose middle a node dies."""

    title: str
    goal: float
    ruler_stops: bool = False
    scrapes_stop: bool = False


CASES = (
    Case("retention_10d", 0.02),
    Case("ruler_away_2h", 0.1, ruler_stops=True),
    Case("prometheus_away_2h", 0.1, ruler_stops=True, scrapes_stop=True),
)


class Job(NamedTuple):
    """A pod on one GPU."""

    row: Row
    start: float
    end: float


class Life:
    """A node from its coming to its death, and its ledger."""

    def __init__(
        self, node: str, born: float, died: float, scrape: float, chance: random.Random
    ) -> None:
        self.node, self.born, self.died = node, born, died
        self.jobs = sorted(self._jobs(chance), key=lambda job: job.start)
        self._gaps = [
            (at, at + chance.uniform(*GAP_SECONDS))
            for at in (
                chance.uniform(born, died) for _ in range(round(GAPS_A_DAY * (died - born) / DAY))
            )
        ]
        self._scrape, self._first = scrape, born + chance.uniform(0.0, scrape)
        self._next, self._present = 0, list[Job]()
        self._ended: defaultdict[Row, float] = defaultdict(float)
        self.scraped: dict[Labels, float] = {}
        """The last page that was had of it."""

    def _jobs(self, chance: random.Random) -> Iterator[Job]:
        for _ in range(GPUS):
            at = self.born + chance.uniform(0.0, 600.0)
            while at < self.died:
                end = min(at + chance.uniform(*JOB_SECONDS), self.died)
                known = NAMESPACES if at > START + LATE_DAYS * DAY else NAMESPACES[:-1]
                namespace = chance.choice(known)
                # Few: the rows of ledgers that are gone are what the play's evaluations cost.
                yield Job((namespace, f"{namespace}-{chance.randrange(4) // 2}"), at, end)
                at = end + chance.expovariate(1 / 1200.0)

    def owed(self, at: float) -> dict[str, float]:
        """The truth: dollars by namespace; what nobody held is under the empty name."""
        truth: defaultdict[str, float] = defaultdict(float)
        truth[""] = GPUS * max(0.0, min(at, self.died) - self.born) * USD_PER_SECOND
        for job in self.jobs:
            usd = max(0.0, min(at, job.end) - job.start) * USD_PER_SECOND
            truth[job.row[0]] += usd
            truth[""] -= usd
        return truth

    def scraped_usd(self) -> dict[str, float]:
        """The dollars of the last page that was had, by namespace."""
        found: defaultdict[str, float] = defaultdict(float)
        for labels, value in self.scraped.items():
            named = dict(labels)
            if named["__name__"] == COST:
                found[named.get("namespace", "")] += value
        return found

    def scrapes(self, since: float, until: float) -> Iterator[tuple[float, dict[Labels, float]]]:
        """The last page that is had in a stretch; where a scrape fails after it, an empty one."""
        number = max(0, math.ceil((since - self._first) / self._scrape))
        had = failed = None
        while (at := self._first + number * self._scrape) < min(until, self.died + self._scrape):
            if self._answers(at):
                had, failed = at, None
            elif failed is None:
                failed = at
            number += 1
        if had is not None:
            self.scraped = self._page(had)
            yield had, self.scraped
        if failed is not None:
            yield failed, {}

    def _answers(self, at: float) -> bool:
        return at < self.died and not any(begin <= at < end for begin, end in self._gaps)

    def _page(self, at: float) -> dict[Labels, float]:
        seen = self.born + (at - self.born) // CYCLE * CYCLE
        while self._next < len(self.jobs) and self.jobs[self._next].start <= seen:
            self._present.append(self.jobs[self._next])
            self._next += 1
        for job in self._present:
            if job.end <= seen:
                self._ended[job.row] += job.end - job.start
        self._present = [job for job in self._present if job.end > seen]
        seconds = dict(self._ended)
        for job in self._present:
            seconds[job.row] = seconds.get(job.row, 0.0) + seen - job.start
        seconds["", ""] = GPUS * (seen - self.born) - sum(seconds.values())
        month = ("month", MONTH)
        page = {
            series(self.node, "gpucost_node_info", ("node_pool", "h100")): 1.0,
            series(self.node, "gpucost_billing_month_start_timestamp_seconds", month): START,
        }
        ledger = ("ledger", f"{self.born:.0f}")
        # Of GPU-seconds the rules of money ask no more than whether a ledger shows any.
        page[series(self.node, "gpucost_workload_gpu_seconds_total", month, ledger)] = (
            seen - self.born
        )
        for (namespace, workload), held in seconds.items():
            named = (("namespace", namespace), ("workload", workload)) if namespace else ()
            state = ("state", "used" if namespace else "unallocated")
            bill = series(self.node, COST, month, ledger, *named, state)
            page[bill] = held * USD_PER_SECOND
        return page


@cache
def series(node: str, name: str, *more: tuple[str, str]) -> Labels:
    """A series of a node's page, as it is stored."""
    target = (("instance", node), ("job", "gpucost"), ("node", node))
    return tuple(sorted((("__name__", name), *target, *more)))


def lives(nodes: int, end: float, scrape: float, chance: random.Random) -> list[Life]:
    """Each name's nodes, one after another: with a pause, and now and then none."""
    found = []
    for number in range(nodes):
        at = START + chance.uniform(0.0, DAY)
        while at < end:
            died = at + chance.uniform(*LIFE_DAYS) * DAY
            found.append(Life(f"gpu-{number}", at, died, scrape, chance))
            at = died + chance.choice((300.0, 7200.0, DAY))
    return found


class Series:
    """Samples that were not written yet."""

    def __init__(self) -> None:
        self.samples: dict[Labels, list[tuple[int, float]]] = {}
        self._shown: dict[object, set[Labels]] = {}

    def add(self, source: object, at: float, page: dict[Labels, float]) -> None:
        """What a source shows now; what it showed last and shows no more has ended."""
        stamp = round(at * 1000)
        for labels, value in page.items():
            self.samples.setdefault(labels, []).append((stamp, value))
        for labels in self._shown.get(source, set()) - page.keys():
            self.samples.setdefault(labels, []).append((stamp, STALE))
        self._shown[source] = set(page)

    def write(self, store: Prometheus) -> None:
        """Hand them over."""
        store.write(self.samples)
        self.samples = {}


def needed(rules: Sequence[Rule], names: Iterable[str]) -> list[Rule]:
    """The rules that lead to some names, in the order in which their groups have them."""
    wanted, asked = set[str](), list(names)
    while asked:
        one = asked.pop()
        if one not in wanted:
            wanted.add(one)
            asked += read_by(rules, one)
    return [rule for rule in rules if rule.get("record") in wanted]


def read_by(rules: Sequence[Rule], name: str) -> set[str]:
    """What the rules of a name read."""
    its = (metrics_of(rule["expr"]) for rule in rules if rule.get("record") == name)
    return set[str]().union(*its)


def carried(rules: Sequence[Rule]) -> set[str]:
    """Names of which an evaluation reads, itself or by others, what one before it recorded."""
    names = {rule["record"] for rule in rules}
    return {
        name
        for name in names
        if any(rule["record"] == name for rule in needed(rules, read_by(rules, name)))
    }


def evaluate(store: Prometheus, series: Series, rules: Sequence[Rule], at: float) -> None:
    """One evaluation, as a ruler makes it: a rule after the other."""
    for rule in rules:
        if rule["record"].endswith((":kept", ":seen")) and at % KEPT >= EVALUATION:
            continue
        name = ("__name__", rule["record"])
        page = {
            (name, *((k, v) for k, v in it.labels.items() if k != "__name__")): it.points[0][1]
            for it in store.at(rule["expr"], at)
        }
        series.add(rule["record"], at, page)
        series.write(store)


def play(
    store: Prometheus, fleet: Sequence[Life], steps: Sequence[float], unscraped: Away, still: Away
) -> None:
    """Scrape and evaluate, step after step, but while scrapes stop or the ruler stands still."""
    texts = [(ROOT / "rules" / name).read_text() for name in ("cost.yaml", "month.yaml")]
    rules = needed(rules_of(texts), [FIGURE])
    each_time = needed(rules, carried(rules))
    series = Series()
    for since, at in pairwise(steps):
        if not within(unscraped, at):
            for life in fleet:
                for due, page in life.scrapes(since, at):
                    series.add(life, due, page)
            series.write(store)
        if not within(still, at):
            evaluate(store, series, each_time, at)
    evaluate(store, series, rules, steps[-1])


def within(away: Away, at: float) -> bool:
    """Whether a moment is in a stretch."""
    return away[0] <= at < away[1]


def by_namespace(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """The sums of several."""
    found: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for namespace, usd in part.items():
            found[namespace] += usd
    return found


def lacking(found: dict[str, float], wanted: dict[str, float]) -> dict[str, float]:
    """What is not found."""
    return {name: usd - found.get(name, 0.0) for name, usd in wanted.items()}


def worst(off: dict[str, float], wanted: dict[str, float]) -> float:
    """How far off the worst namespace is, in percent."""
    return max(100 * abs(off.get(name, 0.0)) / usd for name, usd in wanted.items() if usd > 0)


def fleet_of(given: argparse.Namespace, seed: int) -> list[Life]:
    """The nodes of a month."""
    chance = random.Random(seed)  # noqa: S311 - a play
    return lives(given.nodes, START + given.days * DAY, given.scrape, chance)


def month(given: argparse.Namespace, case: Case) -> None:
    """Play it, and print how far the figure is from the truth at its end."""
    fleet = fleet_of(given, given.seed)
    end = START + given.days * DAY
    steps = [START + number * EVALUATION for number in range(int((end - START) // EVALUATION) + 1)]
    deaths = sorted(life.died for life in fleet if life.died < end)
    middle = deaths[len(deaths) // 2] if deaths else START + given.days * DAY / 2
    away = (middle - AWAY_SECONDS / 2, middle + AWAY_SECONDS / 2)
    with (
        tempfile.TemporaryDirectory() as folder,
        prometheus(Path(folder), retention="10d") as store,
    ):
        play(
            store,
            fleet,
            steps,
            unscraped=away if case.scrapes_stop else NEVER,
            still=away if case.ruler_stops else NEVER,
        )
        rows = store.at(FIGURE, steps[-1])
        days = (START + (day + 0.5) * DAY for day in range(given.days))
        kept = sum(bool(store.at("gpucost_node_info", noon)) for noon in days)
    found = {row.labels.get("namespace", ""): row.points[0][1] for row in rows}
    truth = by_namespace(life.owed(steps[-1]) for life in fleet)
    scraped = by_namespace(life.scraped_usd() for life in fleet)
    name = f"month_to_date_{case.title}"
    print(f"{name} {worst(lacking(found, truth), truth):.4f} % <={case.goal}")
    print(
        f"{name}_of_what_was_scraped {worst(lacking(found, scraped), scraped):.4f} % <={case.goal}"
    )
    print(f"{name}_days_kept {kept} days of {given.days}, in which {len(deaths)} nodes died -")
    sys.stdout.flush()


def unseen(given: argparse.Namespace, seed: int) -> tuple[float, float]:
    """What of the worst namespace no scrape of a month saw, in percent.

    All of it; and without nodes that had not been scraped for two intervals when they died.
    """
    fleet = fleet_of(given, seed)
    end = START + given.days * DAY
    for life in fleet:
        deque(life.scrapes(START, end), maxlen=0)
    truth = by_namespace(life.owed(end) for life in fleet)
    lost = [lacking(by_namespace([life.scraped_usd()]), life.owed(end)) for life in fleet]
    promptly = 2 * given.scrape * GPUS * USD_PER_SECOND
    seen_to_its_end = [it for it in lost if sum(it.values()) < promptly]
    return worst(by_namespace(lost), truth), worst(by_namespace(seen_to_its_end), truth)


def main() -> int:
    """What could be had of many months, and one of them as often as there are cases."""
    parser = argparse.ArgumentParser(description="How exact the month to date is.")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--scrape", type=float, default=30.0, help="seconds between two scrapes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", default="", help="only those whose name has this")
    given = parser.parse_args()
    months = [unseen(given, seed) for seed in range(given.seed, given.seed + MONTHS)]
    for name, missed in zip(
        ("unseen", "unseen_but_for_gaps"), zip(*months, strict=True), strict=True
    ):
        print(f"month_to_date_{name}_median_of_{MONTHS} {median(missed):.4f} % -")
        print(f"month_to_date_{name}_worst_of_{MONTHS} {max(missed):.4f} % -", flush=True)
    for case in CASES:
        if given.case in case.title:
            month(given, case)
    return 0


if __name__ == "__main__":
    sys.exit(main())
