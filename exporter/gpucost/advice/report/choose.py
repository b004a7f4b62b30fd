"""Which actions are chosen, and what each saves: every dollar at most once. Pure.

Actions come in three groups, in the order in which a person would do them: give back what is not
used, fit what is used, then pay less for what is left. An action saves its part of what the groups
before it have left of a Key's dollars in a state, so what is saved never adds up to more than was
spent. Within a group a Key's dollars in a state are taken by one action only: the others that want
them are shown beside it, as what could be done in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.advice.report import buy, capacity, fit, free, serve
from gpucost.advice.report.facts import Alternative, Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from gpucost.advice.report.facts import Action, Facts, Key

Cell = tuple["Key", str]

FINDERS: tuple[Callable[[Facts], Iterator[Action]], ...] = (
    free.idle,
    free.not_ready,
    capacity.free_capacity,
    capacity.reallocate,
    fit.smaller,
    serve.batching,
    serve.caching,
    serve.dear_requests,
    serve.precision,
    buy.spot,
    buy.reserved,
)
"""Everything that is looked for."""

GROUPS = ("free", "fit", "buy")

BELIEVED = {"high": 1.0, "medium": 0.7, "low": 0.4}
"""Between alternatives, what an action's saving counts by its confidence."""


def actions(facts: Facts) -> list[Action]:
    """All that was found, before anything is chosen."""
    return [action for finder in FINDERS for action in finder(facts)]


def choose(
    found: Iterable[Action], spent: Mapping[Cell, float], months: float, min_usd_per_month: float
) -> list[Found]:
    """The actions to take, those that save most first.

    `spent` are dollars in a range of so many months; what saves less than the least is left out.
    """
    left = dict(spent)
    offered = list(found)
    chosen: list[Found] = []
    for group in GROUPS:
        takers: dict[Cell, int] = {}
        mine: list[Found] = []
        before = dict(left)
        rank = sorted(
            (action for action in offered if action.group == group),
            key=lambda it: (-BELIEVED[it.confidence] * _saving(it, before), it.kind, it.title),
        )
        for action in rank:
            alone = _saving(action, before)
            if not months or alone / months < min_usd_per_month:
                continue
            cells = [(claim.key, claim.state) for claim in action.claims]
            rival = next((takers[cell] for cell in cells if cell in takers), None)
            saved: dict[Key, float] = {}
            for cell, claim in zip(cells, action.claims, strict=True):
                if cell in before and cell not in takers:
                    saved[claim.key] = saved.get(claim.key, 0.0) + before[cell] * claim.ratio
            usd = sum(saved.values())
            if rival is not None and usd < alone / 2:
                other = Alternative(action, alone / months)
                mine[rival] = replace(mine[rival], instead=(*mine[rival].instead, other))
                continue
            if usd / months < min_usd_per_month:
                continue
            for cell, claim in zip(cells, action.claims, strict=True):
                if cell in before and cell not in takers:
                    left[cell] = before[cell] * (1 - claim.ratio)
                    takers[cell] = len(mine)
            mine.append(Found(action, usd, usd / months, saved))
        chosen += mine
    return sorted(chosen, key=lambda it: (-it.usd, it.action.title))


def _saving(action: Action, left: Mapping[Cell, float]) -> float:
    return sum(left.get((it.key, it.state), 0.0) * it.ratio for it in action.claims)


def spent_by(facts: Facts) -> dict[Cell, float]:
    """The dollars that actions are about."""
    spent: dict[Cell, float] = {}
    for line in facts.lines:
        for state, usd in line.usd.items():
            spent[line.key, state] = spent.get((line.key, state), 0.0) + usd
    return spent
