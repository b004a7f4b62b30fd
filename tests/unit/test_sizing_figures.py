"""Estimates against published figures: what docs/advice.md says of them is true.

In full, with every source left out of the fit that judges it, this is scripts/fit_sizing.py.
"""

from __future__ import annotations

import pytest

import fit_sizing
from gpucost.sizing.engines import ENGINES
from gpucost.sizing.precision import PRECISIONS
from gpucost.sizing.shapes import shape_of_parameters
from gpucost.sizing.training import (
    TRAINERS,
    TRAINING_FIGURES,
    TRAINING_MISSED,
    Job,
    Method,
    training_memory,
)

INFERENCE = fit_sizing.inference_figures()
SAID = [it for it in INFERENCE if it.lengths_said]
TRAINING = fit_sizing.training_figures()


def test_the_median_estimate_of_a_stated_figure_is_within_a_tenth() -> None:
    missed = [
        miss
        for engine in ENGINES.values()
        for miss in fit_sizing.misses([it for it in SAID if it.engine == engine.name], engine)
    ]
    assert len(missed) == len(SAID)
    assert fit_sizing.part_off(missed) < 0.1


def test_nine_of_ten_pairs_are_in_the_right_order() -> None:
    estimates = [fit_sizing.estimated(it, ENGINES[it.engine]) for it in INFERENCE]
    for right, pairs in (
        fit_sizing.ranked(INFERENCE, estimates),
        fit_sizing.ranked_per_gpu(INFERENCE, estimates),
    ):
        assert pairs > 300
        assert right / pairs > 0.9


def test_training_is_estimated_and_ranked_as_well() -> None:
    trainers = [TRAINERS[fit_sizing.TRAINER_OF_SOURCE[it.source]] for it in TRAINING]
    estimates = [
        fit_sizing.estimated_training(it, trainer)
        for it, trainer in zip(TRAINING, trainers, strict=True)
    ]
    right, pairs = fit_sizing.ranked_training(TRAINING, estimates)
    assert pairs > 150
    assert right / pairs > 0.9


@pytest.mark.parametrize(
    ("figure", "fits"),
    fit_sizing.fits_said(),
    ids=lambda it: (
        f"{it.model}-{it.precision}-{it.gpus}x{it.gpu_model}" if hasattr(it, "model") else ""
    ),
)
def test_everything_that_was_measured_fits(figure: fit_sizing.Published, fits: bool) -> None:  # noqa: FBT001 - the outcome
    assert fits, figure


def test_every_training_that_was_run_fits() -> None:
    gpus, models = fit_sizing.known()
    for it in TRAINING:
        shape = models.get(it.model) or shape_of_parameters((it.parameters or 0.0) * 1e9)
        method: Method = "lora" if it.method == "lora" else "full"
        job = Job(shape, PRECISIONS[it.precision], method, it.sequence)
        assert training_memory(job, gpus[it.gpu_model], it.gpus).fits, it


def test_stated_constants_and_misses_are_those_of_the_fit() -> None:
    """Some five seconds: all fits, each source left out of its own."""
    outcome = fit_sizing.validated()
    for name, fields in fit_sizing.FREE.items():
        fitted = outcome.engines.get(name) or outcome.trainers[name]
        shipped = ENGINES.get(name) or TRAINERS[name]
        for field in fields:
            assert getattr(shipped, field) == pytest.approx(getattr(fitted, field), rel=0.03), field
    for name, engine in ENGINES.items():
        assert engine.figures == sum(it.engine == name for it in SAID)
        if engine.missed is not None:
            assert engine.missed == pytest.approx(outcome.off[name], abs=0.006), name
    assert pytest.approx(outcome.off["training"], abs=0.006) == TRAINING_MISSED
    assert len(TRAINING) == TRAINING_FIGURES
    page = fit_sizing.DOCS.read_text(encoding="utf-8")
    assert fit_sizing.page(outcome, page) == page, "run scripts/fit_sizing.py --write"
