"""The ways to serve, and what an hour of each costs. Pure.

Requests come at random (Poisson) within an hour. A replica that stays for `idle` seconds after its
last request is then up for 1 - exp(-rate x (seconds + idle)) of the time, and starts rate x
exp(-rate x (seconds + idle)) times a second: the busy periods of a queue with no waiting (M/G/inf).
Under load, as many are up as the work needs.
"""

from __future__ import annotations

from math import ceil, exp
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.sizing.facts import stale, typed

if TYPE_CHECKING:
    from datetime import date

    from gpucost.advice.breakeven.demand import Demand, Replica, Tokens
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
    days: tuple[str, ...] = ()

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
    days: tuple[str, ...] = ()


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
        up = 0.0
        for rate in demand.hours:
            paid = _up(rate, demand.replica, self.idle_seconds, self.headroom)
            starts = _starts(rate, demand.replica, self.idle_seconds)
            up += paid + starts * self.cold_start_seconds
        return up / len(demand.hours) * self.usd_per_hour


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
        cold = price.cold_start_seconds or 0.0
        alone = cold + replica.seconds + self.idle_seconds
        counted = alone
        if price.granularity_seconds:
            counted = ceil(alone / price.granularity_seconds - 1e-9) * price.granularity_seconds
        counted = max(counted, price.minimum_seconds or 0.0)
        up = 0.0
        for rate in demand.hours:
            starts = _starts(rate, replica, self.idle_seconds)
            up += _up(rate, replica, self.idle_seconds, 1.0) + starts * (cold + counted - alone)
        return up / len(demand.hours) * 3600 * price.usd_per_second * replica.gpus


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


def _up(rate: float, replica: Replica, idle_seconds: float, headroom: float) -> float:
    """Replicas that are up in the mean: as the work needs, or as stay for who may come."""
    needed = rate / (replica.requests_per_second * headroom)
    return max(needed, 1 - exp(-rate * (replica.seconds + idle_seconds)))


def _starts(rate: float, replica: Replica, idle_seconds: float) -> float:
    """Cold starts a second."""
    return rate * exp(-rate * (replica.seconds + idle_seconds))


def serverless_notes(price: ServerlessPrice, today: date) -> tuple[str, ...]:
    """What to know of a row."""
    notes = [stale(price.days, today, STALE_DAYS)]
    if price.cold_start_seconds is None:
        notes.append("its cold start is not known and not in it")
    if price.covers == "gpu":
        notes.append("processors and memory are billed besides")
    return tuple(filter(None, notes))


def api_notes(price: ApiPrice, tokens: Tokens, batch_part: float, today: date) -> tuple[str, ...]:
    """What to know of a row."""
    notes = [stale(price.days, today, STALE_DAYS)]
    if tokens.cached and price.cached_input is None:
        notes.append("cached tokens at full price: it has none for them")
    if batch_part and price.batch_discount is None:
        notes.append("no discount of batches is known")
    if price.context is not None and tokens.whole > price.context:
        notes.append(f"takes no more than {price.context:,.0f} tokens")
    if price.retires:
        notes.append(f"retires on {price.retires}")
    return tuple(filter(None, notes))
