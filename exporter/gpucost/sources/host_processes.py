"""Processes as this machine's kernel shows them, for telling whose they are.

The rule of this file: a process is looked at when it is first seen on a device, not again while
it stays; and only where PIDs are the host's, as NVML's are. In a PID namespace of its own the
exporter would find others under the same numbers.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.cgroups import owner_of
from gpucost.model import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PROC = Path("/proc")

HOST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO (Linux, include/linux/proc_ns.h): the namespace that the machine began with."""

MAX_CGROUP_BYTES = 16 << 10
"""A path is at most 4096 characters, and cgroup v1 has a line for each of a dozen controllers."""

MPS = "nvidia-cuda-mps"
"""nvidia-cuda-mps-server and -control, as the kernel cuts a command's name to 15 letters."""

RECHECK_SECONDS = 30.0
"""How long a PID that stays on a device is taken for the same process."""


class _Seen(Struct, frozen=True):
    """A process as it was first seen; `started` is the kernel's, empty where it is gone.

    `cgroup` is None where it may not be seen.
    """

    cgroup: str | None
    started: bytes
    mps: bool = False


_GONE = _Seen("", b"")
_HIDDEN = _Seen(None, b"")


class HostProcesses:
    """Adds what the kernel knows to the processes of a device. Used by one thread."""

    def __init__(self, proc: Path = PROC, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._visible: bool | None = None
        self._seen: dict[int, _Seen] = {}
        self._last: dict[int, Process] = {}
        self._met: set[int] = set()
        self._checked_at = clock()
        self.version = 0
        """Grows whenever a process is looked at: `describe` may then say something new."""

    @property
    def visible(self) -> bool:
        """Whether the PIDs here are the host's."""
        if self._visible is None:
            self._visible = sees_host(self._proc)
        return self._visible

    def describe(self, processes: tuple[Process, ...] | None) -> tuple[Process, ...] | None:
        """The processes with their cgroups.

        None where nobody can tell: without the host's PIDs the driver shows no processes of
        others, so an empty list says nothing.
        """
        if not processes or not self.visible:
            return processes if processes or self.visible else None
        met, last, found = self._met, self._last, []
        for process in processes:
            pid = process.pid
            met.add(pid)
            before = last.get(pid)
            if before is None or before.memory_bytes != process.memory_bytes:
                before = last[pid] = self._described(process)
            found.append(before)
        return tuple(found)

    def meet(self, pids: Iterable[int]) -> None:
        """Keep these, whose description is still known to the caller."""
        self._met.update(pids)

    def _described(self, process: Process) -> Process:
        pid = process.pid
        seen = self._seen.get(pid)
        if seen is None:
            seen = self._seen[pid] = self._look(pid)
        return Process(pid, process.memory_bytes, seen.cgroup, mps=seen.mps)

    def end_reading(self) -> None:
        """Forget the processes that no device showed since the last call."""
        if len(self._seen) != len(self._met):
            self._seen = {pid: seen for pid, seen in self._seen.items() if pid in self._met}
            self._last = {pid: last for pid, last in self._last.items() if pid in self._met}
        self._met.clear()
        now = self._clock()
        if now - self._checked_at >= RECHECK_SECONDS:
            self._checked_at = now
            for pid, seen in list(self._seen.items()):
                if self._started(pid) != seen.started:
                    del self._seen[pid], self._last[pid]
                    self.version += 1

    def _look(self, pid: int) -> _Seen:
        """What is known of a PID now."""
        self.version += 1
        started = self._started(pid)
        try:
            cgroup = _read(self._proc / str(pid) / "cgroup", MAX_CGROUP_BYTES)
        except PermissionError:
            return _HIDDEN
        command = _read(self._proc / str(pid) / "comm", 64)
        if not started or not cgroup or self._started(pid) != started:
            return _GONE
        return _Seen(cgroup.decode(errors="replace"), started, command.startswith(MPS.encode()))

    def _started(self, pid: int) -> bytes:
        """When a process began, in the kernel's ticks (proc_pid_stat(5), field 22)."""
        try:
            text = _read(self._proc / str(pid) / "stat", 4096)
        except PermissionError:
            return b""
        # The name, in parentheses, may hold spaces and parentheses itself.
        fields = text.rpartition(b")")[2].split()
        return fields[19] if len(fields) > 19 else b""  # noqa: PLR2004 - 22, less the two before


def sees_host(proc: Path = PROC) -> bool:
    """Whether the PIDs here are the host's.

    They are in the namespace that the machine began with. A machine may itself be a container
    (kind); there they are, where PID 1 is not of our own pod.
    """
    try:
        if str((proc / "self/ns/pid").readlink()) == HOST_PID_NAMESPACE:
            return True
    except OSError:
        return False
    try:
        own = _read(proc / "self/cgroup", MAX_CGROUP_BYTES).decode(errors="replace")
        first = _read(proc / "1/cgroup", MAX_CGROUP_BYTES).decode(errors="replace")
    except PermissionError:
        return False
    elsewhere = set(first.splitlines()) - set(own.splitlines())
    if not own or not elsewhere:
        return False
    if pod := owner_of(own).pod_uid:
        return pod != owner_of(first).pod_uid
    # With a private cgroup namespace a container of the same pod (its pause container, where
    # the pod's containers share PIDs) stands right beside us.
    return not all(re.fullmatch(r"[^:]*:[^:]*:/\.\./[^/]*", line) for line in elsewhere)


def _read(path: Path, most: int) -> bytes:
    """A file of the kernel's; empty where it is gone. Raises PermissionError."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(most) or b""
    except PermissionError:
        raise
    except OSError:
        return b""
