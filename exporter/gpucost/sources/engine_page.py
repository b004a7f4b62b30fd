"""A page of metrics to what an engine says of its work; pure, and in one pass while it comes in.

Most lines of such a page are histogram buckets: a line that is not in the table of engines is
never looked at beyond its first letters. What is in the table is read strictly, and the page is
taken whole or not at all: one whose end is missing would otherwise pass for an engine that has
counted less, and so for one that was restarted.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING

from gpucost.engines import PROCESS_START
from gpucost.model import Count, ModelReading
from gpucost.sources.base import SourceError
from gpucost.sources.promtext import parse_labels, parse_sample

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from gpucost.engines import EngineTable, Reads
    from gpucost.series import Term, Terms

MAX_LINE_BYTES = 64 << 10
MAX_SAMPLES = 4000
"""Of those in the table."""
MAX_MODELS = 64
"""Served models of one pod: each is a set of series."""
MAX_NAME_CHARS = 253

_Sample = tuple[dict[str, str], float]


class EnginePage:
    """Takes a page piece by piece, and keeps what the table knows."""

    def __init__(self, table: EngineTable) -> None:
        """Begin with nothing."""
        self._table = table
        self._rest = b""
        self._samples: dict[bytes, dict[bytes, float]] = {}
        self._kept: list[bytes] = []
        self._count = 0

    def feed(self, piece: bytes) -> None:
        """Take the next bytes. Raises SourceError: malformed, too_large."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            raise _malformed(f"a line has more than {MAX_LINE_BYTES} bytes")
        beginnings, names = self._table.beginnings, self._table.names
        for raw in lines:
            line = raw.lstrip(b" \t") if raw.startswith((b" ", b"\t")) else raw
            if line.startswith(beginnings):
                brace = line.find(b"{")
                name = line[:brace].rstrip() if brace > 0 else line.split(None, 1)[0]
                if name in names:
                    self._take(name, line)

    def end(self) -> None:
        """Nothing is missing: the last line is one, though it has no end. Raises SourceError."""
        if self._rest:
            self.feed(b"\n")

    def _take(self, name: bytes, line: bytes) -> None:
        sample = parse_sample(line.rstrip())
        if sample is None:
            raise _malformed(f"not a sample: {_shown(line)}")
        self._count += 1
        if self._count > MAX_SAMPLES:
            raise SourceError(
                "too_large",
                f"The page has more than {MAX_SAMPLES} series that count.",
                "Is it the page of one engine, and not of a proxy or a Prometheus?",
            )
        written, value = sample
        series = self._samples.setdefault(name, {})
        if written in series:
            raise _malformed(f"the same series twice: {_shown(line)}")
        series[written] = value
        self._kept.append(line)

    def kept(self) -> bytes:
        """The lines that count, as they were: a page that reads the same."""
        return b"".join(line + b"\n" for line in self._kept)

    def models(self, engine: str = "", only: Collection[str] = ()) -> tuple[ModelReading, ...]:
        """What the whole page says, when its last piece was fed; see `end`.

        `engine` names the table's row that it must be; empty: any. Of the served models those in
        `only` count; empty: all. Raises SourceError: malformed, unrecognised, too_many_models.
        """
        if self._rest:
            raise _malformed("its last line has no end, so it may be cut off")
        samples = {name.decode(): self._labelled(found) for name, found in self._samples.items()}
        starts = [v for labels, v in samples.get(PROCESS_START, ()) if not labels and v > 0]
        started_at = starts[0] if starts and math.isfinite(starts[0]) else None
        models: dict[str, ModelReading] = {}
        known = False
        for row in self._table.named(engine):
            if (known and not row.engine.beside) or not _is_on(row, samples):
                continue
            known = True
            found = _read(row, samples, started_at)
            models = {**{model.served_model: model for model in found}, **models}
        if not known:
            raise SourceError(
                "unrecognised",
                "The page is none of an engine that is known"
                + (f" as {engine}." if engine else "."),
                "Name its series under requests.engines, or give the address of the engine's own"
                " page (docs/requests.md).",
            )
        if len(models) > MAX_MODELS:
            raise SourceError(
                "too_many_models",
                f"The page names {len(models)} served models; {MAX_MODELS} are read at most.",
                "Name those that count with the annotation gpucost.io/served-models.",
            )
        return tuple(m for m in models.values() if not only or m.served_model in only)

    def _labelled(self, found: Mapping[bytes, float]) -> Sequence[_Sample]:
        samples: list[_Sample] = []
        for written, value in found.items():
            labels = parse_labels(written)
            if labels is None:
                raise _malformed(f"not a label set: {_shown(written)}")
            samples.append((labels, value))
        return samples


def parse_engine_page(
    page: bytes, table: EngineTable, engine: str = "", only: Collection[str] = ()
) -> tuple[ModelReading, ...]:
    """What a page says that is known to be whole. Raises SourceError."""
    reading = EnginePage(table)
    reading.feed(page)
    reading.end()
    return reading.models(engine, only)


_Samples = dict[str, "Sequence[_Sample]"]


def _is_on(row: Reads, samples: _Samples) -> bool:
    foreign = row.engine.foreign
    return any(
        not any(label in labels for label in foreign)
        for mark in row.marks
        for labels, _ in samples.get(mark, ())
    )


def _read(row: Reads, samples: _Samples, started_at: float | None) -> Iterator[ModelReading]:
    counts: dict[str, dict[Count, dict[int, float]]] = {}
    for count, figure in row.counts.items():
        for model, series in _counters(row, figure, samples).items():
            counts.setdefault(model, {})[count] = series
    running = _gauges(row, row.running, samples)
    waiting = _gauges(row, row.waiting, samples)
    batch = _gauges(row, row.batch, samples)
    models = dict.fromkeys((*counts, *running, *waiting))
    steps = _joined(row, counts, (running, waiting, batch))
    for model in models:
        if model in steps:
            continue
        own = counts.get(model, {})
        if not row.engine.cached_in_prompt and Count.CACHED in own and Count.PROMPT in own:
            own[Count.PROMPT] |= own[Count.CACHED]
        yield ModelReading(
            engine=row.engine.name,
            served_model=model[:MAX_NAME_CHARS],
            counts=own,
            running=running.get(model),
            waiting=waiting.get(model),
            batch=batch.get(model),
            started_at=started_at,
        )


def _joined(
    row: Reads,
    counts: dict[str, dict[Count, dict[int, float]]],
    gauges: Sequence[dict[str, float]],
) -> set[str]:
    """The models that are steps of another; what only they tell is put to that one.

    Where several are made of the same steps it is the last one's that was asked for anything, for
    a step does not say whose its tokens were.
    """
    wholes = [model for model in row.engine.parts if model in counts]
    if not wholes:
        return set()
    asked = [model for model in wholes if any(counts[model].get(Count.SUCCESS, {}).values())]
    whole = (asked or wholes)[-1]
    for step in row.engine.parts[whole]:
        counts[whole] = counts.get(step, {}) | counts[whole]
        for gauge in gauges:
            if step in gauge:
                gauge.setdefault(whole, gauge[step])
    return {step for model in wholes for step in row.engine.parts[model]}


def _counters(
    row: Reads, figure: Sequence[Terms], samples: _Samples
) -> dict[str, dict[int, float]]:
    """A count's series by served model, of its first alternative that the page has.

    It has one too whose name is there and none of whose series fits: a server that makes a series
    of an outcome when it first happens has not had this one. Another alternative of the same name
    is asked all the same.
    """
    for place, terms in enumerate(figure):
        found: dict[str, dict[int, float]] = {}
        for term in terms:
            for labels, value in _taken(row, term, samples):
                if not math.isfinite(value) or value < 0:
                    raise _malformed(f"{term.name} is {value:g}, and a counter cannot be")
                name = _series_name(term.name, labels)
                found.setdefault(_model(row, labels), {})[name] = value * term.scale
        later = {term.name for it in figure[place + 1 :] for term in it}
        if found or any(term.name in samples and term.name not in later for term in terms):
            return found
    return {}


def _series_name(name: str, labels: Mapping[str, str]) -> int:
    """A number that no other series of a page has, as good as certainly."""
    whole = repr((name, sorted(labels.items()))).encode()
    return int.from_bytes(blake2b(whole, digest_size=7).digest())


def _gauges(row: Reads, figure: Sequence[Terms], samples: _Samples) -> dict[str, float]:
    """A gauge's sums by served model, of its first alternative that the page has.

    Of series that differ in nothing but labels of `copies`, the highest counts.
    """
    copies = row.engine.copies
    for terms in figure:
        highest: dict[tuple[str, ...], tuple[str, float]] = {}
        for term in terms:
            for labels, value in _taken(row, term, samples):
                if not math.isfinite(value) or value < 0:
                    continue
                own = sorted(it for it in labels.items() if it[0] not in copies)
                key = (term.name, *(word for it in own for word in it))
                if key not in highest or value * term.scale > highest[key][1]:
                    highest[key] = (_model(row, labels), value * term.scale)
        if highest:
            found: dict[str, float] = {}
            for model, value in highest.values():
                found[model] = found.get(model, 0.0) + value
            return found
    return {}


def _taken(row: Reads, term: Term, samples: _Samples) -> Iterator[_Sample]:
    foreign = row.engine.foreign
    for labels, value in samples.get(term.name, ()):
        if term.takes(labels) and not any(label in labels for label in foreign):
            yield labels, value


def _model(row: Reads, labels: Mapping[str, str]) -> str:
    return next((labels[name] for name in row.engine.model if labels.get(name)), "")


def _shown(line: bytes) -> str:
    return repr(line[:48].decode("ascii", "backslashreplace"))


def _malformed(what: str) -> SourceError:
    return SourceError(
        "malformed",
        f"The page is no whole Prometheus text: {what}.",
        "Look at it with curl: is the address that of the engine's metrics?",
    )
