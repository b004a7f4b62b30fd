"""The GPUs of a node as its settings say them, and what each is offered as.

UUIDs follow from the node's name and the model, so a device keeps its own through restarts,
settings and re-partitioning, as a real one does; one of another model is another device. Ids,
resource names and sharing are those of NVIDIA's device plugin (README of NVIDIA/k8s-device-plugin):
`<uuid>::<n>` for replicas, nvidia.com/mig-<profile> with `+` written as `.`.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fake_nvml import Gpu, Instance, a100, h100, t4
from fake_nvml.world import GIB
from played_gpus.settings import model_of

if TYPE_CHECKING:
    from played_gpus.settings import Group, Settings

HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"
_NAMES: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "played-gpus.gpucost")
_HOPPER_OR_LATER: Final = re.compile(r"\b(H|GH|B|GB)\d{2,3}\b|Blackwell")
_BEFORE_AMPERE: Final = re.compile(r"\b(Tesla|GRID|Quadro)\b|T4G")
_NEEDS_RESET: Final = 1
"""NVML_GPU_RECOVERY_ACTION_GPU_RESET"""


@dataclass(frozen=True)
class Card:
    """A GPU at rest. `gpu` is nobody's to change: take `played()`."""

    minor: int
    gpu: Gpu
    group: Group
    healthy: bool

    def played(self) -> Gpu:
        """The same GPU, for a World to play."""
        parts = self.gpu.mig
        copies = (
            None
            if parts is None
            else [
                replace(part, gpm=None if part.gpm is None else replace(part.gpm)) for part in parts
            ]
        )
        gpm = None if self.gpu.gpm is None else replace(self.gpu.gpm)
        return replace(self.gpu, mig=copies, gpm=gpm, processes=[])


@dataclass(frozen=True, slots=True)
class Offered:
    """A device as the kubelet knows it; `uuid` is that of the GPU or MIG device behind the id."""

    id: str
    uuid: str
    minor: int
    healthy: bool
    numa: tuple[int, ...] = ()


def cards(settings: Settings, node: str) -> tuple[Card, ...]:
    """The GPUs that are on the bus, by minor number."""
    groups = [group for group in settings.gpus for _ in range(group.count)]
    return tuple(
        _card(minor, group, node, healthy=minor not in settings.unhealthy)
        for minor, group in enumerate(groups)
        if minor not in settings.missing
    )


def offered(settings: Settings, present: tuple[Card, ...]) -> dict[str, tuple[Offered, ...]]:
    """What the device plugin offers: devices by resource, lowest first, replicas side by side.

    A resource of GPUs that are all missing stays, with no device, as NVIDIA's plugin keeps it.
    """
    resources: dict[str, list[Offered]] = {}
    for group in settings.gpus:
        if group.offer == "device-plugin":
            for name in _resources(group, settings.mig_strategy):
                resources.setdefault(name, [])
    for card in present:
        if card.group.offer != "device-plugin":
            continue
        for name, device in _devices(card, settings.mig_strategy):
            resources[name] += [
                Offered(
                    id=device if card.group.replicas == 1 else f"{device}::{replica}",
                    uuid=device,
                    minor=card.minor,
                    healthy=card.healthy,
                    numa=card.group.numa,
                )
                for replica in range(card.group.replicas)
            ]
    return {name: tuple(devices) for name, devices in resources.items()}


def _resources(group: Group, strategy: str) -> list[str]:
    if strategy != "mixed" or group.mig is None:
        return [_shared(group.resource, group)]
    return [_shared(_mig_resource(profile), group) for profile in dict.fromkeys(group.mig)]


def _devices(card: Card, strategy: str) -> list[tuple[str, str]]:
    """(resource, UUID) of what is handed out of a card."""
    if strategy == "none" or card.gpu.mig is None:
        return [(_shared(card.group.resource, card.group), card.gpu.uuid)]
    if strategy == "single":
        return [(_shared(card.group.resource, card.group), part.uuid) for part in card.gpu.mig]
    return [(_shared(_mig_resource(part.profile), card.group), part.uuid) for part in card.gpu.mig]


def _mig_resource(profile: str) -> str:
    return f"nvidia.com/mig-{profile.replace('+', '.')}"


def _shared(resource: str, group: Group) -> str:
    return f"{resource}.shared" if group.rename else resource


def _card(minor: int, group: Group, node: str, *, healthy: bool) -> Card:
    gpu = _like(group.model)
    model = model_of(group.model)
    memory_gib = group.memory_gib or (model.memory_gib if model else 0.0)
    gpu = replace(
        gpu,
        uuid=f"GPU-{uuid.uuid5(_NAMES, f'{node}/{minor}/{group.model}')}",
        model=group.model,
        minor=minor,
        memory_bytes=round(memory_gib * GIB),
        mig_capable=model is not None and model.mig_slices is not None,
        mig_slices=(model.mig_slices if model else None) or 7,
    )
    if group.mig is not None:
        gpu.partition(group.mig)
        gpu.mig = [_named(part, gpu.uuid) for part in gpu.mig or ()]
    if not healthy and gpu.recovery_action is not None:
        gpu.recovery_action = _NEEDS_RESET
    elif not healthy:
        gpu.uncorrected_errors = 1
    return Card(minor, gpu, group, healthy)


def _named(part: Instance, parent: str) -> Instance:
    """A MIG device's UUID follows from its GPU, shape and place: the same layout, the same ids."""
    name = f"{parent}/{part.gi}/{part.ci}/{part.profile}"
    return replace(part, uuid=f"MIG-{uuid.uuid5(_NAMES, name)}")


def _like(model: str) -> Gpu:
    """A GPU with the signals of the model's architecture."""
    if _HOPPER_OR_LATER.search(model):
        return h100()
    return t4() if _BEFORE_AMPERE.search(model) else a100()
