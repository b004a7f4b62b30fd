"""What the kernel says of the processes on a device, and where it can say nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gpucost.model import Process
from gpucost.sources.host_processes import (
    HOST_PID_NAMESPACE,
    RECHECK_SECONDS,
    HostProcesses,
    sees_host,
)

if TYPE_CHECKING:
    from pathlib import Path

UID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
OTHER_UID = UID.replace("0", "1")
CID = "c0" * 32


class Proc:
    """A /proc of a test's own, in the kernel's formats."""

    def __init__(self, root: Path, *, namespace: str = HOST_PID_NAMESPACE) -> None:
        self.root = root
        (root / "self/ns").mkdir(parents=True)
        (root / "self/ns/pid").symlink_to(namespace)
        self.looked = 0

    def put(self, pid: int | str, cgroup: str, *, started: int = 5, comm: str = "python") -> None:
        folder = self.root / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup").write_text(cgroup)
        (folder / "comm").write_text(f"{comm}\n")
        numbers = " ".join(["0"] * 18)
        (folder / "stat").write_text(f"{pid} ({comm}) a) (b) S {numbers} {started} 0 0\n")

    def end(self, pid: int) -> None:
        for path in (self.root / str(pid)).iterdir():
            path.unlink()
        (self.root / str(pid)).rmdir()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


def test_a_process_is_described_as_the_kernel_names_it(proc: Proc) -> None:
    proc.put(7, f"0::/kubepods/pod{UID}/{CID}\n")
    host = HostProcesses(proc.root)
    assert host.describe((Process(7, 5), Process(8))) == (
        Process(7, 5, f"0::/kubepods/pod{UID}/{CID}\n"),
        Process(8, None, ""),
    )


def test_an_mps_daemon_is_known_by_its_name(proc: Proc) -> None:
    proc.put(7, "0::/\n", comm="nvidia-cuda-mps")
    assert HostProcesses(proc.root).describe((Process(7),)) == (
        Process(7, None, "0::/\n", mps=True),
    )


def test_a_process_is_looked_at_once_while_it_stays(proc: Proc) -> None:
    proc.put(7, "0::/a\n")
    clock = Clock()
    host = HostProcesses(proc.root, clock)
    for _ in range(3):
        proc_of_7 = host.describe((Process(7),))
        host.end_reading()
        proc.put(7, "0::/b\n")  # would be seen, if it were looked at again
    assert proc_of_7 == (Process(7, None, "0::/a\n"),)


def test_a_pid_that_comes_again_is_another_process(proc: Proc) -> None:
    proc.put(7, "0::/a\n")
    host = HostProcesses(proc.root)
    host.describe((Process(7),))
    host.end_reading()
    host.end_reading()
    proc.put(7, "0::/b\n")
    assert host.describe((Process(7),)) == (Process(7, None, "0::/b\n"),)


def test_a_pid_that_was_given_again_unseen_is_found_out_by_its_start(proc: Proc) -> None:
    proc.put(7, "0::/a\n", started=5)
    clock = Clock()
    host = HostProcesses(proc.root, clock)
    host.describe((Process(7),))
    host.end_reading()
    proc.put(7, "0::/b\n", started=6)
    clock.now += RECHECK_SECONDS
    host.describe((Process(7),))
    host.end_reading()
    assert host.describe((Process(7),)) == (Process(7, None, "0::/b\n"),)


def test_a_process_that_ends_while_it_is_looked_at_is_gone(proc: Proc) -> None:
    proc.put(7, "0::/a\n")
    (proc.root / "7/stat").unlink()
    assert HostProcesses(proc.root).describe((Process(7),)) == (Process(7, None, ""),)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_what_may_not_be_read_is_unknown_and_not_gone(proc: Proc) -> None:
    proc.put(7, "0::/a\n")
    (proc.root / "7/cgroup").chmod(0)
    assert HostProcesses(proc.root).describe((Process(7),)) == (Process(7),)


def test_the_real_kernel_is_read_too() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        described = HostProcesses().describe((Process(child.pid),))
        child.communicate(b"\n", timeout=60)
    assert described is not None
    if described[0].cgroup is not None:  # in a container of its own it is not to be told
        assert ":/" in described[0].cgroup


def test_without_the_hosts_pids_no_number_is_looked_up_and_no_process_means_nothing(
    tmp_path: Path,
) -> None:
    proc = Proc(tmp_path / "proc", namespace="pid:[4026532001]")
    proc.put("self", "0::/\n")
    proc.put(1, "0::/\n")
    proc.put(7, f"0::/kubepods/pod{UID}/{CID}\n")
    host = HostProcesses(proc.root)
    assert host.describe((Process(7),)) == (Process(7),)
    assert host.describe(()) is None
    assert host.describe(None) is None


@pytest.mark.parametrize(
    ("own", "first", "seen"),
    [
        # In a PID namespace of our own, PID 1 is this very container, or its pod's pause
        ("0::/\n", "0::/\n", False),
        ("0::/\n", f"0::/../{CID}\n", False),
        (f"0::/kubepods/pod{UID}/{CID}\n", f"0::/kubepods/pod{UID}/{'d' * 64}\n", False),
        # In the host's, it is the host's init
        ("0::/\n", "0::/../../../init.scope\n", True),
        ("0::/\n", "0::/../../..\n", True),
        (f"0::/kubepods/pod{UID}/{CID}\n", "0::/\n", True),
        (f"4:cpu:/kubepods/pod{UID}/{CID}\n0::/\n", "4:cpu:/\n0::/\n", True),
        # A machine that is a container itself
        (f"0::/kubepods/pod{UID}/{CID}\n", f"0::/kubepods/pod{OTHER_UID}/{CID}\n", True),
        ("0::/\n", "", False),
    ],
)
def test_whether_pids_are_the_hosts_is_told_by_the_first_of_them(
    tmp_path: Path, own: str, first: str, *, seen: bool
) -> None:
    proc = Proc(tmp_path / "proc", namespace="pid:[4026532001]")
    proc.put("self", own)
    proc.put(1, first)
    assert sees_host(proc.root) is seen


def test_a_machine_without_proc_shows_nothing(tmp_path: Path) -> None:
    assert not sees_host(tmp_path)
