"""This node's real sources, opened as the settings say, and what a cycle on them runs on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gpucost.cycle import Terms
from gpucost.model import Node, Problem
from gpucost.prices import CatalogueFile
from gpucost.reader import Direct, Found, Paced, Reader
from gpucost.snapshot import Gatherer, Sources
from gpucost.sources.base import ClusterRead
from gpucost.sources.dcgm import DcgmSource
from gpucost.sources.dra import DraSource
from gpucost.sources.kube_api import in_kubernetes
from gpucost.sources.kubernetes import KubernetesSource
from gpucost.sources.nvml import NvmlSource
from gpucost.sources.podresources import PodResourcesSource
from gpucost.sources.requests import RequestsSource

if TYPE_CHECKING:
    from gpucost.config import Config
    from gpucost.config_file import ConfigFile
    from gpucost.model import Claimed, Snapshot
    from gpucost.reader import Asked
    from gpucost.sources.base import DeviceRead, DraRead, HoldingsRead, RequestsRead

KUBELET_SETTLE_SECONDS = 15.0
"""A pod is shown by the API server as soon as it is bound; it holds a device when the kubelet
has admitted it, and lets go when its last container has ended."""

KUBELET_INTERVAL_SECONDS = 30.0

_GRACE_SECONDS = 1.0
"""A source's own deadline comes first: it knows better what was late."""

_NOTHING_SHOWN = ClusterRead()

PROC_STAT = Path("/proc/stat")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class OpenSources:
    """The sources, open. `close` ends their threads and connections."""

    def __init__(self, config: Config, node_name: str) -> None:
        """Open what the settings enable and this machine has."""
        cluster = config.kubernetes.enabled and (in_kubernetes() or "KUBECONFIG" in os.environ)
        has_kubelet = config.kubelet.enabled and (cluster or Path(config.kubelet.socket).exists())
        self.nvml = NvmlSource(settings=config.nvml) if config.nvml.enabled else None
        self.dcgm = DcgmSource(config.dcgm, node_name) if config.dcgm.enabled else None
        self.kubelet = PodResourcesSource(config.kubelet) if has_kubelet else None
        self.kubernetes = (
            KubernetesSource(
                config.kubernetes,
                config.dcgm,
                node_name,
                resource_names=config.kubelet.resource_names,
                requests=config.requests,
            )
            if cluster
            else None
        )
        self.requests = (
            RequestsSource(config.requests) if self.kubernetes and config.requests.enabled else None
        )
        self.dra = (
            DraSource(config.kubernetes, node_name, self._claimed)
            if self.kubelet and self.kubernetes
            else None
        )
        self._stated_url = config.dcgm.url
        self._cluster = Direct("kubernetes", self.kubernetes.read) if self.kubernetes else None
        if self.kubernetes is not None:
            self.kubernetes.start()
        self.asked = Sources(
            nvml=Reader("nvml", self.nvml.read, config.nvml.timeout_seconds) if self.nvml else None,
            dcgm=self._found_dcgm(config),
            kubelet=self._paced_kubelet(config),
            kubernetes=self._cluster,
            dra=self._paced_dra(config),
            requests=Direct("requests", self._read_requests) if self.requests else None,
            in_kubernetes=cluster or has_kubelet,
        )

    def _paced_kubelet(self, config: Config) -> Asked[HoldingsRead] | None:
        """The kubelet, asked when the API server shows that the node's pods changed.

        Holders change only with pods. Without the API server it is asked every cycle.
        """
        if self.kubelet is None:
            return None
        timeout = config.kubelet.timeout_seconds + _GRACE_SECONDS
        reader = Reader("kubelet", self.kubelet.read, timeout)
        if self.kubernetes is None:
            return reader
        return Paced(
            reader,
            self._pods_now,
            settle_seconds=KUBELET_SETTLE_SECONDS,
            interval_seconds=KUBELET_INTERVAL_SECONDS,
        )

    def _paced_dra(self, config: Config) -> Asked[DraRead] | None:
        """The claims' devices, asked when the claims changed. Not asked at all where are none."""
        if self.dra is None:
            return None
        return Paced(
            Reader("dra", self.dra.read, 2 * config.kubernetes.timeout_seconds + _GRACE_SECONDS),
            self._claimed,
            settle_seconds=KUBELET_SETTLE_SECONDS,
            interval_seconds=KUBELET_INTERVAL_SECONDS,
        )

    def _claimed(self) -> tuple[Claimed, ...]:
        """What the kubelet last said is held through claims."""
        return () if self.kubelet is None else self.kubelet.claimed

    def _pods_now(self) -> object:
        """The pods as shown: another object when one changed, or while nobody can tell."""
        shown = self._shown()
        return object() if shown.problems else shown.pods

    def _found_dcgm(self, config: Config) -> Asked[DeviceRead | None] | None:
        """DCGM's page, where one is known or may yet be found among the node's pods."""
        if self.dcgm is None or not (config.dcgm.url or self.kubernetes):
            return None
        reader = Reader("dcgm", self._read_dcgm, config.dcgm.timeout_seconds + _GRACE_SECONDS)
        return Found(reader, lambda: self.dcgm_url() is not None)

    def dcgm_url(self) -> str | None:
        """Where DCGM's page is; None where there is none, or not yet."""
        return self._stated_url or self._shown().dcgm_url

    def _read_dcgm(self) -> DeviceRead | None:
        url = self.dcgm_url()
        return None if url is None or self.dcgm is None else self.dcgm.read(url)

    def _read_requests(self) -> RequestsRead | None:
        """What the inference servers said, of the pods that the API server shows now."""
        if self.requests is None:
            return None
        self.requests.follow(self._shown().pods)
        return self.requests.read()

    def _shown(self) -> ClusterRead:
        """What the API server has shown, as this cycle read it; nothing until it has answered.

        The Gatherer asks it before the others.
        """
        outcome = None if self._cluster is None else self._cluster.outcome
        return _NOTHING_SHOWN if outcome is None or outcome.value is None else outcome.value

    def close(self) -> None:
        """End it all. A source that hangs in a call is left to end with the process."""
        asked = self.asked
        if asked.dcgm is not None:
            asked.dcgm.close()
        if self.nvml and asked.nvml and asked.nvml.close():
            self.nvml.close()
        if self.kubelet and asked.kubelet and asked.kubelet.close():
            self.kubelet.close()
        if self.dra and asked.dra and asked.dra.close():
            self.dra.close()
        if self.requests:
            self.requests.close()
        if self.kubernetes:
            self.kubernetes.close()


class LiveNode:
    """This machine: makes Snapshots, and Terms for the cycle, as the configuration changes."""

    def __init__(self, config_file: ConfigFile, node_name: str) -> None:
        """Open the sources. `node_name` is the Kubernetes node's, or any name elsewhere."""
        self._config_file = config_file
        self._node_name = node_name
        self._booted_at = booted_at()
        self._catalogue = CatalogueFile()
        self.sources = OpenSources(self.config, node_name)
        self.gatherer = Gatherer(
            self.sources.asked, self._stated_node(), self.config.kubelet.keep_holders_seconds
        )

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self._config_file.config

    def gather(self, wall_time: float, clock_seconds: float) -> Snapshot:
        """The node now, under settings that are fresh from disk."""
        before = self.config
        if self._config_file.poll():
            self._reconfigure(before)
        return self.gatherer.gather(wall_time, clock_seconds)

    def terms(self, snapshot: Snapshot) -> tuple[Terms, tuple[Problem, ...]]:
        """What a cycle runs on, and what is wrong with the configuration."""
        problem = self._config_file.problem
        catalogue = self._catalogue.catalogue(snapshot.node, self.config.prices.catalogue_file)
        return Terms(
            config=self.config,
            catalogue=catalogue,
            labels_expected=self.sources.kubernetes is not None,
            booted_at=self._booted_at,
            config_in_force=problem is None,
            config_read_at=self._config_file.read_at,
        ), tuple(it for it in (problem, self._catalogue.problem) if it is not None)

    def close(self) -> None:
        """Close the sources."""
        self.sources.close()

    def _reconfigure(self, before: Config) -> None:
        """Open the sources anew if their own settings changed; holders and devices are kept."""
        now = self.config
        sections = ("nvml", "dcgm", "kubelet", "kubernetes", "requests")
        if any(getattr(before, name) != getattr(now, name) for name in sections):
            self.sources.close()
            self.sources = OpenSources(now, self._node_name)
        self.gatherer.reconfigure(
            self.sources.asked, self._stated_node(), now.kubelet.keep_holders_seconds
        )

    def _stated_node(self) -> Node:
        """The node as the settings describe it."""
        stated = self.config.node
        return Node(
            name=self._node_name,
            instance_type=stated.instance_type,
            region=stated.region,
            capacity_type=stated.capacity_type or "",
            labels=stated.labels,
        )


def booted_at() -> float | None:
    """When this machine started, Unix time, by the kernel's `btime` (proc(5)); None if unknown.

    A container sees its host's.
    """
    try:
        lines = PROC_STAT.read_text("ascii").splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("btime "))
    except (OSError, ValueError, StopIteration):
        return None


def boot_id() -> str:
    """A name of the machine's present boot, by the kernel (random(4)); empty if unknown.

    A container sees its host's.
    """
    try:
        return BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
