"""What a machine shows of a cluster: taken before it comes and after it went, to be the same.

Seen from outside. Only what the cluster can touch is looked at, so that whatever else the machine
does meanwhile is not taken for the cluster's.
"""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.identity import living
from cluster.place import HOST_FOLDERS
from cluster.prerequisites import CGROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster.place import Place

NAMESPACES = ("pid", "mnt", "net", "uts")
SETTINGS = ("vm", "kernel", "net")
"""Under /proc/sys: where a kubelet, kube-proxy, containerd and the CNI plugins write."""
COUNTERS = (
    "kernel/ns_last_pid",
    "kernel/perf_event_max_sample_rate",
    "kernel/pty/nr",
    "kernel/random/",
    "kernel/tainted",
    "net/netfilter/nf_conntrack_count",
)
"""There, and nobody's settings: they change by themselves."""


@dataclass(frozen=True)
class Traces:
    """What is there of what a cluster makes or changes."""

    mounts: frozenset[str]
    folders: frozenset[str]
    cgroups: frozenset[str]
    interfaces: frozenset[str]
    rules: frozenset[str]
    processes: frozenset[str]
    settings: Mapping[str, str]

    @classmethod
    def of(cls, place: Place, namespaces: frozenset[str] = frozenset()) -> Traces:
        """Of this machine now; `namespaces` are those of a cluster that was or is up."""
        return cls(
            mounts=frozenset(_mounts(place)),
            folders=frozenset(
                str(path) for path in (place.state, *map(Path, HOST_FOLDERS)) if path.exists()
            ),
            cgroups=frozenset(map(str, _cgroups(place.cgroup))),
            interfaces=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
            rules=frozenset(_rules()),
            processes=frozenset(_processes(namespaces)),
            settings=dict(_settings()),
        )

    def since(self, before: Traces) -> list[str]:
        """What is there now and was not, and what has gone: each a line.

        A setting that is new came with a module of the kernel, which stays loaded.
        """
        changes = []
        for kind in ("mounts", "folders", "cgroups", "interfaces", "rules", "processes"):
            was, now = getattr(before, kind), getattr(self, kind)
            changes += [f"{kind}: {one}" for one in sorted(now - was)]
            changes += [f"{kind}: {one} (gone)" for one in sorted(was - now)]
        for name, value in before.settings.items():
            if self.settings.get(name, value) != value:
                changes.append(f"settings: {name} is {self.settings[name]}, was {value}")
        return changes


def namespaces_of(place: Place) -> frozenset[str]:
    """The names of a living cluster's namespaces; none if there is none."""
    holder = living(place.holder)
    return frozenset() if holder is None else frozenset(_namespaces(Path(f"/proc/{holder}")))


def _namespaces(process: Path) -> Iterator[str]:
    for kind in NAMESPACES:
        with contextlib.suppress(OSError):  # it has gone
            yield str((process / "ns" / kind).readlink())


def _processes(namespaces: frozenset[str]) -> Iterator[str]:
    """Processes in any of these namespaces."""
    for process in Path("/proc").glob("[0-9]*") if namespaces else ():
        if namespaces & set(_namespaces(process)):
            with contextlib.suppress(OSError):
                yield f"{process.name} {(process / 'comm').read_text().strip()}"


def _mounts(place: Place) -> Iterator[str]:
    """Mounts here that are the cluster's or its builders', or on a folder that it takes."""
    folders = (*HOST_FOLDERS, str(place.state), str(place.programs))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        root, point = line.split(" ", 5)[3:5]
        if any(f"{path}/".startswith(f"{folder}/") for path in (root, point) for folder in folders):
            yield point


def _cgroups(name: str) -> Iterator[Path]:
    """Groups of this name at the root of any hierarchy, and all below them."""
    for group in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")):
        if group.is_dir():
            yield group
            yield from (path for path in group.rglob("*") if path.is_dir())


def _rules() -> Iterator[str]:
    """Packet filter rules of this machine's own network, without their counters and dates."""
    for program in ("iptables-save", "ip6tables-save"):
        with contextlib.suppress(FileNotFoundError):
            said = subprocess.run(
                [program], capture_output=True, text=True, timeout=30, check=False
            ).stdout
            yield from (f"{program} {line}" for line in said.splitlines() if line.startswith("-"))


def _settings() -> Iterator[tuple[str, str]]:
    root = Path("/proc/sys")
    for part in SETTINGS:
        for path in (root / part).rglob("*"):
            name = str(path.relative_to(root))
            if name.startswith(COUNTERS) or not path.is_file():
                continue
            with contextlib.suppress(OSError, UnicodeDecodeError):  # some are only written
                yield name, path.read_text().strip()
