"""What HAMi's scheduler reserved for a pod, from the pod's annotation: pure.

HAMi (Project-HAMi/HAMi, pkg/device/devices.go) gives out parts of a GPU by memory and cores. Its
device plugin's ids (`<uuid>-<n>`) are counters: which GPU it is, and how much of it, stands in the
annotation alone: for each container `<uuid>,<type>,<MiB>,<percent of cores>:` once a device, and
`;` after each container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.model import Reserved

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

ANNOTATION = "hami.io/vgpu-devices-allocated"

_FIELDS = 4
_MIB = 1 << 20
_FULL_PERCENT = 100.0
_MAX_CHARS = 64 << 10


def parse_reserved(
    annotation: str, asking: Sequence[str], ended: Collection[str] = ()
) -> tuple[Reserved, ...]:
    """The parts that a pod's containers reserved; none where the annotation is not understood.

    `asking` are the containers that ask for a GPU, in the order of the spec, init containers
    first; `ended` those of them that do not hold on: ordinary init containers. Releases differ in
    which other containers they leave an empty place for (HAMi issues 991 and 1932), so the places
    that are not empty are counted. Where they are not as many as the askers, all is the first's.
    """
    if len(annotation) > _MAX_CHARS or not asking:
        return ()
    places = [_devices(place) for place in annotation.split(";")]
    taken = [place for place in places if place]
    if any(None in place for place in taken):
        return ()
    holders = asking if len(taken) == len(asking) else [asking[0]] * len(taken)
    return tuple(
        Reserved(holder, *device)
        for holder, place in zip(holders, taken, strict=True)
        if holder not in ended
        for device in place
        if device is not None
    )


def _devices(place: str) -> list[tuple[str, int, float] | None]:
    """The devices of one container; None for what is none."""
    return [_device(it) for it in place.split(":") if it.strip(",0 ")]


def _device(text: str) -> tuple[str, int, float] | None:
    fields = text.split(",")
    if len(fields) != _FIELDS or not fields[1].casefold().startswith("nvidia"):
        return None
    uuid, _, memory, cores = fields
    if not (uuid and memory.isascii() and memory.isdecimal() and len(memory) < 13):  # noqa: PLR2004
        return None
    if not (cores.isascii() and cores.isdecimal() and len(cores) < 4):  # noqa: PLR2004
        return None
    return uuid, int(memory) * _MIB, min(int(cores) / _FULL_PERCENT, 1.0)
