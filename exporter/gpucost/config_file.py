"""The configuration file on disk, followed while it changes; the last good one stays in force."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from gpucost.config import Config, ConfigError, load
from gpucost.model import Problem

if TYPE_CHECKING:
    from pathlib import Path


class ConfigFile:
    """A configuration and, if it has one, the file it comes from."""

    def __init__(self, path: Path | None) -> None:
        """Read the file; without one everything has its default. Raises ConfigError."""
        self.path = path
        self._stamp = self._look()  # before it is read: what changes meanwhile is read again
        self.config = Config() if path is None else load(path)
        self.read_at = time.time()
        self.problem: Problem | None = None

    def poll(self) -> bool:
        """Read the file again if it changed; whether another configuration is now in force.

        A bad one becomes `problem` and the one before stays.
        """
        stamp = self._look()
        if self.path is None or stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            config = load(self.path)
        except ConfigError as error:
            self.problem = Problem(
                "config",
                "invalid",
                str(error),
                "The configuration before it stays in force until the file is mended.",
            )
            return False
        self.problem, self.read_at = None, time.time()
        changed = config != self.config
        self.config = config
        return changed

    def _look(self) -> tuple[int, int, int] | None:
        """What tells one file from the next; a ConfigMap's is a link that moves to a new file."""
        if self.path is None:
            return None
        try:
            status = os.stat(self.path)  # noqa: PTH116 - the numbers, through links
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
