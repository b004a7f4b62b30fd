"""What the advice commands read, as functions of bytes: facts, a model's config, answers."""

from __future__ import annotations

import msgspec

from gpucost.advice.prometheus import ResultData, rows_of
from gpucost.sizing import facts
from gpucost.sizing.shapes import known_shapes, shape_of_config


def parse_facts(data: bytes) -> None:
    """A table; every day in it can be reckoned with."""
    found = facts.parse(data.decode("utf-8", "replace").splitlines())
    known_shapes(found)
    for table in found.tables.values():
        for row in table.values():
            facts.oldest(figure.source.day for figure in row.values())


def parse_shape(data: bytes) -> None:
    """A model's config.json."""
    shape_of_config("config.json", data)


def parse_rows(data: bytes) -> None:
    """The data of a Prometheus answer, its result of one kind or another."""
    result = msgspec.Raw(data[1:])
    rows_of(ResultData("scalar" if data[:1] == b"s" else "matrix", result))
