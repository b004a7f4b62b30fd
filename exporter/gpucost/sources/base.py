"""What every source gives, and how it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.model import (
        Claimable,
        ClaimResult,
        EngineReading,
        GpuReading,
        Holdings,
        Node,
        Pod,
        Problem,
    )


class SourceError(Exception):
    """A source could not be read. The one exception that leaves a source's `read()`.

    `kind` is a short stable word for the problem's label (unreachable, timeout, malformed,
    too_large, permission, unsupported, ...); `remedy` says what a person can do.
    """

    def __init__(self, kind: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.remedy = remedy


class DeviceRead(Struct, frozen=True):
    """What NVML or DCGM saw. `holdings` come from DCGM's pod labels; None where it has none."""

    gpus: tuple[GpuReading, ...]
    holdings: Holdings | None = None
    problems: tuple[Problem, ...] = ()


class HoldingsRead(Struct, frozen=True):
    """What the kubelet said."""

    holdings: Holdings
    problems: tuple[Problem, ...] = ()


class ClusterRead(Struct, frozen=True):
    """What the API server has shown so far; `node` and `pods` are None until first listed.

    `dcgm_url` is the dcgm-exporter found among this node's pods; `ended` is when the last pods
    that ended did, Unix time by UID. `stale` where it has been silent, and all of this may be old.
    """

    node: Node | None = None
    pods: Mapping[tuple[str, str], Pod] | None = None
    dcgm_url: str | None = None
    ended: Mapping[str, float] = {}
    problems: tuple[Problem, ...] = ()
    stale: bool = False


class DraRead(Struct, frozen=True):
    """What Kubernetes says of this node's DRA devices.

    `devices` are those of NVIDIA's driver by pool and name, `claims` the results of those claims
    that were asked for, by `<namespace>/<name>`; one that could not be read is not there. `stale`
    as above.
    """

    devices: Mapping[tuple[str, str], Claimable]
    claims: Mapping[str, tuple[ClaimResult, ...]]
    problems: tuple[Problem, ...] = ()
    stale: bool = False


class RequestsRead(Struct, frozen=True):
    """What the inference servers in this node's pods said last, by (namespace, name)."""

    pods: Mapping[tuple[str, str], EngineReading] = {}
    problems: tuple[Problem, ...] = ()
