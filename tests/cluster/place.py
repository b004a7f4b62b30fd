"""Where everything of the cluster lies: one folder of state, one of programs, fixed addresses.

The state folder goes away with `down`; the programs' folder is a cache that all checkouts of a
user share, since building them takes a quarter of an hour.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

NODE = "gpu-1"
NODE_ADDRESS = "10.10.0.1"
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
POD_RANGE = "10.244.0.0/16"
API_URL = f"https://{NODE_ADDRESS}:6443"
HOST_FOLDERS = (
    "/etc/cni",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/gpucost",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
"""Folders where Kubernetes and gpucost keep things by name: inside, each is the state folder's.

/run is a file system of its own inside.
"""


@dataclass(frozen=True)
class Place:
    """The folders of one cluster."""

    state: Path
    programs: Path

    @classmethod
    def of_environment(cls) -> Place:
        """`GPUCOST_CLUSTER_STATE`, else /var/lib/gpucost-cluster; caches as XDG has them."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(
            state=Path(os.environ.get("GPUCOST_CLUSTER_STATE") or "/var/lib/gpucost-cluster"),
            programs=cache / "gpucost",
        )

    @property
    def holder(self) -> Path:
        """Names the process that holds the machine inside: its id and start time."""
        return self.state / "holder"

    @property
    def kernel(self) -> Path:
        """The kernel settings as they were before."""
        return self.state / "kernel.json"

    @property
    def made(self) -> Path:
        """The folders that this machine did not have, to be removed again."""
        return self.state / "made-folders"

    @property
    def cgroup(self) -> str:
        """Every cgroup that the kubelet makes lies under this one, at the hierarchy's root."""
        return self.state.name

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pids(self) -> Path:
        return self.state / "pids"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def images(self) -> Path:
        """Archives of the images that are in the node; kept over a restart."""
        return self.state / "images"

    @property
    def gpus(self) -> Path:
        """The played GPUs: their settings, the fake library and the machine it shows."""
        return self.state / "gpus"

    @property
    def kubeconfig(self) -> Path:
        return self.pki / "admin.kubeconfig"

    @property
    def up_seconds(self) -> Path:
        """Says how long it took from nothing to a node that runs pods."""
        return self.state / "up-seconds"

    @property
    def kubectl(self) -> Path:
        """A kubectl that works from outside: it enters the machine first."""
        return self.state / "kubectl"

    def inside_of(self, folder: str) -> Path:
        """What stands for one of `HOST_FOLDERS`."""
        return self.state / "folders" / folder.strip("/").replace("/", "-")
