"""The programs of the cluster: built from pinned Go modules, or unpacked from Debian packages.

Each module under tools/ is built once and kept under the hash of what it was built from, so a
second checkout, and a second run, build nothing. Debian's packages are unpacked, not installed:
an installed containerd would start a service and own the machine's sockets.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.failure import ClusterError
from cluster.place import HERE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUILD_SECONDS = 2400
GO_AT_LEAST = (1, 26)


@dataclass(frozen=True)
class Module:
    """A module under tools/ and what it is built with.

    Static, since some of its programs run in images that hold nothing else.
    """

    name: str
    tags: str = ""
    settings: tuple[str, ...] = ()
    """Variables set by the linker, `<package>.<name>=<value>`."""

    @property
    def folder(self) -> Path:
        return HERE / "tools" / self.name

    def key(self) -> str:
        """What a build depends on, in short."""
        parts = [(self.folder / name).read_bytes() for name in ("go.mod", "go.sum")]
        return hashlib.sha256(
            b"\0".join([*parts, repr((self.tags, self.settings)).encode()])
        ).hexdigest()[:16]

    def folder_in(self, cache: Path) -> Path:
        return cache / "go" / f"{self.name}-{self.key()}"


# Kubernetes' own build states its version so; without it kubectl and charts see v0.0.0.
KUBERNETES = Module(
    "kubernetes",
    settings=(
        "k8s.io/component-base/version.gitVersion=v1.36.3",
        "k8s.io/component-base/version.gitMajor=1",
        "k8s.io/component-base/version.gitMinor=36",
    ),
)
ETCD = Module("etcd")
COREDNS = Module("coredns")
HELM = Module("helm")
KWOK = Module("kwok")
# Of the service discoveries only Kubernetes': the others bring 300 modules, one of which the Go
# proxy does not serve.
PROMETHEUS = Module("prometheus", tags="remove_all_sd,enable_kubernetes_sd")
KEDA = Module("keda", settings=("github.com/kedacore/keda/v2/version.Version=2.21.0",))
PROMETHEUS_OPERATOR = Module("prometheus-operator")
ALERTMANAGER = Module("alertmanager")
VICTORIAMETRICS = Module("victoriametrics")
KUBE_ROUTER = Module("kube-router")
ACTIONLINT = Module("actionlint")

FOR_CLUSTER = (ETCD, KUBERNETES, COREDNS, HELM)
FOR_TESTS = (PROMETHEUS, KWOK)
FOR_OPERATORS = (KEDA, PROMETHEUS_OPERATOR, ALERTMANAGER, KUBE_ROUTER)

DEBIAN = {
    "containerd": "usr/bin/containerd",
    "runc": "usr/sbin/runc",
    "containernetworking-plugins": "usr/lib/cni/bridge",
}
"""Package and a file that says it is there."""


def build(modules: tuple[Module, ...], cache: Path) -> None:
    """Make the programs of these modules, those that are not there yet.

    Raises ClusterError where there is no Go or a build fails, with the end of its log.
    """
    missing = [module for module in modules if not module.folder_in(cache).is_dir()]
    if not missing:
        return
    _require_go()
    with _one_builder(cache):
        for module in missing:
            _build(module, cache)


def program(module: Module, name: str, cache: Path) -> Path:
    """One program of a module.

    Raises ClusterError if it has not been built.
    """
    path = module.folder_in(cache) / name
    if not path.is_file():
        raise ClusterError(f"{name} is not built. Run: make cluster")
    return path


def _build(module: Module, cache: Path) -> None:
    target = module.folder_in(cache)
    if target.is_dir():  # another builder made it while this one waited
        return
    making, log = target.with_name(f"{target.name}.making"), target.with_name(f"{target.name}.log")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    say(f"building {module.name} (once; {log} tells how far)")
    begin = time.monotonic()
    linker = " ".join(["-s", "-w", *(f"-X {setting}" for setting in module.settings)])
    command = ["go", "build", "-buildvcs=false", "-trimpath", f"-ldflags={linker}"]
    command += [f"-tags={module.tags}"] if module.tags else []
    command += ["-o", f"{making}/", "tool"]
    with log.open("wb") as sink:
        done = subprocess.run(
            command,
            cwd=module.folder,
            env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
            stdout=sink,
            stderr=sink,
            timeout=BUILD_SECONDS,
            check=False,
        )
    if done.returncode:
        tail = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-8:])
        raise ClusterError(f"building {module.name} failed; the end of {log}:\n{tail}")
    making.rename(target)  # only a whole build has the name that is looked for
    say(f"built {module.name} in {time.monotonic() - begin:.0f} s")


def _require_go() -> None:
    remedy = "Install Go >= 1.26 and put it on PATH (on Debian its packages may be too old)"
    go = shutil.which("go")
    if go is None:
        raise ClusterError(f"no Go on PATH. {remedy}")
    answer = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=False
    ).stdout.strip()
    parts = answer.removeprefix("go").split(".")
    if not all(part.isdigit() for part in parts[:2]) or (
        tuple(int(part) for part in parts[:2]) < GO_AT_LEAST
    ):
        raise ClusterError(f"{go} is {answer or 'not a Go that answers'}. {remedy}")


@contextmanager
def _one_builder(cache: Path) -> Iterator[None]:
    """Two checkouts that build at once would build everything twice."""
    (cache / "go").mkdir(parents=True, exist_ok=True)
    with (cache / "go/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def debian(cache: Path) -> Path:
    """The root of what Debian's packages unpack to, which is made if need be.

    Raises ClusterError where there is no apt, or it does not bring them.
    """
    root = cache / "debian"
    if all((root / proof).exists() for proof in DEBIAN.values()):
        return root
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise ClusterError(
            "no apt: containerd, runc and the CNI plugins come as Debian or Ubuntu packages"
        )
    say(f"unpacking {', '.join(DEBIAN)}")
    work = cache / "debian.making"
    shutil.rmtree(work, ignore_errors=True)
    (work / "debs").mkdir(parents=True)
    fetch = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *DEBIAN]
    for attempt in (fetch, ["apt-get", "-q", "update"], fetch):
        done = subprocess.run(
            attempt, cwd=work / "debs", capture_output=True, text=True, timeout=600, check=False
        )
        if attempt is fetch and not done.returncode:
            break
    else:
        raise ClusterError(f"apt-get download {' '.join(DEBIAN)}: {done.stderr.strip()[-500:]}")
    for deb in sorted((work / "debs").glob("*.deb")):
        subprocess.run(["dpkg", "-x", deb, work / "root"], check=True, timeout=120)
    shutil.rmtree(root, ignore_errors=True)
    (work / "root").rename(root)
    shutil.rmtree(work)
    return root


def say(words: str) -> None:
    """One line of progress on the terminal."""
    print(f"cluster: {words}", flush=True)
