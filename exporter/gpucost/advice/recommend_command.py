"""`gpucost recommend inference | training`: which GPUs a model needs, and what they cost."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.advice import connection, flags, histories, recommend_words
from gpucost.advice.calibrate import calibrated
from gpucost.config import ConfigError
from gpucost.sizing.engines import ENGINES
from gpucost.sizing.inference import Request
from gpucost.sizing.recommend_serving import HEADROOM, Ask, recommend_serving
from gpucost.sizing.recommend_training import TrainingAsk, recommend_training
from gpucost.sizing.shapes import known_shapes
from gpucost.sizing.training import TRAINERS, Job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.advice.calibrate import Calibration
    from gpucost.sizing.facts import Facts
    from gpucost.sizing.gpus import GpuSpeed

_DEFAULT_INPUT = 512.0
_DEFAULT_OUTPUT = 256.0


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the two kinds of work."""
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    common = argparse.ArgumentParser(add_help=False)
    flags.add_model(common)
    flags.add_machines(common)
    group = common.add_argument_group("output")
    group.add_argument(
        "--top", type=flags.whole, default=12, metavar="N", help="rows shown (default 12)"
    )
    group.add_argument("--json", action="store_true", help="all of it, as JSON")
    text = "serving a language model"
    inference = kinds.add_parser("inference", help=text, description=text, parents=[common])
    inference.set_defaults(run=_inference)
    _add_inference(inference)
    text = "training or fine-tuning one"
    training = kinds.add_parser("training", help=text, description=text, parents=[common])
    training.set_defaults(run=_training)
    _add_training(training)


def _add_inference(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the work")
    group.add_argument("--requests-per-second", type=flags.positive, metavar="N")
    group.add_argument(
        "--batch", type=flags.positive, metavar="N", help="requests in flight, in place of a rate"
    )
    group.add_argument("--input-tokens", type=flags.positive, default=_DEFAULT_INPUT, metavar="N")
    group.add_argument("--output-tokens", type=flags.positive, default=_DEFAULT_OUTPUT, metavar="N")
    group.add_argument(
        "--cached-tokens", type=flags.none_or_more, default=0.0, metavar="N",
        help="of a prompt's, found in the prefix cache",
    )  # fmt: skip
    group.add_argument(
        "--context", type=flags.positive, metavar="N", help="the longest request's tokens"
    )
    group.add_argument(
        "--ttft-ms", type=flags.positive, metavar="MS", help="target of the time to the first token"
    )
    group.add_argument(
        "--itl-ms", type=flags.positive, metavar="MS", help="target between two tokens"
    )
    flags.add_engine(group)
    group.add_argument(
        "--tensor-parallel", type=flags.whole, metavar="N", help="only this many GPUs a replica"
    )
    group.add_argument("--headroom", type=flags.part, default=HEADROOM, metavar="PART",
        help=f"of a replica's best rate that it is given (default {HEADROOM})")  # fmt: skip
    connection.add_connection(parser, required=False)
    connection.add_span(parser, "7d")
    group.add_argument("--no-mig", action="store_true", help="whole GPUs only")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the work")
    group.add_argument("--method", choices=("full", "lora"), default="full")
    group.add_argument("--sequence-length", type=flags.whole, default=4096, metavar="N")
    group.add_argument(
        "--batch", type=flags.whole, metavar="N", help="sequences of a step, over all GPUs"
    )
    group.add_argument("--tokens", type=flags.size, metavar="N", help="of the whole run, like 10B")
    group.add_argument("--days", type=flags.positive, metavar="N", help="in which it must be done")
    group.add_argument("--trainer", choices=sorted(TRAINERS), default="fsdp")
    group.add_argument("--keep-activations", action="store_true", help="no checkpointing of them")


def _inference(given: argparse.Namespace) -> int:
    if given.requests_per_second is not None and given.batch is not None:
        raise ConfigError("--requests-per-second and --batch: give one of them.")
    if given.cached_tokens > given.input_tokens:
        raise ConfigError("--cached-tokens: more than --input-tokens.")
    facts = flags.facts(given)
    request = Request(given.input_tokens, given.output_tokens, given.cached_tokens)
    longest = request.input_tokens + request.output_tokens
    if given.context is not None and given.context < longest:
        raise ConfigError(f"--context: less than the mean request's {longest:g} tokens.")
    gpus = flags.gpus(facts)
    calibration = _calibration(given, facts, gpus)
    model = flags.model(given, facts)
    ask = Ask(
        model,
        flags.precision(given, model),
        ENGINES[given.engine],
        request,
        given.context or longest,
        requests_per_second=given.requests_per_second,
        in_flight=given.batch,
        first_token_seconds=None if given.ttft_ms is None else given.ttft_ms / 1e3,
        between_tokens_seconds=None if given.itl_ms is None else given.itl_ms / 1e3,
        headroom=given.headroom,
        tensor_parallel=given.tensor_parallel,
        factors={} if calibration is None else calibration.factors,
    )
    found = recommend_serving(ask, gpus, flags.machines(given), mig=not given.no_mig)
    today = datetime.now(UTC).date()
    if given.json:
        flags.print_json(recommend_words.serving_json(ask, found, calibration))
    else:
        sys.stdout.write(
            recommend_words.serving(ask, found, calibration, top=given.top, today=today)
        )
    return 0 if found.fits or found.shared else 1


def _calibration(
    given: argparse.Namespace, facts: Facts, gpus: Mapping[str, GpuSpeed]
) -> Calibration | None:
    """What one's own workloads say of the estimates; None without a Prometheus."""
    if given.prometheus is None:
        return None
    span = connection.span_of(given)
    prometheus = connection.connect(given)
    try:
        found = histories.read(prometheus, span, 'namespace!=""')
        remarks = tuple(histories.remarks(prometheus))
    finally:
        prometheus.close()
    shapes = known_shapes(facts)
    outcome = calibrated(found, ENGINES[given.engine], shapes, gpus, flags.gpu_id)
    return replace(outcome, remarks=remarks)


def _training(given: argparse.Namespace) -> int:
    if given.days is not None and given.tokens is None:
        raise ConfigError("--days: of how many --tokens?")
    facts = flags.facts(given)
    model = flags.model(given, facts)
    job = Job(
        model,
        flags.precision(given, model),
        given.method,
        given.sequence_length,
        checkpointed=not given.keep_activations,
    )
    ask = TrainingAsk(
        job, TRAINERS[given.trainer], tokens=given.tokens, days=given.days, sequences=given.batch
    )
    found = recommend_training(ask, flags.gpus(facts), flags.machines(given))
    today = datetime.now(UTC).date()
    if given.json:
        flags.print_json(recommend_words.training_json(ask, found))
    else:
        sys.stdout.write(recommend_words.training(ask, found, top=given.top, today=today))
    return 0 if found.fits else 1
