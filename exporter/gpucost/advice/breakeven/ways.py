"""The ways to serve, and what an hour of each costs. Pure.

Requests come at random (Poisson) within an hour. A replica that is there for a lone request for
`whole` seconds, its start and its waiting for another included, and that each further request keeps
for `stay` seconds, is up for 1 - 1 / (rate x (whole - stay) + exp(rate x stay)) of the time: busy
and idle periods of a queue in which nobody waits (M/G/inf), the first request of one being longer.
Under load, as many are up as the work needs: an autoscaler's are whole ones, a provider's come and
go by the second.
"""

from __future__ import annotations

from math import ceil, exp
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.pricing.price_list import Source  # noqa: TC001 - msgspec reads it
from gpucost.sizing.facts import NO_DAY, stale, typed

if TYPE_CHECKING:
    from datetime import date

    from gpucost.advice.breakeven.demand import Demand, Tokens
    from gpucost.sizing.facts import Facts

STALE_DAYS = 90
"""Prices of APIs and of serverless GPUs change several times a year."""


class ApiPrice(Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens. None is no price of its own."""

    provider: str
    model: str
    input: float
    output: float
    cached_input: float | None = None
    batch_discount: float | None = None
    context: float | None = None
    retires: str = ""
    sources: tuple[Source, ...] = ()

    def usd_per_request(self, tokens: Tokens, batch_part: float = 0.0) -> float:
        """Of a mean request, this part of which can wait for a batch."""
        cached = self.input if self.cached_input is None else self.cached_input
        usd = (
            (tokens.input - tokens.cached) * self.input
            + tokens.cached * cached
            + tokens.output * self.output
        ) / 1e6
        return usd * (1 - batch_part * (self.batch_discount or 0.0))


class ServerlessPrice(Struct, frozen=True, forbid_unknown_fields=True):
    """A serverless GPU: USD a second while it is up, and how seconds are counted.

    `covers` is `gpu` where processors and memory are billed besides. None is not known.
    """

    provider: str
    gpu_model: str
    usd_per_second: float
    granularity_seconds: float | None = None
    minimum_seconds: float | None = None
    cold_start_seconds: float | None = None
    covers: str = ""
    sources: tuple[Source, ...] = ()


def api_prices(facts: Facts) -> list[ApiPrice]:
    """Every row. Raises FactsError."""
    return list(typed(facts, "api", ApiPrice, "provider", "model").values())


def serverless_prices(facts: Facts) -> list[ServerlessPrice]:
    """Every row. Raises FactsError."""
    return list(typed(facts, "serverless", ServerlessPrice, "provider", "gpu_model").values())


class Dedicated(Struct, frozen=True):
    """Replicas for the busiest hour, always on."""

    name: str
    usd_per_hour: float
    headroom: float
    notes: tuple[str, ...] = ()
    kind: str = "dedicated"

    def replicas(self, demand: Demand) -> int:
        """How many there are."""
        each = demand.replica.requests_per_second * self.headroom
        return max(1, ceil(demand.peak / each - 1e-9))

    def hourly(self, demand: Demand) -> float:
        """USD an hour, over all hours."""
        return self.replicas(demand) * self.usd_per_hour


class ScaledToZero(Struct, frozen=True):
    """Own replicas that come with the requests and leave `idle_seconds` after the last."""

    name: str
    usd_per_hour: float
    headroom: float
    cold_start_seconds: float
    idle_seconds: float
    notes: tuple[str, ...] = ()
    kind: str = "scale_to_zero"

    def hourly(self, demand: Demand) -> float:
        """USD an hour, over all hours."""
        stay = demand.replica.seconds + self.idle_seconds
        whole = self.cold_start_seconds + stay
        each = demand.replica.requests_per_second * self.headroom
        up = (max(_replicas(rate / each), _there(rate, stay, whole)) for rate in demand.hours)
        return sum(up) / len(demand.hours) * self.usd_per_hour


class Serverless(Struct, frozen=True):
    """A provider's replicas, by the second. An unknown cold start is left out, and said."""

    name: str
    price: ServerlessPrice
    idle_seconds: float
    notes: tuple[str, ...] = ()
    kind: str = "serverless"

    def hourly(self, demand: Demand) -> float:
        """USD an hour, over all hours."""
        price, replica = self.price, demand.replica
        stay = replica.seconds + self.idle_seconds
        whole = (price.cold_start_seconds or 0.0) + stay
        if price.granularity_seconds:
            whole = ceil(whole / price.granularity_seconds - 1e-9) * price.granularity_seconds
        whole = max(whole, price.minimum_seconds or 0.0)
        each = replica.requests_per_second
        up = (max(rate / each, _there(rate, stay, whole)) for rate in demand.hours)
        seconds = 3600 * sum(up) / len(demand.hours)
        return seconds * price.usd_per_second * replica.gpus


class Api(Struct, frozen=True):
    """Tokens of somebody else's model."""

    name: str
    price: ApiPrice
    tokens: Tokens
    batch_part: float
    notes: tuple[str, ...] = ()
    kind: str = "api"

    def hourly(self, demand: Demand) -> float:
        """USD an hour, over all hours."""
        return demand.mean * 3600 * self.price.usd_per_request(self.tokens, self.batch_part)


Way = Dedicated | ScaledToZero | Serverless | Api


def _replicas(needed: float) -> float:
    """Whole ones, from the second on; one alone is there as long as it is needed."""
    return float(ceil(needed - 1e-9)) if needed > 1 else needed


_CERTAIN = 50.0
"""With so many requests to a stay, a replica is never without one."""


def _there(rate: float, stay: float, whole: float) -> float:
    """The part of the time that one replica is up, as the head of this file has it."""
    if rate * stay > _CERTAIN:
        return 1.0
    return 1 - 1 / (rate * (whole - stay) + exp(rate * stay))


def serverless_notes(price: ServerlessPrice, today: date) -> tuple[str, ...]:
    """What to know of a row."""
    return _notes(
        price.sources,
        today,
        (price.cold_start_seconds is None, "its cold start is not known and not in it"),
        (price.covers == "gpu", "processors and memory are billed besides"),
    )


def api_notes(price: ApiPrice, tokens: Tokens, batch_part: float, today: date) -> tuple[str, ...]:
    """What to know of a row."""
    small = price.context is not None and tokens.whole > price.context
    return _notes(
        price.sources,
        today,
        (
            tokens.cached and price.cached_input is None,
            "cached tokens at full price: it has none for them",
        ),
        (batch_part and price.batch_discount is None, "no discount of batches is known"),
        (small, f"takes no more than {price.context or 0:,.0f} tokens"),
        (price.retires, f"retires on {price.retires}"),
    )


def _notes(sources: tuple[Source, ...], today: date, *more: tuple[object, str]) -> tuple[str, ...]:
    """How old a row is and whose word, and of the rest what is so."""
    said = (f"source{'' if it.day == NO_DAY else f' of {it.day}'}: {it.origin}" for it in sources)
    rest = (words for is_so, words in more if is_so)
    return tuple(filter(None, (stale(sources, today, STALE_DAYS), *said, *rest)))
