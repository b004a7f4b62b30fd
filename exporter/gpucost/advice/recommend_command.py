"""`gpucost recommend inference | training`: which GPUs a model needs, and what they cost."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gpucost.advice import recommend_words
from gpucost.config import ConfigError
from gpucost.facts_files import facts_of
from gpucost.prices import load_models, open_list, shipped
from gpucost.pricing.names import index, is_model
from gpucost.pricing.price_list import CAPACITY_TYPES, PriceListError, parse
from gpucost.sizing.engines import DEFAULT_ENGINE, ENGINES, engine_named
from gpucost.sizing.facts import FactsError
from gpucost.sizing.gpus import GpuSpeed, gpu_speeds
from gpucost.sizing.inference import Request
from gpucost.sizing.offers import Offer, Wanted, by_model, offers, own_offers
from gpucost.sizing.precision import PRECISIONS
from gpucost.sizing.recommend import (
    HEADROOM,
    Ask,
    TrainingAsk,
    recommend_serving,
    recommend_training,
)
from gpucost.sizing.shapes import (
    ModelShape,
    ShapeError,
    find_shape,
    known_shapes,
    shape_of_config,
    shape_of_parameters,
)
from gpucost.sizing.training import TRAINERS, Job

if TYPE_CHECKING:
    from gpucost.sizing.facts import Facts

_MAX_CONFIG_BYTES = 1 << 20
_SIZES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_DEFAULT_INPUT = 512.0
_DEFAULT_OUTPUT = 256.0


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the two kinds of work."""
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    common = argparse.ArgumentParser(add_help=False)
    _add_model(common)
    _add_offers(common)
    text = "serving a language model"
    inference = kinds.add_parser("inference", help=text, description=text, parents=[common])
    inference.set_defaults(run=_inference)
    _add_inference(inference)
    text = "training or fine-tuning one"
    training = kinds.add_parser("training", help=text, description=text, parents=[common])
    training.set_defaults(run=_training)
    _add_training(training)


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--model", default="", metavar="NAME", help="a known one, or its config.json's path"
    )
    group.add_argument(
        "--parameters", type=_size, metavar="N", help="like 7B, where it is not known"
    )
    group.add_argument(
        "--active-parameters",
        type=_size,
        metavar="N",
        help="of a mixture of experts, of each token",
    )
    group.add_argument("--precision", choices=sorted(PRECISIONS), default="bf16", help="of weights")


def _add_offers(parser: argparse.ArgumentParser) -> None:
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
    group.add_argument(
        "--top", type=_whole, default=12, metavar="N", help="rows shown (default 12)"
    )
    group.add_argument("--json", action="store_true", help="all of it, as JSON")


def _add_inference(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the work")
    group.add_argument("--requests-per-second", type=_positive, metavar="N")
    group.add_argument(
        "--batch", type=_positive, metavar="N", help="requests in flight, in place of a rate"
    )
    group.add_argument("--input-tokens", type=_positive, default=_DEFAULT_INPUT, metavar="N")
    group.add_argument("--output-tokens", type=_positive, default=_DEFAULT_OUTPUT, metavar="N")
    group.add_argument(
        "--cached-tokens", type=_none_or_more, default=0.0, metavar="N",
        help="of a prompt's, found in the prefix cache",
    )  # fmt: skip
    group.add_argument(
        "--context", type=_positive, metavar="N", help="the longest request's tokens"
    )
    group.add_argument(
        "--ttft-ms", type=_positive, metavar="MS", help="target of the time to the first token"
    )
    group.add_argument("--itl-ms", type=_positive, metavar="MS", help="target between two tokens")
    group.add_argument(
        "--engine", type=_engine, default=DEFAULT_ENGINE, help=f"{', '.join(ENGINES)}, or like one"
    )
    group.add_argument(
        "--tensor-parallel", type=_whole, metavar="N", help="only this many GPUs a replica"
    )
    group.add_argument("--headroom", type=_part, default=HEADROOM, metavar="PART",
        help=f"of a replica's best rate that it is given (default {HEADROOM})")  # fmt: skip
    group.add_argument("--no-mig", action="store_true", help="whole GPUs only")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the work")
    group.add_argument("--method", choices=("full", "lora"), default="full")
    group.add_argument("--sequence-length", type=_whole, default=4096, metavar="N")
    group.add_argument(
        "--batch", type=_whole, metavar="N", help="sequences of a step, over all GPUs"
    )
    group.add_argument("--tokens", type=_size, metavar="N", help="of the whole run, like 10B")
    group.add_argument("--days", type=_positive, metavar="N", help="in which it must be done")
    group.add_argument("--trainer", choices=sorted(TRAINERS), default="fsdp")
    group.add_argument("--keep-activations", action="store_true", help="no checkpointing of them")


def _inference(given: argparse.Namespace) -> int:
    if given.requests_per_second is not None and given.batch is not None:
        raise ConfigError("--requests-per-second and --batch: give one of them.")
    if given.cached_tokens > given.input_tokens:
        raise ConfigError("--cached-tokens: more than --input-tokens.")
    facts = _facts(given)
    request = Request(given.input_tokens, given.output_tokens, given.cached_tokens)
    longest = request.input_tokens + request.output_tokens
    if given.context is not None and given.context < longest:
        raise ConfigError(f"--context: less than the mean request's {longest:g} tokens.")
    ask = Ask(
        _model(given, facts),
        PRECISIONS[given.precision],
        ENGINES[given.engine],
        request,
        given.context or longest,
        requests_per_second=given.requests_per_second,
        in_flight=given.batch,
        first_token_seconds=None if given.ttft_ms is None else given.ttft_ms / 1e3,
        between_tokens_seconds=None if given.itl_ms is None else given.itl_ms / 1e3,
        headroom=given.headroom,
        tensor_parallel=given.tensor_parallel,
    )
    gpus, offered = _gpus(facts), _offers(given)
    found = recommend_serving(ask, gpus, offered, mig=not given.no_mig)
    today = datetime.now(UTC).date()
    if given.json:
        return _print_json(recommend_words.serving_json(ask, found))
    sys.stdout.write(recommend_words.serving(ask, found, top=given.top, today=today))
    return 0 if found.fits or found.shared else 1


def _training(given: argparse.Namespace) -> int:
    if given.days is not None and given.tokens is None:
        raise ConfigError("--days: of how many --tokens?")
    facts = _facts(given)
    job = Job(
        _model(given, facts),
        PRECISIONS[given.precision],
        given.method,
        given.sequence_length,
        checkpointed=not given.keep_activations,
    )
    ask = TrainingAsk(
        job, TRAINERS[given.trainer], tokens=given.tokens, days=given.days, sequences=given.batch
    )
    found = recommend_training(ask, _gpus(facts), _offers(given))
    today = datetime.now(UTC).date()
    if given.json:
        return _print_json(recommend_words.training_json(ask, found))
    sys.stdout.write(recommend_words.training(ask, found, top=given.top, today=today))
    return 0 if found.fits else 1


def _print_json(document: object) -> int:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    sys.stdout.flush()
    return 0


def _facts(given: argparse.Namespace) -> Facts:
    try:
        return facts_of(given.facts)
    except FactsError as error:
        raise ConfigError(f"--facts: {error}") from error


def _gpus(facts: Facts) -> dict[str, GpuSpeed]:
    try:
        return gpu_speeds(facts, load_models())
    except FactsError as error:
        raise ConfigError(f"--facts: {error}") from error


def _offers(given: argparse.Namespace) -> dict[str, list[Offer]]:
    """Machines by GPU model. Raises ConfigError."""
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
    return by_model(found)


def _model(given: argparse.Namespace, facts: Facts) -> ModelShape:
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
        return _named(given.model, facts)
    except (ShapeError, FactsError) as error:
        raise ConfigError(f"--model: {error}") from error


def _named(name: str, facts: Facts) -> ModelShape:
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
    known = known_shapes(facts)
    shape = find_shape(name, known)
    if shape is None:
        raise ShapeError(
            f"`{name}` is neither a file nor a known model. Give its config.json, or --parameters."
            f" Known: {', '.join(sorted(known))}."
        )
    return shape


def _size(text: str) -> float:
    number, unit = (text[:-1], text[-1:].casefold()) if text[-1:].isalpha() else (text, "")
    try:
        value = float(number) * _SIZES[unit] if unit else float(number)
    except (ValueError, KeyError):
        value = 0.0
    if not 1 <= value <= 1e17:  # noqa: PLR2004 - far beyond any model or corpus
        raise argparse.ArgumentTypeError(f"`{text}` is no number like 7B, 1.5T or 8000000000")
    return value


def _positive(text: str) -> float:
    value = _none_or_more(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _none_or_more(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e9:  # noqa: PLR2004 - beyond any request, rate or time
        raise argparse.ArgumentTypeError(f"`{text}` is no number from 0 to a thousand million")
    return value


def _part(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError("must be a part: above 0, at most 1")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000_000:  # noqa: PLR2004 - as above
        raise argparse.ArgumentTypeError(f"`{text}` is no whole number from 1")
    return int(text)


def _price(text: str) -> tuple[str, float]:
    model, equals, price = text.partition("=")
    if not (model and equals):
        raise argparse.ArgumentTypeError(f"`{text}` is not MODEL=USD")
    return model, _positive(price)


def _engine(text: str) -> str:
    engine = engine_named(text)
    if engine is None:
        names = (name for it in ENGINES.values() for name in (it.name, *it.also))
        raise argparse.ArgumentTypeError(f"`{text}` is none of {', '.join(names)}")
    return engine.name
