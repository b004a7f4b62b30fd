"""The machine inside the machine: its own processes, mounts, network and host name.

Seen from outside. One process (init.py) holds the namespaces; `enter` runs a command in them as
if on a machine of its own; `close` kills that process, and with it the kernel ends every
process, mount and interface inside. What namespaces do not cover is undone by hand: cgroups,
the kernel settings that a kubelet writes, and the folders that stand for /var/lib/kubelet.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.failure import ClusterError
from cluster.identity import living, name_of
from cluster.place import HERE, HOST_FOLDERS, NODE, ROOT
from cluster.prerequisites import CGROUPS, require_own_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.place import Place

REGISTER = Path("/run/gpucost-clusters")
"""Names the state folders of the clusters on this machine, which share its kernel's settings."""
CLOSE_SECONDS = 60
LINGER_SECONDS = 5
"""The namespace goes when `unshare` has seen its child's end."""

# What a kubelet sets machine-wide (pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables).
KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def is_open(place: Place) -> bool:
    """Whether the machine inside lives."""
    return living(place.holder) is not None


def open_machine(place: Place) -> None:
    """Make the machine inside. What a half-dead one left is cleared first.

    Raises ClusterError where the kernel refuses it.
    """
    close_machine(place, keep_logs=True)
    place.state.mkdir(parents=True, exist_ok=True)
    place.kernel.write_text(json.dumps(_kernel_settings_before(place)))
    _make_folders(place)
    for folder in _cgroup_roots():
        (folder / place.cgroup).mkdir(exist_ok=True)
        _hand_down_controllers(folder)
    command = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--net", "--uts"]
    command += ["--propagation", "private", "--mount-proc"]
    command += [sys.executable, "-S", "-E", str(HERE / "init.py")]
    log = (place.state / "init.log").open("wb")
    with log:
        outer = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    holder = _child_of(outer.pid)
    if holder is None:
        outer.kill()
        outer.wait()
        said = (place.state / "init.log").read_text(errors="replace").strip()
        raise ClusterError(f"the kernel refuses new namespaces ({said}). It takes full root")
    outer.returncode = 0  # it lives on without us, and must not be waited for
    place.holder.write_text(str(name_of(holder)))
    REGISTER.mkdir(exist_ok=True)
    (REGISTER / place.cgroup).write_text(str(place.state))
    binds = "".join(f"mount --bind {place.inside_of(folder)} {folder}\n" for folder in HOST_FOLDERS)
    script = f"""\
set -e
hostname {NODE}
mount --make-rshared /
mount -t tmpfs -o mode=755 run /run
{binds}ip link set lo up
"""
    run_inside(place, ["sh", "-c", script], timeout=30)


def entering(place: Place) -> list[str]:
    """The words to put before a command that shall run inside.

    Raises ClusterError if there is no machine.
    """
    holder = living(place.holder)
    if holder is None:
        raise ClusterError("no cluster is up. Run: make cluster")
    namespaces = ["--mount", "--net", "--pid", "--uts"]
    return ["nsenter", "--target", str(holder), *namespaces, f"--wd={ROOT}"]


def run_inside(place: Place, command: Sequence[str], timeout: float) -> None:
    """Run a command inside to its end.

    Raises ClusterError with what it said if it fails.
    """
    done = subprocess.run(
        [*entering(place), *command], capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise ClusterError(f"{command[0]} failed inside the machine: {done.stderr.strip()}")


def close_machine(place: Place, *, keep_logs: bool = False) -> None:
    """End the machine inside and undo all it did; without one, clear what it may have left.

    Raises ClusterError if something inside cannot be ended, or the state folder is not a cluster's.
    """
    require_own_folder(place.state)
    deadline = time.monotonic() + CLOSE_SECONDS
    holder = living(place.holder)
    if holder is not None:
        os.kill(holder, signal.SIGKILL)
    # The holder's entry goes when the last process of its namespace has gone.
    while holder is not None and Path(f"/proc/{holder}").exists():
        if time.monotonic() > deadline:
            raise ClusterError(f"process {holder}, which holds the cluster, does not end")
        time.sleep(0.05)
    for folder in _cgroup_roots():
        _remove_cgroup(folder / place.cgroup, deadline)
    if place.kernel.exists() and not _others(place):  # else the last of them does
        _restore_kernel(json.loads(place.kernel.read_text()))
    _strike_off(place)
    if place.made.exists():
        _remove_folders(place.made.read_text().splitlines())
    if place.state.exists():
        _clear(place.state, kept=place.logs if keep_logs else None)


def _clear(folder: Path, kept: Path | None) -> None:
    for entry in folder.iterdir():
        if entry == kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if kept is None:
        folder.rmdir()


# --- The process that holds it ------------------------------------------------------------------


def _child_of(pid: int) -> int | None:
    """The process that `unshare` forked, once it runs."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for _ in range(200):
        try:
            found = children.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # Until it has become init.py it may still fail to mount /proc.
        if found and b"init.py" in Path(f"/proc/{found[0]}/cmdline").read_bytes():
            return int(found[0])
        time.sleep(0.05)
    return None


# --- What namespaces do not cover ---------------------------------------------------------------


def _kernel_settings() -> dict[str, str]:
    paths = {name: Path("/proc/sys", name) for name in KERNEL_SETTINGS}
    return {name: path.read_text().strip() for name, path in paths.items() if path.exists()}


def _kernel_settings_before(place: Place) -> dict[str, str]:
    """As they were without a cluster: where one is up, it knows."""
    for other in _others(place):
        known: dict[str, str] = json.loads(other.kernel.read_text())
        return known
    return _kernel_settings()


def _others(place: Place) -> list[Place]:
    """The other clusters that live on this machine."""
    entries = list(REGISTER.iterdir()) if REGISTER.is_dir() else []
    states = [Path(entry.read_text()) for entry in entries if entry.name != place.cgroup]
    return [it for it in (replace(place, state=state) for state in states) if is_open(it)]


def _strike_off(place: Place) -> None:
    (REGISTER / place.cgroup).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others are in it, or it is not there
        REGISTER.rmdir()


def _restore_kernel(before: dict[str, str]) -> None:
    for name, value in _kernel_settings().items():
        if before.get(name, value) != value:
            Path("/proc/sys", name).write_text(before[name])


def _make_folders(place: Place) -> None:
    """The state's folders, and the mount points that this machine lacks (written down)."""
    for own in (place.logs, place.pids, place.pki, place.images, place.gpus):
        own.mkdir(exist_ok=True)
    missing: set[Path] = set()
    for name in HOST_FOLDERS:
        place.inside_of(name).mkdir(parents=True)
        missing |= {path for path in (Path(name), *Path(name).parents) if not path.exists()}
    place.made.write_text("\n".join(map(str, missing)))
    for name in HOST_FOLDERS:
        Path(name).mkdir(parents=True, exist_ok=True)


def _remove_folders(made: list[str]) -> None:
    """Remove the mount points that this machine did not have, but for those of another inside.

    With a folder the kernel takes away what is mounted on it in other namespaces
    (mount_namespaces(7), since Linux 3.18).
    """
    deadline = time.monotonic() + LINGER_SECONDS
    while (taken := _mount_points() & set(made)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for folder in sorted(made, key=len, reverse=True):
        if folder in taken:
            print(f"cluster: left {folder}: another cluster has it in use", flush=True)
            continue
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError as not_empty:
            # Someone else has put something there since: it is theirs now.
            print(f"cluster: left {folder}: {not_empty.strerror}", flush=True)


def _mount_points() -> set[str]:
    """Where something is mounted, in the namespace of any process (proc_pid_mountinfo(5))."""
    found: set[str] = set()
    for file in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):  # a process that has gone
            found |= {line.split(" ", 5)[4] for line in file.read_text().splitlines()}
    return found


def _cgroup_roots() -> list[Path]:
    """The root of each hierarchy: one with cgroup v2, one a controller with v1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [folder for folder in CGROUPS.iterdir() if (folder / "cgroup.procs").exists()]


def _hand_down_controllers(root: Path) -> None:
    """With cgroup v2 a group has the controllers that its parent hands down."""
    own = root / "cgroup.controllers"
    if own.exists():
        words = " ".join(f"+{name}" for name in own.read_text().split())
        (root / "cgroup.subtree_control").write_text(words)


def _remove_cgroup(group: Path, deadline: float) -> None:
    """The group and all below it, once the kernel has let go of their processes."""
    for folder in _deepest_first(group):
        while True:
            try:
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError as busy:
                if time.monotonic() > deadline:
                    raise ClusterError(f"cannot remove {folder}: {busy.strerror}") from None
                time.sleep(0.05)
            else:
                break


def _deepest_first(group: Path) -> Iterator[Path]:
    if not group.is_dir():
        return
    for folder in [entry for entry in group.iterdir() if entry.is_dir()]:
        yield from _deepest_first(folder)
    yield group
