"""The flags that commands share: a model, machines with a price, and tables of facts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gpucost.config import ConfigError
from gpucost.facts_files import facts_of
from gpucost.prices import load_models, open_list, shipped
from gpucost.pricing.names import index, is_model, plain
from gpucost.pricing.price_list import CAPACITY_TYPES, EVERYWHERE, PriceListError, parse
from gpucost.sizing.config_json import shape_of_config
from gpucost.sizing.engines import DEFAULT_ENGINE, ENGINES, engine_named
from gpucost.sizing.facts import FactsError
from gpucost.sizing.gpus import GpuSpeed, gpu_speeds
from gpucost.sizing.offers import Offer, Wanted, by_model, offers, own_offers
from gpucost.sizing.precision import PRECISIONS, Precision, published
from gpucost.sizing.shapes import (
    ModelShape,
    ShapeError,
    find_shape,
    known_shapes,
    shape_of_parameters,
)

if TYPE_CHECKING:
    from gpucost.sizing.facts import Facts

_MAX_CONFIG_BYTES = 1 << 20
_SIZES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add what names a model and how its weights are kept."""
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--model", default="", metavar="NAME", help="a known one, or its config.json's path"
    )
    group.add_argument(
        "--parameters", type=size, metavar="N", help="like 7B, where it is not known"
    )
    group.add_argument(
        "--active-parameters",
        type=size,
        metavar="N",
        help="of a mixture of experts, of each token",
    )
    group.add_argument(
        "--precision",
        choices=sorted(PRECISIONS),
        help="of weights (default: as the model is published, or bf16)",
    )


def add_machines(parser: argparse.ArgumentParser) -> None:
    """Add which machines are looked at, at which prices, and tables of one's own."""
    group = parser.add_argument_group("machines")
    group.add_argument("--capacity-type", choices=CAPACITY_TYPES, default="on_demand")
    group.add_argument("--region", default="", help="region or zone, or a pattern like us-*")
    group.add_argument("--provider", default="", help="aws, azure, gcp, ...")
    group.add_argument("--gpu-model", default="", help="like H100; else every model with a price")
    group.add_argument(
        "--price",
        action="append",
        default=[],
        type=_price,
        metavar="MODEL=USD",
        help="your own price of a GPU-hour, in place of any list; may be repeated",
    )
    group.add_argument("--catalogue", type=Path, metavar="FILE", help="a price list; else shipped")
    group.add_argument(
        "--facts",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="figures of your own, which go before the shipped ones; may be repeated",
    )


def add_engine(group: argparse._ArgumentGroup) -> None:
    """Add the inference engine."""
    group.add_argument(
        "--engine", type=_engine, default=DEFAULT_ENGINE, help=f"{', '.join(ENGINES)}, or like one"
    )


def facts(given: argparse.Namespace) -> Facts:
    """The shipped tables and the person's own. Raises ConfigError."""
    try:
        return facts_of(given.facts)
    except FactsError as error:
        raise ConfigError(f"--facts: {error}") from error


def gpus(known: Facts) -> dict[str, GpuSpeed]:
    """The speeds in them, by GPU model. Raises ConfigError."""
    try:
        return gpu_speeds(known, load_models())
    except FactsError as error:
        raise ConfigError(f"--facts: {error}") from error


def gpu_id(name: str) -> str:
    """A GPU's id in tables by any of its names; the name itself where it is not known."""
    by_name = index(load_models())
    by_id = {plain(model.id): model.id for model in load_models()}
    return by_id.get(by_name.get(plain(name), ""), name)


def machines(given: argparse.Namespace) -> dict[str, list[Offer]]:
    """Machines with a price, by GPU model. Raises ConfigError."""
    names = index(load_models())
    if given.price:
        known = {model.id for model in load_models()}
        prices = {}
        for stated, price in given.price:
            models = [it for it in known if is_model(stated, it, names)]
            if len(models) != 1:
                raise ConfigError(
                    f"--price: `{stated}` is {'no known GPU' if not models else 'more than one'}:"
                    f" {', '.join(sorted(models or known))}."
                )
            prices[models[0]] = price
        found = own_offers(prices)
    else:
        wanted = Wanted(given.capacity_type, given.region, given.provider)
        try:
            with shipped() if given.catalogue is None else open_list(given.catalogue) as lines:
                found = offers(parse(lines), wanted)
        except PriceListError as error:
            raise ConfigError(f"{given.catalogue or 'the shipped price list'}: {error}") from error
    if given.gpu_model:
        found = [it for it in found if is_model(given.gpu_model, it.gpu_model, names)]
    if not found:
        raise ConfigError(
            "no machine of this kind has a price: loosen --gpu-model, --region, --provider or"
            " --capacity-type, or give --price. `gpucost prices list` shows what there is."
        )
    if given.region and all(it.place == EVERYWHERE for it in found):
        sys.stderr.write(
            f"gpucost: --region: no list names `{given.region}`; these are prices that are the same"
            " everywhere.\n"
        )
    return by_model(found)


def model(given: argparse.Namespace, known: Facts) -> ModelShape:
    """The model of the flags. Raises ConfigError."""
    if bool(given.model) == (given.parameters is not None):
        raise ConfigError("--model or --parameters: give one of them.")
    if given.active_parameters is not None and given.parameters is None:
        raise ConfigError("--active-parameters: only with --parameters.")
    if given.parameters is not None:
        if given.active_parameters is not None and given.active_parameters > given.parameters:
            raise ConfigError("--active-parameters: more than --parameters.")
        return shape_of_parameters(given.parameters, given.active_parameters)
    try:
        return _named(given.model, known)
    except (ShapeError, FactsError) as error:
        raise ConfigError(f"--model: {error}") from error


def precision(given: argparse.Namespace, of: ModelShape) -> Precision:
    """The precision of the flags, or what the model's weights are published in."""
    return PRECISIONS[given.precision] if given.precision else published(of)


def _named(name: str, tables: Facts) -> ModelShape:
    """A model by its config.json, the folder of that, or its name. Raises ShapeError."""
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    if path.is_file():
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_CONFIG_BYTES + 1)
        except OSError as error:
            raise ShapeError(f"{path} cannot be read: {error.strerror}.") from error
        if len(text) > _MAX_CONFIG_BYTES:
            raise ShapeError(f"{path} is too large for a config.json.")
        return shape_of_config(str(path), text)
    shapes = known_shapes(tables)
    shape = find_shape(name, shapes)
    if shape is None:
        raise ShapeError(
            f"`{name}` is neither a file nor a known model. Give its config.json, or --parameters."
            f" Known: {', '.join(sorted(shapes))}."
        )
    return shape


def size(text: str) -> float:
    """A number as people write sizes."""
    number, unit = (text[:-1], text[-1:].casefold()) if text[-1:].isalpha() else (text, "")
    try:
        value = float(number) * _SIZES[unit] if unit else float(number)
    except (ValueError, KeyError):
        value = 0.0
    if not 1 <= value <= 1e17:  # noqa: PLR2004 - far beyond any model or corpus
        raise argparse.ArgumentTypeError(f"`{text}` is no number like 7B, 1.5T or 8000000000")
    return value


def positive(text: str) -> float:
    """Above 0."""
    value = none_or_more(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def none_or_more(text: str) -> float:
    """0 or above."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e9:  # noqa: PLR2004 - beyond any request, rate or time
        raise argparse.ArgumentTypeError(f"`{text}` is no number from 0 to a thousand million")
    return value


def part(text: str) -> float:
    """A part of a whole."""
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError("must be a part: above 0, at most 1")
    return value


def part_or_none(text: str) -> float:
    """A part of a whole, or 0."""
    value = none_or_more(text)
    if value > 1:
        raise argparse.ArgumentTypeError("must be a part: from 0 to 1")
    return value


def whole(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not 1 <= int(text) <= 10_000_000:  # noqa: PLR2004 - as above
        raise argparse.ArgumentTypeError(f"`{text}` is no whole number from 1")
    return int(text)


def _price(text: str) -> tuple[str, float]:
    model, equals, price = text.partition("=")
    if not (model and equals):
        raise argparse.ArgumentTypeError(f"`{text}` is not MODEL=USD")
    return model, positive(price)


def _engine(text: str) -> str:
    engine = engine_named(text)
    if engine is None:
        names = (name for it in ENGINES.values() for name in (it.name, *it.also))
        raise argparse.ArgumentTypeError(f"`{text}` is none of {', '.join(names)}")
    return engine.name


def print_json(document: object) -> None:
    """Write it to standard output, to be read by people too."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    sys.stdout.flush()
