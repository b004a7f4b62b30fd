"""DCGM rows to GPUs: what they are, what they did; pure.

Rows repeat values: a whole GPU's power stands on each of its MIG rows, and a shared GPU's
activity on a row for each pod. Every value is therefore taken once, and never summed over rows.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.model import (
    Activity,
    Device,
    Efficiency,
    GpuReading,
    MigInstance,
    Problem,
    Signal,
    UnitReading,
)
from gpucost.sources.dcgm_fields import (
    DRAM,
    ENERGY,
    FB_FREE,
    FB_RESERVED,
    FB_USED,
    FIELDS,
    GPU_UTIL,
    GR_ENGINE,
    POWER,
    REMAP_FAILURE,
    SM,
    SM_CLOCK,
    TEMPERATURE,
    TENSOR,
    Field,
    is_blank,
    to_base_units,
)
from gpucost.sources.promtext import Row  # noqa: TC001 - msgspec reads it at run time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_Problems = dict[tuple[str, str], Problem]
"""By kind and what it is about: a page may repeat one endlessly."""

_Values = dict[tuple[str, int | None], dict[Field, float]]
"""By GPU UUID and GPU instance (None: the whole GPU), each field once, in base units."""

_PROFILE = re.compile(r"(?:(?P<c>[1-9])c\.)?(?P<g>[1-9])g\.")
"""`1g.5gb`, `1c.3g.20gb`, `1g.10gb+me`: slices of the compute instance, else of the GPU's."""


class Subject(Struct, frozen=True):
    """A row and the device it is about.

    `gi` is None on a whole GPU's row. `for_pod` marks a row that belongs to one pod: it may say
    what that pod alone did.
    """

    uuid: str
    index: int | None
    model: str
    gi: int | None
    profile: str
    for_pod: bool
    row: Row


def read_gpus(subjects: Sequence[Subject]) -> tuple[tuple[GpuReading, ...], tuple[Problem, ...]]:
    """The GPUs in the order of DCGM's index, and what was wrong with their rows."""
    problems: _Problems = {}
    values = _values(subjects, problems)
    of_gpus: dict[str, list[Subject]] = {}
    for subject in subjects:
        of_gpus.setdefault(subject.uuid, []).append(subject)
    gpus = [_gpu(of_gpu, values, problems) for of_gpu in of_gpus.values()]
    gpus.sort(key=lambda gpu: math.inf if gpu.device.index is None else gpu.device.index)
    return tuple(gpus), tuple(problems.values())


def _note(problems: _Problems, kind: str, about: str, message: str, remedy: str) -> None:
    problems.setdefault((kind, about), Problem("dcgm", kind, message, remedy))


def _values(subjects: Iterable[Subject], problems: _Problems) -> _Values:
    """Each unit's value of each field, once.

    A row without a pod is the device's own and comes first: since dcgm-exporter PR 594 GPU_UTIL
    and FB_USED of a shared GPU stand there, while those on the pods' rows are of their processes.
    The rows of a partitioned GPU are read one after another, so its power may differ between
    them: the highest counts.
    """
    found: dict[tuple[str, int | None, Field], tuple[set[float], set[float]]] = {}
    for subject in subjects:
        for name, raw in subject.row.values:
            field = FIELDS.get(name.removesuffix("_total"))  # OpenMetrics adds it to counters
            if field is None or is_blank(field, raw):
                continue
            if subject.gi is not None and field.on_mig == "nobody":
                continue
            value = to_base_units(field, raw)
            if value is None:
                _note(
                    problems,
                    "implausible",
                    field.name,
                    f"DCGM gave a {field.name} that cannot be true; it is not used.",
                    "Compare with nvidia-smi; if it lasts, restart the DCGM host engine.",
                )
                continue
            unit = None if field.on_mig == "gpu" else subject.gi
            own_and_pods = found.setdefault((subject.uuid, unit, field), (set(), set()))
            own_and_pods[subject.for_pod].add(value)
    values: _Values = {}
    for (uuid, gi, field), (own, pods) in found.items():
        candidates = own or pods
        values.setdefault((uuid, gi), {})[field] = max(candidates)
        if len(candidates) > 1 and field.on_mig != "gpu":
            _note(
                problems,
                "conflict",
                field.name,
                f"The page gives one device more than one {field.name}; the highest counts.",
                "One dcgm-exporter a node: look for a second one, or for merged pages.",
            )
    return values


def _gpu(subjects: Sequence[Subject], values: _Values, problems: _Problems) -> GpuReading:
    """One GPU from all of its rows.

    Its minor is not known: `device="nvidia<n>"` has DCGM's index in it. Neither are the compute
    slices of the whole GPU; the price table has those by model.
    """
    uuid = subjects[0].uuid
    mig = _instances(subjects, values, problems)
    own = values.get((uuid, None), {})
    reading = _reading(own)
    if mig is not None and reading.activity and reading.activity.signal is Signal.DCGM_GPU_UTIL:
        # A parent's row beside its instances' says as little of utilisation as theirs do.
        reading = UnitReading(None, reading.efficiency, reading.memory_used_bytes)
    return GpuReading(
        device=Device(
            uuid=uuid,
            model=next((subject.model for subject in subjects if subject.model), "unknown"),
            index=next((it.index for it in subjects if it.index is not None), None),
            memory_bytes=_memory_bytes(own),
            mig=mig,
        ),
        reading=reading,
        instances=tuple(_reading(values.get((uuid, instance.gi), {})) for instance in mig or ()),
        power_watts=own.get(POWER),
        energy_joules=own.get(ENERGY),
        temperature_celsius=own.get(TEMPERATURE),
        sm_clock_hertz=own.get(SM_CLOCK),
        faults=("row_remap_failure",) if own.get(REMAP_FAILURE) else (),
    )


def _instances(
    subjects: Iterable[Subject], values: _Values, problems: _Problems
) -> tuple[MigInstance, ...] | None:
    """The MIG instances of one GPU; None where no row is about one.

    DCGM shows GPU instances only: its `ci` is 0 and its UUID not known.
    """
    instances: dict[int, MigInstance] = {}
    partitioned = False
    for subject in subjects:
        if subject.gi is None or subject.gi in instances:
            continue
        partitioned = True
        slices = _PROFILE.match(subject.profile)
        if slices is None:
            _note(
                problems,
                "unknown_profile",
                "",
                f"A MIG instance has the unknown profile {subject.profile[:40]!r}: its share of"
                " the GPU is not known, so it counts as nobody's.",
                "Look at GPU_I_PROFILE on the page; it should be like 1g.5gb.",
            )
            continue
        instances[subject.gi] = MigInstance(
            gi=subject.gi,
            ci=0,
            profile=subject.profile,
            compute_slices=int(slices["c"] or slices["g"]),
            memory_bytes=_memory_bytes(values.get((subject.uuid, subject.gi), {})),
        )
    return tuple(instances[gi] for gi in sorted(instances)) if partitioned else None


def _reading(values: Mapping[Field, float]) -> UnitReading:
    """What a unit did, from its own values."""
    activity = None
    if (ratio := values.get(GR_ENGINE)) is not None:
        activity = Activity(ratio, ratio, Signal.DCGM_GR_ENGINE)
    elif (ratio := values.get(GPU_UTIL)) is not None:
        activity = Activity(ratio, ratio, Signal.DCGM_GPU_UTIL)
    efficiency = Efficiency(values.get(SM), values.get(TENSOR), values.get(DRAM))
    used = values.get(FB_USED)
    return UnitReading(
        activity=activity,
        efficiency=None if efficiency == Efficiency() else efficiency,
        memory_used_bytes=None if used is None else round(used),
    )


def _memory_bytes(values: Mapping[Field, float]) -> int | None:
    """Memory in all. Older versions have no reserved part: it is then within the used one."""
    if FB_USED not in values or FB_FREE not in values:
        return None
    return round(values[FB_USED] + values[FB_FREE] + values.get(FB_RESERVED, 0.0))
