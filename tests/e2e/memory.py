"""Takes the memory of the exporter's container away, so that the kernel kills a process of it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PATIENCE, DYING = 60, 5

# In the container's cgroup it takes all that the limit leaves. The kernel kills whoever is worst:
# the exporter, since a kubelet has its containers go before what is not of its making
# (oom_score_adj, pkg/kubelet/qos/policy.go).
CROWD = """
import sys, time
with open(sys.argv[1], "w") as procs:
    procs.write("0")
taken = []
while True:
    taken.append(bytearray(8 << 20))
    time.sleep(0.05)
    if len(taken) > 100:
        sys.exit("no end of memory")
"""


def exporter_process() -> int:
    """The first process of the exporter's container, as the machine inside numbers it."""
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda it: int(it.name)):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in words and any(word.endswith(b"gpucost") for word in words):
            return int(folder.name)
    raise LookupError("no exporter runs")


def crowd_out(pid: int) -> None:
    """Fill its cgroup until it is gone. Raises AssertionError where it outlives that.

    What takes the memory may be killed too, before the exporter's has become free.
    """
    crowd = subprocess.Popen([sys.executable, "-c", CROWD, str(memory_group(pid) / "cgroup.procs")])
    try:
        end = time.monotonic() + PATIENCE
        while _lives(pid) and time.monotonic() < end:
            if crowd.poll() is not None:
                end = min(end, time.monotonic() + DYING)
            time.sleep(0.1)
        assert not _lives(pid), f"the exporter outlived it; the crowd ended with {crowd.poll()}"
    finally:
        crowd.kill()
        crowd.wait()


def _lives(pid: int) -> bool:
    """Not so one that was killed, and that nobody has asked about yet (a zombie)."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def memory_group(pid: int) -> Path:
    """The folder of its memory cgroup, of either version."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return CGROUPS / "memory" / path.lstrip("/")
        if not controllers and (CGROUPS / "cgroup.controllers").exists():
            return CGROUPS / path.lstrip("/")
    raise LookupError(f"process {pid} has no memory cgroup")
