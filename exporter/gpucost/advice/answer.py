"""A Prometheus's answer to a query, as its HTTP API writes it. Pure."""

from __future__ import annotations

import msgspec
from msgspec import Struct

Point = tuple[float, float]
"""Unix seconds and value."""


class AnswerError(ValueError):
    """What came is no answer of a Prometheus's API."""


class Row(Struct, frozen=True):
    """One series of an answer: its labels, and its points in order of time, one at least."""

    labels: dict[str, str]
    points: list[Point]

    @property
    def value(self) -> float:
        """The last point's: of an answer for one moment, its value."""
        return self.points[-1][1]


class Answer(Struct, frozen=True):
    """Rows; or why there are none, as Prometheus puts it."""

    rows: list[Row]
    warnings: list[str] = []
    error: str = ""
    error_type: str = ""


class _Series(Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]] = []
    value: tuple[float, str] | None = None


class _Data(Struct, rename="camel"):
    result_type: str
    result: msgspec.Raw


class _Body(Struct, rename="camel"):
    status: str
    data: _Data | None = None
    error_type: str = ""
    error: str = ""
    warnings: list[str] = []


def parse_answer(text: bytes) -> Answer:
    """Read an answer's body. Raises AnswerError."""
    try:
        body = msgspec.json.decode(text, type=_Body)
        if body.status != "success" or body.data is None:
            if not body.error:
                raise AnswerError("neither data nor an error")
            return Answer([], body.warnings, body.error, body.error_type)
        return Answer(_rows(body.data), body.warnings)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise AnswerError(str(error)) from error


def _rows(data: _Data) -> list[Row]:
    if data.result_type in ("scalar", "string"):
        at, text = msgspec.json.decode(data.result, type=tuple[float, str])
        return [Row({}, [(at, float(text))])]
    found = []
    for series in msgspec.json.decode(data.result, type=list[_Series]):
        values = series.values if series.value is None else [series.value]
        if values:  # a native histogram has `histograms` in their place
            found.append(Row(series.metric, [(at, float(value)) for at, value in values]))
    return found
