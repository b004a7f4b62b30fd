"""A price list as text: one block an instance type, so that a change of price is a line of a diff.

    gpucost price list 1
    generated_at 2026-11-22
    source karpenter-aws 2026-07-20 aws/karpenter-provider-aws pkg/providers/pricing/zz_generated...
    aws p5.48xlarge H100-80GB 8 192 2048 karpenter-aws
     on_demand 55.04 karpenter-aws us-east-1
     spot 12.3456 skypilot-aws eu-north-1 us-west-2
    end 1

A block's first line is provider, type, GPU model, GPUs (a fraction where a type has a part of
one), vCPUs, memory in GiB, and where that is known from; `?` is not known. Its other lines are
capacity type, USD an hour for the whole instance, source, and the places it is for: regions, zones,
AWS's Local Zones, or `*` for everywhere. A day written `<2026-07-20` is the latest it can be.
The last line counts the blocks: a list that was cut off is refused. Reading is line by line, so
that a node keeps its own type's block and nothing else. Pure.
"""

from __future__ import annotations

import math
from datetime import date
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

FIRST_LINE = "gpucost price list 1"
EVERYWHERE = "*"
CAPACITY_TYPES = ("on_demand", "spot", "reserved")

_UNKNOWN = "?"
_MAX_USD = 1e5
_MAX_LINE = 16_384


class PriceListError(ValueError):
    """A price list cannot be used. The message names the line and what is wrong with it."""


class Source(Struct, frozen=True):
    """Where figures are from. `day` is when they were right, or with `<` before it at the latest.

    `origin` is a repository and path, or an address.
    """

    key: str
    day: str
    origin: str


class ListPrice(Struct, frozen=True):
    """USD an hour for the whole instance, in these places, by this source's key."""

    capacity_type: str
    usd_per_hour: float
    source: str
    places: tuple[str, ...]


class InstanceType(Struct, frozen=True):
    """What is known of an instance type. None, and an empty model, are not known."""

    provider: str
    name: str
    gpu_model: str = ""
    gpu_count: float | None = None
    vcpus: float | None = None
    memory_gib: float | None = None
    source: str = ""
    prices: tuple[ListPrice, ...] = ()


class PriceList(Struct, frozen=True):
    """A whole list: sources by key, types in the order of provider and name."""

    generated_at: str
    sources: Mapping[str, Source]
    types: tuple[InstanceType, ...]


def parse(lines: Iterable[str]) -> PriceList:
    """Read a whole list. Raises PriceListError."""
    return _read(lines, lambda _provider, _name: True)


def find(lines: Iterable[str], wanted: Callable[[str, str], bool]) -> PriceList:
    """Read a list and keep the types that are `wanted(provider, name)`.

    Every line is looked at, kept or not. Raises PriceListError.
    """
    return _read(lines, wanted)


def render(listed: PriceList) -> Iterator[str]:
    """The list as lines without line ends: sorted, so that the same facts give the same text."""
    yield FIRST_LINE
    yield f"generated_at {listed.generated_at}"
    used = {it.source for it in listed.types}
    used |= {price.source for it in listed.types for price in it.prices}
    for key in sorted(used):
        source = listed.sources[key]
        yield f"source {key} {source.day} {source.origin}"
    for it in sorted(listed.types, key=lambda it: (it.provider, it.name)):
        figures = (it.gpu_count, it.vcpus, it.memory_gib)
        told = " ".join(_UNKNOWN if known is None else figure(known) for known in figures)
        yield f"{it.provider} {it.name} {it.gpu_model or _UNKNOWN} {told} {it.source}"
        for price in sorted(it.prices, key=in_order):
            places = " ".join(sorted(price.places))
            yield f" {price.capacity_type} {figure(price.usd_per_hour)} {price.source} {places}"
    yield f"end {len(listed.types)}"


def figure(value: float) -> str:
    """A number as it is written in a list: exact, and without a needless `.0`."""
    return repr(float(value)).removesuffix(".0")


def in_order(price: ListPrice) -> tuple[int, float, str, tuple[str, ...]]:
    """Sorts the lines of a block."""
    return (
        CAPACITY_TYPES.index(price.capacity_type),
        price.usd_per_hour,
        price.source,
        price.places,
    )


def day_of(source_day: str) -> date | None:
    """The day, or the latest that it can be; None for an empty text."""
    text = source_day.removeprefix("<")
    return date.fromisoformat(text) if text else None


class _Reader:
    """The list read so far."""

    def __init__(self, wanted: Callable[[str, str], bool]) -> None:
        self.wanted = wanted
        self.generated_at = ""
        self.sources: dict[str, Source] = {}
        self.types: list[InstanceType] = []
        self.count = 0
        self.ended = False
        self._last = ("", "")
        self._kept: InstanceType | None = None
        self._prices: list[ListPrice] = []
        self._said: set[tuple[str, str]] = set()

    def line(self, text: str) -> None:
        """Take one line. Raises ValueError without its number."""
        if len(text) > _MAX_LINE:
            raise ValueError(f"longer than {_MAX_LINE} characters")
        if self.ended:
            raise ValueError("something follows the last line")
        if text.startswith(" "):
            self._price(text.split())
            return
        words = text.split()
        if not words:
            raise ValueError("an empty line")
        if words[0] == "generated_at" and not self.generated_at:
            (_, self.generated_at) = words
            date.fromisoformat(self.generated_at[:10])
        elif words[0] == "source" and not self.count:
            self._source(words)
        elif words[0] == "end":
            self._end(words)
        else:
            self._type(words)

    def _source(self, words: list[str]) -> None:
        _, key, day, *origin = words
        if key in self.sources:
            raise ValueError(f"source {key} is there twice")
        day_of(day)
        self.sources[key] = Source(key, day, " ".join(origin))

    def _type(self, words: list[str]) -> None:
        provider, name, model, count, vcpus, memory, source = words
        if not self.generated_at:
            raise ValueError("no generated_at before the first instance type")
        if (provider, name) <= self._last:
            raise ValueError(f"{provider} {name} does not follow {' '.join(self._last)}")
        self._close()
        self._last = (provider, name)
        self._said = set()
        self.count += 1
        described = InstanceType(
            provider,
            name,
            gpu_model="" if model == _UNKNOWN else model,
            gpu_count=_known(count),
            vcpus=_known(vcpus),
            memory_gib=_known(memory),
            source=self._known_source(source),
        )
        self._kept = described if self.wanted(provider, name) else None

    def _price(self, words: list[str]) -> None:
        if not self.count:
            raise ValueError("a price before the first instance type")
        capacity, usd_text, source, *places = words
        if capacity not in CAPACITY_TYPES:
            raise ValueError(f"{capacity} is none of {', '.join(CAPACITY_TYPES)}")
        usd = float(usd_text)
        if not 0 < usd <= _MAX_USD:
            raise ValueError(f"{usd_text} is no price")
        if not places:
            raise ValueError("a price of no place")
        for place in places:
            if (capacity, place) in self._said:
                raise ValueError(f"{capacity} in {place} has two prices")
            self._said.add((capacity, place))
        if self._kept is not None:
            price = ListPrice(capacity, usd, self._known_source(source), tuple(places))
            self._prices.append(price)
        else:
            self._known_source(source)

    def _known_source(self, key: str) -> str:
        if key not in self.sources:
            raise ValueError(f"no source {key}")
        return key

    def _end(self, words: list[str]) -> None:
        _, count = words
        if int(count) != self.count:
            raise ValueError(f"{count} instance types, of which {self.count} are there")
        self._close()
        self.ended = True

    def _close(self) -> None:
        if self._kept is not None:
            self.types.append(replace(self._kept, prices=tuple(self._prices)))
        self._kept, self._prices = None, []


def _known(text: str) -> float | None:
    if text == _UNKNOWN:
        return None
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(f"{text} is no count")
    return value


def _read(lines: Iterable[str], wanted: Callable[[str, str], bool]) -> PriceList:
    reader = _Reader(wanted)
    number = 0
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\n")
        if number == 1:
            if text != FIRST_LINE:
                raise PriceListError(f"line 1: not `{FIRST_LINE}`. Is it a price list?")
            continue
        try:
            reader.line(text)
        except ValueError as error:
            raise PriceListError(f"line {number}: {text[:80]!r}: {error}") from error
    if not reader.ended:
        raise PriceListError(f"cut off after line {number}: the last line must be `end`.")
    return PriceList(reader.generated_at, reader.sources, tuple(reader.types))
