"""TLS and passwords, from a web config file in the format of Prometheus' exporters.

    file.py        the format, validated
    passwords.py   users against bcrypt hashes

It and its certificates are re-read when they change; a change that cannot be used leaves the
last good settings in force; and a guard that was up at the start (TLS, passwords) can be altered
while running, but not taken down: a half-written file must not open the door.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.config import ConfigError, read_bounded
from gpucost.web_config.file import context, parse
from gpucost.web_config.passwords import Passwords

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["Guard", "Passwords", "WebConfig"]

log = logging.getLogger(__name__)


class Guard(Struct, frozen=True):
    """What stands before the pages: settings in force, ready to use.

    `tls` None means plain HTTP. `users` maps a user to a bcrypt hash; none: no password.
    `allowed_sans` are the names of which a client's certificate must hold one; none: any.
    """

    tls: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] = frozenset()
    users: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}


class WebConfig:
    """The settings in force of one web config file, which is watched.

    Raises ConfigError at once if the file cannot be used; later, `current()` keeps the last
    good settings, and `problem` says what is wrong with those on disk.
    """

    def __init__(self, path: Path, *, check_seconds: float = 1.0) -> None:
        """Read `path`; look for changes at most once per `check_seconds`."""
        self._path = path
        self._check_seconds = check_seconds
        self._lock = threading.Lock()
        self._checked = time.monotonic()
        self._watched: tuple[Path, ...] = (path,)
        self._stamps: tuple[object, ...] = ()
        self.problem: str | None = None
        self._guard = self._load()

    def current(self) -> Guard:
        """Return the settings in force, re-read if the files changed. Does not raise."""
        with self._lock:
            now = time.monotonic()
            if now - self._checked < self._check_seconds:
                return self._guard
            self._checked = now
            if _stamps(self._watched) == self._stamps:
                return self._guard
            try:
                self._guard = _replace(self._guard, self._load())
            except ConfigError as error:
                self.problem = str(error)
                log.error(  # noqa: TRY400 - the message says it all; a traceback adds nothing
                    "web config not reloaded, the last good one stays in force: %s", error
                )
            else:
                self.problem = None
                log.info("web config reloaded from %s", self._path)
            return self._guard

    def _load(self) -> Guard:
        """Read every file, after noting what is on disk: a later change is then seen."""
        self._watched = (self._path,)
        self._stamps = _stamps(self._watched)
        try:
            text = read_bounded(self._path)
            file = parse(text)
            folder = self._path.parent
            tls = file.tls_server_config
            if tls is not None:
                names = (tls.cert_file, tls.key_file, tls.client_ca_file)
                self._watched += tuple(folder / name for name in names if name)
                self._stamps += _stamps(self._watched[1:])
            return Guard(
                tls=None if tls is None else context(tls, folder),
                allowed_sans=frozenset(tls.client_allowed_sans if tls else ()),
                users=file.basic_auth_users,
                headers=file.http_server_config.headers,
            )
        except ConfigError as error:
            raise ConfigError(f"{self._path}: {error}") from None


def _replace(old: Guard, new: Guard) -> Guard:
    """Check that a reload takes no guard down. Raises ConfigError."""
    if (old.tls is None) != (new.tls is None):
        raise ConfigError(
            "tls_server_config: cannot be added or removed while running. Restart gpucost."
        )
    if old.users and not new.users:
        raise ConfigError(
            "basic_auth_users: passwords cannot be switched off while running. Restart gpucost."
        )
    return new


def _stamps(paths: Iterable[Path]) -> tuple[object, ...]:
    """Return what changes when a file does; a Secret's mount swaps a link, so follow links."""
    stamps: list[object] = []
    for path in paths:
        try:
            stat = os.stat(path)  # noqa: PTH116 - one call for all paths, links followed
        except OSError as error:
            stamps.append(error.errno)
        else:
            stamps.append((stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(stamps)
