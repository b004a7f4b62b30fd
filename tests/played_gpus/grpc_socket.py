"""A gRPC server on a unix socket, with services given as tables of functions.

Generated service stubs have no types; a row (call, request type, function) needs none.
"""

from __future__ import annotations

import os
from concurrent import futures
from typing import TYPE_CHECKING, Any, Final

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

MAX_SOCKET_PATH: Final = 107
"""Bytes that a unix address has room for."""
STOP_SECONDS: Final = 2.0


def check_socket_path(path: Path) -> None:
    """Raises ValueError for a path that a unix address has no room for."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ValueError(f"{path}: too long for a socket; use a shorter folder")


def unary(request: Any, answer: Callable[[Any, grpc.ServicerContext], Any]) -> Any:  # noqa: ANN401 - messages
    """A call of one message that gets one."""
    return grpc.unary_unary_rpc_method_handler(
        answer, request.FromString, lambda message: message.SerializeToString()
    )


def stream(request: Any, answer: Callable[[Any, grpc.ServicerContext], Iterable[Any]]) -> Any:  # noqa: ANN401
    """A call of one message that gets a stream of them."""
    return grpc.unary_stream_rpc_method_handler(
        answer, request.FromString, lambda message: message.SerializeToString()
    )


class GrpcSocket:
    """A server that can lose its socket file and be started again."""

    def __init__(self, path: Path, services: dict[str, dict[str, Any]], workers: int = 8) -> None:
        """`services`: handlers by call, by the service's name on the wire.

        Every stream holds one of the `workers` for as long as it lives. Raises ValueError for a
        path that a unix address has no room for.
        """
        check_socket_path(path)
        self.path = path
        self._services = services
        self._workers = workers
        self._server: grpc.Server | None = None
        self._pool: futures.ThreadPoolExecutor | None = None
        self._inode = 0

    def start(self) -> None:
        """Serve at the path, in place of whatever socket is there. Raises RuntimeError, OSError."""
        self.path.unlink(missing_ok=True)
        self._pool = futures.ThreadPoolExecutor(self._workers)
        self._server = grpc.server(self._pool)
        self._server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(name, handlers)
                for name, handlers in self._services.items()
            )
        )
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()
        self._inode = self.path.stat().st_ino

    def stands(self) -> bool:
        """Whether the socket at the path is still this server's."""
        try:
            return self._server is not None and self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def stop(self) -> None:
        """End every call, and remove the socket if it is still this server's."""
        mine = self.stands()
        if self._server is not None:
            self._server.stop(grace=None).wait(STOP_SECONDS)
            self._server = None
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if mine:
            self.path.unlink(missing_ok=True)


def call(path: Path, method: str, request: Any, answer: Any, seconds: float) -> Any:  # noqa: ANN401
    """Ask the server at a socket once. Raises grpc.RpcError."""
    options: Sequence[tuple[str, Any]] = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
        ask = channel.unary_unary(
            method, lambda message: message.SerializeToString(), answer.FromString
        )
        return ask(request, timeout=seconds, wait_for_ready=True)
