"""The programs of Kubernetes: with which words each is started, and when it is ready.

Seen from inside. The flags are those of a production cluster wherever one machine allows it
(RBAC and node authorization, TLS everywhere, real service account tokens); a comment says where
not.
"""

from __future__ import annotations

import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cluster import prerequisites, processes
from cluster.place import (
    DNS_SERVICE,
    NODE,
    NODE_ADDRESS,
    POD_RANGE,
    SERVICE_RANGE,
)
from cluster.programs import ETCD, KUBERNETES, debian, program
from played_gpus.install import PAUSE, write_runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.place import Place

ETCD_URL = "http://127.0.0.1:2379"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
READY_SECONDS = 180


class Components:
    """Starts, stops and restarts them by name."""

    NAMES = (
        "etcd",
        "containerd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "kubelet",
    )

    def __init__(self, place: Place) -> None:
        self._place = place
        self._pki = place.pki
        self._debian = debian(place.programs)

    def start_all(self) -> None:
        """Start those that do not run, each after those it needs are ready.

        Raises ClusterError when one does not come up.
        """
        self._write_settings()
        for name in self.NAMES:
            self.start(name)

    def start(self, name: str) -> None:
        """Start one and wait until it is ready; does nothing if it runs and is."""
        if not processes.running(self._place, name):
            for address, port in _PORTS.get(name, ()):
                prerequisites.require_free_port(address, port, name)
            env = {"PATH": self._path()}
            processes.start(self._place, name, self._command(name), env)
        processes.wait_until(
            f"{name} is not ready", lambda: self._ready(name), READY_SECONDS, self._place, name
        )

    def stop(self, name: str) -> None:
        """End one; what runs in containers goes on."""
        processes.stop(self._place, name)

    def restart(self, name: str) -> None:
        """End one and start it again."""
        self.stop(name)
        self.start(name)

    def freeze(self, name: str) -> None:
        """Have one hang: it neither works nor ends."""
        processes.tell(self._place, name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let it go on."""
        processes.tell(self._place, name, signal.SIGCONT)

    def kubectl(
        self, *words: str, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """What kubectl answers as the cluster's administrator."""
        kubectl = program(KUBERNETES, "kubectl", self._place.programs)
        return subprocess.run(
            [kubectl, f"--kubeconfig={self._place.kubeconfig}", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def _path(self) -> str:
        folders = [self._debian / "usr/bin", self._debian / "usr/sbin"]
        return ":".join([*map(str, folders), "/usr/sbin:/usr/bin:/sbin:/bin"])

    def _command(self, name: str) -> Sequence[str | Path]:
        match name:
            case "etcd":
                return [program(ETCD, "server", self._place.programs), *self._etcd()]
            case "containerd":
                return [self._debian / "usr/bin/containerd", "--config", self._file(name)]
            case _:
                flags = {
                    "kube-apiserver": self._api_server,
                    "kube-controller-manager": self._controller_manager,
                    "kube-scheduler": self._scheduler,
                    "kube-proxy": self._proxy,
                    "kubelet": self._kubelet,
                }[name]()
                return [program(KUBERNETES, name, self._place.programs), *flags]

    def _file(self, name: str) -> Path:
        """A component's settings file."""
        return self._place.state / "settings" / name

    def _etcd(self) -> list[str]:
        return [
            f"--data-dir={self._place.state / 'etcd'}",
            "--unsafe-no-fsync",  # it need not outlive a power cut
            f"--listen-client-urls={ETCD_URL}",
            f"--advertise-client-urls={ETCD_URL}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
        ]

    def _api_server(self) -> list[str]:
        pki = self._pki
        return [
            f"--etcd-servers={ETCD_URL}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--audit-policy-file={self._file('audit.yaml')}",
            f"--audit-log-path={self._place.logs / 'audit.log'}",
            f"--client-ca-file={pki / 'ca.pem'}",
            f"--tls-cert-file={pki / 'api.pem'}",
            f"--tls-private-key-file={pki / 'api.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.pem'}",
            f"--kubelet-client-certificate={pki / 'api-to-kubelet.pem'}",
            f"--kubelet-client-key={pki / 'api-to-kubelet.key'}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki / 'service-accounts.key'}",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
            f"--requestheader-client-ca-file={pki / 'front-proxy-ca.pem'}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki / 'front-proxy.pem'}",
            f"--proxy-client-key-file={pki / 'front-proxy.key'}",
            "--enable-aggregator-routing",
            "--kubelet-preferred-address-types=InternalIP",  # no name service knows the node
        ]

    def _controller_manager(self) -> list[str]:
        return [
            f"--kubeconfig={self._pki / 'controller-manager.kubeconfig'}",
            f"--root-ca-file={self._pki / 'ca.pem'}",
            f"--service-account-private-key-file={self._pki / 'service-accounts.key'}",
            "--use-service-account-credentials",
            "--allocate-node-cidrs",
            f"--cluster-cidr={POD_RANGE}",
            "--leader-elect=false",  # there is but one
            "--horizontal-pod-autoscaler-sync-period=5s",  # 15 s: a test would wait thrice as long
        ]

    def _scheduler(self) -> list[str]:
        return [f"--kubeconfig={self._pki / 'scheduler.kubeconfig'}", "--leader-elect=false"]

    def _proxy(self) -> list[str]:
        return [
            f"--kubeconfig={self._pki / 'proxy.kubeconfig'}",
            f"--hostname-override={NODE}",
            f"--cluster-cidr={POD_RANGE}",
            # The limit of tracked connections is the whole machine's: not ours to set.
            "--conntrack-max-per-core=0",
        ]

    def _kubelet(self) -> list[str]:
        return [
            f"--config={self._file('kubelet')}",
            f"--kubeconfig={self._pki / 'kubelet.kubeconfig'}",
            f"--hostname-override={NODE}",
            f"--node-ip={NODE_ADDRESS}",
            "--v=2",
        ]

    def _write_settings(self) -> None:
        folder = self._place.state / "settings"
        folder.mkdir(exist_ok=True)
        runtime = write_runtime(self._place.gpus, self._debian / "usr/sbin/runc")
        self._file("containerd").write_text(
            _containerd_settings(self._debian / "usr/lib/cni", runtime)
        )
        self._file("kubelet").write_text(yaml.safe_dump(self._kubelet_settings()))
        self._file("audit.yaml").write_text(yaml.safe_dump(_AUDIT))
        network = Path("/etc/cni/net.d/10-bridge.conflist")
        network.parent.mkdir(parents=True, exist_ok=True)
        network.write_text(_NETWORK)

    def _kubelet_settings(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._place.cgroup}",
            "failCgroupV1": False,  # from 1.35 it refuses v1, which some machines still have
            "failSwapOn": False,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._pki / "ca.pem")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(self._pki / "kubelet-server.pem"),
            "tlsPrivateKeyFile": str(self._pki / "kubelet-server.key"),
            "clusterDomain": "cluster.local",
            "clusterDNS": [DNS_SERVICE],
            "resolvConf": "/dev/null",  # nothing outside of the cluster is to be resolved
            "enforceNodeAllocatable": [],
            # A contributor's full disk must not evict what is under test.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,  # no registry would give them back
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False,
        }

    def _ready(self, name: str) -> bool:
        match name:
            case "etcd":
                return _answers(f"{ETCD_URL}/health")
            case "containerd":
                return self.ctr("version").returncode == 0
            case "kube-apiserver":
                return self.kubectl("get", "--raw", "/readyz").returncode == 0
            case "kubelet":
                jsonpath = "-ojsonpath={.status.conditions[?(@.type=='Ready')].status}"
                return self.kubectl("get", "node", NODE, jsonpath).stdout == "True"
            case _:
                return processes.running(self._place, name)

    def ctr(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """What containerd's own client answers, in the namespace that the kubelet uses."""
        ctr = self._debian / "usr/bin/ctr"
        return subprocess.run(
            [ctr, "--namespace=k8s.io", *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


_PORTS = {
    "etcd": [("127.0.0.1", 2379)],
    "kube-apiserver": [(NODE_ADDRESS, 6443)],
    "kubelet": [(NODE_ADDRESS, 10250)],
}

# Who asked for what, without the bodies: tests count what the exporter asks.
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}

_NETWORK = """\
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"""


def _containerd_settings(cni: Path, nvidia_runtime: Path) -> str:
    """For containerd 1.6 and 1.7 (config version 2)."""
    return f"""\
version = 2
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE, as in many a CI machine, a lower score than one's own is refused.
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "/etc/cni/net.d"
  # As the GPU operator and the clouds' GPU images set it: containers that name devices get them.
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "nvidia"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
      BinaryName = "{nvidia_runtime}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own, http
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False
