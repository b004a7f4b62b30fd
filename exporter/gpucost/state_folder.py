"""One file in a folder on the node: replaced whole, and on disk when `write` returns.

The new file is written under another name and fsynced, renamed over the old one, and the folder
is fsynced: after a crash at any instant there is the old file or the new one (rename(2), fsync(2)).
"""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FILE = "ledger.checkpoint"
_NEW = "ledger.checkpoint.new"
_LOCK = "lock"
_MAX_SET_ASIDE = 5


class StateError(Exception):
    """The folder does not do what it is for: `kind` is a word for it."""

    def __init__(self, kind: str, message: str) -> None:
        """`kind`: in_use, unreadable or unwritable."""
        super().__init__(message)
        self.kind = kind


class StateFolder:
    """The folder. One process at a time may write to it; the lock goes with the process."""

    def __init__(self, path: Path) -> None:
        """Nothing is touched yet."""
        self.path = path
        self._lock: int | None = None

    def lock(self) -> None:
        """Make the folder ours. Raises StateError, also while another process has it."""
        if self._lock is not None:
            return
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failed("unwritable", "make its lock in", self.path, error) from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(held)
            if isinstance(error, BlockingIOError):
                raise StateError("in_use", f"{self.path}: another gpucost uses it") from error
            raise _failed("unwritable", "lock", self.path, error) from error
        self._lock = held

    def unlock(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read(self, max_bytes: int) -> bytes | None:
        """The file, of which at most one byte more than `max_bytes`; None where there is none."""
        try:
            with (self.path / FILE).open("rb") as file:
                return file.read(max_bytes + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed("unreadable", "read", self.path / FILE, error) from error

    def write(self, data: bytes) -> None:
        """Replace the file. When this returns, it is on disk. Raises StateError."""
        self.lock()
        try:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _write_new(folder, data)
                os.rename(_NEW, FILE, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _failed("unwritable", "write", self.path / FILE, error) from error

    def check_writable(self) -> None:
        """Write as much as a small file, and take it away again. Raises StateError."""
        self.lock()
        try:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _write_new(folder, bytes(4096))
                os.unlink(_NEW, dir_fd=folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _failed("unwritable", "write to", self.path, error) from error

    def withdraw(self) -> None:
        """Have no file, so that no later start goes on from it. Raises StateError."""
        self.lock()
        try:
            (self.path / FILE).unlink(missing_ok=True)
            _sync(self.path)
        except OSError as error:
            raise _failed("unwritable", "remove", self.path / FILE, error) from error

    def set_aside(self, why: str, wall_time: float) -> str:
        """Keep the file under another name, which is returned. Raises StateError.

        The oldest ones go when there are many.
        """
        self.lock()
        stamp = datetime.fromtimestamp(max(wall_time, 0.0), UTC).strftime("%Y%m%dT%H%M%SZ")
        name = f"{FILE}.{stamp}.{why}"
        try:
            (self.path / FILE).rename(self.path / name)
            for old in sorted(self.path.glob(f"{FILE}.[0-9]*"))[:-_MAX_SET_ASIDE]:
                old.unlink()
            _sync(self.path)
        except OSError as error:
            raise _failed("unwritable", "rename", self.path / FILE, error) from error
        return name


def _write_new(folder: int, data: bytes) -> None:
    """The new file, on disk under its first name."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(_NEW, flags, 0o600, dir_fd=folder)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    except OSError:
        os.unlink(_NEW, dir_fd=folder)  # a full disk gets back what there was of it
        raise
    finally:
        os.close(file)


def _sync(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _failed(kind: str, what: str, path: Path, error: OSError) -> StateError:
    return StateError(kind, f"cannot {what} {path}: {error.strerror or error}")
