"""The broker: programs in containers say on its socket what they do, and are believed.

A program sends an `Order` a line and keeps the connection: it works as it last said until the
connection ends, which it does however the program ends. Who it is, the kernel says: SO_PEERCRED
gives the PID in the PID namespace of the asker, and the broker is in the host's. What it may use
is what its container was given, found by the container id in its cgroup.

nvidia-container-runtime asks here too, for the devices of a container's DRA claims.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import socketserver
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from played_gpus.grpc_socket import check_socket_path
from played_gpus.work import Order, Work

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINE: Final = 4096
MAX_CONNECTIONS: Final = 512
_CREDENTIALS: Final = struct.Struct("3i")
_CONTAINER: Final = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)


class Asker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A container, by its names."""

    namespace: str
    pod: str
    container: str


class _Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    claimed: Asker


class Refused(Exception):  # noqa: N818 - what the program is told
    """An order that cannot be; the message is for the program that gave it."""


class Broker:
    """The socket, and the works in force. `changed` is called with all of them on every change.

    `devices_of` gives the devices, by UUID, that a process may use; `claimed` those of a
    container's DRA claims. Either may raise OSError or Refused.
    """

    def __init__(
        self,
        path: Path,
        devices_of: Callable[[int], tuple[str, ...]],
        claimed: Callable[[Asker], tuple[str, ...]],
        changed: Callable[[list[Work]], None],
    ) -> None:
        check_socket_path(path)
        self._path = path
        self._devices_of = devices_of
        self._claimed = claimed
        self._changed = changed
        self._lock = threading.Lock()
        self._works: dict[socket.socket, Work] = {}
        self._open: set[socket.socket] = set()
        self._server: _Server | None = None

    def start(self) -> None:
        """Listen. Any user of a container may connect. Raises OSError."""
        self._path.unlink(missing_ok=True)
        self._server = _Server(str(self._path), self._converse)
        self._path.chmod(0o666)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="broker").start()

    def stop(self) -> None:
        """End all conversations, without taking their works out of the World: GPUs go on."""
        if self._server is None:
            return
        self._changed = lambda _: None
        self._server.shutdown()
        with self._lock:
            for connection in self._open:
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()  # waits for the conversations
        self._path.unlink(missing_ok=True)

    def again(self) -> None:
        """Call `changed` once more: the GPUs are others now."""
        with self._lock:
            self._changed(list(self._works.values()))

    def _converse(self, connection: socket.socket) -> None:
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                return
            self._open.add(connection)
        pid = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )[0]
        try:
            with connection.makefile("rwb") as lines:
                while line := lines.readline(MAX_LINE):
                    lines.write(self._answer(connection, pid, line) + b"\n")
                    lines.flush()
        except OSError as error:  # a program that was killed
            log.debug("PID %d: %s", pid, error)
        finally:
            with self._lock:
                self._open.discard(connection)
                if self._works.pop(connection, None) is not None:
                    log.info("PID %d ended", pid)
                    self._changed(list(self._works.values()))

    def _answer(self, connection: socket.socket, pid: int, line: bytes) -> bytes:
        """What a line gets: `{"devices": [...]}` or `{"error": "..."}`."""
        try:
            if b'"claimed"' in line:
                question = msgspec.json.decode(line, type=_Question)
                devices = self._claimed(question.claimed)
            else:
                order = msgspec.json.decode(line, type=Order)
                devices = self._take(connection, pid, order)
        except (msgspec.MsgspecError, Refused, OSError) as error:
            log.warning("PID %d: %s", pid, error)
            return json.dumps({"error": str(error)}).encode()
        return json.dumps({"devices": devices}).encode()

    def _take(self, connection: socket.socket, pid: int, order: Order) -> tuple[str, ...]:
        devices = self._devices_of(pid)
        if not devices:
            raise Refused(f"PID {pid} has no GPU")
        if any(not 0 <= place < len(devices) for place in order.gpus):
            raise Refused(f"gpus: there are 0 to {len(devices) - 1}")
        used = tuple(devices[place] for place in order.gpus) or devices
        with self._lock:
            self._works[connection] = Work(pid, used, order)
            log.info("PID %d: %s on %s", pid, order, ", ".join(used))
            self._changed(list(self._works.values()))
        return used


def container_of(pid: int, proc: Path = Path("/proc")) -> str:
    """The id of the container that a process is in: the deepest in its cgroup's path.

    Raises Refused for a process that is in none, OSError for one that is gone.
    """
    found = _CONTAINER.findall((proc / str(pid) / "cgroup").read_text(encoding="ascii"))
    if not found:
        raise Refused(f"PID {pid} is in no container")
    return str(found[-1])


def given(container: str, folder: Path) -> tuple[str, ...]:
    """What nvidia-container-runtime noted that a container was given. Raises Refused."""
    try:
        return msgspec.json.decode((folder / container).read_bytes(), type=tuple[str, ...])
    except FileNotFoundError as error:
        raise Refused(f"container {container[:12]} was given no GPU") from error


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, path: str, converse: Callable[[socket.socket], None]) -> None:
        self._converse = converse
        super().__init__(path, socketserver.BaseRequestHandler)

    def finish_request(self, request: object, client_address: object) -> None:  # noqa: ARG002
        assert isinstance(request, socket.socket)
        self._converse(request)
