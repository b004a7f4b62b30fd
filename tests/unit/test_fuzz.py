"""No input makes a parser raise what it does not promise, or hang. `make fuzz` tries more."""

from __future__ import annotations

import random
import time

import http_conversations
import pytest
import targets

import fuzz

CHANGED = 2000
HANGS_AFTER_SECONDS = 10.0


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_parser_takes_or_refuses_whatever_it_is_given(name: str) -> None:
    chance = random.Random(name)  # noqa: S311 - inputs, the same in every run
    seeds = targets.seeds_of(name)
    assert seeds
    assert any(targets.tried(name, seed) for seed in seeds), "no seed is taken"
    for _ in range(CHANGED):
        data = fuzz.changed(chance.choice(seeds), seeds, chance)
        start = time.monotonic()
        try:
            targets.tried(name, data)
        except Exception as error:
            raise AssertionError(f"{name}: {data!r}") from error
        assert time.monotonic() - start < HANGS_AFTER_SECONDS, data


def test_the_server_outlives_hostile_conversations() -> None:
    assert http_conversations.hold(200, seed=1)


def test_every_target_says_what_its_inputs_must_go_through() -> None:
    for name, target in targets.TARGETS.items():
        assert target.covers, name
        for covered in target.covers:
            assert (fuzz.ROOT / "exporter/gpucost" / covered.partition(":")[0]).exists(), covered
