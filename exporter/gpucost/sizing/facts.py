"""Tables of dated facts: what GPUs can do, models' shapes, prices of APIs and of serverless GPUs.

    gpucost facts 1
    table serverless
    source koyeb 2026-08-17 koyeb.com/pricing
    koyeb L40S koyeb usd_per_second=0.000333333 granularity_seconds=1
    end 1

A line is the key of a row, the source, and figures; lines of one key add up, so that each figure
keeps its own source. A day `<2026-07-20` is the latest it can be, `?` is not known. A file may
have several tables. The last line counts the others: a file that was cut off is refused. A
person's own file is the same, and its figures go before the shipped ones. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from gpucost.pricing.price_list import Source, day_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date

FIRST_LINE = "gpucost facts 1"
NO_DAY = "?"

KEY_WORDS = {"gpu": 1, "model": 1, "api": 2, "serverless": 2}
"""The tables, and how many words name a row of theirs."""

_MAX_LINE = 4096

T = TypeVar("T")

Key = tuple[str, ...]


class FactsError(ValueError):
    """A table cannot be used. The message names the line or row, and what is wrong with it."""


class Figure(Struct, frozen=True):
    """What a source says, as it is written."""

    text: str
    source: Source


Row = dict[str, Figure]
"""The figures of a row by name."""


class Facts(Struct, frozen=True):
    """Rows by table and key."""

    tables: Mapping[str, Mapping[Key, Row]]

    def rows(self, table: str) -> Mapping[Key, Row]:
        """The rows of a table; none where the file does not have it."""
        return self.tables.get(table, {})


def parse(lines: Iterable[str]) -> Facts:
    """Read a file. Raises FactsError."""
    reader = _Reader()
    number = 0
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\n")
        try:
            reader.take(number, text)
        except FactsError as error:
            raise FactsError(f"line {number}: {error}") from error
    if not reader.ended:
        raise FactsError(f"no `end` after line {number}: the file was cut off")
    return Facts(reader.tables)


def merged(first: Facts, *others: Facts) -> Facts:
    """One out of several: the figures of an earlier one are believed before a later one's."""
    tables: dict[str, dict[Key, Row]] = {}
    for facts in (first, *others):
        for table, rows in facts.tables.items():
            into = tables.setdefault(table, {})
            for key, row in rows.items():
                into[key] = {**row, **into.get(key, {})}
    return Facts(tables)


def typed(facts: Facts, table: str, kind: type[T], *names: str) -> dict[Key, T]:
    """The rows of a table as structs; `names` are the fields of the key. Raises FactsError."""
    return {key: _typed(table, key, row, kind, names) for key, row in facts.rows(table).items()}


def _typed(table: str, key: Key, row: Row, kind: type[T], names: tuple[str, ...]) -> T:
    fields: dict[str, object] = dict(zip(names, key, strict=True))
    for name, figure in row.items():
        fields[name] = figure.text
    if "sources" in getattr(kind, "__struct_fields__", ()):
        fields["sources"] = sorted(
            {figure.source for figure in row.values()}, key=lambda it: it.key
        )
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise FactsError(f"table {table}, {' '.join(key)}: {error}") from error


def oldest(sources: Iterable[Source]) -> date | None:
    """The day of the oldest figure; None where one has no day."""
    known = [None if it.day == NO_DAY else day_of(it.day) for it in sources]
    if None in known:
        return None
    return min((day for day in known if day is not None), default=None)


def stale(sources: Iterable[Source], today: date, after_days: int) -> str:
    """Why figures of these sources are not to be relied on; empty where they are fresh."""
    day = oldest(sources)
    if day is None:
        return "its day is not known"
    age = (today - day).days
    return f"stale: {age} days old" if age > after_days else ""


class _Reader:
    """What has been read so far."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Key, Row]] = {}
        self.ended = False
        self._sources: dict[str, Source] = {}
        self._table = ""
        self._lines = 0

    def take(self, number: int, text: str) -> None:
        if len(text) > _MAX_LINE:
            raise FactsError(f"longer than {_MAX_LINE} characters")
        if number == 1:
            if text != FIRST_LINE:
                raise FactsError(f"must be `{FIRST_LINE}`")
            return
        words = text.split()
        if not words or text.startswith("#"):
            return
        if self.ended:
            raise FactsError("something follows `end`")
        if words[0] == "table":
            self._open(words)
        elif words[0] == "source":
            self._source(words)
        elif words[0] == "end":
            self._end(words)
        else:
            self._row(words)

    def _open(self, words: list[str]) -> None:
        self._table = words[1] if len(words) == 2 else ""  # noqa: PLR2004 - `table NAME`
        if self._table not in KEY_WORDS:
            raise FactsError(f"must be `table` and one of {', '.join(KEY_WORDS)}")
        self.tables.setdefault(self._table, {})

    def _source(self, words: list[str]) -> None:
        if len(words) < 4:  # noqa: PLR2004 - the word itself and three more
            raise FactsError("must be `source KEY DAY ORIGIN`")
        _, key, day, *origin = words
        if day != NO_DAY:
            try:
                day_of(day)
            except ValueError as error:
                raise FactsError(
                    f"`{day}` is not a day: write 2026-07-20, <2026-07-20 for the latest that it"
                    f" can be, or {NO_DAY}"
                ) from error
        self._sources[key] = Source(key, day, " ".join(origin))

    def _row(self, words: list[str]) -> None:
        if not self._table:
            raise FactsError("a row before the first `table`")
        many = KEY_WORDS[self._table]
        if len(words) < many + 2:
            raise FactsError(f"must be {many} words that name the row, its source, and figures")
        key, source = tuple(words[:many]), self._sources.get(words[many])
        if source is None:
            raise FactsError(
                f"`{words[many]}` is no source: say it before, `source KEY DAY ORIGIN`"
            )
        row = self.tables[self._table].setdefault(key, {})
        for word in words[many + 1 :]:
            name, equals, value = word.partition("=")
            if not (name and equals and value):
                raise FactsError(f"`{word}` is no figure: write name=value")
            if name in row:
                raise FactsError(f"{' '.join(key)} has `{name}` twice")
            row[name] = Figure(value, source)
        self._lines += 1

    def _end(self, words: list[str]) -> None:
        if words != ["end", str(self._lines)]:
            raise FactsError(f"must be `end {self._lines}`, the number of rows before it")
        self.ended = True
