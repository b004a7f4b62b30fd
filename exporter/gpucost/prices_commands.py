"""`gpucost prices list | show | refresh | diff | check`. Not imported by anything that serves."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from gpucost import refresh
from gpucost.config import ConfigError
from gpucost.model import Device, GpuReading, Node
from gpucost.prices import PRICES, CatalogueFile, load_models, open_list, shipped
from gpucost.pricing.compare import changes, outliers, types_apart
from gpucost.pricing.explain import explain
from gpucost.pricing.names import index, is_model
from gpucost.pricing.price_list import PriceListError, figure, parse, render
from gpucost.sources.base import SourceError
from gpucost.sources.config_map import ConfigMapKey
from gpucost.sources.kube_api import KubeApi
from gpucost.sources.price_apis.stream import Bounds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from gpucost.config import Prices
    from gpucost.pricing.explain import Explained
    from gpucost.pricing.price_list import PriceList

    Seen = tuple[Sequence[GpuReading], Node, Prices]

API_KEY = "GPUCOST_GCP_API_KEY"
"""In the environment, since arguments are shown to everybody on the machine."""

_EXIT_DIFFERENT = 1
_EXIT_NOT_DONE = 1
_MAX_SPOT_BYTES = 256 << 20
_API_SECONDS = 30.0


def add_to(
    parser: argparse.ArgumentParser,
    common: argparse.ArgumentParser,
    look: Callable[[argparse.Namespace], Seen],
    settings: Callable[[argparse.Namespace], Prices],
) -> None:
    """Add the commands. `look` reads this node; `settings` are the user's prices."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, parents=[common])
        added.set_defaults(run=run)
        return added

    listing = command("list", _list, "the prices of a list, one a line")
    _add_catalogue(listing)
    for name, what in (
        ("provider", "aws, azure, gcp, ..."),
        ("type", "instance type, or a pattern like g6*"),
        ("region", "region or zone, or a pattern"),
        ("gpu-model", "like H100"),
        ("capacity-type", "on_demand, spot or reserved"),
    ):
        listing.add_argument(f"--{name}", default="", help=what)

    show = command(
        "show",
        lambda given: _show(given, look, settings),
        "what this node, or one like the flags, would pay, and why",
    )
    show.add_argument("--type", default="", help="instance type; without it, this node is shown")
    for name in ("region", "zone", "capacity-type", "provider"):
        show.add_argument(f"--{name}", default="", help="of the node with --type")
    show.add_argument("--gpu-model", default="", help="as NVML says; else the type's")
    show.add_argument("--gpus", type=int, default=0, help="how many it shows; else the type's")
    show.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="a label of the node"
    )

    renew = command("refresh", _refresh, "a new list out of one and a cloud's price API")
    renew.add_argument(
        "--provider",
        required=True,
        action="append",
        choices=refresh.PROVIDERS,
        help="may be repeated",
    )
    renew.add_argument("--output", type=Path, metavar="FILE", help="the new list")
    renew.add_argument(
        "--configmap",
        metavar="NAMESPACE/NAME",
        help=f"renew the list in this ConfigMap's key {PRICES} instead",
    )
    renew.add_argument(
        "--base", type=Path, metavar="FILE", help="the list to renew; OUTPUT if there, or shipped"
    )
    renew.add_argument(
        "--region", action="append", default=[], help="only this region; may be repeated"
    )
    renew.add_argument(
        "--spot-history",
        type=Path,
        metavar="FILE",
        help="AWS spot prices, from `aws ec2 describe-spot-price-history --output json`",
    )
    renew.add_argument(
        "--drop-outliers", action="store_true", help="leave prices that stand out as they were"
    )
    renew.add_argument(
        "--timeout", type=float, default=4 * 3600.0, metavar="SECONDS", help="for all of it"
    )
    renew.add_argument(
        "--address",
        action="append",
        default=[],
        metavar="NAME=URL",
        help=f"a mirror of an API: {', '.join(refresh.ADDRESSES)}",
    )

    diff = command("diff", _diff, "what differs between two lists; exit status 1 if anything does")
    diff.add_argument("before", type=Path, metavar="BEFORE")
    diff.add_argument("after", type=Path, metavar="AFTER", nargs="?", help="shipped, if not given")
    diff.add_argument("--at-least", type=float, default=0.0, metavar="PERCENT")

    check = command("check", _check, "prices that stand out from their GPU model's median")
    _add_catalogue(check)


def _add_catalogue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--catalogue", type=Path, metavar="FILE", help="a list; else the shipped")


def _load(path: Path | None) -> PriceList:
    """A whole list. Raises ConfigError for one that cannot be used."""
    try:
        with shipped() if path is None else open_list(path) as lines:
            return parse(lines)
    except PriceListError as error:
        raise ConfigError(f"{path or 'the shipped price list'}: {error}") from error


def _list(given: argparse.Namespace) -> int:
    listed = _load(given.catalogue)
    names = index(load_models())
    print(f"# generated_at {listed.generated_at}; USD an hour for the whole instance")
    for it in listed.types:
        if (
            not _matches(it.provider, given.provider)
            or not _matches(it.name, given.type)
            or (given.gpu_model and not is_model(given.gpu_model, it.gpu_model, names))
        ):
            continue
        count = "?" if it.gpu_count is None else figure(it.gpu_count)
        head = f"{it.provider:<10} {it.name:<34} {count:>5} x {it.gpu_model or '?':<14}"
        shown = [
            (price, place)
            for price in it.prices
            for place in price.places
            if _matches(price.capacity_type, given.capacity_type) and _matches(place, given.region)
        ]
        for price, place in shown:
            day = listed.sources[price.source].day
            usd = f"{price.usd_per_hour:>10.4f}"
            print(f"{head} {price.capacity_type:<9} {place:<20} {usd} {price.source} {day}")
        if not it.prices and not given.region and not given.capacity_type:
            print(f"{head} without a price; {it.source} {listed.sources[it.source].day}")
    return 0


def _matches(value: str, pattern: str) -> bool:
    return not pattern or fnmatchcase(value.casefold(), pattern.casefold())


def _show(
    given: argparse.Namespace,
    look: Callable[[argparse.Namespace], Seen],
    settings: Callable[[argparse.Namespace], Prices],
) -> int:
    gpus: Sequence[GpuReading] = ()
    if given.type:
        node, prices = _described(given), settings(given)
    else:
        gpus, node, prices = look(given)
    file = CatalogueFile()
    catalogue = file.catalogue(node, prices.catalogue_file)
    if file.problem is not None:
        print(f"{file.problem.message} {file.problem.remedy}", file=sys.stderr)
    if given.type and (given.gpus or given.gpu_model):
        count = given.gpus or max(1, round(catalogue.gpu_count or 1))
        model = given.gpu_model or catalogue.gpu_model
        gpus = [GpuReading(Device(f"GPU-{n}", model)) for n in range(count)]
    place = node.zone or node.region or "an unknown region"
    capacity = node.capacity_type or "capacity type not known"
    print(f"{node.instance_type or node.name} in {place}, {capacity}")
    for told in explain(gpus, node, prices, catalogue):
        for line in _explained(told):
            print(line)
    return 0


def _described(given: argparse.Namespace) -> Node:
    """A node like the flags."""
    labels = dict(text.partition("=")[::2] for text in given.label)
    capacity: str = given.capacity_type.replace("-", "_")
    return Node(
        name="described",
        instance_type=given.type,
        region=given.region,
        zone=given.zone,
        capacity_type=capacity,
        provider=given.provider,
        labels=labels,
    )


def _explained(told: Explained) -> Iterator[str]:
    yield f"{told.gpus} x {told.gpu_model or 'GPU of unknown model'}"
    used = False
    for number, step in enumerate(told.steps, start=1):
        if step.price is None:
            yield f"   {number} {step.source:<16} {step.why}"
            continue
        estimated = " (estimated)" if step.price.estimated else ""
        mark = "  " if used else "->"
        usd = f"{step.price.usd_per_hour:.4f} USD/h a GPU{estimated}"
        yield f"{mark} {number} {step.source:<16} {usd}: {step.price.detail}"
        used = True
    if not used:
        yield "-> unpriced: seconds are counted, dollars are not"
    for other in told.alternatives:
        estimated = " (estimated)" if other.estimated else ""
        yield f"   as {other.capacity_type}: {other.usd_per_hour:.4f} USD/h a GPU{estimated}"


def _refresh(given: argparse.Namespace) -> int:
    """Renew provider after provider; one that fails leaves its prices as they were."""
    if (given.output is None) == (given.configmap is None):
        raise ConfigError("give one of --output FILE and --configmap NAMESPACE/NAME.")
    if given.configmap is None:
        return _refresh_file(given, given.output)
    namespace, slash, name = given.configmap.partition("/")
    if not (namespace and slash and name):
        raise ConfigError(f"--configmap: `{given.configmap}` is not NAMESPACE/NAME.")
    api = KubeApi(_API_SECONDS)
    try:
        key = ConfigMapKey(api, namespace, name, PRICES)
        with TemporaryDirectory() as folder:
            file = Path(folder) / PRICES
            if before := key.read():
                file.write_text(before, encoding="utf-8")
            status = _refresh_file(given, file)
            if file.exists() and (after := file.read_text(encoding="utf-8")) != before:
                key.write(after)
    except SourceError as error:
        print(f"gpucost: {error} {error.remedy}", file=sys.stderr)
        return _EXIT_NOT_DONE
    finally:
        api.close()
    return status


def _refresh_file(given: argparse.Namespace, output: Path) -> int:
    base = _load(given.base or (output if output.exists() else None))
    status = 0
    for provider in dict.fromkeys(given.provider):
        if _refresh_one(given, provider, base, output):
            base = _load(output)
        else:
            status = _EXIT_NOT_DONE
    return status


def _refresh_one(given: argparse.Namespace, provider: str, base: PriceList, output: Path) -> bool:
    """Renew one provider's prices; whether that was done."""
    asked = refresh.Asked(
        provider,
        tuple(sorted(set(given.region))),
        None if given.spot_history is None else _read(given.spot_history),
        os.environ.get(API_KEY, ""),
        tuple((name, url) for name, _, url in (it.partition("=") for it in given.address)),
    )
    bounds = Bounds(whole_seconds=given.timeout)
    try:
        journal = refresh.Journal(output.with_name(f".{output.name}.journal"), asked)
        units = refresh.read(base, asked, journal, _progress, bounds)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        new = refresh.merged(base, asked, units, now, drop_outliers=given.drop_outliers)
        refresh.write(output, "".join(f"{line}\n" for line in render(new)))
    except SourceError as error:
        print(f"gpucost: {provider}: {error} {error.remedy}", file=sys.stderr)
        return False
    except refresh.RefusedError as error:
        journal.close()
        print(f"gpucost: refused, nothing was changed: {provider}: {error}", file=sys.stderr)
        return False
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written: {error.strerror}") from error
    journal.close()
    changed = sum(1 for _ in changes(base, new))
    _progress(f"{output}: {refresh.summary(units)} prices read, {changed} changed")
    return True


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_SPOT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > _MAX_SPOT_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_SPOT_BYTES} bytes. Is it the right file?")
    return text


def _diff(given: argparse.Namespace) -> int:
    before, after = _load(given.before), _load(given.after)
    gone, new = types_apart(before, after)
    for sign, names in (("-", gone), ("+", new)):
        for name in names:
            print(f"{sign} {name}")
    different = bool(gone or new)
    for it in changes(before, after):
        row = it.row
        where = f"{row.provider} {row.instance_type} {row.capacity_type} {row.place}"
        if it.before is None and it.after is not None:
            print(f"+ {where} {figure(it.after)}")
        elif it.after is None and it.before is not None:
            print(f"- {where} {figure(it.before)}")
        elif it.before is not None and it.after is not None:
            percent = 100 * (it.after / it.before - 1)
            if abs(percent) < given.at_least:
                continue
            print(f"~ {where} {figure(it.before)} -> {figure(it.after)} ({percent:+.1f} %)")
        different = True
    return _EXIT_DIFFERENT if different else 0


def _check(given: argparse.Namespace) -> int:
    listed = _load(given.catalogue)
    found = outliers(listed)
    for it in found:
        row = it.row
        print(
            f"{row.provider} {row.instance_type} {row.capacity_type} {row.place}:"
            f" {it.usd_per_gpu:g} USD/h a GPU, {it.factor:.0f} times off {it.peers_usd:g}"
        )
    prices = sum(len(price.places) for it in listed.types for price in it.prices)
    print(
        f"{len(listed.types)} instance types, {prices} prices, generated"
        f" {listed.generated_at}: {len(found) or 'none'} of them stand out"
    )
    return _EXIT_DIFFERENT if found else 0
