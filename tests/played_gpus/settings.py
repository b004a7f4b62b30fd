"""The settings file: which GPUs are played, and how the node offers them.

    gpus:                                # in the order of their minor numbers
      - model: NVIDIA H100 80GB HBM3     # as NVML names it
        count: 8
        memory_gib: 80                   # default: the model's
        mig: [3g.40gb, 1g.10gb]          # MIG devices on each of them; [] is MIG on, none made
        offer: device-plugin             # or dra, or nobody
        resource: nvidia.com/gpu         # the device plugin's name for a whole one
        replicas: 4                      # time-slicing: that many ids for one device
        rename: true                     # ... under nvidia.com/gpu.shared
        shared: true                     # dra: several claims may have one device
        numa: [0]                        # NUMA nodes that the kubelet is told of
    mig_strategy: mixed                  # none, single or mixed: as NVIDIA's device plugin
    unhealthy: [3]                       # minor numbers: need a reset, not handed out
    missing: [7]                         # fallen off the bus

The file is read again when it changes; a bad one is refused, and the one before stays.
"""

from __future__ import annotations

import csv
import re
from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import yaml

if TYPE_CHECKING:
    from pathlib import Path

MAX_GPUS: Final = 32
"""As many as the played library has room for."""
MAX_REPLICAS: Final = 100
_PROFILE: Final = re.compile(r"(?:(\d)c\.)?(\d)g\.\d+gb(?:\+me|\+me\.all|-me|\+gfx)?")
_RESOURCE: Final = re.compile(r"[a-z0-9.-]+\.[a-z]+/[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


class SettingsError(Exception):
    """The settings file cannot be used; the message names the file, the field and the remedy."""


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """GPUs that are alike; see the module for what the fields mean."""

    model: str = "NVIDIA H100 80GB HBM3"
    count: int = 1
    memory_gib: float | None = None
    mig: tuple[str, ...] | None = None
    offer: Literal["device-plugin", "dra", "nobody"] = "device-plugin"
    resource: str = "nvidia.com/gpu"
    replicas: int = 1
    rename: bool = False
    shared: bool = False
    numa: tuple[int, ...] = ()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    gpus: tuple[Group, ...]
    mig_strategy: Literal["none", "single", "mixed"] = "none"
    unhealthy: frozenset[int] = frozenset()
    missing: frozenset[int] = frozenset()


class Model(msgspec.Struct, frozen=True):
    """What the exporter's catalogue knows of a model; `mig_slices` is None where it has no MIG."""

    memory_gib: float
    mig_slices: int | None


def load(path: Path) -> Settings:
    """The file's settings. Raises SettingsError."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse(text: str) -> Settings:
    """The settings in a YAML text. Raises SettingsError that names the field."""
    try:
        settings = msgspec.convert(yaml.safe_load(text), Settings)
    except yaml.YAMLError as error:
        raise SettingsError(f"not YAML: {error}") from error
    except msgspec.ValidationError as error:
        raise SettingsError(str(error)) from error
    for place, group in enumerate(settings.gpus):
        _check_group(f"gpus[{place}]", group)
    total = sum(group.count for group in settings.gpus)
    if not 1 <= total <= MAX_GPUS:
        raise SettingsError(f"gpus: there are {total}; give 1 to {MAX_GPUS}")
    for field, minors in (("unhealthy", settings.unhealthy), ("missing", settings.missing)):
        for minor in sorted(minors):
            if not 0 <= minor < total:
                raise SettingsError(f"{field}: there is no GPU {minor}; they are 0 to {total - 1}")
    if settings.mig_strategy == "single":
        _check_single(settings)
    return settings


def model_of(name: str) -> Model | None:
    """The catalogue's row of a model that NVML names so."""
    table = resources.files("gpucost").joinpath("data/gpu_models.csv")
    for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines()):
        if name in row["nvml_names"].split("; "):
            slices = int(row["mig_slices"]) if row["mig_slices"] else None
            return Model(float(row["memory_gib"]), slices)
    return None


def _check_group(field: str, group: Group) -> None:
    model = model_of(group.model)
    if group.count < 1:
        raise SettingsError(f"{field}.count: {group.count}; give at least 1")
    if model is None and group.memory_gib is None:
        raise SettingsError(f"{field}.memory_gib: {group.model!r} is a model of unknown memory")
    if group.memory_gib is not None and not 0 < group.memory_gib <= 1024:
        raise SettingsError(f"{field}.memory_gib: {group.memory_gib:g}; give more than 0, to 1024")
    if not 1 <= group.replicas <= MAX_REPLICAS:
        raise SettingsError(f"{field}.replicas: {group.replicas}; give 1 to {MAX_REPLICAS}")
    if not _RESOURCE.fullmatch(group.resource):
        raise SettingsError(f"{field}.resource: {group.resource!r} is not like nvidia.com/gpu")
    if group.offer != "device-plugin" and (group.replicas > 1 or group.rename):
        raise SettingsError(f"{field}.replicas: only offer: device-plugin has them")
    if group.offer != "dra" and group.shared:
        raise SettingsError(f"{field}.shared: only offer: dra has it")
    if group.offer == "dra" and any("c." in profile for profile in group.mig or ()):
        raise SettingsError(f"{field}.mig: offer: dra has no compute instances")
    if group.mig is not None:
        _check_mig(f"{field}.mig", group.mig, model)


def _check_mig(field: str, profiles: tuple[str, ...], model: Model | None) -> None:
    slices = None if model is None else model.mig_slices
    if slices is None:
        raise SettingsError(f"{field}: the model has no MIG")
    taken = left = 0
    for profile in profiles:
        match = _PROFILE.fullmatch(profile)
        if match is None:
            raise SettingsError(f"{field}: {profile!r} is not like 1g.10gb or 1c.3g.40gb")
        compute, size = int(match[1] or 0), int(match[2])
        if compute and left >= compute:
            left -= compute
        else:
            taken, left = taken + size, size - compute if compute else 0
    if taken > slices:
        raise SettingsError(f"{field}: {taken} slices; a GPU of this model has {slices}")


def _check_single(settings: Settings) -> None:
    """NVIDIA's strategy `single` serves nothing where the node's MIG devices are not all alike."""
    offered = [group for group in settings.gpus if group.offer == "device-plugin"]
    profiles = {profile for group in offered for profile in group.mig or ()}
    if len(profiles) > 1 or not all(group.mig for group in offered):
        raise SettingsError("mig_strategy: single needs MIG devices of one profile on every GPU")
