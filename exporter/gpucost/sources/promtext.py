"""Prometheus text (exposition format 0.0.4, or OpenMetrics) to rows, strictly, in bounded memory.

A page is taken whole or not at all: one malformed line refuses it, for a page cut off in the
middle would otherwise pass for a node with fewer GPUs. The one leniency is an unknown escape in
a label value, kept as it stands like Prometheus keeps it (model/textparse): dcgm-exporter writes
values into a template without escaping them.
"""

from __future__ import annotations

import io
import re

from msgspec import Struct

from gpucost.sources.base import SourceError

_BRACED = rb'(?:[^"}]++|"(?:[^"\\]++|\\.)*+")*+'
_NUMBER = rb"[-+]?(?>\d++(?:\.\d*+)?|\.\d++)(?>[eE][-+]?\d++)?"
_LINE = re.compile(
    rb"(?P<name>[a-zA-Z_:][\w:]*)"
    rb"(?:[ \t]*\{(?P<labels>" + _BRACED + rb")\}|(?=[ \t]))"
    rb"[ \t]*+(?P<value>" + _NUMBER + rb"|[-+]?(?i:nan|inf(?:inity)?))"
    # A timestamp, in milliseconds; OpenMetrics has seconds, with a fraction, and exemplars.
    rb"(?:[ \t]++" + _NUMBER + rb")?"
    rb"(?:[ \t]+\#[ \t]*\{" + _BRACED + rb"\}[ \t]*" + _NUMBER + rb"(?:[ \t]+" + _NUMBER + rb")?)?"
)
_LABEL = re.compile(rb'[ \t]*([a-zA-Z_]\w*)[ \t]*=[ \t]*"((?:[^"\\]++|\\.)*+)"[ \t]*(?:,[ \t]*|$)')
_ESCAPE = re.compile(rb'\\([\\"n])')
_UNESCAPED = {b"\\": b"\\", b'"': b'"', b"n": b"\n"}

_EXCERPT = 48


class Row(Struct, frozen=True):
    """The samples of a page that carry one label set: their names and values as written."""

    labels: dict[str, str]
    values: list[tuple[str, float]]


def parse_rows(page: bytes, *prefixes: str) -> tuple[Row, ...]:
    """The samples whose name starts with one of `prefixes`, by label set, in the order of the page.

    Comments, blank lines and CRLF line ends are allowed anywhere; every other line must be a
    sample, whatever its name. Raises SourceError("malformed"), which names the line.
    """
    rows: dict[bytes, Row] = {}
    starts = tuple(prefix.encode() for prefix in prefixes)
    for number, raw in enumerate(io.BytesIO(page), start=1):
        line = raw.strip(b" \t\r\n")
        if not line or line.startswith(b"#"):
            continue
        sample = _LINE.fullmatch(line)
        if sample is None:
            raise _malformed(number, line)
        if not line.startswith(starts):
            continue
        written = sample["labels"] or b""
        # Exporters repeat a device's label set with every metric: it is read once.
        if (row := rows.get(written)) is None:
            labels = parse_labels(written)
            if labels is None:
                raise _malformed(number, line)
            row = rows[written] = Row(labels, [])
        row.values.append((sample["name"].decode(), float(sample["value"])))
    return tuple(rows.values())


def parse_sample(line: bytes) -> tuple[bytes, float] | None:
    """The label set, as written, and the value of one line; None where it is no sample."""
    sample = _LINE.fullmatch(line)
    return None if sample is None else (sample["labels"] or b"", float(sample["value"]))


def parse_labels(written: bytes) -> dict[str, str] | None:
    """What stands between the braces; None if it is no label set, or names a label twice."""
    labels: dict[str, str] = {}
    position = len(written) - len(written.lstrip(b" \t"))
    while position < len(written):
        label = _LABEL.match(written, position)
        if label is None or (name := label[1].decode()) in labels:
            return None
        value = _ESCAPE.sub(lambda escape: _UNESCAPED[escape[1]], label[2])
        try:
            labels[name] = value.decode()
        except UnicodeDecodeError:
            return None
        position = label.end()
    return labels


def _malformed(number: int, line: bytes) -> SourceError:
    excerpt = line[:_EXCERPT].decode("ascii", "backslashreplace")
    return SourceError(
        "malformed",
        f"Line {number} is not Prometheus text: {excerpt!r}.",
        "Look at the page with curl: is the address that of an exporter, and is it whole?",
    )
