"""A played GPU node in a process of its own, so that its work is not counted as ours.

    python played_node.py FOLDER dense|plain

`dense`: 8 GPUs cut into 7 MIG instances each, 56 of them held, 110 pods in all. `plain`: 8 GPUs
held by 8 pods. Writes the fake driver's scenario, serves a kubelet socket and an API server,
prints one line of JSON when all of it answers, and ends when its standard input does. The
readings change twice a second, as real ones do.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from select import select
from typing import Any

import fake_nvml
from kube_api import KubeApiServer, node, pod
from kubelet_socket import KubeletSocket, holding, offering

NODE = "gpu-1"
PODS = 110
CHANGE_SECONDS = 0.5


def gpus(kind: str) -> list[fake_nvml.Gpu]:
    """The node's GPUs, each unit with one process."""
    mig = ["1g.10gb"] * 7 if kind == "dense" else None
    made = [fake_nvml.h100(mig=mig) for _ in range(8)]
    for index, gpu in enumerate(made):
        if gpu.mig is None:
            gpu.processes = [fake_nvml.Process(1000 + index)]
        for part in gpu.mig or ():
            gpu.processes.append(
                fake_nvml.Process(2000 + 10 * index + part.gi, gi=part.gi, ci=part.ci)
            )
    return made


def units(made: list[fake_nvml.Gpu]) -> list[str]:
    """The device ids that can be held."""
    return [uuid for gpu in made for uuid in ([p.uuid for p in gpu.mig] if gpu.mig else [gpu.uuid])]


def gpu_pod(name: str, resource: str) -> dict[str, Any]:
    """A ready pod of a Deployment that asks for a GPU."""
    made: dict[str, Any] = pod(name, node=NODE, labels={"pod-template-hash": "5d4f", "team": "ml"})
    made["metadata"]["ownerReferences"] = [
        {"kind": "ReplicaSet", "name": "serve-5d4f", "controller": True}
    ]
    made["spec"]["containers"][0] |= {
        "resources": {"limits": {resource: "1"}},
        "readinessProbe": {"httpGet": {}},
    }
    made["status"] |= {
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "main", "state": {"running": {}}, "restartCount": 0}],
    }
    return made


def main(folder: Path, kind: str) -> None:
    """Play until standard input ends."""
    made = gpus(kind)
    held = units(made)
    resource = "nvidia.com/mig-1g.10gb" if kind == "dense" else "nvidia.com/gpu"
    world = fake_nvml.World(folder / "nvml.world", made)
    labels = {
        "node.kubernetes.io/instance-type": "p5.48xlarge",
        "topology.kubernetes.io/region": "us-east-1",
    }
    with KubeletSocket(folder / "kubelet.sock") as kubelet, KubeApiServer() as api:
        api.put("nodes", node(NODE, labels=labels))
        for index, uuid in enumerate(held):
            api.put("pods", gpu_pod(f"serve-5d4f-{index:03}", resource))
            kubelet.pods.append(holding(f"serve-5d4f-{index:03}", uuid, resource=resource))
        for index in range(PODS - len(held) if kind == "dense" else 0):
            api.put("pods", pod(f"other-{index}", node=NODE))
            kubelet.pods.append(holding(f"other-{index}"))
        kubelet.devices = offering(*held, resource=resource)
        print(json.dumps({"api": api.host, "library": str(fake_nvml.library())}), flush=True)
        start = time.monotonic()
        while not select([sys.stdin], [], [], CHANGE_SECONDS)[0]:
            turn = time.monotonic() - start
            for index, gpu in enumerate(made):
                ratio = 0.5 + 0.4 * math.sin(turn / 7 + index)
                gpu.busy(ratio)
                for part in gpu.mig or ():
                    part.gpm = fake_nvml.Gpm(graphics=ratio, sm=ratio / 2)
            world.write()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
