"""What is asked for: requests by the hour, and what one needs. Pure."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace


class Tokens(Struct, frozen=True):
    """Of a mean request. `cached` are those of `input` that a prefix cache holds."""

    input: float
    output: float
    cached: float = 0.0

    @property
    def whole(self) -> float:
        """Prompt and answer."""
        return self.input + self.output


class Replica(Struct, frozen=True):
    """What serves: a lone request takes `seconds`, and at full load it serves so many a second.

    `gpus` may be a part of one.
    """

    gpu_model: str
    gpus: float
    seconds: float
    requests_per_second: float


class Demand(Struct, frozen=True):
    """Mean requests a second of each hour that is known; hours differ, or there is only one."""

    hours: tuple[float, ...]
    tokens: Tokens | None
    replica: Replica

    @property
    def mean(self) -> float:
        """Requests a second."""
        return sum(self.hours) / len(self.hours)

    @property
    def peak(self) -> float:
        """Of the busiest hour."""
        return max(self.hours)

    def at(self, mean: float) -> Demand:
        """The same week with so many requests a second in the mean."""
        if not self.mean:
            return replace(self, hours=tuple(mean for _ in self.hours))
        factor = mean / self.mean
        return replace(self, hours=tuple(rate * factor for rate in self.hours))
