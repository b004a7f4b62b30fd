"""Brings the cluster up inside: network, control plane, node, name service, GPUs.

Every step is done only if it is still to do, so that a second run mends what the first left.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from cluster import images, pki, processes
from cluster.components import Components
from cluster.failure import ClusterError
from cluster.place import HERE, NODE, NODE_ADDRESS

if TYPE_CHECKING:
    from pathlib import Path

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
GPUS = "played-gpus"
DEFAULT_GPUS = HERE.parent / "played_gpus/default.yaml"

# An on-demand p5.48xlarge of EKS, as the cloud's controller and GPU feature discovery label it.
LABELS = {
    "node.kubernetes.io/instance-type": "p5.48xlarge",
    "topology.kubernetes.io/region": "us-east-1",
    "topology.kubernetes.io/zone": "us-east-1a",
    "eks.amazonaws.com/capacityType": "ON_DEMAND",
    "eks.amazonaws.com/nodegroup": "gpus",
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.count": "8",
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
}


def bring_up(place: Place) -> None:
    """Start what does not run yet, and wait until pods can be run.

    Raises ClusterError with the first thing that does not come up and the end of its log.
    """
    subprocess.run(["sh", "-c", NETWORK], check=True, timeout=30)
    if not place.kubeconfig.exists():
        pki.make_pki(place.pki)
    components = Components(place)
    components.start_all()
    images.import_images(components, images.make_images(place.programs), place)
    _label(components)
    start_gpus(place)
    for manifest in sorted((HERE / "addons").glob("*.yaml")):
        apply(components, manifest)
    processes.wait_until(
        "CoreDNS is not ready",
        lambda: _deployed(components, "kube-system", "coredns"),
        ADDON_SECONDS,
    )


def start_gpus(place: Place) -> None:
    """Start the played GPUs; they register with the kubelet by themselves, whenever it starts."""
    settings = place.gpus / "settings.yaml"
    if not settings.exists():
        settings.write_text(DEFAULT_GPUS.read_text())
    program: list[str | Path] = [sys.executable, "-m", "played_gpus", "--node", NODE]
    program += ["--settings", settings, "--state", place.gpus, "--kubeconfig", place.kubeconfig]
    processes.start(place, GPUS, program)


def _label(components: Components) -> None:
    """The labels that such a node of that cloud carries."""
    words = [f"{name}={value}" for name, value in LABELS.items()]
    done = components.kubectl("label", "--overwrite", "node", NODE, *words)
    if done.returncode:
        raise ClusterError(f"the node takes no labels: {done.stderr.strip()}")


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
