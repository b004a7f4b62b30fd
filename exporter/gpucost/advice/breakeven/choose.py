"""Which ways are looked at, out of the tables. Pure."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.advice.breakeven.ways import (
    Api,
    Dedicated,
    ScaledToZero,
    Serverless,
    Way,
    api_notes,
    serverless_notes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from gpucost.advice.breakeven.demand import Demand
    from gpucost.advice.breakeven.ways import ApiPrice, ServerlessPrice


class Terms(Struct, frozen=True):
    """What is taken for granted of one's own replicas, of serverless ones and of APIs."""

    usd_per_gpu_hour: float
    price_note: str
    headroom: float
    cold_start_seconds: float
    idle_seconds: float
    serverless_idle_seconds: float
    batch_part: float
    today: date


def ways(
    demand: Demand,
    terms: Terms,
    serverless: Sequence[ServerlessPrice],
    apis: Sequence[ApiPrice],
) -> list[Way]:
    """All of them: one's own two, and one a row."""
    replica = demand.replica
    each = terms.usd_per_gpu_hour * replica.gpus
    found: list[Way] = [
        Dedicated("dedicated", each, terms.headroom, (terms.price_note,)),
        ScaledToZero(
            "scaled to zero",
            each,
            terms.headroom,
            terms.cold_start_seconds,
            terms.idle_seconds,
            (
                (
                    f"a start takes {terms.cold_start_seconds:g} s, and a replica stays"
                    f" {terms.idle_seconds:g} s after its last request; the node must go with it"
                ),
            ),
        ),
    ]
    found += [
        Serverless(
            f"serverless {it.provider}",
            it,
            terms.serverless_idle_seconds,
            serverless_notes(it, terms.today),
        )
        for it in serverless
    ]
    if demand.tokens is not None:
        found += [
            Api(
                f"API {it.provider} {it.model}",
                it,
                demand.tokens,
                terms.batch_part,
                api_notes(it, demand.tokens, terms.batch_part, terms.today),
            )
            for it in apis
        ]
    return found


def serverless_of(rows: Sequence[ServerlessPrice], gpu_model: str) -> list[ServerlessPrice]:
    """The rows of a GPU model."""
    return [row for row in rows if row.gpu_model == gpu_model]


def apis_like(rows: Sequence[ApiPrice], patterns: Sequence[str]) -> list[ApiPrice]:
    """The rows whose model, or provider and model, match one of the patterns."""
    return [
        row
        for row in rows
        if any(
            fnmatchcase(name.casefold(), pattern.casefold())
            for pattern in patterns
            for name in (row.model, f"{row.provider}/{row.model}")
        )
    ]


def apis_of(rows: Sequence[ApiPrice], model: str) -> list[ApiPrice]:
    """The rows of the same model: names are spelled many ways, `llama-v3p1-8b` for one."""
    return list(_alike(rows, _plain(model)))


def _alike(rows: Sequence[ApiPrice], wanted: str) -> Iterator[ApiPrice]:
    for row in rows:
        found = re.search(re.escape(wanted) + r"(?!\d)", _plain(row.model))
        if wanted and found:
            yield row


def _plain(name: str) -> str:
    """Without punctuation: `3p1`, `3-1` and `3.1` are one."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"v?(\d)p(\d)", r"\1\2", name.casefold()))
