"""Fits the constants of gpucost.sizing to published figures, and says by how much estimates miss.

    fit_sizing.py           the table of misses, each source judged by constants that were fitted
                            without it, and the constants that all of them give
    fit_sizing.py --write   puts that table into docs/advice.md, which a test holds to it

The figures are in tests/samples/sizing, with their sources. Figures whose prompts and answers have
no stated length are ranked only: their speed depends on it.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from msgspec.structs import replace

from gpucost.facts_files import shipped_facts
from gpucost.prices import load_models
from gpucost.sizing.engines import ENGINES, Engine
from gpucost.sizing.gpus import GpuSpeed, gpu_speeds
from gpucost.sizing.inference import Request, Service, fits, most_in_flight, served
from gpucost.sizing.precision import PRECISIONS
from gpucost.sizing.shapes import ModelShape, known_shapes, shape_of_parameters
from gpucost.sizing.training import TRAINERS, Job, Method, Trainer, trained
from tables import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "tests/samples/sizing"
DOCS = ROOT / "docs/advice.md"
BEGIN = "<!-- misses: made by scripts/fit_sizing.py -->"
END = "<!-- end of misses -->"

SHAREGPT = Request(231, 195)
"""Mean tokens of ShareGPT's conversations, as substratusai/kubeai docs/benchmarks counts them: of
figures that name that data set and no lengths."""

UNSAID = Request(512, 256)
"""Of figures that say neither; they are ranked only."""


class Published(NamedTuple):
    """A published figure of inference, for all GPUs. None and empty are not said."""

    source: str
    model: str
    precision: str
    gpu_model: str
    gpus: int
    tensor_parallel: int | None
    input_tokens: float | None
    output_tokens: float | None
    load: str
    metric: str
    value: float
    engine: str

    @property
    def lengths_said(self) -> bool:
        """Whether its speed can be estimated."""
        return self.output_tokens is not None or self.source == "lambda"


class PublishedTraining(NamedTuple):
    """A published figure of training: tokens a second of one GPU."""

    source: str
    model: str
    parameters: float | None
    method: str
    precision: str
    gpu_model: str
    gpus: int
    sequence: int
    sequences: int
    value: float


def inference_figures() -> list[Published]:
    """All of them."""
    return [
        Published(
            source, model, precision, gpu, int(gpus), _whole(parts), _number(prompt),
            _number(answer), load, metric, float(value), engine,
        )
        for source, (
            model, precision, gpu, gpus, parts, prompt, answer, load, metric, value, engine,
        ) in _lines("inference.txt")
    ]  # fmt: skip


def training_figures() -> list[PublishedTraining]:
    """All of them."""
    return [
        PublishedTraining(
            source, model, _number(size), method, precision, gpu, int(gpus), int(sequence),
            int(sequences), float(value),
        )
        for source, (
            model, size, method, precision, gpu, gpus, sequence, sequences, value,
        ) in _lines("training.txt")
    ]  # fmt: skip


def _lines(name: str) -> Iterator[tuple[str, list[str]]]:
    source = ""
    for line in (SAMPLES / name).read_text(encoding="utf-8").splitlines():
        words = line.split()
        if line.startswith("#") or not words:
            continue
        if words[0] == "source":
            source = words[1]
        else:
            yield source, words


def _number(text: str) -> float | None:
    return None if text == "?" else float(text)


def _whole(text: str) -> int | None:
    return None if text == "?" else int(text)


@lru_cache(maxsize=1)
def known() -> tuple[dict[str, GpuSpeed], dict[str, ModelShape]]:
    """The shipped GPUs and models."""
    facts = shipped_facts()
    return gpu_speeds(facts, load_models()), known_shapes(facts)


def request_of(figure: Published) -> Request:
    """The mean request of a figure."""
    if figure.output_tokens is not None:
        return Request(figure.input_tokens or 0.0, figure.output_tokens)
    return SHAREGPT if figure.source == "lambda" else UNSAID


def service_of(figure: Published, engine: Engine) -> Service:
    """What was measured; with the fewest GPUs a replica where that is not said."""
    gpus, models = known()
    service = Service(
        models[figure.model], PRECISIONS[figure.precision], gpus[figure.gpu_model], engine
    )
    if figure.tensor_parallel is not None:
        return replace(service, tensor_parallel=figure.tensor_parallel)
    # Room for the weights and half as much again, as people lay replicas out.
    for parts in (1, 2, 4, 8):
        service = replace(service, tensor_parallel=parts)
        weights = service.model.parameters * service.precision.weight_bytes
        if weights * 1.5 <= parts * service.gpu.memory_gib * 2**30 or parts == figure.gpus:
            break
    return service


def estimated(figure: Published, engine: Engine) -> float:
    """The estimate of a figure, in its unit."""
    service, request = service_of(figure, engine), request_of(figure)
    replicas = figure.gpus // service.tensor_parallel
    batch = most_in_flight(service, request)
    if figure.load.isdecimal():
        batch = min(batch, int(figure.load) / replicas)
    elif figure.load.startswith("qps=") and figure.load != "qps=inf":
        batch = 1.0  # a few arrivals a second meet an empty server
    result = served(service, request, max(1.0, batch))
    if result is None:
        raise ValueError(f"{figure.gpu_model} has no known speed")
    if figure.metric == "ttft_ms":
        return result.first_token_seconds * 1e3
    if figure.metric == "requests_per_s":
        return result.requests_per_second * replicas
    return result.output_tokens_per_second * replicas


def estimated_training(figure: PublishedTraining, trainer: Trainer) -> float:
    """The estimate of a figure of training."""
    gpus, models = known()
    shape = models.get(figure.model)
    if shape is None:
        if figure.parameters is None:
            raise ValueError(f"{figure.model} has no known shape")
        shape = shape_of_parameters(figure.parameters * 1e9)
    method: Method = "lora" if figure.method == "lora" else "full"
    job = Job(shape, PRECISIONS[figure.precision], method, figure.sequence)
    result = trained(job, trainer, gpus[figure.gpu_model], figure.gpus)
    if result is None:
        raise ValueError(f"{figure.gpu_model} has no known speed")
    return result.tokens_per_second


def ranked(figures: Sequence[Published], estimates: Sequence[float]) -> tuple[int, int]:
    """Pairs in the right order, of all that can be compared.

    Those of one source and model, at the same lengths and load, that differ by more than nothing.
    """
    alike: dict[tuple[object, ...], list[tuple[float, float]]] = defaultdict(list)
    for it, estimate in zip(figures, estimates, strict=True):
        key = (it.source, it.model, it.metric, it.input_tokens, it.output_tokens, it.load)
        alike[key].append((it.value, estimate))
    return ordered(alike.values())


def ranked_per_gpu(figures: Sequence[Published], estimates: Sequence[float]) -> tuple[int, int]:
    """The same over all sources of an engine, for each GPU: what a dollar buys."""
    alike: dict[tuple[object, ...], list[tuple[float, float]]] = defaultdict(list)
    for it, estimate in zip(figures, estimates, strict=True):
        if it.metric == "output_tokens_per_s":
            key = (it.engine, it.model, it.input_tokens, it.output_tokens, it.load)
            alike[key].append((it.value / it.gpus, estimate / it.gpus))
    return ordered(alike.values())


def ranked_training(
    figures: Sequence[PublishedTraining], estimates: Sequence[float]
) -> tuple[int, int]:
    """Pairs of one model, method and sequence length, on two GPUs or in two precisions."""
    alike: dict[tuple[object, ...], list[tuple[float, float]]] = defaultdict(list)
    for it, estimate in zip(figures, estimates, strict=True):
        alike[it.model, it.method, it.sequence].append((it.value, estimate))
    return ordered(alike.values())


def ordered(groups: Iterable[list[tuple[float, float]]]) -> tuple[int, int]:
    """Pairs that the estimate orders as the figures are, and all; ties of either are no pairs."""
    right = pairs = 0
    for group in groups:
        for number, (value, estimate) in enumerate(group):
            for other, guess in group[:number]:
                if value != other and estimate != guess:
                    pairs += 1
                    right += (value > other) == (estimate > guess)
    return right, pairs


FREE: dict[str, tuple[str, ...]] = {
    "tensorrt-llm": (
        "bandwidth", "compute", "layer_seconds", "request_seconds", "link", "link_seconds",
    ),
    "vllm": ("bandwidth", "compute", "layer_seconds"),
    "vllm-0.5": ("request_seconds",),
    "llama.cpp": ("bandwidth", "stream_gb_s"),
    "fsdp": ("compute", "traffic_bytes"),
    "megatron": ("compute", "traffic_bytes"),
}  # fmt: skip
"""What is fitted of each; of transformers no figure has lengths, and its constants are round
numbers."""

SHARED: dict[str, tuple[str, tuple[str, ...]]] = {
    "vllm": ("tensorrt-llm", ("link", "link_seconds", "request_seconds")),
    "vllm-0.5": ("vllm", ("link", "link_seconds", "bandwidth", "compute", "layer_seconds")),
}
"""What an engine's own figures do not show, and whose it is then: several GPUs at known lengths and
many requests on a fast GPU are TensorRT-LLM's alone."""

START = {
    "bandwidth": 0.7, "compute": 0.5, "layer_seconds": 50e-6, "request_seconds": 20e-6,
    "link": 0.5, "link_seconds": 20e-6, "stream_gb_s": 1000.0, "traffic_bytes": 150.0,
}  # fmt: skip
"""Where every fit begins."""

PARTS = ("bandwidth", "compute", "link")
MOST = 0.95
"""No part of a rate is larger."""

FINE = 0.004
"""The last step of a fit: far below what figures agree to."""

Kind = TypeVar("Kind", Engine, Trainer)


def fitted(first: Kind, loss: Callable[[Kind], float]) -> Kind:
    """Coordinate descent on the mean absolute logarithm of estimate to figure."""
    fields = FREE[first.name]
    fit: dict[str, float] = {field: START[field] for field in fields}
    best, step = loss(replace(first, **fit)), 0.5
    while step >= FINE:
        moved = False
        for field in fields:
            for factor in (1 + step, 1 / (1 + step)):
                value = fit[field] * factor
                tried = {**fit, field: min(value, MOST) if field in PARTS else value}
                now = loss(replace(first, **tried))
                if now < best - 1e-6:
                    fit, best, moved = tried, now, True
        if not moved:
            step /= 2
    return replace(first, **fit)


def misses(figures: Sequence[Published], engine: Engine) -> list[float]:
    """The logarithm of estimate to figure, of each."""
    return [math.log(estimated(it, engine) / it.value) for it in figures]


def training_misses(figures: Sequence[PublishedTraining], trainer: Trainer) -> list[float]:
    """The same of training."""
    return [math.log(estimated_training(it, trainer) / it.value) for it in figures]


def mean_miss(missed: Sequence[float]) -> float:
    """What a fit makes small."""
    return sum(map(abs, missed)) / len(missed)


def part_off(missed: Sequence[float]) -> float:
    """The median part by which an estimate is off its figure."""
    return median(abs(math.exp(it) - 1) for it in missed)


def fit_engines(figures: Sequence[Published]) -> dict[str, Engine]:
    """Every engine, fitted to those of these figures that are of it."""
    found = dict(ENGINES)
    for name in ENGINES:
        own = [it for it in figures if it.engine == name]
        if not own:
            del found[name]  # nothing may be known of it from elsewhere
            continue
        first = ENGINES[name]
        if name in SHARED:
            other, fields = SHARED[name]
            first = replace(first, **{field: getattr(found[other], field) for field in fields})
        found[name] = fitted(first, lambda it, own=own: mean_miss(misses(own, it)))  # type: ignore[misc]
    return found


def fit_trainers(figures: Sequence[PublishedTraining]) -> dict[str, Trainer]:
    """The same of training."""
    found = dict(TRAINERS)
    for name, first in TRAINERS.items():
        own = [it for it in figures if TRAINER_OF_SOURCE[it.source] == name]
        found[name] = fitted(first, lambda it, own=own: mean_miss(training_misses(own, it)))  # type: ignore[misc]
    return found


TRAINER_OF_SOURCE = {"llm-foundry": "fsdp", "megatron-bridge": "megatron"}

ONE_PAGE = {"trtllm-0.5": "trtllm-0.6.1", "a10g-nim": "a10g-tgi"}


def page_of(source: str) -> str:
    """Tables of one page are left out together: what one shows is known of the other."""
    return ONE_PAGE.get(source, source)


ALONE = ("llama-bench", "lambda")
"""The only pages of their engines: there a GPU model at a time is left out, of which the rest of
the page says nothing."""


def left_out_with(figure: Published) -> tuple[str, str]:
    """What a figure is left out together with."""
    page = page_of(figure.source)
    return page, figure.gpu_model if page in ALONE else ""


Line = tuple[str, str, str]
"""What was judged, how many figures or pairs, and the outcome."""


BASES = ("tensorrt-llm", "vllm")
"""Of which others share constants."""


class Outcome(NamedTuple):
    """What a validation finds: medians of the part by which estimates are off."""

    lines: list[Line]
    engines: dict[str, Engine]
    trainers: dict[str, Trainer]
    off: dict[str, float]


def validated() -> Outcome:
    """Judge every source by constants that it had no part in."""
    lines: list[Line] = []
    off: dict[str, float] = {}
    every = inference_figures()
    said = [it for it in every if it.lengths_said]
    left_out: dict[Published, float] = {}
    for group in dict.fromkeys(left_out_with(it) for it in said):
        own = [it for it in said if left_out_with(it) == group]
        names = {it.engine for it in own}
        rest = [it for it in said if left_out_with(it) != group]
        engines = fit_engines([it for it in rest if it.engine in {*names, *BASES}])
        left_out |= {it: misses([it], engines[it.engine])[0] for it in own}
    for page in dict.fromkeys(page_of(it.source) for it in said):
        of_page = {it: by for it, by in left_out.items() if page_of(it.source) == page}
        engines_of = ", ".join(sorted({it.engine for it in of_page}))
        missed = list(of_page.values())
        lines.append((f"{page} ({engines_of})", str(len(missed)), f"{part_off(missed):.0%}"))
    for name in dict.fromkeys(it.engine for it in said):
        missed = [by for it, by in left_out.items() if it.engine == name]
        off[name] = part_off(missed)
        lines.append((f"all of {name}", str(len(missed)), f"{off[name]:.0%}"))
    off["inference"] = part_off(list(left_out.values()))
    lines.append(("all of inference", str(len(left_out)), f"{off['inference']:.0%}"))
    training = training_figures()
    trained_out: dict[PublishedTraining, float] = {}
    for model in dict.fromkeys(it.model for it in training):
        trainers = fit_trainers([it for it in training if it.model != model])
        for it in training:
            if it.model == model:
                trainer = trainers[TRAINER_OF_SOURCE[it.source]]
                trained_out[it] = training_misses([it], trainer)[0]
    off["training"] = part_off(list(trained_out.values()))
    text = "all of training, a model left out at a time"
    lines.append((text, str(len(trained_out)), f"{off['training']:.0%}"))
    engines = {**ENGINES, **fit_engines(said)}
    inference = [it.value * math.exp(by) for it, by in left_out.items()]
    for text, (right, pairs) in (
        ("pairs of one source in the right order", ranked(list(left_out), inference)),
        ("pairs of one engine, for each GPU", ranked_per_gpu(list(left_out), inference)),
        (
            "pairs of one source, with those that say no lengths",
            ranked(every, [estimated(it, engines[it.engine]) for it in every]),
        ),
        (
            "pairs of training in the right order",
            ranked_training(
                list(trained_out), [it.value * math.exp(by) for it, by in trained_out.items()]
            ),
        ),
    ):
        lines.append((text, str(pairs), f"{right / pairs:.0%}"))
    return Outcome(lines, engines, fit_trainers(training), off)


def fits_said() -> list[tuple[Published, bool]]:
    """Whether the estimate has room for what was measured, of every figure."""
    return [
        (it, fits(service_of(it, ENGINES[it.engine]), request_of(it).mean_context))
        for it in inference_figures()
    ]


def page(outcome: Outcome, text: str) -> str:
    """docs/advice.md with the table of this outcome."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{_table(outcome)}\n{_constants()}\n{END}{after}"


def _table(outcome: Outcome) -> str:
    return table(("source", "figures or pairs", "median miss, or share"), outcome.lines)


def _constants() -> str:
    """The efficiencies that estimates use."""
    engines = table(
        (
            "engine", "like it", "of bandwidth", "of compute", "of links", "a layer", "a request",
            "an all-reduce", "at most in flight",
        ),
        (
            (
                it.name, ", ".join(it.also), f"{it.bandwidth:.0%}", f"{it.compute:.0%}",
                f"{it.link:.0%}", _micro(it.layer_seconds), _micro(it.request_seconds),
                _micro(it.link_seconds), str(it.max_batch),
            )
            for it in ENGINES.values()
        ),
    )  # fmt: skip
    trainers = table(
        ("trainer", "like it", "of compute", "traffic of a token, layer and value of width"),
        (
            (it.name, ", ".join(it.also), f"{it.compute:.0%}", f"{it.traffic_bytes:g} bytes")
            for it in TRAINERS.values()
        ),
    )
    return f"{engines}\n{trainers}"


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} µs"


def main() -> int:
    """Run it."""
    outcome = validated()
    if sys.argv[1:] == ["--write"]:
        DOCS.write_text(page(outcome, DOCS.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    print(_table(outcome))
    for name, fields in FREE.items():
        fit = outcome.engines.get(name) or outcome.trainers[name]
        print(name, {field: f"{getattr(fit, field):.3g}" for field in fields})
    return 0


if __name__ == "__main__":
    sys.exit(main())
