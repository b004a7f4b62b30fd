"""rules/scaling.yaml once more, in Python, for simulations; a test compares the two.

What is not known is None.
"""

from __future__ import annotations

import math

from msgspec import Struct

SLACK = 1e-6
"""What floats may be off before a whole replica comes of it."""


class Law(Struct, frozen=True):
    """The settings of a target. Prices in USD."""

    up_ratio: float = 0.7
    down_ratio: float = 0.3
    requests_per_replica: float | None = None
    usd_per_request: float | None = None
    usd_per_hour: float | None = None
    min_replicas: int = 0
    max_replicas: int = 10


class Seen(Struct, frozen=True):
    """What Prometheus knows of the service now.

    `activity` is the mean of its ready replicas' GPUs; it and `requests` are means of a minute.
    `offered` is the highest five-minute rate of half an hour in requests a second.
    """

    replicas: int
    ready: int
    awake: bool
    requests: float | None = None
    activity: float | None = None
    offered: float | None = None
    replica_usd_per_hour: float | None = None


def load(law: Law, seen: Seen) -> float | None:
    """In full replicas."""
    if law.requests_per_replica is not None:
        return None if seen.requests is None else seen.requests / law.requests_per_replica
    if not seen.ready:
        return 0.0
    return None if seen.activity is None else seen.activity * seen.ready


def need(law: Law, seen: Seen) -> int | None:
    """What the load needs: what is there, while the load is between the thresholds."""
    now = load(law, seen)
    if now is None:
        return None
    band = seen.replicas
    if now > seen.replicas * law.up_ratio or now < seen.replicas * law.down_ratio:
        band = math.ceil(2 * now / (law.up_ratio + law.down_ratio) - SLACK)
    return max(band, int(seen.awake))


def affordable(law: Law, seen: Seen) -> int | None:
    """What the traffic pays for; None: no cap."""
    now, price = load(law, seen), seen.replica_usd_per_hour
    if law.usd_per_request is None or seen.offered is None or price is None:
        return None
    paid = math.floor(3600 * seen.offered * law.usd_per_request / price + SLACK)
    full = law.down_ratio if seen.replicas > paid else law.up_ratio
    return paid + 1 if now is not None and now > paid * full else paid


def budget(law: Law, seen: Seen) -> int | None:
    """What the hourly budget allows; None: no cap."""
    if law.usd_per_hour is None:
        return None
    if seen.replica_usd_per_hour is None:
        return max(seen.replicas, 1)
    return math.floor(law.usd_per_hour / seen.replica_usd_per_hour + SLACK)


def formula(law: Law, seen: Seen) -> int | None:
    """What KEDA makes of the three; None: its fallback."""
    needed = need(law, seen)
    if needed is None:
        return None
    caps = [cap for cap in (affordable(law, seen), budget(law, seen)) if cap is not None]
    return min([needed, *([max(min(caps), int(seen.awake))] if caps else [])])


def desired(law: Law, seen: Seen) -> int | None:
    """With the hard limits, which KEDA and the HPA keep."""
    wanted = formula(law, seen)
    return None if wanted is None else max(law.min_replicas, min(wanted, law.max_replicas))
