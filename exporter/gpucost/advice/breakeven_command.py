"""`gpucost breakeven`: dedicated, scaled to zero, serverless or an API, by what they cost."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.advice import connection, flags, histories
from gpucost.advice.breakeven import choose, page, text
from gpucost.advice.breakeven.cross import compared
from gpucost.advice.breakeven.demand import Demand, Replica, Tokens
from gpucost.advice.breakeven.ways import api_prices, serverless_prices
from gpucost.advice.breakeven.week import WeekError, week_of
from gpucost.advice.promql import matchers
from gpucost.advice.write import write
from gpucost.config import ConfigError
from gpucost.facts_files import shipped_facts
from gpucost.sizing.engines import ENGINES
from gpucost.sizing.facts import FactsError
from gpucost.sizing.inference import Request, Service, memory, most_in_flight, served
from gpucost.sizing.recommend_serving import HEADROOM
from gpucost.sizing.shapes import find_shape, known_shapes

if TYPE_CHECKING:
    import argparse

    from gpucost.advice.breakeven.ways import ApiPrice
    from gpucost.advice.breakeven.week import Week
    from gpucost.sizing.facts import Facts

_SECONDS_PER_DAY = 86_400.0
_COLD_START_SECONDS = 120.0
_IDLE_SECONDS = 300.0
"""KEDA's cooldownPeriod."""
_SERVERLESS_IDLE_SECONDS = 5.0
"""RunPod's default; others do not say."""


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.set_defaults(run=run)
    group = parser.add_argument_group("the work")
    group.add_argument("--requests-per-second", type=flags.positive, metavar="N")
    group.add_argument("--requests-per-day", type=flags.positive, metavar="N")
    group.add_argument("--input-tokens", type=flags.positive, metavar="N", help="of a mean request")
    group.add_argument("--output-tokens", type=flags.positive, metavar="N")
    group.add_argument("--cached-tokens", type=flags.none_or_more, default=0.0, metavar="N",
        help="of its input, that a prefix cache holds")  # fmt: skip
    group.add_argument("--seconds", type=flags.positive, metavar="S",
        help="that a request holds its replica; estimated with --model")  # fmt: skip
    group.add_argument("--at-once", type=flags.positive, metavar="N",
        help="requests that a replica serves at once (1, or estimated with --model)")  # fmt: skip
    group.add_argument("--gpus", type=flags.whole, default=1, metavar="N", help="of a replica")
    group.add_argument("--workload", metavar="NAMESPACE/NAME",
        help="in place of these: what it did, from --prometheus")  # fmt: skip
    group.add_argument("--cluster", default="", metavar="NAME", help="where several are in it")
    flags.add_model(parser)
    flags.add_engine(parser.add_argument_group("estimates"))
    flags.add_machines(parser)
    group = parser.add_argument_group("other ways")
    group.add_argument("--api", action="append", default=[], metavar="PATTERN",
        help="models of APIs, like gpt-5* or groq/*; else of --model; may be repeated")  # fmt: skip
    group.add_argument("--batch-part", type=flags.part_or_none, default=0.0, metavar="PART",
        help="of the requests that can wait for an API's batch (default 0)")  # fmt: skip
    group.add_argument("--cold-start", type=flags.none_or_more, default=_COLD_START_SECONDS,
        metavar="S", help="of an own replica (default %(default)g)")  # fmt: skip
    group.add_argument("--idle", type=flags.none_or_more, default=_IDLE_SECONDS, metavar="S",
        help="that an own replica stays after its last request (default %(default)g)")  # fmt: skip
    group.add_argument("--serverless-idle", type=flags.none_or_more,
        default=_SERVERLESS_IDLE_SECONDS, metavar="S",
        help="that a serverless one stays, and is billed (default %(default)g)")  # fmt: skip
    group.add_argument("--headroom", type=flags.part, default=HEADROOM, metavar="PART",
        help="of a replica's full load that it is given (default %(default)g)")  # fmt: skip
    connection.add_connection(parser, required=False)
    connection.add_span(parser, "7d")
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true")
    group.add_argument("--html", type=Path, metavar="FILE", help="also as a page with its picture")


def run(given: argparse.Namespace) -> int:
    """Compare and print."""
    facts = flags.facts(given)
    remarks: tuple[str, ...] = ()
    model = given.model.rpartition("/")[2]
    if given.workload is None:
        demand, price, note = _from_flags(given, facts)
    else:
        week, model = _from_prometheus(given)
        demand, price, remarks = week.demand, week.usd_per_gpu_hour, week.remarks
        replica = replace(demand.replica, gpu_model=flags.gpu_id(demand.replica.gpu_model))
        demand = replace(demand, replica=replica)
        note = f"{price:.4g} USD a GPU-hour, as it was charged"
    terms = choose.Terms(
        price,
        note,
        given.headroom,
        given.cold_start,
        given.idle,
        given.serverless_idle,
        given.batch_part,
        datetime.now(UTC).date(),
    )
    try:
        serverless = choose.serverless_of(serverless_prices(facts), demand.replica.gpu_model)
        apis = _apis(given, api_prices(facts), model)
    except FactsError as error:
        raise ConfigError(f"--facts: {error}") from error
    if given.api and demand.tokens is None:
        raise ConfigError("--api: prices are by token; give --input-tokens and --output-tokens.")
    outcome = compared(choose.ways(demand, terms, serverless, apis), demand)
    if given.html is not None:
        write(given.html, page.page(outcome, remarks))
    if given.json:
        flags.print_json(text.document(outcome, remarks))
    else:
        sys.stdout.write(text.page(outcome, remarks))
    return 0


def _apis(given: argparse.Namespace, rows: list[ApiPrice], model: str) -> list[ApiPrice]:
    if given.api:
        found = choose.apis_like(rows, given.api)
        if not found:
            raise ConfigError(f"--api: no row is like {', '.join(given.api)}.")
        return found
    return choose.apis_of(rows, _family(model)) if model else []


def _family(served: str) -> str:
    """A served name without what APIs do not say: `Llama-3.1-8B` of `Llama-3.1-8B-Instruct`."""
    shape = find_shape(served, known_shapes(shipped_facts()))
    return served if shape is None else shape.name


def _from_prometheus(given: argparse.Namespace) -> tuple[Week, str]:
    """What a workload did, and which model it serves. Raises ConfigError, SourceError."""
    if given.prometheus is None:
        raise ConfigError("--workload: of which --prometheus?")
    if given.requests_per_second is not None or given.requests_per_day is not None:
        raise ConfigError("--workload: says how many requests there are; leave their flags out.")
    namespace, slash, name = given.workload.partition("/")
    if not (namespace and slash and name) or not given.workload.isprintable():
        raise ConfigError(f"--workload: `{given.workload}` is not NAMESPACE/NAME.")
    span = connection.span_of(given)
    selector = matchers(namespace=namespace, workload=name, cluster=given.cluster)
    prometheus = connection.connect(given)
    try:
        found = histories.read(prometheus, span, selector)
        remarks = tuple(histories.remarks(prometheus))
    finally:
        prometheus.close()
    if not found:
        raise ConfigError(
            f"--workload: {given.workload} has no series there in this time. Are the rules of"
            " rules/serving.yaml and rules/cost.yaml loaded, and is it the workload's name?"
        )
    if len(found) > 1:
        clusters = ", ".join(it.key[0] or "(none)" for it in found)
        raise ConfigError(f"--cluster: the workload is in several: {clusters}. Name one.")
    try:
        week = week_of(found[0], span.seconds / histories.HOUR, given.seconds)
    except WeekError as error:
        raise ConfigError(f"--workload: {given.workload}: {error}") from error
    week = replace(week, remarks=(*week.remarks, *remarks))
    return week, found[0].served_model.rpartition("/")[2]


def _from_flags(given: argparse.Namespace, facts: Facts) -> tuple[Demand, float, str]:
    """The demand, USD of a GPU-hour, and where that is from. Raises ConfigError."""
    rate = given.requests_per_second
    if (rate is None) == (given.requests_per_day is None):
        raise ConfigError("--requests-per-second or --requests-per-day: give one of them.")
    if rate is None:
        rate = given.requests_per_day / _SECONDS_PER_DAY
    if (given.input_tokens is None) != (given.output_tokens is None):
        raise ConfigError("--input-tokens and --output-tokens: give both.")
    tokens = None
    if given.input_tokens is not None:
        if given.cached_tokens > given.input_tokens:
            raise ConfigError("--cached-tokens: more than --input-tokens.")
        tokens = Tokens(given.input_tokens, given.output_tokens, given.cached_tokens)
    if not given.gpu_model:
        raise ConfigError("--gpu-model: on which GPU would it run?")
    offers = [offer for found in flags.machines(given).values() for offer in found]
    offer = min(offers, key=lambda it: it.usd_per_gpu_hour)
    replica = _replica(given, facts, offer.gpu_model, tokens)
    where = (
        ""
        if offer.provider == "own"
        else f", {offer.provider} {offer.instance_type} in {offer.place}"
    )
    return (
        Demand((rate,), tokens, replica),
        offer.usd_per_gpu_hour,
        (f"{offer.usd_per_gpu_hour:.4g} USD a GPU-hour{where}; full machines are not counted"),
    )


def _replica(
    given: argparse.Namespace, facts: Facts, gpu_model: str, tokens: Tokens | None
) -> Replica:
    """What serves, as the flags say or as is estimated. Raises ConfigError."""
    if given.seconds is not None:
        at_once = given.at_once or 1.0
        return Replica(gpu_model, given.gpus, given.seconds, at_once / given.seconds)
    if not (given.model or given.parameters) or tokens is None:
        raise ConfigError(
            "--seconds: how long does a request hold its replica? Or give --model, --input-tokens"
            " and --output-tokens, by which it is estimated."
        )
    gpu = flags.gpus(facts).get(gpu_model)
    if gpu is None:
        raise ConfigError(f"--gpu-model: the speed of {gpu_model} is not known; give --seconds.")
    model = flags.model(given, facts)
    service = Service(
        model,
        flags.precision(given, model),
        gpu,
        ENGINES[given.engine],
        given.gpus,
    )
    request = Request(tokens.input, tokens.output, tokens.cached)
    if memory(service, request).requests < 1:
        raise ConfigError(
            f"--gpus: {model.name} in {service.precision.name} does not fit on {given.gpus} x"
            f" {gpu_model}. `gpucost recommend inference` says what it fits on."
        )
    at_once = min(most_in_flight(service, request), given.at_once or float("inf"))
    alone = served(service, request, 1.0)
    full = served(service, request, max(1.0, at_once))
    if alone is None or full is None:
        raise ConfigError(f"--gpu-model: the speed of {gpu_model} is not known; give --seconds.")
    return Replica(gpu_model, given.gpus, 1.0 / alone.requests_per_second, full.requests_per_second)
