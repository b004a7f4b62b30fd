"""What NVIDIA's DRA driver publishes of a node's GPUs: devices, and the ResourceSlices of them.

Names, attributes and capacities are those of NVIDIA's k8s-dra-driver-gpu (cmd/gpu-kubelet-plugin,
2026-05): `gpu-<minor>` for a GPU, `gpu-<minor>-mig-<profile>-<profile id>-<start>` for a static
MIG device; a GPU in MIG mode is there only by its parts. Slices are resource.k8s.io/v1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fake_nvml.world import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fake_nvml import Gpu, Instance
    from played_gpus.machine import Card

DRIVER: Final = "gpu.nvidia.com"
DEVICES_A_SLICE: Final = 64
"""Fewer than the API's limit of 128, which is lower where devices have taints or counters."""
_DRIVER_VERSION: Final = "580.95.5"
"""Semantic versions have no leading zeros: NVML's 580.95.05."""
_CUDA_VERSION: Final = "13.0.0"
_ARCHITECTURES: Final = (
    (re.compile(r"\b(H|GH)\d{2,3}\b"), "Hopper", "9.0.0"),
    (re.compile(r"\b(B|GB)\d{3}\b|Blackwell"), "Blackwell", "10.0.0"),
    (re.compile(r"\bL(4|40|40S|20)\b|Ada"), "Ada Lovelace", "8.9.0"),
    (re.compile(r"\bT4|Quadro RTX"), "Turing", "7.5.0"),
    (re.compile(r""), "Ampere", "8.0.0"),
)
_PROFILE_IDS: Final = {1: 19, 2: 14, 3: 9, 4: 5, 7: 0}
"""Ids of GPU instance profiles as nvidia-smi shows them, by compute slices."""
_MEMORY_SLICES: Final = {1: 1, 2: 2, 3: 4, 4: 4, 7: 8}


@dataclass(frozen=True)
class Published:
    """A device of the pool; `body` is its entry in a ResourceSlice."""

    name: str
    uuid: str
    body: dict[str, Any]


def published(cards: Iterable[Card]) -> tuple[Published, ...]:
    """The devices of the GPUs that are offered by DRA and healthy."""
    devices: list[Published] = []
    for card in cards:
        if card.group.offer != "dra" or not card.healthy:
            continue
        if card.gpu.mig is None:
            devices.append(_whole(card))
        else:
            start = 0
            for part in card.gpu.mig:
                size = _MEMORY_SLICES.get(part.gi_slices, part.gi_slices)
                start = -(-start // size) * size  # placements are multiples of the size
                devices.append(_part(card, part, start, size))
                start += size
    return tuple(devices)


def slices(
    node: str, uid: str, devices: tuple[Published, ...], generation: int
) -> list[dict[str, Any]]:
    """The node's ResourceSlices: one pool of the node's name, owned by the node."""
    parts = [
        devices[start : start + DEVICES_A_SLICE]
        for start in range(0, len(devices), DEVICES_A_SLICE)
    ]
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {
                "name": f"{node}-{DRIVER}-{place}",
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "kind": "Node",
                        "name": node,
                        "uid": uid,
                        "controller": True,
                    }
                ],
            },
            "spec": {
                "driver": DRIVER,
                "nodeName": node,
                "pool": {
                    "name": node,
                    "generation": generation,
                    "resourceSliceCount": len(parts),
                },
                "devices": [device.body for device in part],
            },
        }
        for place, part in enumerate(parts)
    ]


def _whole(card: Card) -> Published:
    gpu = card.gpu
    memory = gpu.memory_bytes or 0
    name = f"gpu-{card.minor}"
    body: dict[str, Any] = {
        "name": name,
        "attributes": {
            "type": {"string": "gpu"},
            "uuid": {"string": gpu.uuid},
            **_model(gpu),
            "addressingMode": {"string": "HMM"},
            "resource.kubernetes.io/pcieRoot": {"string": f"pci0000:{card.minor:02x}"},
        },
        "capacity": {"memory": _amount(memory)},
    }
    if card.group.shared:
        _share(body, memory)
    return Published(name, gpu.uuid, body)


def _part(card: Card, part: Instance, start: int, size: int) -> Published:
    gpu = card.gpu
    profile = re.sub(r"[^a-z0-9]", "", part.profile.lower())
    profile_id = _PROFILE_IDS.get(part.gi_slices, 0)
    name = f"gpu-{card.minor}-mig-{profile}-{profile_id}-{start}"
    body: dict[str, Any] = {
        "name": name,
        "attributes": {
            "type": {"string": "mig"},
            "uuid": {"string": part.uuid},
            "parentUUID": {"string": gpu.uuid},
            "profile": {"string": part.profile},
            **_model(gpu),
        },
        "capacity": {
            "memory": _amount(part.memory_bytes),
            "multiprocessors": {"value": str(16 * part.gi_slices)},
            **{f"memorySlice{slot}": {"value": "1"} for slot in range(start, start + size)},
        },
    }
    if card.group.shared:
        _share(body, part.memory_bytes)
    return Published(name, part.uuid, body)


def _model(gpu: Gpu) -> dict[str, Any]:
    architecture, capability = next(
        (name, version) for model, name, version in _ARCHITECTURES if model.search(gpu.model)
    )
    return {
        "productName": {"string": gpu.model},
        "brand": {"string": "Nvidia"},
        "architecture": {"string": architecture},
        "cudaComputeCapability": {"version": capability},
        "driverVersion": {"version": _DRIVER_VERSION},
        "cudaDriverVersion": {"version": _CUDA_VERSION},
    }


def _share(body: dict[str, Any], memory: int) -> None:
    """Let several claims have it, each with a tenth of its memory unless it asks for more.

    Consumable capacity, on by default from Kubernetes 1.36: without a policy the first claim
    would consume all.
    """
    body["allowMultipleAllocations"] = True
    tenth = max(1, memory // GIB // 10)
    body["capacity"]["memory"]["requestPolicy"] = {
        "default": f"{tenth}Gi",
        "validRange": {"min": "1Gi", "step": "1Gi"},
    }


def _amount(size: int) -> dict[str, Any]:
    return {"value": f"{size // MIB}Mi"}
