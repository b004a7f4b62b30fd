"""MIG instances: enumerated anew every cycle, for their handles go stale.

The rule of this file: an instance is the same one only while its UUID and both its ids are the
same, since ids are given again at once after a re-partitioning.
"""

from __future__ import annotations

import math
import operator
import re
from typing import TYPE_CHECKING, Any

from gpucost.model import MigInstance
from gpucost.sources.nvml_calls import NvmlCalls, Unit

if TYPE_CHECKING:
    from gpucost.sources.nvml_gpm import Window

MIB = 1 << 20
GIB = 1 << 30
DEFAULT_MAX_INSTANCES = 7

_HANDLE = "nvmlDeviceGetMigDeviceHandleByIndex"
_ATTRIBUTES = "nvmlDeviceGetAttributes_v2"
_NAME = "nvmlDeviceGetName"
_IDENTITY = ("nvmlDeviceGetUUID", "nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId")

_PROFILE = re.compile(r"\bMIG (\S+)$")
_SLICES = re.compile(r"^(?:(\d+)c\.)?(\d+)g\.")

PROFILE_IDS = range(18)
"""NVML_GPU_INSTANCE_PROFILE_*: 1, 2, 3, 4, 7, 8 and 6 slices, then their variants."""

SLICES_BY_MODEL = (("A30", 4), ("RTX PRO 6000", 4), ("", 7))
"""Part of the model's name to its compute slices, for drivers that do not list profiles."""


class Instance(Unit):
    """A MIG instance of a GPU while it lives."""

    __slots__ = ("identity", "ids", "mig", "window")

    is_mig = True

    def __init__(self, handle: Any, identity: tuple[str, int, int]) -> None:  # noqa: ANN401 - untyped
        super().__init__(handle, identity[0])
        self.identity = identity
        self.ids = identity[1:]
        self.mig = MigInstance(gi=identity[1], ci=identity[2], profile="", compute_slices=0)
        self.window: Window | None = None


def parse_profile(name: str | None) -> str | None:
    """The profile in a MIG device's name: `1g.10gb` of `NVIDIA H100 80GB HBM3 MIG 1g.10gb`."""
    found = _PROFILE.search(name or "")
    return found[1] if found else None


def parse_compute_slices(profile: str) -> int | None:
    """The slices of the compute instance: 3 of `3g.20gb`, 1 of `1c.3g.20gb`."""
    found = _SLICES.match(profile)
    return int(found[1] or found[2]) if found else None


def build_profile(gi_slices: int, ci_slices: int, memory_mib: int, gpu_bytes: int | None) -> str:
    """The profile's name from its parts, as NVIDIA's go-nvlib rounds the memory.

    That is: the share of the GPU's memory up to the next eighth, of the GPU's whole GiB.
    """
    if gpu_bytes:
        eighths = math.ceil(memory_mib * MIB / gpu_bytes * 8)
        gigabytes = round(eighths / 8 * math.ceil(gpu_bytes / GIB))
    else:
        gigabytes = math.ceil(memory_mib / 1024)
    compute = "" if ci_slices == gi_slices else f"{ci_slices}c."
    return f"{compute}{gi_slices}g.{gigabytes}gb"


class _Probe(Unit):
    """Stands for an instance while nobody knows which one it is."""

    __slots__ = ()

    is_mig = True


class Partition:
    """The MIG instances of one GPU, followed from cycle to cycle."""

    def __init__(self, calls: NvmlCalls, gpu: Unit) -> None:
        self.instances: tuple[Instance, ...] = ()
        self._calls = calls
        self._gpu = gpu
        self._probe = _Probe(None, f"a MIG instance of {gpu.label}")
        # Not needed but for DRA: a driver that does not tell is no Problem.
        self._placements = Unit(None, f"the placements of {gpu.label}")
        self._slots: int | None = None
        self._by_slot: list[Instance | None] = []
        self._identify_by = tuple(map(calls.find, _IDENTITY))

    def refresh(self, gpu_bytes: int | None) -> tuple[Instance, ...] | None:
        """The instances now, with fresh handles; those that stayed are the same objects.

        None where the driver would not say: that is no empty GPU, and `instances` stays.
        """
        if self._slots is None:
            count = self._calls.ask(self._gpu, "nvmlDeviceGetMaxMigDeviceCount", self._gpu.handle)
            self._slots = DEFAULT_MAX_INSTANCES if count is None else int(count)
        if self._by_slot and self._is_as_it_was():
            return self.instances
        known = {instance.identity: instance for instance in self.instances}
        found = []
        self._by_slot = []  # not known, until all have been asked
        by_slot: list[Instance | None] = []
        for slot in range(self._slots):
            handle = self._calls.ask(self._gpu, _HANDLE, self._gpu.handle, slot)
            if handle is None:
                if _HANDLE in self._gpu.silent:
                    return None
                by_slot.append(None)  # an empty slot
                continue
            identity = self._identify(handle)
            if identity is None:
                return None
            instance = known.get(identity)
            if instance is None:
                instance = Instance(handle, identity)
                mig = self._describe(instance, gpu_bytes)
                if mig is None:
                    return None
                instance.mig = mig
            instance.handle = handle
            by_slot.append(instance)
            found.append(instance)
        self._by_slot = by_slot
        if len(found) != len(self.instances) or any(map(operator.is_not, found, self.instances)):
            self.instances = tuple(found)
        return self.instances

    def _is_as_it_was(self) -> bool:
        """Whether every slot holds what it held; the handles are then fresh.

        The same calls as ever, without what it takes to find something new: nothing is, in
        almost every cycle. Where one fails, they are all made again and its error is met.
        """
        if self._probe.silent or _HANDLE in self._gpu.silent:
            return False
        gpu, by_index = self._gpu.handle, self._calls.find(_HANDLE)
        uuid, gi, ci = self._identify_by
        try:
            for slot, instance in enumerate(self._by_slot):
                if instance is None:
                    if self._calls.ask(self._gpu, _HANDLE, gpu, slot) is not None:
                        return False
                else:
                    handle = by_index(gpu, slot)
                    if (uuid(handle), gi(handle), ci(handle)) != instance.identity:
                        return False
                    instance.handle = handle
        except self._calls.failures:
            return False
        return _HANDLE not in self._gpu.silent

    def _identify(self, handle: Any) -> tuple[str, int, int] | None:  # noqa: ANN401
        uuid, gi, ci = [self._calls.ask(self._probe, name, handle) for name in _IDENTITY]
        return None if uuid is None or gi is None or ci is None else (uuid, gi, ci)

    def _describe(self, instance: Instance, gpu_bytes: int | None) -> MigInstance | None:
        """What a new instance is; None where that may become known yet."""
        uuid, gi, ci = instance.identity
        attributes = self._calls.ask(instance, _ATTRIBUTES, instance.handle)
        profile = parse_profile(self._calls.ask(instance, _NAME, instance.handle))
        if self._calls.failed(instance, _ATTRIBUTES) or self._calls.failed(instance, _NAME):
            return None
        slices = None
        memory_bytes = None
        if attributes is not None:
            slices = int(attributes.computeInstanceSliceCount)
            memory_bytes = int(attributes.memorySizeMB) * MIB
            profile = profile or build_profile(
                int(attributes.gpuInstanceSliceCount),
                slices,
                int(attributes.memorySizeMB),
                gpu_bytes,
            )
        slices = slices or parse_compute_slices(profile or "") or 1
        return MigInstance(
            gi, ci, profile or "unknown", slices, memory_bytes, uuid, self._placement_of(gi)
        )

    def _placement_of(self, gi: int) -> int | None:
        """The memory slice at which a GPU instance begins (nvmlGpuInstancePlacement_t)."""
        ask, unit = self._calls.ask, self._placements
        instance = ask(unit, "nvmlDeviceGetGpuInstanceById", self._gpu.handle, gi)
        info = None if instance is None else ask(unit, "nvmlGpuInstanceGetInfo", instance)
        return None if info is None else int(info.placement.start)


def whole_slices(calls: NvmlCalls, gpu: Unit, model: str) -> int:
    """The compute slices of the whole GPU: those of its largest profile."""
    slices = 0
    for profile in PROFILE_IDS:
        info = _profile_info(calls, gpu, profile)
        if info is not None:
            slices = max(slices, int(info.sliceCount))
    return slices or next(count for part, count in SLICES_BY_MODEL if part in model)


def _profile_info(calls: NvmlCalls, gpu: Unit, profile: int) -> Any:  # noqa: ANN401 - untyped
    """A profile's facts by the newer call, else the older; None where the GPU has none such.

    Each profile is a question of its own, so a "not supported" must not silence the others.
    """
    name = "nvmlDeviceGetGpuInstanceProfileInfo"
    for version in (2, 1):
        gpu.silent.pop(name, None)
        info = calls.ask(gpu, name, gpu.handle, profile, version)
        if info is not None:
            break
    gpu.silent.pop(name, None)
    return info
