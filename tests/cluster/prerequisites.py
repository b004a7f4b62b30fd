"""What the machine must have before anything is built or started, each lack told in one line."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.failure import ClusterError
from cluster.place import HOST_FOLDERS

if TYPE_CHECKING:
    from cluster.place import Place

NEEDED = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "iptables": "iptables",
    "ipset": "ipset",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
"""Program: the Debian package it is in."""

CGROUPS = Path("/sys/fs/cgroup")
FREE_BYTES = 12 << 30
LONGEST_SOCKET = 60
"""The state folder's path may be this long: under it lie sockets, whose paths end at 107."""


def require(place: Place) -> None:
    """Raise ClusterError with the first thing that is missing and what to do about it."""
    if sys.platform != "linux":
        raise ClusterError("the cluster runs on Linux only: containers and cgroups are its ground")
    require_root()
    if not _cgroups():
        raise ClusterError(
            "no writable cgroups under /sys/fs/cgroup (neither v2 nor v1 with memory and cpu): "
            "in a container, run it privileged with the host's cgroups"
        )
    missing = sorted({package for name, package in NEEDED.items() if shutil.which(name) is None})
    if missing:
        raise ClusterError(f"programs are missing. Run: apt-get install {' '.join(missing)}")
    require_own_folder(place.state)
    if len(str(place.state)) > LONGEST_SOCKET:
        raise ClusterError(
            f"{place.state} is too long a path to hold sockets. "
            "Set GPUCOST_CLUSTER_STATE to a shorter one"
        )
    if any(Path(folder).is_symlink() for folder in HOST_FOLDERS):
        linked = next(folder for folder in HOST_FOLDERS if Path(folder).is_symlink())
        raise ClusterError(f"{linked} is a symbolic link, which cannot be mounted over")
    free = shutil.disk_usage(_existing(place.state)).free
    if free < FREE_BYTES:
        raise ClusterError(
            f"{free >> 30} GiB free under {place.state}, 12 are needed: images, logs and etcd. "
            "Free some, or set GPUCOST_CLUSTER_STATE to another disk"
        )


def require_root() -> None:
    """Raise ClusterError for anyone else."""
    if os.geteuid() != 0:
        raise ClusterError("it takes root, for namespaces and mounts. Run it with sudo")


def require_free_port(address: str, port: int, what: str) -> None:
    """Raise ClusterError if someone answers there. Inside, nobody but the cluster should.

    Asked by connecting: a port whose last user has just gone cannot always be bound at once.
    """
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return
    raise ClusterError(
        f"port {port} of {what} is in use: another program inside the cluster's network answers "
        "there. Run: make cluster-down, then make cluster"
    )


def _cgroups() -> bool:
    if (CGROUPS / "cgroup.controllers").exists():
        words = (CGROUPS / "cgroup.controllers").read_text().split()
        return {"cpu", "memory", "pids"} <= set(words) and os.access(CGROUPS, os.W_OK)
    return all(os.access(CGROUPS / name / "cgroup.procs", os.W_OK) for name in ("cpu", "memory"))


def require_own_folder(state: Path) -> None:
    """Raise ClusterError for a folder that holds something else: it must not be cleared."""
    if state.is_dir() and any(state.iterdir()) and not (state / "kernel.json").exists():
        left = sorted(entry.name for entry in state.iterdir())
        if left != ["logs"]:
            raise ClusterError(
                f"{state} holds something that is not a cluster's ({left[0]}). "
                "Set GPUCOST_CLUSTER_STATE to another folder"
            )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
