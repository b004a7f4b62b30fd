"""Which actions are chosen: every dollar is saved at most once, whatever is offered."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gpucost.advice.report.choose import GROUPS, choose
from gpucost.advice.report.facts import Action, Claim, Key, Place

KEYS = [Key("c", "ns", "team", f"w{n}", "Deployment", "H100", "on_demand", "p") for n in range(4)]
STATES = ("used", "underused", "idle", "failing")
MONTH = 1.0


def action(group: str, claims: list[tuple[int, str, float]], title: str, confidence: str) -> Action:
    return Action(
        kind="kind",
        group=group,  # type: ignore[arg-type]
        title=title,
        place=Place("c", "ns", node_pool="p"),
        do="",
        why="",
        confidence=confidence,  # type: ignore[arg-type]
        risk="low",
        risk_words="",
        claims=tuple(Claim(KEYS[at], state, ratio) for at, state, ratio in claims),
        evidence=(),
    )


cells = st.tuples(st.integers(0, 3), st.sampled_from(STATES))
claims = st.dictionaries(cells, st.floats(0.0, 1.0), min_size=1, max_size=6)
offered = st.lists(
    st.tuples(st.sampled_from(GROUPS), claims, st.sampled_from(["high", "medium", "low"])),
    max_size=8,
)
spent = st.dictionaries(cells, st.floats(0.0, 1e6), max_size=16)


@given(offered, spent, st.floats(0.0, 100.0))
def test_what_is_saved_is_never_more_than_was_spent(
    offers: list[tuple[str, dict[tuple[int, str], float], str]],
    dollars: dict[tuple[int, str], float],
    least: float,
) -> None:
    actions = [
        action(group, [(*cell, ratio) for cell, ratio in it.items()], str(number), confidence)
        for number, (group, it, confidence) in enumerate(offers)
    ]
    usd = {(KEYS[at], state): it for (at, state), it in dollars.items()}
    found = choose(actions, usd, MONTH, least)
    room = 1 + 1e-9
    assert math.fsum(it.usd for it in found) <= math.fsum(usd.values()) * room
    for key in KEYS:  # nor by anybody
        mine = math.fsum(value for (it, _), value in usd.items() if it == key)
        assert math.fsum(it.saved.get(key, 0.0) for it in found) <= mine * room + 1e-9
    for it in found:
        assert it.usd == it.usd_per_month >= least
        alone = sum(
            usd.get((claim.key, claim.state), 0.0) * claim.ratio for claim in it.action.claims
        )
        assert it.usd <= alone * room + 1e-9
    chosen = {it.action.title for it in found}
    others = [other.action.title for it in found for other in it.instead]
    assert len(chosen) == len(found)
    assert not chosen & set(others)


def test_of_alternatives_the_surer_dollar_counts_and_the_other_is_told() -> None:
    sure = action("fit", [(0, "used", 0.5)], "surely half", "high")
    perhaps = action("fit", [(0, "used", 0.9)], "perhaps most", "low")
    [found] = choose([perhaps, sure], {(KEYS[0], "used"): 100.0}, MONTH, 1.0)
    assert (found.action.title, found.usd) == ("surely half", 50.0)
    [other] = found.instead
    assert (other.action.title, other.usd_per_month) == ("perhaps most", 90.0)


def test_a_later_group_saves_of_what_is_left() -> None:
    half = action("free", [(0, "used", 0.5)], "give back half", "high")
    spot = action("buy", [(0, "used", 0.6)], "pay less", "low")
    found = choose([spot, half], {(KEYS[0], "used"): 100.0}, MONTH, 1.0)
    assert [(it.action.title, it.usd) for it in found] == [
        ("give back half", 50.0),
        ("pay less", 30.0),
    ]


def test_what_is_not_worth_it_is_left_out() -> None:
    small = action("free", [(0, "idle", 1.0)], "a little", "high")
    assert choose([small], {(KEYS[0], "idle"): 9.0}, MONTH, 10.0) == []
    assert choose([small], {(KEYS[0], "idle"): 9.0}, 0.5, 10.0)[0].usd_per_month == 18.0
