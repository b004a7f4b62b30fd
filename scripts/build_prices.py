"""Makes the shipped price list from the facts in prices/, and the table of their conflicts.

    build_prices.py            write what changed
    build_prices.py --check    write nothing; exit 1 if something would change

prices/sources.txt   key, day, repository and path; where two differ the one above is taken
prices/types.txt     provider, type, GPU model, GPUs, vCPUs, memory GiB, key of its source
prices/facts/KEY.txt provider, type, capacity type, USD an hour, places: as that source has it
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from gpucost.pricing.places import gathered
from gpucost.pricing.price_list import (
    EVERYWHERE,
    InstanceType,
    PriceList,
    Source,
    figure,
    parse,
    render,
)
from gpucost.sources.price_apis.oci import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
FACTS = ROOT / "prices"
SHIPPED = ROOT / "exporter/gpucost/data/prices.txt"
DOCS = ROOT / "docs/prices.md"
BEGIN = "<!-- conflicts: made by scripts/build_prices.py from prices/ -->"
END = "<!-- end of conflicts -->"

GENERATED_AT = "2026-11-22"
"""The day the facts were put together: change it with them."""

SAME_RATIO = 1e-4
"""Closer figures are one figure, rounded by one of the sources."""

Fact = tuple[str, str, str, str]
"""Provider, type, capacity type and place."""


def words(path: Path) -> Iterator[list[str]]:
    """The words of each line that is no comment."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line.split()


def sources() -> dict[str, Source]:
    """Sources by key, those to believe first."""
    return {
        key: Source(key, day, " ".join(origin))
        for key, day, *origin in words(FACTS / "sources.txt")
    }


def facts(key: str) -> dict[Fact, float]:
    """What a source says."""
    path = FACTS / "facts" / f"{key}.txt"
    if not path.exists():  # a source of types only
        return {}
    said: dict[Fact, float] = {}
    for provider, name, capacity, usd, *places in words(path):
        for place in places:
            fact = (provider, name, capacity, place)
            if fact in said:
                raise ValueError(f"{path}: {' '.join(fact)} is said twice")
            said[fact] = float(usd)
    return said


def types() -> dict[tuple[str, str], InstanceType]:
    """Every known instance type, without prices."""

    def known(text: str) -> float | None:
        return None if text == "?" else float(text)

    return {
        (provider, name): InstanceType(
            provider,
            name,
            "" if model == "?" else model,
            known(gpus),
            known(vcpus),
            known(memory),
            source,
        )
        for provider, name, model, gpus, vcpus, memory, source in words(FACTS / "types.txt")
    }


def oracle(key: str, said: dict[Fact, float], known: dict[tuple[str, str], InstanceType]) -> None:
    """Oracle has one price list for all regions: its API takes no region.

    A shape's price is that of its part number times its GPUs, and what a source has for some
    regions is everywhere's.
    """
    if key == "opencost-oci":
        parts = {name: usd for (_, name, _, _), usd in said.items()}
        said.clear()
        for shape, part in PARTS.items():
            count = known["oci", shape].gpu_count
            if count is not None and f"part:{part}" in parts:
                said["oci", shape, "on_demand", EVERYWHERE] = count * parts[f"part:{part}"]
    elif key == "skypilot-oci":
        by_shape = {(provider, name, it): usd for (provider, name, it, _), usd in said.items()}
        said.clear()
        said.update({(*shape, EVERYWHERE): usd for shape, usd in by_shape.items()})


def build() -> tuple[PriceList, list[str]]:
    """The list, and the rows of the table of conflicts."""
    known, by_key = types(), sources()
    taken: dict[Fact, tuple[float, str]] = {}
    conflicts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key in by_key:
        said = facts(key)
        oracle(key, said, known)
        for fact, usd in sorted(said.items()):
            chosen, chosen_key = taken.setdefault(fact, (usd, key))
            if abs(chosen - usd) > SAME_RATIO * chosen:
                provider, name, capacity, place = fact
                row = (provider, name, capacity, figure(chosen), chosen_key, figure(usd), key)
                conflicts[row].append(place)
    prices: dict[tuple[str, str], dict[tuple[str, str], tuple[float, str]]] = defaultdict(dict)
    for (provider, name, capacity, place), quoted in taken.items():
        prices[provider, name][capacity, place] = quoted
    if unknown := prices.keys() - known.keys():
        raise ValueError(f"not in types.txt: {sorted(unknown)}")
    listed = tuple(
        InstanceType(
            it.provider,
            it.name,
            it.gpu_model,
            it.gpu_count,
            it.vcpus,
            it.memory_gib,
            it.source,
            gathered(prices[key]),
        )
        for key, it in sorted(known.items())
    )
    table = [
        f"| {provider} | `{name}` | {capacity} | {', '.join(places)} | {chosen} ({chosen_key}) |"
        f" {other} ({key}) |"
        for (provider, name, capacity, chosen, chosen_key, other, key), places in sorted(
            conflicts.items()
        )
    ]
    return PriceList(GENERATED_AT, by_key, listed), table


def texts() -> dict[Path, str]:
    """What each generated file must hold."""
    listed, conflicts = build()
    text = "".join(f"{line}\n" for line in render(listed))
    parse(text.splitlines())
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    head = (
        "| provider | type | capacity | places | taken | not taken |",
        "| --- | --- | --- | --- | --- | --- |",
    )
    table = "\n".join((BEGIN, "", *head, *conflicts, "", END))
    return {SHIPPED: text, DOCS: before + table + after}


def main() -> int:
    """Write or check."""
    stale = [
        (path, text)
        for path, text in texts().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        if "--check" in sys.argv:
            print(f"{path.relative_to(ROOT)} is stale: run scripts/build_prices.py")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
