"""A small API server: real HTTP, real list and watch of pods and nodes, and faults on demand.

It keeps objects and a log of their changes by resourceVersion; a watch goes on from its version
or gets 410 when the log no longer reaches back, as the real one does.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import ssl
    from types import TracebackType
    from typing import Self

Json = dict[str, Any]

SELECTED_FIELDS = {
    "metadata.name": lambda found: found["metadata"]["name"],
    "spec.nodeName": lambda found: found["spec"].get("nodeName"),
}


class Request:
    """A request that came."""

    def __init__(self, path: str, query: dict[str, str], token: str) -> None:
        self.path = path
        parts = path.split("/")
        in_namespace = "namespaces" in parts[:-2]
        # One object of a namespace is asked for by its name, last in the path.
        self.resource = parts[-2] if in_namespace else parts[-1]
        self.key = (parts[-3], parts[-1]) if in_namespace else None
        self.query = query
        self.token = token

    @property
    def watch(self) -> bool:
        """Whether it was a watch."""
        return self.query.get("watch") == "true"


class KubeApiServer:
    """The server, on a loopback port. Used under `with`.

    Faults: `refusals` (resource to the statuses of its next requests) and `hang` (answer no
    new request). `requests` are those that came, `streams` the open watches, `sent` the version
    up to which each resource's last stream was told.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.refusals: dict[str, list[int]] = {}
        self.hang = False
        self.sent: dict[str, int] = {}
        self.requests: list[Request] = []
        self.streams = 0
        self._changed = threading.Condition()
        self._objects: dict[str, dict[tuple[str, str], Json]] = {
            resource: {} for resource in ("pods", "nodes", "resourceslices", "resourceclaims")
        }
        self.dra_versions = ["v1", "v1beta2", "v1beta1"]
        self._log: list[tuple[int, str, str, Json]] = []
        self.version = 100
        self._oldest = 0
        self._epoch = 0
        self._accepted: str | None = None
        self._raw: list[tuple[int, bytes]] = []
        self._closing = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self.host = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def put(self, resource: str, found: Json) -> None:
        """Create or change an object."""
        with self._changed:
            key = (found["metadata"].get("namespace", ""), found["metadata"]["name"])
            kind = "MODIFIED" if key in self._objects[resource] else "ADDED"
            self._record(kind, resource, found)
            self._objects[resource][key] = self._log[-1][3]

    def delete(self, resource: str, name: str, namespace: str = "") -> None:
        """Delete an object."""
        with self._changed:
            self._record("DELETED", resource, self._objects[resource].pop((namespace, name)))

    def accepts(self, token: str) -> None:
        """Refuse every request that does not bear this token."""
        self._accepted = token

    def bookmark(self) -> None:
        """Tell the present version to every stream, as the real server does each minute."""
        with self._changed:
            for resource in self._objects:
                self._record("BOOKMARK", resource, {"metadata": {}})

    def forget(self) -> None:
        """Compact the log: older versions get 410 from now on."""
        with self._changed:
            self.version += 1
            self._oldest = self.version

    def send(self, line: bytes) -> None:
        """Write raw bytes to every open stream of pods."""
        with self._changed:
            self.version += 1
            self._raw.append((self.version, line))
            self._changed.notify_all()

    def disconnect(self) -> None:
        """Cut every open stream in the middle, without the end that HTTP asks for."""
        with self._changed:
            self._epoch += 1
            self._changed.notify_all()

    def count(self, resource: str, *, watch: bool) -> int:
        """How many lists or watches came."""
        return sum(r.resource == resource and r.watch is watch for r in self.requests)

    def _record(self, kind: str, resource: str, found: Json) -> None:
        self.version += 1
        metadata = {**found["metadata"], "resourceVersion": str(self.version)}
        self._log.append((self.version, kind, resource, {**found, "metadata": metadata}))
        self._changed.notify_all()

    def _body(self, request: Request) -> bytes:
        """The answer to a list, to a get, or to the discovery of DRA's versions; empty: none."""
        if request.path == "/apis/resource.k8s.io":
            versions = [{"version": version} for version in self.dra_versions]
            return json.dumps({"versions": versions}).encode() if versions else b""
        if request.key is None:
            return self._list(request.resource, request.query)
        with self._changed:
            found = self._objects[request.resource].get(request.key)
        return b"" if found is None else json.dumps(found).encode()

    def _list(self, resource: str, query: dict[str, str]) -> bytes:
        with self._changed:
            items = [o for o in self._objects[resource].values() if _selected(o, query)]
            version = str(self.version)
        return json.dumps({"metadata": {"resourceVersion": version}, "items": items}).encode()

    def _events(self, resource: str, query: dict[str, str], sent: int) -> tuple[int, list[bytes]]:
        """The lines after a version, waited for; under the lock."""
        lines = []
        for version, kind, of, found in self._log:
            if version <= sent or of != resource:
                continue
            if kind == "BOOKMARK" or _selected(found, query):
                event = {"type": kind, "object": found}
                lines.append(json.dumps(event).encode() + b"\n")
        if resource == "pods":
            lines += [line for version, line in self._raw if version > sent]
        return self.version, lines

    def _watch(self, handler: BaseHTTPRequestHandler, resource: str, query: dict[str, str]) -> None:
        sent = int(query["resourceVersion"])
        if sent < self._oldest:
            gone = {"code": 410, "message": "too old resource version"}
            _chunk(handler, json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            _chunk(handler, b"")
            return
        epoch = self._epoch
        self.streams += 1
        try:
            while True:
                with self._changed:
                    sent, lines = self._events(resource, query, sent)
                    if not lines:
                        self._changed.wait(0.05)
                    if self._closing or epoch != self._epoch:
                        return
                for line in lines:
                    _chunk(handler, line)
                self.sent[resource] = sent
        finally:
            self.streams -= 1

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the inner class has self
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                token = self.headers.get("Authorization", "").partition(" ")[2]
                request = Request(url.path, query, token)
                server.requests.append(request)
                with suppress(ConnectionError):
                    server._answer(self, request)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        return Handler

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        with self._changed:
            while self.hang and not self._closing:
                self._changed.wait(0.05)
        status = 200
        if self._accepted is not None and request.token != self._accepted:
            status = 401
        elif self.refusals.get(request.resource):
            status = self.refusals[request.resource].pop(0)
        if status == 200 and request.watch:
            handler.close_connection = True
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            self._watch(handler, request.resource, request.query)
            return
        body = b"" if status != 200 else self._body(request)
        if not body:
            status = 404 if status == 200 else status
            body = json.dumps({"kind": "Status", "code": status, "message": "refused"}).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def _chunk(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _selected(found: Json, query: dict[str, str]) -> bool:
    field, _, value = query.get("fieldSelector", "").partition("=")
    return not field or SELECTED_FIELDS[field](found) == value


def pod(
    name: str,
    *,
    node: str = "gpu-1",
    labels: dict[str, str] | None = None,
    phase: str = "Running",
    ip: str = "10.0.0.9",
) -> Json:
    """A pod of namespace `ml`."""
    return {
        "metadata": {
            "name": name,
            "namespace": "ml",
            "uid": f"uid-{name}",
            "labels": labels or {},
            "managedFields": [{"manager": "kubelet"}],
        },
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "x"}]},
        "status": {
            "phase": phase,
            "podIP": ip,
        },
    }


def node(name: str = "gpu-1", *, labels: dict[str, str] | None = None) -> Json:
    """A Node on AWS."""
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"providerID": "aws:///us-east-1a/i-0123"},
    }
