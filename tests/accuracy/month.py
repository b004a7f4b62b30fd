"""How exact the month to date is: a churning month, a Prometheus that keeps ten days, the rules.

    month.py [--nodes 8] [--days 30] [--seed 1]

Pods, nodes and namespaces come and go at any moment of a month, with known truth. What their
exporters show (each workload's dollars of the month, as of the last cycle) is scraped once a
minute, with failures of up to an hour, and nodes that die between two scrapes; some come back
under their name with an empty disk. A real Prometheus with `retention.time=10d` holds it, and the
rules of rules/month.yaml are evaluated there every four minutes, the most that the settings allow.
Then the same month once more, with the Prometheus away for two hours, while a node dies.

Prints one line a figure: name, value, unit and goal: the worst namespace against the truth, and
against what was scraped, which is the rules' own part. docs/accuracy.md says what they mean.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
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
CYCLE, SCRAPE, EVALUATION, KEPT = 5.0, 60.0, 240.0, 600.0
GPUS, USD_PER_SECOND = 8, 3.6 / 3600
NAMESPACES = ("research", "serving", "batch", "vision", "late")
LATE_DAYS = 14.0
"""Before then nobody is in the namespace `late`."""
LIFE_DAYS = (0.02, 9.0)
JOB_SECONDS = (120.0, DAY)
GAPS_A_DAY = 1.0
GAP_SECONDS = (60.0, 3600.0)
AWAY_SECONDS = 7200.0
FIGURE = "namespace:gpucost_cost_usd:month_to_date"

Row = tuple[str, str]
"""Namespace and workload."""


class Job(NamedTuple):
    """A pod on one GPU."""

    row: Row
    start: float
    end: float


class Life:
    """A node from its coming to its death, and its ledger."""

    def __init__(self, node: str, born: float, died: float, chance: random.Random) -> None:
        self.node, self.born, self.died = node, born, died
        self.jobs = sorted(self._jobs(chance), key=lambda job: job.start)
        self.gaps = sorted(
            (at, at + chance.uniform(*GAP_SECONDS))
            for at in (
                chance.uniform(born, died) for _ in range(round(GAPS_A_DAY * (died - born) / DAY))
            )
        )
        self._phase = chance.uniform(0.0, SCRAPE)
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
                yield Job((namespace, f"{namespace}-{chance.randrange(4)}"), at, end)
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
            if named["__name__"] == "gpucost_workload_cost_usd_total":
                found[named.get("namespace", "")] += value
        return found

    def scrapes(self, since: float, until: float) -> Iterator[tuple[float, dict[Labels, float]]]:
        """The moments of a stretch, and the page of each: empty where none is to be had."""
        count = int((since - self.born - self._phase) // SCRAPE) + 1
        at = self.born + self._phase + max(count, 0) * SCRAPE
        while at < min(until, self.died + 2 * SCRAPE):
            blind = any(begin <= at < end for begin, end in self.gaps)
            yield at, {} if blind or at >= self.died else self._page(at)
            at += SCRAPE

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
            self._labels("gpucost_node_info", ("node_pool", "h100")): 1.0,
            self._labels("gpucost_billing_month_start_timestamp_seconds", month): START,
        }
        for (namespace, workload), held in seconds.items():
            named = (("namespace", namespace), ("workload", workload)) if namespace else ()
            state = ("state", "used" if namespace else "unallocated")
            ledger = ("ledger", f"{self.born:.0f}")
            series = self._labels("gpucost_workload_cost_usd_total", month, ledger, *named, state)
            page[series] = held * USD_PER_SECOND
        return page

    def _labels(self, name: str, *more: tuple[str, str]) -> Labels:
        target = (("instance", self.node), ("job", "gpucost"), ("node", self.node))
        return tuple(sorted((("__name__", name), *target, *more)))


def lives(nodes: int, end: float, chance: random.Random) -> list[Life]:
    """Each name's nodes, one after another: with a pause, and now and then none."""
    found = []
    for number in range(nodes):
        at = START + chance.uniform(0.0, DAY)
        while at < end:
            died = at + chance.uniform(*LIFE_DAYS) * DAY
            found.append(Life(f"gpu-{number}", at, died, chance))
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


def needed(rules: Sequence[Rule], name: str) -> list[Rule]:
    """The rules that lead to a figure, in the order in which their groups have them."""
    wanted, asked = set[str](), [name]
    while asked:
        one = asked.pop()
        if one not in wanted:
            wanted.add(one)
            for rule in rules:
                if rule.get("record") == one:
                    asked += metrics_of(rule["expr"])
    return [rule for rule in rules if rule.get("record") in wanted]


def evaluate(store: Prometheus, series: Series, rules: Sequence[Rule], at: float) -> None:
    """One evaluation, as a ruler makes it: a rule after the other."""
    for rule in rules:
        if rule["record"].endswith(":kept") and at % KEPT >= EVALUATION:
            continue
        name = ("__name__", rule["record"])
        page = {
            tuple(sorted((*((k, v) for k, v in it.labels.items() if k != "__name__"), name))): (
                it.points[0][1]
            )
            for it in store.at(rule["expr"], at)
        }
        series.add(rule["record"], at, page)
        series.write(store)


def play(
    store: Prometheus, fleet: Sequence[Life], steps: Sequence[float], away: Sequence[float]
) -> None:
    """Scrape and evaluate, step after step, but while the Prometheus is away."""
    texts = [(ROOT / "rules" / name).read_text() for name in ("cost.yaml", "month.yaml")]
    rules = needed(rules_of(texts), FIGURE)
    series = Series()
    for since, at in pairwise(steps):
        here = not any(begin <= at < begin + AWAY_SECONDS for begin in away)
        for life in fleet:
            for due, page in life.scrapes(since, at):
                if here:
                    series.add(life, due, page)
                    life.scraped = page or life.scraped
        if here:
            series.write(store)
            evaluate(store, series, rules, at)


def by_namespace(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """The sums of several."""
    found: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for namespace, usd in part.items():
            found[namespace] += usd
    return found


def month(given: argparse.Namespace, *, goes_away: bool, goal: str, title: str) -> None:
    """Play it, and print how far the figure is from the truth at its end.

    If the Prometheus goes away, then for the hour before and after the death of a node.
    """
    chance = random.Random(given.seed)  # noqa: S311 - a play
    end = START + given.days * DAY
    fleet = lives(given.nodes, end, chance)
    steps = [START + number * EVALUATION for number in range(int((end - START) // EVALUATION) + 1)]
    deaths = sorted(life.died for life in fleet if life.died < end)
    away = [deaths[len(deaths) // 2] - AWAY_SECONDS / 2] if goes_away and deaths else []
    with (
        tempfile.TemporaryDirectory() as folder,
        prometheus(Path(folder), retention="10d") as store,
    ):
        play(store, fleet, steps, away)
        rows = store.at(FIGURE, steps[-1])
        days = (START + (day + 0.5) * DAY for day in range(given.days))
        kept = sum(bool(store.at("gpucost_node_info", noon)) for noon in days)
    found = {row.labels.get("namespace", ""): row.points[0][1] for row in rows}
    truth = by_namespace(life.owed(steps[-1]) for life in fleet)
    scraped = by_namespace(life.scraped_usd() for life in fleet)
    for against, wanted in (("", truth), ("_of_what_was_scraped", scraped)):
        worst = max(abs(found.get(name, 0.0) / usd - 1) for name, usd in wanted.items() if usd > 0)
        print(f"month_to_date_{title}{against} {100 * worst:.4f} % {goal}", flush=True)
    print(f"month_to_date_{title}_days_kept {kept} of {given.days} days; {len(deaths)} nodes died")


def main() -> int:
    """Both months."""
    parser = argparse.ArgumentParser(description="How exact the month to date is.")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    month(given, goes_away=False, goal="0.02", title="retention_10d")
    month(given, goes_away=True, goal="0.1", title="away_2h")
    return 0


if __name__ == "__main__":
    sys.exit(main())
