"""A restart loses nothing: the laws of the ledger on histories in which the exporter dies."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from gpucost.checkpoint import Checkpoint, decode, encode
from gpucost.cycle import Terms, advance
from gpucost.gap import holds_of
from gpucost.ledger import imbalance_usd
from gpucost.model import HOUR_SECONDS, Device, Ledger, Report
from gpucost.pricing import Catalogue
from gpucost.restart import MAX_AGE_SECONDS, Moment, changed_devices, remembered, resumed
from histories import CALM, Machine, Step, World, worlds
from laws import close, counters, dollars, law, law_of_pages, page
from stage import Stage, values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpucost.model import Snapshot


class Look(Struct, frozen=True):
    """One cycle of a run with deaths: `down_seconds` passed unseen before it."""

    report: Report
    snapshot: Snapshot
    seconds: float
    down_seconds: float
    terms: Terms


def run(world: World, deaths: Mapping[int, float]) -> Iterator[Look]:
    """Every cycle of a history; before those of `deaths` the exporter was away for so long."""
    machine = Machine(world)
    report: Report | None = None
    steady = 10_000.0
    for turn, step in enumerate((Step(0.0, (), world.steps[0].moods), *world.steps)):
        down = deaths.get(turn, 0.0)
        ledger, seconds = None, step.seconds
        if report is not None and turn in deaths:
            data = encode(
                Checkpoint(
                    node="n",
                    boot_id="b",
                    wall_time=machine.wall,
                    monotonic_seconds=steady,
                    ledger=report.ledger,
                    devices=tuple(gpu.device for gpu in report.snapshot.gpus),
                    holds=holds_of(report),
                )
            )
            machine.wall += down
            steady += down
            report, seconds = None, 0.0
            now = Moment(machine.wall, steady, "n", "b")
            ledger = resumed(decode(data), now, world.config.zone).ledger
        steady += seconds
        snapshot = machine.pass_time(replace(step, seconds=seconds))
        terms = Terms(machine.config, Catalogue(), booted_at=world.booted_at)
        report = advance(report, snapshot, seconds, terms, ledger=ledger)
        yield Look(report, snapshot, seconds, down, terms)


DEATHS = st.dictionaries(st.integers(1, 12), st.sampled_from((0.3, 8.0, 100.0, 4000.0)), max_size=4)


@law
@given(worlds(provisioning=False), DEATHS)
def test_whatever_dies_the_states_sum_to_the_integral_of_the_price(
    world: World, deaths: dict[int, float]
) -> None:
    usd: defaultdict[str, float] = defaultdict(float)
    seconds: defaultdict[str, float] = defaultdict(float)
    waiting, there = 0.0, set[str]()
    last: Look | None = None
    for look in run(world, deaths):
        ledger = look.report.ledger
        if last is not None and not waiting:
            there = set(last.report.prices)  # those that a gap begins with
        last = look
        waiting += look.down_seconds
        for uuid, price in look.report.prices.items():
            # A gap is charged when it can be told to whom, at the price of then.
            told = uuid in there and ledger.gap is None
            passed = look.seconds + (waiting if told else 0.0)
            seconds[uuid] += passed
            usd[uuid] += (price.usd_per_hour or 0.0) / HOUR_SECONDS * passed
        if ledger.gap is None:
            waiting = 0.0
        for uuid, account in ledger.gpus.items():
            assert close(dollars(account.account), usd[uuid])
            assert close(math.fsum(account.account.seconds.values()), seconds[uuid])
        assert close(ledger.billed_usd, math.fsum(usd.values()))
        assert abs(imbalance_usd(ledger)) <= 1e-9 * max(1.0, ledger.billed_usd)


@law_of_pages
@given(worlds(), DEATHS)
def test_no_counter_falls_across_a_death(world: World, deaths: dict[int, float]) -> None:
    for before, after in pairwise(counters(page(look.report)) for look in run(world, deaths)):
        for key, value in after.items():
            if key[0] != "gpucost_gpu_energy_joules_total":
                assert value >= before.get(key, 0.0), key


@law_of_pages
@given(worlds(deeds=CALM), DEATHS)
def test_new_counters_are_seen_at_0_for_two_scrape_intervals_of_being_up(
    world: World, deaths: dict[int, float]
) -> None:
    up = 0.0
    first: dict[object, float] = {}
    for look in run(world, deaths):
        up += look.seconds
        hold = 2 * look.terms.config.scrape_interval_seconds
        for key, value in counters(page(look.report)).items():
            if key[0] != "gpucost_gpu_energy_joules_total":
                first.setdefault(key, up)
                assert value == 0 or up - first[key] >= hold - 1e-6, key


# --- What is believed of a checkpoint ------------------------------------------------------------


def checkpoint(**fields: object) -> Checkpoint:
    stage = Stage()
    stage.cycle(times=10)
    return replace(decode(stage.checkpoint()), **fields)


def later(found: Checkpoint, seconds: float, **fields: object) -> Moment:
    moment = Moment(
        found.wall_time + seconds, found.monotonic_seconds + seconds, found.node, found.boot_id
    )
    return replace(moment, **fields)


def test_a_clock_that_was_set_while_it_was_away_changes_nothing() -> None:
    found = checkpoint()
    for jump in (-86_400.0 * 400, 86_400.0 * 400):
        now = later(found, 30.0)
        gap = resumed(found, replace(now, wall_time=now.wall_time + jump), Stage().config.zone)
        assert gap.ledger.gap is not None
        assert math.fsum(s for _, s in gap.ledger.gap.stretches) == pytest.approx(30.0)
        assert gap.problems == ()


def test_a_checkpoint_of_long_ago_is_set_aside_and_its_time_not_charged() -> None:
    found = checkpoint()
    now = later(found, MAX_AGE_SECONDS + 1)
    result = resumed(found, now, Stage().config.zone)
    assert result.ledger == Ledger(started_at=now.wall_time)
    assert (result.set_aside, [p.kind for p in result.problems]) == ("too-old", ["too_old"])


def test_under_a_new_name_the_counters_begin_anew_and_the_gap_is_charged() -> None:
    found = checkpoint()
    now = later(found, 30.0, node="node-2")
    result = resumed(found, now, Stage().config.zone)
    assert (result.set_aside, [p.kind for p in result.problems]) == ("renamed", ["renamed"])
    assert result.ledger.gpus == {}
    assert result.ledger.started_at == now.wall_time
    assert result.ledger.gap is not None
    assert result.ledger.gap.gpus == ("GPU-0",)


def test_an_image_that_was_made_of_a_running_node_charges_nothing_of_that_ones() -> None:
    found = checkpoint()
    now = later(found, 86_400.0, node="node-2", boot_id="boot-2", monotonic_seconds=90.0)
    result = resumed(found, now, Stage().config.zone)
    assert result.set_aside == "renamed"
    assert result.ledger.gap is not None
    assert math.fsum(s for _, s in result.ledger.gap.stretches) == 90.0


def test_gpus_are_remembered_within_a_boot_only() -> None:
    found = checkpoint(devices=(Device("GPU-0", "H100"), Device("missing-1", "H100")))
    assert [it.uuid for it in remembered(found, later(found, 5.0))] == ["GPU-0"]
    assert remembered(found, later(found, 5.0, boot_id="boot-2")) == ()


def test_other_gpus_are_told_by_name() -> None:
    old = (Device("GPU-0", "H100"), Device("GPU-1", "H100", mig=()))
    assert changed_devices(old, old) is None
    problem = changed_devices(old, (Device("GPU-1", "H100"), Device("GPU-2", "H100")))
    assert problem is not None
    for words in ("new: GPU-2", "gone: GPU-0", "partitioned anew: GPU-1"):
        assert words in problem.message


def test_xid_events_are_counted_on_from_what_was_shown() -> None:
    stage = Stage()
    stage.gpus = (replace(stage.gpus[0], xid_events={79: 3}),)
    stage.cycle(times=8)
    stage.restart(5.0)
    stage.gpus = (replace(stage.gpus[0], xid_events={79: 2}),)  # those of the new process
    report = stage.cycle()
    assert values(report, "gpucost_gpu_xid_events_total") == [5.0]
