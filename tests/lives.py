"""The real program, one life after another, on a played node with a kubelet and an API server."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

import fake_nvml
from gpucost.catalog import FAMILIES
from gpucost.checkpoint import Checkpoint, decode
from gpucost.state_folder import FILE
from kube_api import KubeApiServer, node, pod
from kubelet_socket import KubeletSocket, holding, offering

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 120.0
USD_PER_HOUR = 3.6
CONFIG = f"""
cycle_seconds: 1
scrape_interval_seconds: 1
prices: {{fallback: {{"NVIDIA H100 80GB HBM3": {USD_PER_HOUR}}}}}
kubelet: {{socket: SOCKET}}
"""

Series = tuple[str, tuple[tuple[str, str], ...]]


class Exporter:
    """One life after another of the real program on a played node with one GPU, held by a pod."""

    def __init__(self, folder: Path, node: PlayedNode) -> None:
        self.node = node
        self.state = folder / "state"
        self.config = folder / "config.yaml"
        self._log = folder / "log"
        self.config.write_text(CONFIG.replace("SOCKET", str(folder / "kubelet.sock")), "utf-8")
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(
            f"""
apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: here, user: me}}}}]
clusters: [{{name: here, cluster: {{server: "{node.api.host}"}}}}]
users: [{{name: me, user: {{}}}}]
""",
            "utf-8",
        )
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "FAKE_NVML_SCENARIO": str(folder / "nvml.world"),
            "LD_LIBRARY_PATH": str(fake_nvml.library().parent),
        }
        self._arguments: tuple[str, ...] = (
            *("--config", str(self.config)),
            *("--node-name", "gpu-1"),
        )
        self._port: int | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """A new life."""
        self._port = None
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gpucost", "serve", "--listen", "127.0.0.1:0"),
                    *("--state-directory", str(self.state), *self._arguments),
                ],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def rename(self, name: str) -> None:
        """The node has another name from its next life on."""
        self._arguments = (*self._arguments[:-1], name)

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        """End it, if it lives, and what came of it."""
        if self.process is None:
            return 0
        self.process.send_signal(how)
        status = self.process.wait(PATIENCE)
        self.process = None
        return status

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    def scrape(self) -> dict[Series, float] | None:
        """Its counters; None while it has no page."""
        assert self.process is not None
        assert self.process.poll() is None, self.log
        if self._port is None:
            found = re.search(r"listens on .*, port (\d+)", self.log)
            if found is None:
                return None
            self._port = int(found[1])
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/metrics")
                answer = connection.getresponse()
                text = answer.read().decode()
            except (OSError, HTTPException):
                return None
        if answer.status != 200:
            return None
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in FAMILIES
        }

    def first_page(self) -> dict[Series, float]:
        deadline = time.monotonic() + PATIENCE
        while (page := self.scrape()) is None:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        return page

    def shows_counters(self) -> None:
        """Wait until the API server has named the node and the pod."""
        deadline = time.monotonic() + PATIENCE
        while not counters(self.first_page()):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def kept(self) -> Checkpoint:
        return decode((self.state / FILE).read_bytes())


class PlayedNode:
    """What the exporter looks at."""

    def __init__(self, world: fake_nvml.World, kubelet: KubeletSocket, api: KubeApiServer) -> None:
        self.world, self.kubelet, self.api = world, kubelet, api
        self.lost: list[fake_nvml.Gpu] = []
        """GPUs that are away."""


@contextlib.contextmanager
def playing(folder: Path, *more: fake_nvml.Gpu) -> Iterator[Exporter]:
    """An exporter on a node with a kubelet and an API server; dead at the end.

    One GPU is held by a pod; `more` are there beside it.
    """
    folder.mkdir(exist_ok=True)
    gpu = fake_nvml.h100()
    gpu.busy(0.5)
    world = fake_nvml.World(folder / "nvml.world", [gpu, *more])
    with KubeletSocket(folder / "kubelet.sock") as kubelet, KubeApiServer() as api:
        held = pod("train-0", node="gpu-1")
        held["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
        api.put("nodes", node("gpu-1"))
        api.put("pods", held)
        kubelet.pods.append(holding("train-0", gpu.uuid))
        kubelet.devices = offering(*(it.uuid for it in world.gpus))
        exporter = Exporter(folder, PlayedNode(world, kubelet, api))
        try:
            yield exporter
        finally:
            exporter.end()


def counters(page: dict[Series, float]) -> dict[Series, float]:
    return {
        key: value
        for key, value in page.items()
        if FAMILIES[key[0]].type == "counter" and key[0] != "gpucost_gpu_energy_joules_total"
    }


def problems(page: dict[Series, float]) -> set[tuple[str, str]]:
    """Source and kind of each."""
    found = [dict(labels) for name, labels in page if name == "gpucost_problems"]
    return {(labels["source"], labels["kind"]) for labels in found}


def sources_up(page: dict[Series, float]) -> dict[str, float]:
    """`gpucost_source_up` by source."""
    return {
        dict(labels)["source"]: value
        for (name, labels), value in page.items()
        if name == "gpucost_source_up"
    }


def waiting_seconds(kept: Checkpoint) -> float:
    """What is known to be to charge, and is not charged yet."""
    gap = kept.ledger.gap
    return 0.0 if gap is None else math.fsum(seconds for _, seconds in gap.stretches)


def charged_seconds(kept: Checkpoint) -> float:
    """Every GPU-second that is charged or, on a node with one GPU, known to be to charge."""
    gpus = kept.ledger.gpus.values()
    charged = math.fsum(seconds for gpu in gpus for seconds in gpu.account.seconds.values())
    return charged + waiting_seconds(kept)
