"""Asks the questions and makes Facts of the answers. What is missing becomes a Note."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.advice.report import questions as ask
from gpucost.advice.report.facts import Facts, Node, Note, OtherPrice, Pending, Pool, Service
from gpucost.advice.report.fold import HOUR, Fold, by_ledger
from gpucost.advice.report.questions import KEY, OFFSET_SECONDS, Question, asked
from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from zoneinfo import ZoneInfo

    from gpucost.advice.connection import Span
    from gpucost.advice.prometheus import Prometheus, Row
    from gpucost.advice.report.facts import Key, Line

DAY = 24 * HOUR
SKEW_SECONDS = 60.0
WHOLE_WEEK = 7 * 24
_ALWAYS = 0.995
"""Of a range's evaluations: a restart of the ruler must not hide a node that is always free."""

_LEDGER_AGREES = 0.01
_LITTLE_BUSY = 0.1
"""Of the mean hour's tokens: an hour with fewer says nothing of a service's best."""


class Evaluated(Struct, frozen=True):
    """When rules were evaluated: the seconds that a sample stands for, and the hours seen."""

    seconds: float
    hours: tuple[float, ...]
    missing_seconds: float


class Observer:
    """One range of one scope: `match` are matchers that every query gets."""

    def __init__(self, prometheus: Prometheus, span: Span, zone: ZoneInfo, match: str) -> None:
        """The range is widened to whole hours."""
        self._prometheus = prometheus
        self._zone = zone
        self._match = match
        self.start = span.start // HOUR * HOUR
        self.end = max(span.end // HOUR * HOUR, self.start + HOUR)
        self.notes: list[Note] = []

    @property
    def range_words(self) -> str:
        """The range as PromQL says it."""
        return f"{self.end - self.start:.0f}s"

    def facts(self, *, by_node: bool = False) -> Facts:
        """All that is known. Raises SourceError, also where nothing at all is recorded."""
        evaluated = self._evaluated()
        fold, recorded = self._cost(evaluated)
        hours = evaluated.hours if evaluated is not None else self._hours()
        lines = fold.lines(hours)
        if not lines:
            raise SourceError(
                "empty",
                "This Prometheus has no dollars of gpucost in that time.",
                "Is it the one that scrapes gpucost, and --cluster right? docs/operations.md,"
                " `Prometheus`, says how it is scraped and how the rules come there.",
            )
        seen = sum(line.total_usd for line in lines)
        charged = self._ledgers() if recorded else None
        ledger_usd = None if charged is None else sum(charged.values())
        if charged is not None and ledger_usd is not None:
            lines, ledger_usd = self._believed(lines, charged, seen, ledger_usd)
        weight = evaluated.seconds if evaluated is not None else 0.0
        lines = self._told(lines)
        nodes = self._nodes(weight, len(hours) * HOUR)
        self._remarks()
        days = _scaled_days(fold.days, sum(line.total_usd for line in lines) / seen if seen else 1)
        return Facts(
            start=self.start,
            end=self.end,
            seen_seconds=max(len(hours), 1) * HOUR,
            lines=tuple(lines),
            sample_seconds=weight,
            ledger_usd=ledger_usd,
            nodes=nodes,
            services=self._services(lines, weight),
            pending=self._pending(),
            prices=self._prices(nodes),
            floors=fold.floors(hours),
            days=days,
            node_usd=self._node_usd() if by_node else {},
            notes=tuple(self.notes),
            zone=str(self._zone),
        )

    # --- Dollars ----------------------------------------------------------------------------------

    def _hours(self) -> tuple[float, ...]:
        count = round((self.end - self.start) / HOUR)
        return tuple(self.start + n * HOUR for n in range(count))

    def _evaluated(self) -> Evaluated | None:
        query = asked(ask.EVALUATIONS, self._match)
        counts: dict[float, float] = {}
        first = self.start + HOUR + OFFSET_SECONDS
        for rows in self._prometheus.over(query, first, self.end + OFFSET_SECONDS, HOUR):
            for row in rows:
                counts |= {round(at) - HOUR: value for at, value in row.points}
        if not counts:
            self._note(
                "no_rules",
                "The rules of rules/ are not recorded here. Spend and its states come from the"
                " exporters' counters; node pools, activity over time, unit costs and the ledgers'"
                " own month are left out, and every query is heavier.",
            )
            return None
        often = max(counts.values())
        seconds = HOUR / often
        # The hour in which recording began is no hour of it.
        begun = min(at for at, count in counts.items() if count >= often / 2)
        counts = {at: count for at, count in counts.items() if at >= begun}
        if begun > self.start:
            self._note(
                "short_history",
                f"The history begins {_days(begun - self.start)} after --from: the figures are of"
                f" {_days(self.end - begun)}, and a month is reckoned from those.",
            )
        missing = sum(often - count for count in counts.values()) * seconds
        missing += HOUR * (round((self.end - begun) / HOUR) - len(counts))
        if missing > _LEDGER_AGREES * (self.end - begun):
            self._note(
                "gaps",
                f"Rules were not evaluated for {_days(missing)} of {_days(self.end - begun)}: what"
                " was spent then is known from the ledgers only, and its states are not.",
            )
        hours = tuple(sorted(counts))
        if len(hours) < WHOLE_WEEK:
            self._note(
                "less_than_a_week",
                f"Only {_days(len(hours) * HOUR)} were seen: no office hours are looked for, and a"
                " month's savings are a guess from them.",
            )
        return Evaluated(seconds, hours, missing)

    def _cost(self, evaluated: Evaluated | None) -> tuple[Fold, bool]:
        question = ask.RAW_COST if evaluated is None else ask.COST
        fold = Fold(self._zone, 1.0 if evaluated is None else evaluated.seconds)
        first = self.start if evaluated is None else evaluated.hours[0]
        query = asked(question, self._match)
        for rows in self._prometheus.over(
            query, first + HOUR + OFFSET_SECONDS, self.end + OFFSET_SECONDS, HOUR, "dollars"
        ):
            fold.add(rows)
        return fold, evaluated is not None

    def _ledgers(self) -> dict[Key, float] | None:
        """What the exporters' ledgers charged in the range; None where they do not cover it."""
        watched = self._one(ask.MONTH_WATCHED, self.end)
        if watched is None or watched > self.start + HOUR:
            self._note(
                "no_ledger",
                "The months of the exporters' ledgers do not cover all of this time: spend is the"
                " sum of rates, which miss what no scrape has seen.",
            )
            return None
        charged: defaultdict[Key, float] = defaultdict(float)
        for month, begun, ended in self._months():
            upto = self._month(month, ended)
            before = self._month(month, self.start) if begun < self.start else {}
            for key, usd in upto.items():
                charged[key] += max(0.0, usd - before.get(key, 0.0))
        return dict(charged)

    def _months(self) -> list[tuple[str, float, float]]:
        """Each month's name, and where it begins and where it, or the range, ends."""
        starts: dict[str, float] = {}
        query = asked(ask.MONTH_START, self._match)
        for rows in self._prometheus.over(query, self.start, self.end, 6 * HOUR):
            starts |= {row.labels["month"]: row.value for row in rows if "month" in row.labels}
        for row in self._prometheus.at(query, self.end):
            starts.setdefault(row.labels.get("month", ""), row.value)
        begun = sorted((at, month) for month, at in starts.items() if at < self.end)
        ends = [at for at, _ in begun[1:]] + [self.end]
        return [
            (month, at, min(end, self.end)) for (at, month), end in zip(begun, ends, strict=True)
        ]

    def _month(self, month: str, at: float) -> dict[Key, float]:
        query = asked(ask.MONTH_COST, self._match, month=month)
        fold = Fold(self._zone, 1.0)
        fold.add(self._prometheus.at(query, at - OFFSET_SECONDS))
        return {line.key: line.total_usd for line in fold.lines(())}

    def _believed(
        self, lines: list[Line], charged: Mapping[Key, float], seen: float, ledger_usd: float
    ) -> tuple[list[Line], float | None]:
        """The lines by the ledgers; by the rates where the ledgers cannot be whole."""
        apart = ledger_usd / seen - 1 if seen else 0.0
        if apart < -_LEDGER_AGREES:
            self._note(
                "ledger_behind",
                f"The ledgers' months have {-apart:.1%} less than the rates: nodes went unseen, or"
                " labels changed. The rates are believed.",
            )
            return lines, None
        if apart > _LEDGER_AGREES:
            self._note(
                "scaled",
                f"Rates saw {1 / (1 + apart):.1%} of what the ledgers charged. Every line is scaled"
                " to its ledger; how the rest divides over states is taken from what was seen.",
            )
        return by_ledger(lines, charged), ledger_usd

    # --- What the dollars did ---------------------------------------------------------------------

    def _told(self, lines: Sequence[Line]) -> list[Line]:
        """The lines with GPUs, peaks and wishes."""
        within = {"range": self.range_words}
        gpus = {_labels(it, KEY): it.value for it in self._at(ask.GPUS, **within)}
        peak = {_labels(it, _WORKLOAD): it.value for it in self._at(ask.PEAK, **within)}
        memory = {
            _labels(it, f"{_WORKLOAD}, gpu_model"): it.value
            for it in self._at(ask.MEMORY, **within)
        }
        exempt = {_labels(it, _WORKLOAD) for it in self._at(ask.EXEMPT)}
        found = []
        for line in lines:
            key = line.key
            workload = (key.cluster, key.namespace, key.workload)
            found.append(
                replace(
                    line,
                    gpus=gpus.get(tuple(getattr(key, name) for name in KEY.split(", "))),
                    peak_activity=peak.get(workload),
                    memory_peak_bytes=memory.get((*workload, key.gpu_model)),
                    idle_is_wanted=workload in exempt,
                )
            )
        return found

    def _services(self, lines: Sequence[Line], weight: float) -> tuple[Service, ...]:
        within = {"range": self.range_words}
        usd: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for line in lines:
            usd[line.key.cluster, line.key.namespace, line.key.workload] += line.total_usd
        engines: defaultdict[tuple[str, ...], set[tuple[str, str]]] = defaultdict(set)
        for row in self._at(ask.SERVED, **within):
            engine = row.labels.get("engine", ""), row.labels.get("served_model", "")
            engines[_labels(row, _WORKLOAD)].add(engine)
        if not engines:
            return ()
        requests = {
            _labels(it, _WORKLOAD): it.value * weight for it in self._at(ask.REQUESTS, **within)
        }
        tokens, hits = self._tokens(weight)
        batches = self._batches()
        found = []
        for workload, served in sorted(engines.items()):
            mean, best = batches.get(workload, (None, None))
            mine = tokens.get(workload, {})
            found.append(
                Service(
                    cluster=workload[0],
                    namespace=workload[1],
                    workload=workload[2],
                    served_models=tuple(sorted({model for _, model in served if model})),
                    engines=tuple(sorted({engine for engine, _ in served if engine})),
                    usd=usd.get(workload, 0.0),
                    requests=requests.get(workload),
                    tokens=mine.get("input", 0.0) + mine.get("output", 0.0) if mine else None,
                    input_tokens=mine.get("input"),
                    cached_tokens=mine.get("cached_input"),
                    best_hit_ratio=hits.get(workload),
                    batch=mean,
                    best_batch=best,
                )
            )
        return tuple(found)

    def _tokens(
        self, weight: float
    ) -> tuple[dict[tuple[str, ...], dict[str, float]], dict[tuple[str, ...], float]]:
        """Tokens by workload and direction, and the hit ratio of each workload's best hour."""
        hourly: defaultdict[tuple[str, ...], dict[float, dict[str, float]]] = defaultdict(dict)
        query = asked(ask.TOKENS, self._match)
        for rows in self._prometheus.over(
            query, self.start + HOUR + OFFSET_SECONDS, self.end + OFFSET_SECONDS, HOUR, "tokens"
        ):
            for row in rows:
                mine = hourly[_labels(row, _WORKLOAD)]
                direction = row.labels.get("direction", "")
                for at, value in row.points:
                    mine.setdefault(at, {})[direction] = value * weight
        totals, best = {}, {}
        for workload, hours in hourly.items():
            total: defaultdict[str, float] = defaultdict(float)
            for states in hours.values():
                for direction, count in states.items():
                    total[direction] += count
            totals[workload] = dict(total)
            prompt = (total["input"] + total["cached_input"]) / len(hours)
            ratios = [
                it["cached_input"] / asked_for
                for it in hours.values()
                if "cached_input" in it
                and (asked_for := it.get("input", 0.0) + it["cached_input"]) > _LITTLE_BUSY * prompt
            ]
            if ratios:
                best[workload] = max(ratios)
        return totals, best

    def _batches(self) -> dict[tuple[str, ...], tuple[float, float]]:
        """Mean batch of each workload, and that of its best hour."""
        hourly: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        query = asked(ask.BATCH, self._match)
        for rows in self._prometheus.over(
            query, self.start + HOUR + OFFSET_SECONDS, self.end + OFFSET_SECONDS, HOUR, "batches"
        ):
            for row in rows:
                hourly[_labels(row, _WORKLOAD)] += [value for _, value in row.points if value > 0]
        return {it: (sum(sizes) / len(sizes), max(sizes)) for it, sizes in hourly.items() if sizes}

    # --- What it ran on ---------------------------------------------------------------------------

    def _nodes(self, weight: float, seen_seconds: float) -> tuple[Node, ...]:
        within = {"range": self.range_words}
        counts = {_labels(it, "cluster, node"): it.value for it in self._at(ask.NODE_GPUS)}
        free = {_labels(it, "cluster, node"): it.value for it in self._at(ask.NODE_FREE, **within)}
        least = {
            _labels(it, "cluster, node"): it.value for it in self._at(ask.NODE_LEAST_FREE, **within)
        }
        times = {
            _labels(it, "cluster, node"): it.value for it in self._at(ask.NODE_FREE_TIMES, **within)
        }
        models = {
            _labels(it, "cluster, node"): it.labels.get("gpu_model", "")
            for it in self._at(ask.PRICE)
        }
        found = {}
        for row in self._at(ask.NODE_INFO):
            name = _labels(row, "cluster, node")
            always = weight * times.get(name, 0.0) >= _ALWAYS * seen_seconds > 0
            found[name] = Node(
                cluster=name[0],
                name=name[1],
                node_pool=row.labels.get("node_pool", ""),
                instance_type=row.labels.get("instance_type", ""),
                region=row.labels.get("region", ""),
                zone=row.labels.get("zone", ""),
                capacity_type=row.labels.get("capacity_type", ""),
                provider=row.labels.get("provider", ""),
                gpu_model=models.get(name, ""),
                gpus=counts.get(name, 0.0),
                free_gpus=weight * free.get(name, 0.0) / seen_seconds if seen_seconds else 0.0,
                always_free_gpus=least.get(name, 0.0) if always else 0.0,
            )
        return tuple(found[name] for name in sorted(found))

    def _prices(self, nodes: Sequence[Node]) -> tuple[OtherPrice, ...]:
        pools = {(node.cluster, node.name): node.node_pool for node in nodes}
        own: defaultdict[Pool, list[float]] = defaultdict(list)
        where: dict[tuple[str, ...], Pool] = {}
        for row in self._at(ask.PRICE):
            cluster, node, model = _labels(row, "cluster, node, gpu_model")
            capacity = row.labels.get("capacity_type", "")
            pool = Pool(cluster, pools.get((cluster, node), ""), model, capacity)
            own[pool].append(row.value)
            where[cluster, node, model] = pool
        others: defaultdict[Pool, defaultdict[str, list[float]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for row in self._at(ask.OTHER_PRICE):
            at = where.get(_labels(row, "cluster, node, gpu_model"))
            if at is not None:
                others[at][row.labels.get("capacity_type", "")].append(row.value)
        return tuple(
            OtherPrice(
                pool,
                sum(usd) / len(usd),
                {capacity: sum(it) / len(it) for capacity, it in others[pool].items()},
            )
            for pool, usd in sorted(own.items())
        )

    def _node_usd(self) -> dict[tuple[str, str], dict[int, float]]:
        """By node and day of UTC, as invoices have them; the first and the last may be parts."""
        found: defaultdict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        at = self.start
        while at < self.end:
            until = min(at // DAY * DAY + DAY, self.end)
            query = asked(ask.NODE_COST, self._match, range=f"{until - at:.0f}s")
            day = datetime.fromtimestamp(at, UTC).toordinal()
            for row in self._prometheus.at(query, until):
                cluster, node = _labels(row, "cluster, node")
                found[cluster, node][day] = row.value
            self._prometheus.tell(f"nodes: {(until - self.start) / (self.end - self.start):.0%}")
            at = until
        return dict(found)

    def _pending(self) -> tuple[Pending, ...] | None:
        rows = self._at(ask.PENDING)
        pods = {_labels(it, _WAITING): it.value for it in self._at(ask.PENDING_PODS)}
        if not rows and not self._prometheus.at("count(kube_pod_status_phase)", self.end):
            self._note(
                "no_pending",
                "kube-state-metrics is not in this Prometheus: whether pods wait for GPUs is not"
                " known.",
            )
            return None
        return tuple(
            Pending(
                cluster=row.labels.get("cluster", ""),
                namespace=row.labels.get("namespace", ""),
                pods=round(pods.get(_labels(row, _WAITING), 0.0)),
                gpus=row.value,
                resource=row.labels.get("resource", ""),
            )
            for row in rows
        )

    # --- What is missing -----------------------------------------------------------------------

    def _remarks(self) -> None:
        unpriced = self._one(ask.UNPRICED, self.end)
        if unpriced:
            self._note(
                "unpriced",
                f"{unpriced:g} GPUs have no price: their hours are counted and their dollars are"
                " not. `gpucost prices show` says why.",
            )
        skew = self._prometheus.skew_seconds
        if skew is not None and abs(skew) > SKEW_SECONDS:
            self._note(
                "clock_skew",
                f"The clock of this Prometheus is {abs(skew):.0f} s"
                f" {'ahead of' if skew > 0 else 'behind'} this machine's: `now` is this machine's,"
                " so the range's end is off by that.",
            )
        for warning in self._prometheus.warnings:
            self._note("warning", f"Prometheus remarks: {warning}.")

    def _note(self, kind: str, text: str) -> None:
        self.notes.append(Note(kind, text))

    def _at(self, question: Question, **more: str) -> list[Row]:
        rows = self._prometheus.at(asked(question, self._match, **more), self.end + OFFSET_SECONDS)
        if not rows and question.lost:
            source = (
                f"rules/{question.records} is not recorded" if question.records else "no series"
            )
            self._note("missing", f"Not known: {question.lost} ({source}).")
        return rows

    def _one(self, question: Question, at: float) -> float | None:
        rows = self._prometheus.at(asked(question, self._match), at)
        return rows[0].value if rows else None


_WORKLOAD = "cluster, namespace, workload"
_WAITING = "cluster, namespace, resource"


def _labels(row: Row, names: str) -> tuple[str, ...]:
    return tuple(row.labels.get(name, "") for name in names.split(", "))


def _days(seconds: float) -> str:
    """A duration for a person."""
    hours = seconds / HOUR
    return f"{hours:.3g} hours" if hours < 48 else f"{hours / 24:.3g} days"  # noqa: PLR2004


def _scaled_days(
    days: Mapping[int, Mapping[str, float]], factor: float
) -> dict[int, dict[str, float]]:
    return {
        day: {state: usd * factor for state, usd in states.items()} for day, states in days.items()
    }
