"""Asks the questions of one range and scope, and keeps what is to be said of the answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gpucost.advice.report.facts import Note
from gpucost.advice.report.fold import HOUR
from gpucost.advice.report.questions import OFFSET_SECONDS, Question, asked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

    from gpucost.advice.answer import Row
    from gpucost.advice.connection import Span
    from gpucost.advice.prometheus import Prometheus


class Asker:
    """One range of one scope: `match` are matchers that every query gets."""

    def __init__(self, prometheus: Prometheus, span: Span, zone: ZoneInfo, match: str) -> None:
        """The range is one of whole hours, but that the present one counts as far as it is."""
        self.prometheus = prometheus
        self.zone = zone
        self.match = match
        self.start = span.start // HOUR * HOUR
        self.last_hour_ends = max(span.end // HOUR * HOUR, self.start + HOUR)
        if span.end // HOUR == time.time() // HOUR:
            self.last_hour_ends = span.end // HOUR * HOUR + HOUR
        self.end = min(self.last_hour_ends, max(span.end // 1.0, self.start + 60.0))
        self.notes: list[Note] = []

    @property
    def range_words(self) -> str:
        """The range as PromQL says it."""
        return f"{self.end - self.start:.0f}s"

    def note(self, kind: str, text: str) -> None:
        """Put a remark into the report's head."""
        self.notes.append(Note(kind, text))

    def at(self, question: Question, **more: str) -> list[Row]:
        """The answer for the range's end; what is lost without one is noted."""
        query = asked(question, self.match, **more)
        rows = self.prometheus.at(query, self.end + OFFSET_SECONDS)
        if not rows and question.lost:
            why = f"rules/{question.records} is not recorded" if question.records else "no series"
            self.note("missing", f"Not known: {question.lost} ({why}).")
        return rows

    def one(self, question: Question, at: float) -> float | None:
        """The only value of an answer; None where there is none."""
        rows = self.prometheus.at(asked(question, self.match), at)
        return rows[0].value if rows else None

    def hourly(
        self, question: Question, what: str, start: float | None = None
    ) -> Iterator[list[Row]]:
        """The answers of each hour, given at its end, in pieces. `what` is for the progress."""
        first = (self.start if start is None else start) + HOUR + OFFSET_SECONDS
        query = asked(question, self.match)
        last = self.last_hour_ends + OFFSET_SECONDS
        yield from self.prometheus.over(query, first, last, HOUR, what)


def labels(row: Row, names: str) -> tuple[str, ...]:
    """The values of some labels; empty where a row has none."""
    return tuple(row.labels.get(name, "") for name in names.split(", "))


def days(seconds: float) -> str:
    """A duration for a person."""
    if seconds < HOUR:
        minutes = round(seconds / 60)
        return "1 minute" if minutes == 1 else f"{minutes} minutes"
    hours = f"{seconds / HOUR:.3g}"
    if seconds < 48 * HOUR:
        return "1 hour" if hours == "1" else f"{hours} hours"
    return f"{seconds / HOUR / 24:.3g} days"
