"""Where one way to serve gets cheaper than another: laws, sums by hand, and what is printed."""

from __future__ import annotations

import json
from datetime import date
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gpucost.advice.breakeven.choose import apis_of
from gpucost.advice.breakeven.cross import compared, cost
from gpucost.advice.breakeven.demand import Demand, Replica, Tokens
from gpucost.advice.breakeven.ways import (
    Api,
    ApiPrice,
    Dedicated,
    ScaledToZero,
    Serverless,
    ServerlessPrice,
    api_notes,
    api_prices,
    serverless_notes,
    serverless_prices,
)
from gpucost.advice.breakeven.week import WeekError, week_of
from gpucost.advice.histories import History, Hour
from gpucost.cli import main
from gpucost.facts_files import shipped_facts
from gpucost.pricing.price_list import Source

if TYPE_CHECKING:
    from pathlib import Path

    from gpucost.advice.breakeven.ways import Way

TOKENS = Tokens(1000, 300, 400)
REPLICA = Replica("L4", 1, 2.0, 4.0)
"""Two seconds for a lone request, four requests a second at full load."""

TODAY = date(2026, 11, 28)


def demand(*hours: float) -> Demand:
    return Demand(hours, TOKENS, REPLICA)


DEDICATED = Dedicated("dedicated", 1.0, 0.8)
TO_ZERO = ScaledToZero("scaled to zero", 1.0, 0.8, 60.0, 300.0)
PRICE = ApiPrice("cloud", "model", 2.0, 8.0, 0.5, 0.5)


# --- What each costs, by hand -------------------------------------------------------------------


def test_dedicated_replicas_are_there_for_the_busiest_hour() -> None:
    # 3.2 requests a second are what one is given.
    assert DEDICATED.hourly(demand(0.1, 3.2)) == 1.0
    assert DEDICATED.hourly(demand(0.1, 3.3)) == 2.0


def test_scaled_to_zero_pays_starts_and_waits_of_rare_requests() -> None:
    rate = 1e-5  # a lone request: its two seconds, 300 of waiting, 60 of starting
    assert TO_ZERO.hourly(demand(rate)) == pytest.approx(rate * 362.0, rel=0.01)


def test_and_what_the_work_needs_of_many() -> None:
    assert TO_ZERO.hourly(demand(32.0)) == pytest.approx(10.0)


@given(st.floats(1.0, 1e3))
def test_at_a_rate_that_does_not_change_scaling_saves_nothing(rate: float) -> None:
    """Replicas of one's own are whole, and under load the first one never sleeps."""
    assert TO_ZERO.hourly(demand(rate)) == pytest.approx(DEDICATED.hourly(demand(rate)))


def test_steps_of_whole_replicas_are_no_crossings() -> None:
    """Serverless seconds at 1.5 times the price: each next replica is dearer until it is used."""
    way = Serverless("serverless", ServerlessPrice("cloud", "L4", 1.5 / 3600), 0.0)
    [only] = compared([DEDICATED, way], demand(1.0)).crossings
    assert (only.before, only.after) == ("serverless", "dedicated")


@given(st.floats(1e-7, 1e3))
def test_a_single_replica_is_never_up_for_more_than_all_of_the_time(rate: float) -> None:
    to_zero = replace(TO_ZERO, cold_start_seconds=0.0)
    assert to_zero.hourly(demand(rate)) <= DEDICATED.hourly(demand(rate)) + 1e-9


def test_serverless_seconds_are_counted_up_and_have_a_least() -> None:
    rate = 1e-6
    price = ServerlessPrice("cloud", "L4", 0.001, 60.0, 60.0, 95.7)
    way = Serverless("serverless", price, 5.0)
    # A lone request is up for 95.7 + 2 + 5 s: two minutes are paid.
    assert way.hourly(demand(rate)) == pytest.approx(rate * 120 * 3600 * 0.001, rel=1e-3)
    least = replace(way, price=replace(price, granularity_seconds=1.0, minimum_seconds=300.0))
    assert least.hourly(demand(rate)) == pytest.approx(rate * 300 * 3600 * 0.001, rel=1e-3)


def test_serverless_under_load_costs_its_seconds() -> None:
    way = Serverless("serverless", ServerlessPrice("cloud", "L4", 0.001), 0.0)
    assert way.hourly(demand(40.0)) == pytest.approx(10 * 3.6)


def test_an_api_takes_cached_tokens_and_batches_at_their_discounts() -> None:
    # 600 x 2 + 400 x 0.5 + 300 x 8, a millionth each; half of the requests at half price.
    assert PRICE.usd_per_request(TOKENS) == pytest.approx(3800e-6)
    assert PRICE.usd_per_request(TOKENS, 0.5) == pytest.approx(3800e-6 * 0.75)
    way = Api("api", PRICE, TOKENS, 0.0)
    assert way.hourly(demand(1.0, 3.0)) == pytest.approx(2 * 3600 * 3800e-6)


def test_without_a_price_of_its_own_a_cached_token_costs_as_much_as_another() -> None:
    full = replace(PRICE, cached_input=None, batch_discount=None)
    assert full.usd_per_request(TOKENS, 1.0) == pytest.approx((1000 * 2 + 300 * 8) / 1e6)
    assert api_notes(full, TOKENS, 1.0, TODAY) == (
        "its day is not known",
        "cached tokens at full price: it has none for them",
        "no discount of batches is known",
    )


# --- Laws ----------------------------------------------------------------------------------------

RATES = st.floats(1e-6, 1e3)


@given(RATES, st.floats(1.01, 10))
def test_more_requests_never_cost_less(rate: float, more: float) -> None:
    serverless = Serverless("serverless", ServerlessPrice("cloud", "L4", 0.001, 1.0), 5.0)
    for way in (DEDICATED, serverless, Api("api", PRICE, TOKENS, 0.3)):
        assert way.hourly(demand(rate * more)) >= way.hourly(demand(rate)) * (1 - 1e-9)


@given(st.lists(st.just(0.0) | st.floats(1e-6, 50), min_size=1), st.floats(0.01, 100))
def test_a_week_at_another_mean_is_the_same_week(hours: list[float], mean: float) -> None:
    week = demand(*hours)
    other = week.at(mean)
    assert other.mean == pytest.approx(mean)
    if week.mean:
        assert other.peak / other.mean == pytest.approx(week.peak / week.mean)


@given(RATES)
def test_the_cheapest_comes_first_and_requests_a_dollar_are_the_inverse(rate: float) -> None:
    outcome = compared([DEDICATED, TO_ZERO, Api("api", PRICE, TOKENS, 0.0)], demand(rate))
    months = [it.usd_per_month for it in outcome.costs]
    assert months == sorted(months)
    for it in outcome.costs:
        assert it.usd_per_request is not None
        assert it.requests_per_usd == pytest.approx(1 / it.usd_per_request)


@given(st.floats(0.01, 10.0))
def test_at_a_crossing_both_cost_the_same_and_around_it_each_is_the_cheaper(rate: float) -> None:
    ways: list[Way] = [DEDICATED, Api("api", PRICE, TOKENS, 0.0)]
    outcome = compared(ways, demand(rate))
    crossing = outcome.crossings[0]
    assert (crossing.before, crossing.after) == ("api", "dedicated")
    # 1 USD an hour is 263 requests of 3.8 thousandths.
    assert crossing.requests_per_second == pytest.approx(1 / 3600 / 3800e-6, rel=2e-3)
    assert outcome.dedicated_from == {"api": pytest.approx(crossing.requests_per_second, rel=2e-3)}


def test_ways_that_never_cross_say_so() -> None:
    cheap = Api("api", replace(PRICE, input=1e-6, cached_input=1e-6, output=1e-6), TOKENS, 0.0)
    outcome = compared([DEDICATED, cheap], demand(1.0))
    assert outcome.crossings == ()
    assert outcome.dedicated_from == {"api": None}


def test_no_requests_have_no_cost_each() -> None:
    nothing = cost(DEDICATED, demand(0.0, 0.0))
    assert nothing.usd_per_request is None
    assert nothing.requests_per_usd == 0.0


def test_a_replica_is_up_as_long_as_requests_that_come_at_random_keep_it() -> None:
    """The closed form against requests that come one by one."""
    chance = Random(1)  # noqa: S311 - a simulation, the same every time
    rate, arrivals = 1 / 400, 200_000
    stay = REPLICA.seconds + TO_ZERO.idle_seconds
    at = paid = until = ready = 0.0
    for _ in range(arrivals):
        at += chance.expovariate(rate)
        if at > until:
            until, ready = at, at + TO_ZERO.cold_start_seconds
        ends = max(at, ready) + stay
        paid += max(0.0, ends - until)
        until = max(until, ends)
    assert TO_ZERO.hourly(demand(rate)) == pytest.approx(paid / at, rel=0.01)


@given(st.floats(1e-7, 1e3), st.floats(0, 600), st.floats(0, 600))
def test_no_replica_is_paid_for_more_than_all_of_the_time(
    rate: float, cold: float, least: float
) -> None:
    price = ServerlessPrice("cloud", "L4", 0.001, 60.0, least, cold)
    full = max(1.0, rate / REPLICA.requests_per_second) * 3.6
    assert Serverless("serverless", price, 5.0).hourly(demand(rate)) <= full * (1 + 1e-9)


# --- The tables ----------------------------------------------------------------------------------


def test_shipped_prices_are_figures_of_their_kind() -> None:
    for api in api_prices(shipped_facts()):
        assert 0 < api.input <= api.output, api.model
        assert api.cached_input is None or api.cached_input < api.input
        assert api.batch_discount is None or 0 < api.batch_discount < 1
    for it in serverless_prices(shipped_facts()):
        assert 1e-5 < it.usd_per_second < 0.01, it.provider


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (
            "Llama-3.1-8B",
            {"meta.llama3-1-8b-instruct-v1:0", "llama-v3p1-8b-instruct"},
        ),
        ("Qwen3-30B-A3B", {"qwen3-30b-a3b"}),
        ("Llama-3.1", set()),
    ],
)
def test_a_model_is_found_however_an_api_spells_it(model: str, found: set[str]) -> None:
    rows = apis_of(api_prices(shipped_facts()), model)
    assert {row.model for row in rows} == found


SOURCE = Source("page", "2026-07-01", "cloud.example/prices")


def test_rows_that_are_old_or_say_too_little_say_so() -> None:
    price = ServerlessPrice("cloud", "L4", 0.001, covers="gpu", sources=(SOURCE,))
    assert serverless_notes(price, TODAY) == (
        "stale: 150 days old",
        "source of 2026-07-01: cloud.example/prices",
        "its cold start is not known and not in it",
        "processors and memory are billed besides",
    )


# --- A week that is not whole --------------------------------------------------------------------

HOUR = Hour(
    0.0,
    requests_per_second=2.0,
    input_per_second=1000.0,
    output_per_second=400.0,
    running=6.0,
    replicas=2.0,
    gpus=2.0,
    usd_per_second=0.001,
)


def history(*hours: Hour) -> History:
    return History(("", "ns", "chat"), "m", "vllm", "L4", hours)


def test_hours_that_are_not_known_are_left_out_and_said() -> None:
    week = week_of(history(HOUR, Hour(1.0), replace(HOUR, requests_per_second=4.0)), 3)
    assert week.demand.hours == (2.0, 4.0)
    assert any(it.startswith("1 of 3 hours are not known") for it in week.remarks)
    assert any("less than a week" in it for it in week.remarks)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("requests_per_second", "no request of it was counted"),
        ("running", "how many of its requests run at once is not known: give --seconds"),
        ("gpus", "which GPUs it held is not known"),
        ("usd_per_second", "what it cost is not known"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(missing: str, said: str) -> None:
    with pytest.raises(WeekError, match=said):
        week_of(history(replace(HOUR, **{missing: None})), 1)


def test_requests_and_replicas_that_no_hour_has_together_are_named() -> None:
    asked, ran = replace(HOUR, replicas=None), replace(HOUR, requests_per_second=None)
    with pytest.raises(WeekError, match="no hour has both its requests and its replicas"):
        week_of(history(asked, ran), 2, seconds=3.0)


def test_an_engine_that_counts_no_tokens_leaves_apis_out_alone() -> None:
    week = week_of(history(replace(HOUR, input_per_second=None, output_per_second=None)), 1)
    assert week.demand.tokens is None
    assert week.demand.replica.seconds == 3.0


def test_seconds_that_are_given_stand_in_for_those_that_nobody_measured() -> None:
    week = week_of(history(replace(HOUR, running=None)), 1, 1.5)
    assert week.demand.replica.seconds == 1.5


# --- The command ----------------------------------------------------------------------------------

FLAGS = ("breakeven", "--gpu-model", "L4", "--price", "L4=0.7")


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> Any:  # noqa: ANN401 - JSON
    assert main([*FLAGS, *flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(
        capsys, "--requests-per-day", "86400", "--seconds", "2", "--at-once", "8",
        "--input-tokens", "1000", "--output-tokens", "300", "--api", "openai/gpt-4o-mini",
    )  # fmt: skip
    ways = {it["name"]: it for it in found["ways"]}
    assert ways["dedicated"]["usd_per_month"] == pytest.approx(0.7 * 730)
    # 1000 x 0.15 + 300 x 0.6, a millionth each.
    each = ways["API openai gpt-4o-mini"]["usd_per_request"]
    assert each == pytest.approx(330e-6)
    assert ways["API openai gpt-4o-mini"]["requests_per_usd"] == pytest.approx(1 / 330e-6)
    assert {it["kind"] for it in found["ways"]} == {
        "dedicated", "scale_to_zero", "serverless", "api",
    }  # fmt: skip
    assert found["replica"]["requests_per_second_at_full_load"] == 4.0


def test_seconds_are_estimated_of_a_known_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(
        capsys, "--requests-per-second", "1", "--model", "meta-llama/Llama-3.1-8B-Instruct",
        "--input-tokens", "500", "--output-tokens", "100",
    )  # fmt: skip
    assert 3 < found["replica"]["seconds"] < 10
    assert any(it["name"].startswith("API bedrock meta.llama3-1-8b") for it in found["ways"])


def test_ones_own_rows_stand_beside_the_shipped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(
        "gpucost facts 1\ntable api\nsource offer 2026-11-20 a letter\n"
        "us ours offer input=0.1 output=0.2\ntable serverless\n"
        "us L4 offer usd_per_second=0.0001 cold_start_seconds=5\nend 2\n"
    )
    found = run(
        capsys, "--requests-per-second", "1", "--seconds", "1", "--input-tokens", "10",
        "--output-tokens", "10", "--api", "us/*", "--facts", str(mine),
    )  # fmt: skip
    names = [it["name"] for it in found["ways"]]
    assert "API us ours" in names
    assert "serverless us" in names


def test_what_is_printed_has_crossings_and_a_picture(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    html = tmp_path / "page.html"
    flags = (
        "--requests-per-second", "0.01", "--seconds", "2", "--at-once", "8", "--input-tokens",
        "1000", "--output-tokens", "300", "--api", "openai/gpt-4o", "--html", str(html),
    )  # fmt: skip
    assert main([*FLAGS, *flags]) == 0
    out = capsys.readouterr().out
    assert "36 requests/hour in the mean; 1000 tokens in, 300 out" in out
    assert "Below " in out
    assert "USD/month" in out
    assert "stale: " in out
    page = html.read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    drawn = page.count("<polyline")
    assert drawn == 6
    assert page.count("</polyline>") == drawn
    assert "…" not in page, "something was cut off"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--requests-per-second or --requests-per-day: give one of them"),
        (("--requests-per-second", "1"), "--seconds: how long does a request hold"),
        (("--requests-per-second", "1", "--input-tokens", "5"), "give both"),
        (("--requests-per-second", "1", "--seconds", "1", "--api", "x"), "no row is like x"),
        (
            ("--requests-per-second", "1", "--seconds", "1", "--api", "openai/*"),
            "prices are by token",
        ),
        (("--workload", "a/b"), "--workload: of which --prometheus?"),
        (
            ("--requests-per-second", "1", "--seconds", "1", "--html", "/dev/null/page.html"),
            "/dev/null/page.html: cannot be written: ",
        ),
        (("--workload", "a", "--prometheus", "http://127.0.0.1:9"), "is not NAMESPACE/NAME"),
        (
            (
                "--requests-per-second", "1", "--model", "Llama-3.1-70B", "--input-tokens", "5",
                "--output-tokens", "5",
            ),
            "does not fit on 1 x L4",
        ),
    ],
)  # fmt: skip
def test_flags_that_cannot_be_meant_are_named(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    assert main([*FLAGS, *flags]) == 2
    assert said in capsys.readouterr().err
