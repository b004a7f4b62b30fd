"""A recommendation as text and as JSON. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from gpucost.advice.terminal import columns, usd
from gpucost.pricing.price_list import day_of
from gpucost.sizing.inference import Served
from gpucost.sizing.recommend_serving import OTHERS
from gpucost.sizing.training import TRAINING_FIGURES, TRAINING_MISSED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from gpucost.advice.calibrate import Calibration
    from gpucost.sizing.recommend import Fit, LeftOut, Recommended
    from gpucost.sizing.recommend_serving import Ask
    from gpucost.sizing.recommend_training import TrainingAsk
    from gpucost.sizing.shapes import ModelShape

STALE_DAYS = 180
"""List prices of machines change a few times a year; an older one is said to be stale."""


def serving(
    ask: Ask, found: Recommended, calibration: Calibration | None, *, top: int, today: date
) -> str:
    """What the command prints."""
    request = ask.request
    what = (
        f"{_model_words(ask.model)}, {ask.precision.name}, {ask.engine.name}:"
        f" {request.input_tokens:g} tokens in, {request.output_tokens:g} out; {_demand(ask)}"
    )
    lines = [what, ""]
    head = (
        "GPU", "machine", "place", "GPUs", "replicas", "USD/month", "USD/M tokens",
        "first token", "between", "memory", "limit",
    )  # fmt: skip
    left = 3
    if found.fits:
        lines.append(columns(head, map(_serving_row, found.fits[:top]), left).rstrip("\n"))
        lines += _and_more(found.fits, top)
    else:
        lines.append("No machine with a price can do it.")
    if found.shared:
        lines += ["", "On a MIG instance, if other work fills the rest of the GPU:"]
        lines.append(columns(head, map(_serving_row, found.shared[:top]), left).rstrip("\n"))
        lines += _and_more(found.shared, top)
    lines += ["", *_feet(ask.model, found, top, today)]
    lines.append(_off(ask.engine.name, ask.engine.missed, ask.engine.figures))
    if calibration is not None:
        lines += _measured(calibration)
    return "\n".join(lines) + "\n"


def training(ask: TrainingAsk, found: Recommended, *, top: int, today: date) -> str:
    """What the command prints."""
    job = ask.job
    what = (
        f"{_model_words(job.model)}, {job.precision.name}, {job.method},"
        f" sequences of {job.sequence_tokens}, {ask.trainer.name}"
    )
    lines = [what, ""]
    head = (
        "GPU", "machine", "place", "GPUs", "tokens/s", "USD/M tokens", "USD/month", "days",
        "USD for all", "memory", "limit",
    )  # fmt: skip
    if found.fits:
        rows = (_training_row(fit, ask.tokens) for fit in found.fits[:top])
        lines.append(columns(head, rows, 3).rstrip("\n"))
        lines += _and_more(found.fits, top)
    else:
        lines.append("No machine with a price can do it.")
    lines += ["", *_feet(job.model, found, top, today)]
    lines.append(_off(ask.trainer.name, TRAINING_MISSED, TRAINING_FIGURES))
    return "\n".join(lines) + "\n"


def _demand(ask: Ask) -> str:
    if ask.requests_per_second is not None:
        return f"{ask.requests_per_second:g} requests/s, at most {ask.headroom:.0%} of full load"
    if ask.in_flight is not None:
        return f"{ask.in_flight:g} requests in flight"
    return "one machine at full load"


def _model_words(model: ModelShape) -> str:
    sizes = f"{model.parameters / 1e9:.3g}B"
    if model.experts:
        sizes += f", {model.active / 1e9:.3g}B of each token"
    return model.name if model.guessed else f"{model.name} ({sizes})"


def _serving_row(fit: Fit) -> tuple[str, ...]:
    work = fit.work
    if not isinstance(work, Served):
        raise TypeError("a fit of training")
    return (
        *_machine(fit),
        f"{fit.replicas} of {fit.tensor_parallel}",
        usd(fit.usd_per_month),
        usd(fit.usd_per_million_tokens),
        f"{work.first_token_seconds * 1e3:.0f} ms",
        f"{work.between_tokens_seconds * 1e3:.0f} ms",
        _memory(fit),
        fit.limit,
    )


def _training_row(fit: Fit, tokens: float | None) -> tuple[str, ...]:
    days = None if tokens is None else tokens / fit.tokens_per_second / 86_400
    return (
        *_machine(fit),
        f"{fit.tokens_per_second:,.0f}",
        usd(fit.usd_per_million_tokens),
        usd(fit.usd_per_month),
        "" if days is None else f"{days:.1f}",
        "" if days is None else usd(fit.usd_per_hour * 24 * days),
        _memory(fit),
        fit.limit,
    )


def _machine(fit: Fit) -> tuple[str, str, str, str]:
    offer = fit.offer
    nodes = "" if fit.nodes <= 1 else f"{fit.nodes:.3g} x "
    provider = "" if offer.provider == "own" else f"{offer.provider} "
    gpus = f"{fit.gpus:.2g}" if fit.gpu.profile else f"{fit.gpus:g}"
    return fit.gpu.name, f"{nodes}{provider}{offer.instance_type}", offer.place, gpus


def _memory(fit: Fit) -> str:
    return f"{fit.memory_used_gib:.0f}/{fit.memory_gib:.0f} GiB"


def _and_more(fits: Sequence[Fit], top: int) -> Iterator[str]:
    if len(fits) > top:
        yield f"... and {len(fits) - top} more: --top, or --json for all"


def _feet(model: ModelShape, found: Recommended, top: int, today: date) -> Iterator[str]:
    shown = (*found.fits[:top], *found.shared[:top])
    notes: dict[str, list[str]] = {}
    for fit in shown:
        for note in (*fit.notes, *_stale(fit, today)):
            notes.setdefault(note, []).append(fit.gpu.name)
    for note, names in notes.items():
        yield f"{', '.join(dict.fromkeys(names))}: {note}."
    apart: dict[str, list[str]] = {}
    for out in found.left_out:
        detail = f" ({out.detail})" if out.detail else ""
        apart.setdefault(out.what, []).append(f"{out.gpu}{detail}")
    for what, gpus in apart.items():
        yield f"Left out, {what}: {', '.join(gpus)}."
    if model.guessed:
        yield (
            "The model's shape was made up from its size, as a usual one: its config.json"
            " (--model PATH) gives a better estimate."
        )
    yield (
        "Machines are paid whole, at list price, in the cheapest place that was asked for; the"
        " network, disks and discounts are not in it."
    )


def _stale(fit: Fit, today: date) -> Iterator[str]:
    day = day_of(fit.offer.day)
    if day is not None and (today - day).days > STALE_DAYS:
        yield f"its price is stale: of {fit.offer.day}, by {fit.offer.source}"


def _off(name: str, missed: float | None, figures: int) -> str:
    if missed is None:
        return f"Speeds of {name} are rough: no published figure of it says its lengths."
    return (
        f"Speeds are estimates: of {name}, the median estimate is {missed:.0%} off {figures}"
        " published figures that it was not fitted to (docs/advice.md)."
    )


def _measured(calibration: Calibration) -> Iterator[str]:
    for it in calibration.measured:
        yield (
            f"Measured: {it.workload} ({it.served_model} on {it.gpu_model}, {it.hours} hours) ran"
            f" {it.factor:.2f} times as fast as estimated."
        )
    if calibration.factors:
        others = calibration.factors[OTHERS]
        yield (
            "Estimates here are corrected by that, of the same GPU model where it was measured and"
            f" by {others:.2f} elsewhere."
        )
    else:
        yield "None of your workloads could correct the estimates."
    for remark in calibration.remarks:
        yield f"{remark[0].upper()}{remark[1:]}."
    for out in calibration.left_out:
        yield f"Not measured: {out.workload}: {out.reason}."


# --- JSON ---------------------------------------------------------------------------------------


def serving_json(
    ask: Ask, found: Recommended, calibration: Calibration | None
) -> dict[str, object]:
    """The document that docs/advice.md describes."""
    return {
        "kind": "inference",
        "model": _model_json(ask.model),
        "precision": ask.precision.name,
        "engine": ask.engine.name,
        "median_miss": ask.engine.missed,
        "measured": None if calibration is None else structs.asdict(calibration),
        "fits": [_fit_json(fit) for fit in found.fits],
        "shared": [_fit_json(fit) for fit in found.shared],
        "left_out": [_left_out_json(out) for out in found.left_out],
    }


def training_json(ask: TrainingAsk, found: Recommended) -> dict[str, object]:
    """The same of training."""
    return {
        "kind": "training",
        "model": _model_json(ask.job.model),
        "precision": ask.job.precision.name,
        "method": ask.job.method,
        "trainer": ask.trainer.name,
        "median_miss": TRAINING_MISSED,
        "fits": [_fit_json(fit) for fit in found.fits],
        "left_out": [_left_out_json(out) for out in found.left_out],
    }


def _left_out_json(out: LeftOut) -> dict[str, object]:
    return {"gpu": out.gpu, "what": out.what, "detail": out.detail or None}


def _model_json(model: ModelShape) -> dict[str, object]:
    return {
        "name": model.name,
        "parameters": model.parameters,
        "active_parameters": model.active,
        "shape_is_guessed": model.guessed,
    }


def _fit_json(fit: Fit) -> dict[str, object]:
    work, offer = fit.work, fit.offer
    document: dict[str, object] = {
        "gpu": fit.gpu.gpu_model,
        "mig_profile": fit.gpu.profile or None,
        "gpus": fit.gpus,
        "tensor_parallel": fit.tensor_parallel,
        "replicas": fit.replicas,
        "machines": fit.nodes,
        "provider": offer.provider,
        "instance_type": offer.instance_type,
        "place": offer.place,
        "price_source": offer.source,
        "price_day": offer.day or None,
        "usd_per_hour": fit.usd_per_hour,
        "usd_per_month": fit.usd_per_month,
        "usd_per_million_tokens": fit.usd_per_million_tokens,
        "tokens_per_second_at_full_load": fit.tokens_per_second,
        "limit": fit.limit,
        "memory_gib": fit.memory_gib,
        "memory_used_gib": fit.memory_used_gib,
        "memory_parts_gib": fit.memory_parts_gib,
        "notes": fit.notes,
    }
    if isinstance(work, Served):
        document |= {
            "requests_in_flight_per_replica": work.batch,
            "output_tokens_per_second_per_replica": work.output_tokens_per_second,
            "first_token_seconds": work.first_token_seconds,
            "between_tokens_seconds": work.between_tokens_seconds,
            "step_seconds": {
                "bandwidth": work.step.bandwidth,
                "compute": work.step.compute,
                "interconnect": work.step.interconnect,
                "overhead": work.step.overhead,
            },
        }
    else:
        document |= {
            "sequences_per_gpu": fit.micro_sequences,
            "token_seconds": {
                "compute": work.compute,
                "bandwidth": work.bandwidth,
                "interconnect": work.interconnect,
            },
        }
    return document
