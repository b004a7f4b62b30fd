"""One gRPC connection to the kubelet's pod-resources socket, kept while it is good.

A kubelet restart unlinks the socket and creates it anew (CreateListener in its pkg/util), so
a connection belongs to one socket file: when the file changes, or the kubelet hangs up, the
next call goes over a new connection. Every failure leaves as a SourceError.
"""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from gpucost.config import Kubelet

RATE_LIMIT_PAUSE_SECONDS = 0.05
"""The kubelet gives 100 tokens a second, ten at once (podresources/constants.go); the wait
doubles from here."""

_MOUNT_REMEDY = (
    "Mount the host's directory of the socket (/var/lib/kubelet/pod-resources), not the socket"
    " file itself: the kubelet re-creates the file when it restarts. Where the kubelet has"
    " another --root-dir, set kubelet.socket."
)
_PERMISSION_REMEDY = (
    "Run the exporter as root (the socket is the kubelet's, mode 0600 or 0660), and let SELinux"
    " or AppArmor allow it."
)

_SocketFile = tuple[int, int, int]


class UnimplementedError(Exception):
    """The kubelet does not offer this call."""


class KubeletChannel:
    """The connection. Used by one thread.

    `renewed` counts the connections made so far: what was learnt of an earlier kubelet may no
    longer hold for this one.
    """

    def __init__(self, settings: Kubelet) -> None:
        self.renewed = 0
        self._path = Path(settings.socket)
        self._timeout = settings.timeout_seconds
        self._max_bytes = settings.max_bytes
        self._channel: grpc.Channel | None = None
        self._socket: _SocketFile | None = None

    def deadline(self) -> float:
        """The moment by which a read that begins now has to end."""
        return time.monotonic() + self._timeout

    def connect(self) -> None:
        """Make the connection if there is none to the present socket file. No waiting.

        Raises SourceError (absent, unreachable, permission).
        """
        found = self._stat()
        if self._channel is not None and found == self._socket:
            return
        self.close()
        self._channel = grpc.insecure_channel(
            f"unix:{self._path.absolute()}",
            options=(
                ("grpc.max_receive_message_length", self._max_bytes),
                # A new connection must not wait out the back-off of the one before.
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
                ("grpc.enable_http_proxy", 0),
            ),
        )
        self._socket = found
        self.renewed += 1

    def call(self, path: str, deadline: float) -> bytes:
        """The answer to an empty request, as bytes.

        `path` is like /v1.PodResourcesLister/List. A rate-limited call is repeated, and one
        over a connection that turns out dead is made once more over a new one, by `deadline`.

        Raises SourceError, or UnimplementedError where the kubelet has no such call.
        """
        pause = RATE_LIMIT_PAUSE_SECONDS
        tried_anew = False
        while True:
            self.connect()
            try:
                return self._send(path, deadline - time.monotonic())
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or ""
                if code is grpc.StatusCode.UNIMPLEMENTED:
                    raise UnimplementedError(path) from error
                if code is grpc.StatusCode.UNAVAILABLE:
                    self.close()
                    if tried_anew:
                        raise self._failure(code, details) from error
                    tried_anew = True
                elif _rate_limited(code, details) and time.monotonic() + pause < deadline:
                    time.sleep(pause)
                    pause *= 2
                else:
                    raise self._failure(code, details) from error

    def close(self) -> None:
        """Hang up. The next call connects again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _send(self, path: str, timeout: float) -> bytes:
        channel = self._channel
        assert channel is not None  # noqa: S101 - connect() came first
        answer: bytes = channel.unary_unary(path, request_serializer=None)(
            b"", timeout=max(timeout, 0.001)
        )
        return answer

    def _stat(self) -> _SocketFile:
        """Which file the socket is. Its inode alone can be re-used by the next one."""
        try:
            found = self._path.stat()
        except FileNotFoundError as error:
            if self._path.parent.is_dir():
                raise SourceError(
                    "unreachable",
                    f"{self._path} is not there: the kubelet is starting, or it is elsewhere",
                    _MOUNT_REMEDY,
                ) from error
            raise SourceError(
                "absent", f"{self._path.parent} does not exist", _MOUNT_REMEDY
            ) from error
        except OSError as error:
            raise SourceError(
                "permission" if isinstance(error, PermissionError) else "unreachable",
                f"{self._path} cannot be looked at: {error.strerror}",
                _PERMISSION_REMEDY,
            ) from error
        if not stat.S_ISSOCK(found.st_mode):
            # A container runtime makes a directory where a file to be mounted is missing.
            raise SourceError("absent", f"{self._path} is not a socket", _MOUNT_REMEDY)
        return found.st_dev, found.st_ino, found.st_mtime_ns

    def _failure(self, code: grpc.StatusCode, details: str) -> SourceError:
        what = f"the kubelet at {self._path}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return SourceError(
                "timeout",
                f"{what} did not answer within {self._timeout:g} s",
                "Look at the kubelet's log and load, or raise kubelet.timeout_seconds.",
            )
        if code is grpc.StatusCode.UNAVAILABLE:
            if "permission denied" in details.casefold():
                return SourceError(
                    "permission", f"{what} refuses us: {details}", _PERMISSION_REMEDY
                )
            return SourceError(
                "unreachable", f"{what} cannot be reached: {details}", "Is the kubelet running?"
            )
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            if not _rate_limited(code, details):
                return SourceError(
                    "too_large",
                    f"{what} answered with more than {self._max_bytes} bytes: {details}",
                    "Raise kubelet.max_bytes.",
                )
            return SourceError(
                "rate_limited",
                f"{what} rejects calls: {details}",
                "Something on this node asks pod-resources more than 100 times a second; stop it.",
            )
        return SourceError("failed", f"{what} answered {code.name}: {details}", "See its log.")


def _rate_limited(code: grpc.StatusCode, details: str) -> bool:
    """Both the rate limit and our own size limit are RESOURCE_EXHAUSTED."""
    return (
        code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" not in details.casefold()
    )
