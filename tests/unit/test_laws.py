"""The laws of the ledger (docs/design.md), on histories that hypothesis makes up."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given
from msgspec.structs import replace

from gpucost.catalog import FAMILIES
from gpucost.cycle import advance
from gpucost.exposition import families
from gpucost.ledger import imbalance_usd
from gpucost.model import HOUR_SECONDS, NODE, NODE_STATES, Ledger, Report, Seat, State
from histories import CALM, Cycle, World, run, worlds
from laws import SERIES_OF_SOURCES, Series, close, counters, dollars, law, law_of_pages, page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.model import Account


def bills(cycles: list[Cycle]) -> Iterator[tuple[dict[str, float], dict[str, float], Cycle]]:
    """After each cycle: USD and seconds of every GPU so far, from prices and time alone."""
    usd: defaultdict[str, float] = defaultdict(float)
    seconds: defaultdict[str, float] = defaultdict(float)
    for cycle in cycles:
        passed = dict.fromkeys((gpu.device.uuid for gpu in cycle.report.snapshot.gpus), 0.0)
        for uuid in passed:
            passed[uuid] = cycle.seconds
            if cycle is cycles[0] and cycle.terms.booted_at is not None:
                passed[uuid] += cycle.snapshot.wall_time - cycle.terms.booted_at
        for uuid, time in passed.items():
            seconds[uuid] += time
            price = cycle.report.prices[uuid].usd_per_hour
            usd[uuid] += 0.0 if price is None else price / HOUR_SECONDS * time
        yield dict(usd), dict(seconds), cycle


# --- 1. Conservation ----------------------------------------------------------------------------


@law
@given(worlds())
def test_the_states_of_each_gpu_sum_to_the_integral_of_its_price(world: World) -> None:
    for usd, seconds, cycle in bills(run(world)):
        accounts = cycle.report.ledger.gpus
        assert accounts.keys() == usd.keys()
        for uuid, gpu in accounts.items():
            assert close(dollars(gpu.account), usd[uuid])
            assert close(math.fsum(gpu.account.seconds.values()), seconds[uuid])


@law
@given(worlds())
def test_holders_and_node_add_up_to_the_bill_and_the_imbalance_says_so(world: World) -> None:
    for usd, _, cycle in bills(run(world)):
        ledger = cycle.report.ledger
        waiting = (
            account
            for seat, tenure in ledger.tenures.items()
            if seat.holder != NODE
            for account in tenure.pending.values()
        )
        charged = math.fsum(
            (
                dollars(ledger.node),
                ledger.settled_usd,
                *(dollars(held.account) for held in ledger.pods.values()),
                *map(dollars, waiting),
            )
        )
        bill = math.fsum(usd.values())
        assert close(charged, bill)
        assert close(ledger.billed_usd, bill)
        assert abs(imbalance_usd(ledger)) <= 1e-9 * max(1.0, bill)


@law
@given(worlds())
def test_an_account_that_is_lost_shows_as_imbalance(world: World) -> None:
    ledger = run(world)[-1].report.ledger
    for payer, held in ledger.pods.items():
        if (lost := dollars(held.account)) > 1e-6:
            rest = {key: kept for key, kept in ledger.pods.items() if key != payer}
            assert close(imbalance_usd(replace(ledger, pods=rest)), lost + imbalance_usd(ledger))


# --- 2. Unknown is not idle, and not free -------------------------------------------------------


@law
@given(worlds())
def test_unknown_is_never_idle_never_free_and_never_work(world: World) -> None:
    for cycle in run(world):
        for usage in cycle.report.usages:
            states = {rate.state for rate in usage.rates}
            held = usage.share.holder is not None
            assert bool(states & {State.UNALLOCATED, State.STRANDED, State.UNATTRIBUTED}) <= (
                not held
            )
            if held and usage.activity is None:
                assert not states & {State.IDLE, State.USED, State.UNDERUSED}
            if cycle.snapshot.holdings is None or cycle.snapshot.holdings.unresolved:
                assert State.UNALLOCATED not in states


@law_of_pages
@given(worlds())
def test_an_unpriced_gpu_is_counted_in_seconds_and_never_in_zero_dollars(world: World) -> None:
    ever_priced: set[str] = set()
    for cycle in run(world):
        report = cycle.report
        ever_priced |= {
            uuid for uuid, price in report.prices.items() if price.usd_per_hour is not None
        }
        samples = page(report)
        for name, labels in samples:
            uuid = dict(labels).get("uuid")
            if name == "gpucost_gpu_cost_usd_total":
                assert uuid in ever_priced
            if name == "gpucost_gpu_price_usd_per_hour":
                assert report.prices[str(uuid)].usd_per_hour is not None
        if not ever_priced:
            assert not any("_cost_usd" in name for name, _ in samples)
        unpriced = sum(price.usd_per_hour is None for price in report.prices.values())
        [shown] = [value for (name, _), value in samples.items() if name == "gpucost_unpriced_gpus"]
        assert shown == unpriced
        assert ("unpriced" in {problem.kind for problem in report.problems}) == bool(unpriced)


# --- 3. Shares sum to 1 -------------------------------------------------------------------------


@law_of_pages
@given(worlds())
def test_the_shares_of_every_gpu_sum_to_1_and_are_published_so(world: World) -> None:
    for cycle in run(world):
        report = cycle.report
        sums: defaultdict[str, list[float]] = defaultdict(list)
        for usage in report.usages:
            assert 0 <= usage.share.ratio <= 1
            assert close(math.fsum(rate.gpus for rate in usage.rates), usage.share.ratio)
            assert all(rate.gpus >= 0 for rate in usage.rates)
            sums[usage.share.gpu_uuid].append(usage.share.ratio)
        assert sums.keys() == {gpu.device.uuid for gpu in report.snapshot.gpus}
        published: defaultdict[str, list[float]] = defaultdict(list)
        for (name, labels), value in page(report).items():
            if name == "gpucost_pod_gpu_share_ratio":
                published[dict(labels)["uuid"]].append(value)
        for found in (sums, published):
            assert all(abs(math.fsum(ratios) - 1) < 1e-9 for ratios in found.values())
        assert published.keys() == sums.keys()


# --- 4. Slicing does not matter -----------------------------------------------------------------


def totals(ledger: Ledger) -> dict[tuple[object, ...], float]:
    """Everything that was charged, by whom and what for, whether its labels are known or not."""
    found: defaultdict[tuple[object, ...], float] = defaultdict(float)

    def add(account: Account, *who: object) -> None:
        for state in State:
            found[*who, state, "s"] += account.seconds.get(state, 0.0)
            found[*who, state, "usd"] += (account.usd or {}).get(state, 0.0)

    for uuid, gpu in ledger.gpus.items():
        add(gpu.account, uuid)
    add(ledger.node, "node")
    for payer, held in ledger.pods.items():
        add(held.account, payer.holder, payer.gpu_model)
    for seat, tenure in ledger.tenures.items():
        for month, waiting in tenure.pending.items():
            add(waiting, month)
            if seat.holder != NODE:
                add(waiting, seat.holder, seat.gpu_model)
    for workload, account in ledger.months.items():
        add(account, workload.month)
    return found


@law
@given(worlds(linger_seconds=86_400.0, most_steps=6))
def test_ten_cycles_of_a_second_charge_what_one_of_ten_seconds_does(world: World) -> None:
    # A threshold in time (a cold start's end) may fall into the ten seconds: it is put out of
    # their reach, as nothing else may depend on how time is sliced.
    world = replace(world, config=replace(world.config, starting_max_seconds=86_400.0))
    last = run(world)[-1]
    at = last.snapshot.wall_time
    once = advance(last.report, replace(last.snapshot, wall_time=at + 10), 10.0, last.terms)
    sliced = last.report
    for second in range(1, 11):
        snapshot = replace(last.snapshot, wall_time=at + second)
        sliced = advance(sliced, snapshot, 1.0, last.terms)
    whole, parts = totals(once.ledger), totals(sliced.ledger)
    for key in whole.keys() | parts.keys():
        assert math.isclose(whole[key], parts[key], rel_tol=1e-9, abs_tol=1e-6), key
    assert close(once.ledger.billed_usd, sliced.ledger.billed_usd)


# --- 5. Counters --------------------------------------------------------------------------------


@law_of_pages
@given(worlds())
def test_counters_never_fall_from_one_page_to_the_next(world: World) -> None:
    for before, after in pairwise([counters(page(cycle.report)) for cycle in run(world)]):
        for key, value in after.items():
            if key[0] not in SERIES_OF_SOURCES:
                assert value >= before.get(key, 0.0), key


@law_of_pages
@given(worlds())
def test_a_new_counter_is_shown_at_0_for_two_scrape_intervals(world: World) -> None:
    first_shown: dict[Series, float] = {}
    for cycle in run(world):
        clock = cycle.report.ledger.clock_seconds
        shown = {
            key: value
            for key, value in counters(page(cycle.report)).items()
            if key[0] != "gpucost_gpu_energy_joules_total"
        }
        first_shown = {key: first_shown.get(key, clock) for key in shown}
        for key, value in shown.items():
            if clock - first_shown[key] < 2 * cycle.terms.config.scrape_interval_seconds - 1e-6:
                assert value == 0, key


@law_of_pages
@given(worlds())
def test_what_was_counted_shows_after_two_scrape_intervals(world: World) -> None:
    last = run(world)[-1]
    hold = 2 * last.terms.config.scrape_interval_seconds
    at = replace(last.snapshot, wall_time=last.snapshot.wall_time + hold)
    shown_once = advance(last.report, at, 0.0, last.terms)
    later = replace(
        shown_once,
        ledger=replace(shown_once.ledger, clock_seconds=shown_once.ledger.clock_seconds + hold),
    )
    assert counters(page(later)) == counters(page(later, reveal=True))


@law_of_pages
@given(worlds())
def test_all_states_of_a_subject_come_together(world: World) -> None:
    for cycle in run(world):
        states: defaultdict[Series, set[str]] = defaultdict(set)
        for name, labels in counters(page(cycle.report)):
            if (state := dict(labels).get("state")) is not None:
                subject = tuple(pair for pair in labels if pair[0] != "state")
                states[name, subject].add(state)
        of_holders = set(cycle.report.holder_states)
        for (name, subject), found in states.items():
            if name.startswith("gpucost_gpu_"):
                assert found == set(State)
            elif name.startswith("gpucost_pod_") or dict(subject)["namespace"]:
                assert found == of_holders
            else:
                assert found == set(NODE_STATES)


@law_of_pages
@given(worlds(deeds=CALM - {"recreate", "end"}, linger_seconds=86_400.0))
def test_counters_keep_their_labels_for_life(world: World) -> None:
    found: defaultdict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for cycle in run(world):
        for payer in cycle.report.ledger.pods:
            holder = (payer.holder.namespace, payer.holder.pod, payer.holder.container)
            found[*holder, payer.gpu_model].add(
                (payer.workload, payer.workload_kind, payer.team, payer.capacity_type)
            )
        for name, labels in counters(page(cycle.report)):
            if name.startswith("gpucost_gpu_") and name not in SERIES_OF_SOURCES:
                its = dict(labels)
                found["gpu", its["uuid"]].add((its["gpu"], its["gpu_model"], its["capacity_type"]))
    assert all(len(labels) == 1 for labels in found.values())


@law
@given(worlds())
def test_labels_settle_within_their_wait_and_one_cycle(world: World) -> None:
    for before, cycle in pairwise(run(world)):
        clock = before.report.ledger.clock_seconds
        for seat, tenure in cycle.report.ledger.tenures.items():
            if clock - tenure.opened_at >= cycle.terms.config.labels_wait_seconds:
                assert tenure.payer is not None, seat
        for gpu in cycle.report.ledger.gpus.values():
            if clock - gpu.opened_at >= cycle.terms.config.labels_wait_seconds:
                assert gpu.labels is not None


@law_of_pages
@given(worlds())
def test_gauges_of_an_ended_holder_go_at_once_and_its_counters_linger(world: World) -> None:
    last_held: dict[tuple[str, str, str], float] = {}
    for cycle in run(world):
        report = cycle.report
        clock = report.ledger.clock_seconds
        now = {usage.share.holder for usage in report.usages if usage.share.holder is not None}
        holding = {(holder.namespace, holder.pod, holder.container) for holder in now}
        shown: defaultdict[str, set[tuple[str, str, str]]] = defaultdict(set)
        for name, labels in page(report):
            its = dict(labels)
            if name.startswith("gpucost_pod_") and its.get("pod") and "container" in its:
                kind = FAMILIES[name].type
                shown[kind].add((its["namespace"], its["pod"], its["container"]))
        assert shown["gauge"] <= holding
        for holder in shown["counter"] & holding:
            last_held[holder] = clock
        for holder, at in last_held.items():
            if clock - at < cycle.terms.config.linger_seconds:
                assert holder in shown["counter"], holder


# --- Months, and what pages agree on ------------------------------------------------------------


def months_of(until: float, seconds: float) -> dict[str, float]:
    """The seconds of a stretch by calendar month in UTC, worked out from the months' starts."""
    found: dict[str, float] = {}
    start = until - seconds
    day = datetime.fromtimestamp(start, UTC)
    year, month = day.year, day.month
    while True:
        begin = datetime(year, month, 1, tzinfo=UTC).timestamp()
        following = (year + month // 12, month % 12 + 1)
        end = datetime(*following, 1, tzinfo=UTC).timestamp()
        if begin >= until:
            return found
        if (inside := min(until, end) - max(start, begin)) > 0:
            found[f"{year:04}-{month:02}"] = inside
        year, month = following


@law
@given(worlds(provisioning=False))
def test_every_month_that_is_shown_adds_up_to_its_bill(world: World) -> None:
    bill: defaultdict[str, float] = defaultdict(float)
    for cycle in run(world):
        report = cycle.report
        per_second = math.fsum(
            price.usd_per_hour / HOUR_SECONDS
            for price in report.prices.values()
            if price.usd_per_hour is not None
        )
        for month, seconds in months_of(cycle.snapshot.wall_time, cycle.seconds).items():
            bill[month] += seconds * per_second
        shown: defaultdict[str, float] = defaultdict(float)
        for workload, account in report.ledger.months.items():
            shown[workload.month] += dollars(account)
        for tenure in report.ledger.tenures.values():
            for month, account in tenure.pending.items():
                shown[month] += dollars(account)
        for month, usd in shown.items():
            assert math.isclose(usd, bill[month], rel_tol=1e-9, abs_tol=1e-4), month
        month = datetime.fromtimestamp(cycle.snapshot.wall_time, UTC).strftime("%Y-%m")
        assert report.month == month


@law_of_pages
@given(worlds(deeds=CALM))
def test_revealed_pages_add_up_over_gpus_pods_and_workloads(world: World) -> None:
    report = run(world)[-1].report
    sums: defaultdict[str, list[float]] = defaultdict(list)
    for (name, _), value in page(report, reveal=True).items():
        sums[name].append(value)
    ledger = report.ledger
    shown = [gpu.account for gpu in ledger.gpus.values() if gpu.labels is not None]
    gpu_seconds = math.fsum(second for it in shown for second in it.seconds.values())
    assert close(math.fsum(sums["gpucost_gpu_cost_usd_total"]), math.fsum(map(dollars, shown)))
    assert close(math.fsum(sums["gpucost_gpu_seconds_total"]), gpu_seconds)
    pods = math.fsum(dollars(held.account) for held in ledger.pods.values())
    assert close(math.fsum(sums["gpucost_pod_cost_usd_total"]), pods)
    months = math.fsum(map(dollars, ledger.months.values()))
    assert close(math.fsum(sums["gpucost_workload_cost_usd_total"]), months)
    per_hour = math.fsum(
        (rate.usd_per_second or 0.0) * HOUR_SECONDS
        for usage in report.usages
        if usage.paid_by.holder != NODE and _is_labelled(report, usage.paid_by)
        for rate in usage.rates
    )
    assert close(math.fsum(sums["gpucost_pod_cost_usd_per_hour"]), per_hour)


def _is_labelled(report: Report, seat: Seat) -> bool:
    return report.ledger.tenures[seat].payer is not None


# --- The page itself ----------------------------------------------------------------------------


@law_of_pages
@given(worlds())
def test_every_sample_is_a_finite_number_under_the_labels_of_the_catalogue(world: World) -> None:
    for cycle in run(world):
        report = cycle.report
        for metric in families(report, version="0"):
            for sample in metric.samples:
                family = FAMILIES[sample.name]
                assert metric.type == family.type
                assert metric.documentation == family.help
                assert math.isfinite(sample.value), sample
                assert sample.labels["node"] == report.snapshot.node.name
                if not family.open_labels:
                    assert sample.labels.keys() == {"node", *family.labels}
                assert all(isinstance(value, str) for value in sample.labels.values())
        # Read back, it says the same, whatever is in the names.
        shown = page(report)
        for metric in families(report, version="0"):
            for sample in metric.samples:
                if metric.name == "gpucost_build_info":
                    continue
                assert (sample.name, tuple(sorted(sample.labels.items()))) in shown
