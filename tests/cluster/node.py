"""Brings the cluster up inside: network, control plane, node, name service, GPUs.

Every step is done only if it is still to do, so that a second run mends what the first left.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import images, pki, processes
from cluster.components import Components
from cluster.failure import ClusterError
from cluster.place import HERE, NODE_ADDRESS

if TYPE_CHECKING:
    from cluster.place import Place

NETWORK = f"""\
set -e
ip link show node0 >/dev/null 2>&1 && exit 0
ip link add node0 type bridge
ip addr add {NODE_ADDRESS}/24 dev node0
ip link set node0 up
# It leads nowhere, but a kubelet wants to know which interface is the node's.
ip route add default dev node0
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
ADDON_SECONDS = 120


def bring_up(place: Place) -> None:
    """Start what does not run yet, and wait until pods can be run.

    Raises ClusterError with the first thing that does not come up and the end of its log.
    """
    subprocess.run(["sh", "-c", NETWORK], check=True, timeout=30)
    if not place.kubeconfig.exists():
        pki.make_pki(place.pki)
    components = Components(place)
    components.start_all()
    archives = images.static_images(place.programs)
    archives[images.EXPORTER] = images.exporter_image(place.programs)
    images.import_images(components, archives, place)
    for manifest in sorted((HERE / "addons").glob("*.yaml")):
        apply(components, manifest)
    processes.wait_until(
        "CoreDNS is not ready",
        lambda: _deployed(components, "kube-system", "coredns"),
        ADDON_SECONDS,
    )


def apply(components: Components, manifest: Path) -> None:
    """`kubectl apply`, which must succeed."""
    done = components.kubectl("apply", "--server-side", "-f", str(manifest))
    if done.returncode:
        raise ClusterError(f"{manifest.name}: {done.stderr.strip()}")


def _deployed(components: Components, namespace: str, name: str) -> bool:
    ready = components.kubectl(
        "-n", namespace, "get", "deployment", name, "-ojsonpath={.status.readyReplicas}"
    )
    return ready.stdout not in {"", "0"}
