"""Which pod and container a process belongs to, by the name of its cgroup. Pure.

The rule of this file: only the pod's UID and the container's id are looked for, wherever they
stand. What is around them differs by cgroup version, driver and runtime, and with a private
cgroup namespace the path is relative to the reader's, so that its beginning is not there at all
(cgroup_namespaces(7)).
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

_POD = re.compile(
    r"pod([0-9a-f]{8}([-_])[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{12}|[0-9a-f]{32})"
    r"(?![0-9a-f])"
)
"""The kubelet's name of a pod's cgroup: `pod<uid>`, in systemd's slices with `_` for `-`
(pkg/kubelet/cm/cgroup_manager_linux.go). A static pod's UID is the hash of its manifest: 32
digits without a dash."""

_CONTAINER = re.compile(r"(?:^|[-:/])([0-9a-f]{64})(?=\.scope|/|$)")
"""Of containerd, CRI-O, docker and podman alike, with their prefixes."""


class Owner(Struct, frozen=True, gc=False):
    """Whose a process is; empty where its cgroup does not say."""

    pod_uid: str = ""
    container_id: str = ""


NOBODY = Owner()
"""A process of the machine itself."""


def plain_uid(uid: str) -> str:
    """A pod's UID without what differs by driver."""
    return uid.replace("-", "").replace("_", "")


@lru_cache(maxsize=4096)
def owner_of(cgroup: str) -> Owner:
    """The owner by the text of /proc/<pid>/cgroup (cgroups(7): `hierarchy:controllers:path`).

    The line that says most counts: on a hybrid machine the v2 hierarchy may hold nothing.
    """
    best = NOBODY
    for line in cgroup.splitlines():
        found = _owner_in(line.split(":", 2)[-1])
        if (bool(found.pod_uid), bool(found.container_id)) > (
            bool(best.pod_uid),
            bool(best.container_id),
        ):
            best = found
    return best


def _owner_in(path: str) -> Owner:
    """The innermost pod, and the container right in it.

    A node may be a container (kind), and a container may run others.
    """
    pods = list(_POD.finditer(path))
    if pods:
        container = _CONTAINER.search(path, pods[-1].end())
        return Owner(plain_uid(pods[-1][1]), container[1] if container else "")
    containers = _CONTAINER.findall(path)
    return Owner("", containers[-1]) if containers else NOBODY
