"""The cluster's machine: what it refuses in one line, and that it leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster import machine as machine_module
from cluster import prerequisites, programs
from cluster.failure import ClusterError
from cluster.identity import living, name_of
from cluster.machine import (
    _remove_folders,
    close_machine,
    entering,
    is_open,
    open_machine,
    run_inside,
)
from cluster.place import HOST_FOLDERS, ROOT, Place
from cluster.traces import Traces, namespaces_of

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces take root")


OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    # A cluster that is up on this machine is nothing to the machines of these tests.
    monkeypatch.setattr(machine_module, "REGISTER", tmp_path / "clusters")
    return Place(state=tmp_path / "gpucost-unit", programs=tmp_path / "programs")


@pytest.fixture
def machine(place: Place) -> Iterator[Place]:
    open_machine(place)
    yield place
    close_machine(place)


# --- What is refused ----------------------------------------------------------------------------


def test_without_go_it_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"no Go on PATH\. Install Go >= 1\.26"):
        programs.build((programs.ETCD,), place.programs)


@pytest.mark.parametrize("version", ["go1.22.1", "devel", ""])
def test_a_go_that_is_too_old_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho {version}\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ClusterError, match=rf"{go} is .*Install Go >= 1\.26"):
        programs.build((programs.ETCD,), place.programs)


def test_a_build_that_fails_shows_the_end_of_its_log(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    go.write_text(
        '#!/bin/sh\n[ "$1" = env ] && echo go1.26.8 && exit\necho no such package; exit 1\n'
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ClusterError, match="no such package"):
        programs.build((programs.ETCD,), place.programs)
    assert not programs.ETCD.folder_in(place.programs).exists()


@needs_root
def test_without_root_it_says_so(place: Place) -> None:
    done = subprocess.run(
        [
            "/usr/bin/setpriv",
            "--reuid=65534",
            "--clear-groups",
            sys.executable,
            "-m",
            "cluster",
            "up",
        ],
        env=os.environ
        | {
            "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'exporter'}",
            "GPUCOST_CLUSTER_STATE": str(place.state),
            "HOME": "/nonexistent",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "cluster: it takes root, for namespaces and mounts. Run it with sudo\n"


@needs_root
def test_a_folder_that_holds_something_else_is_left_alone(place: Place) -> None:
    place.state.mkdir()
    (place.state / "letters").write_text("mine")
    with pytest.raises(ClusterError, match=r"holds something that is not a cluster's \(letters\)"):
        prerequisites.require(place)
    with pytest.raises(ClusterError, match="not a cluster's"):
        close_machine(place)
    assert (place.state / "letters").read_text() == "mine"


@needs_root
def test_a_path_too_long_for_sockets_is_refused(place: Place) -> None:
    long = Place(state=place.state / ("x" * 60), programs=place.programs)
    with pytest.raises(ClusterError, match="GPUCOST_CLUSTER_STATE"):
        prerequisites.require(long)


@needs_root
@pytest.mark.parametrize("there", [(), ("cgroup.controllers",), ("memory/cgroup.procs",)])
def test_without_cgroups_it_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: tuple[str, ...]
) -> None:
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(prerequisites, "CGROUPS", tmp_path)
    with pytest.raises(ClusterError, match=r"no writable cgroups .* run it privileged"):
        prerequisites.require(place)


@needs_root
def test_programs_that_are_missing_are_named_by_their_packages(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"Run: apt-get install buildah iproute2 .*util-linux$"):
        prerequisites.require(place)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"port {port} of etcd is in use"):
            prerequisites.require_free_port("127.0.0.1", port, "etcd")


# --- Who is signalled ---------------------------------------------------------------------------


def test_a_process_that_took_over_a_number_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    written = tmp_path / "pid"
    written.write_text(str(name_of(os.getpid())))
    assert living(written) == os.getpid()
    written.write_text(f"{os.getpid()} 1\n")
    assert living(written) is None


def test_a_file_that_names_nobody_names_nobody(tmp_path: Path) -> None:
    written = tmp_path / "pid"
    assert living(written) is None
    written.write_text("rubbish\n")
    assert living(written) is None


# --- A machine inside the machine ---------------------------------------------------------------


@needs_root
def test_it_has_processes_mounts_and_a_network_of_its_own(machine: Place) -> None:
    said = subprocess.run(
        [*entering(machine), "sh", "-c", "hostname; ps -e | wc -l; ip -br link | wc -l"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.split()
    assert said[0] == "gpu-1"
    assert int(said[1]) < 8  # nobody of the machine outside
    assert Path("/proc/sys/kernel/hostname").read_text().strip() != "gpu-1"
    mounts = Path("/proc/self/mounts").read_text()
    assert str(machine.state) not in mounts


@needs_root
def test_a_machine_whose_holder_was_killed_can_be_opened_again(place: Place) -> None:
    open_machine(place)
    holder = living(place.holder)
    assert holder is not None
    os.kill(holder, signal.SIGKILL)
    while living(place.holder) is not None:
        pass
    assert not is_open(place)
    with pytest.raises(ClusterError, match="no cluster is up"):
        entering(place)
    open_machine(place)
    run_inside(place, ["true"], timeout=30)
    close_machine(place)


@needs_root
def test_nothing_is_left_when_it_is_closed(place: Place) -> None:
    """Nor is it of a whole cluster: `make e2e` asks the same of the one that it ran on."""
    before = Traces.of(place)
    open_machine(place)
    own = namespaces_of(place)
    change = f"""\
echo {_another(OVERCOMMIT.read_text()).strip()} > {OVERCOMMIT}
iptables -A INPUT -j ACCEPT
ip link add left0 type bridge
setsid sleep 1000 >/dev/null 2>&1 &
"""
    run_inside(place, ["sh", "-c", change], timeout=30)
    found = {line.split(":")[0] for line in Traces.of(place, own).since(before)}
    # Its network and its mounts are its own even while it is open.
    assert found == {"folders", "cgroups", "processes", "settings"}
    close_machine(place)
    assert Traces.of(place, own).since(before) == []


@needs_root
def test_a_machine_that_is_closed_leaves_another_one_its_folders(
    place: Place, tmp_path: Path
) -> None:
    other = replace(place, state=tmp_path / "gpucost-other")
    open_machine(place)
    made = place.made.read_text().splitlines()
    open_machine(other)
    try:
        close_machine(place)
        for folder in HOST_FOLDERS:
            run_inside(other, ["mountpoint", "-q", folder], timeout=30)
    finally:
        close_machine(other)
        _remove_folders(made)


@needs_root
def test_the_last_of_two_machines_puts_the_kernels_settings_back(
    place: Place, tmp_path: Path
) -> None:
    before, other = OVERCOMMIT.read_text(), replace(place, state=tmp_path / "gpucost-other")
    open_machine(place)
    OVERCOMMIT.write_text(_another(before))
    open_machine(other)
    try:
        close_machine(place)
        assert OVERCOMMIT.read_text() == _another(before)
    finally:
        close_machine(other)
    assert OVERCOMMIT.read_text() == before
    assert not (tmp_path / "clusters").exists()


def _another(setting: str) -> str:
    return "1\n" if setting != "1\n" else "0\n"


@needs_root
def test_closing_what_is_not_open_does_nothing(place: Place) -> None:
    close_machine(place)
    assert not place.state.exists()
