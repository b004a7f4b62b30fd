"""What the advice commands read, as functions of bytes: facts, configs, answers, invoices."""

from __future__ import annotations

from gpucost.advice.answer import parse_answer
from gpucost.advice.report import invoice
from gpucost.sizing import facts
from gpucost.sizing.config_json import shape_of_config
from gpucost.sizing.shapes import known_shapes


def parse_facts(data: bytes) -> None:
    """A table; every day in it can be reckoned with."""
    found = facts.parse(data.decode("utf-8", "replace").splitlines())
    known_shapes(found)
    for table in found.tables.values():
        for row in table.values():
            facts.oldest(figure.source for figure in row.values())


def parse_shape(data: bytes) -> None:
    """A model's config.json."""
    shape_of_config("config.json", data)


def parse_prometheus(data: bytes) -> None:
    """A Prometheus's answer; every row of it has a value."""
    for row in parse_answer(data).rows:
        float(row.value)


def parse_invoice(data: bytes) -> None:
    """An invoice's CSV."""
    text = data.decode("utf-8", "replace")
    invoice.parse("invoice.csv", text.splitlines(keepends=True))
