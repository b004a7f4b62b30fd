"""The file is replaced whole, or not at all, and is one process's alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gpucost.state_folder import FILE, StateError, StateFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    found = StateFolder(tmp_path / "state" / "gpucost")
    yield found
    found.unlock()


def test_what_is_written_is_read_and_nobody_else_may(folder: StateFolder) -> None:
    folder.lock()
    assert folder.read(100) is None
    folder.write(b"one")
    folder.write(b"two")
    assert folder.read(100) == b"two"
    assert folder.read(1) == b"tw"
    assert sorted(it.name for it in folder.path.iterdir()) == [FILE, "lock"]
    for name in (FILE, "lock"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600


def test_another_process_is_refused_until_this_one_ends(folder: StateFolder) -> None:
    program = f"""
import sys, pathlib
from gpucost.state_folder import StateFolder
StateFolder(pathlib.Path({str(folder.path)!r})).lock()
print("mine", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        for deed in (folder.lock, folder.check_writable, folder.withdraw):
            with pytest.raises(StateError, match="another gpucost") as refused:
                deed()
            assert refused.value.kind == "in_use"
        other.kill()
        other.wait()
        folder.write(b"ours")


def test_a_link_in_the_way_is_not_followed(folder: StateFolder, tmp_path: Path) -> None:
    folder.lock()
    (tmp_path / "victim").write_bytes(b"precious")
    (folder.path / f"{FILE}.new").symlink_to(tmp_path / "victim")
    with pytest.raises(StateError):
        folder.write(b"one")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_folder_that_goes_away_comes_back(folder: StateFolder) -> None:
    folder.write(b"one")
    folder.withdraw()
    assert folder.read(10) is None
    folder.withdraw()
    (folder.path / "lock").unlink()
    folder.path.rmdir()
    with pytest.raises(StateError, match="No such file"):
        folder.write(b"two")
    folder.path.mkdir()
    folder.write(b"two")
    assert folder.read(10) == b"two"


def test_files_set_aside_are_kept_a_few_of_them(folder: StateFolder) -> None:
    for turn in range(8):
        folder.write(b"%d" % turn)
        folder.set_aside("corrupt", 1_795_377_363.0 + turn)
    assert folder.read(10) is None
    kept = sorted(folder.path.glob(f"{FILE}.*"))
    assert [it.read_bytes() for it in kept] == [b"3", b"4", b"5", b"6", b"7"]
    assert kept[-1].name == f"{FILE}.20261122T195610Z.corrupt"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(folder: StateFolder) -> None:
    """RLIMIT_FSIZE stands in for the disk's end: a write past it fails as ENOSPC does."""
    program = f"""
import pathlib, resource, signal
from gpucost.state_folder import FILE, StateError, StateFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = StateFolder(pathlib.Path({str(folder.path)!r}))
folder.write(b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    folder.write(bytes(10_000))
except StateError as error:
    print(error.kind, folder.read(9), sorted(it.name for it in folder.path.iterdir()))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == f"unwritable b'old' ['{FILE}', 'lock']"


def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"")
    folder = StateFolder(place / "state")
    for deed in (folder.lock, lambda: folder.write(b"x"), folder.check_writable):
        with pytest.raises(StateError, match=str(place)) as refused:
            deed()
        assert refused.value.kind == "unwritable"
    with pytest.raises(StateError) as refused:
        folder.read(10)
    assert refused.value.kind == "unreadable"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208 - names
