"""Follows one kind of object by list and watch, on a thread of its own.

The protocol is Kubernetes' own ("Efficient detection of changes" in its API concepts): list
from the API server's cache, watch from the list's resourceVersion, go on from the last version
seen after a disconnect, list again when the server has forgotten it (410 Gone). Bookmarks keep
that version young. Nothing is asked in between.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import Raw, Struct

from gpucost.sources.base import SourceError
from gpucost.sources.kube_objects import ListMeta  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.sources.kube_api import KubeApi, Stream
    from gpucost.sources.kube_objects import JsonText

MAX_LIST_BYTES = 64 << 20
"""A node's pods are a few MiB; an object is at most 1.5 MiB (etcd's request limit)."""
MAX_EVENT_BYTES = 8 << 20

GONE = 410
FROM_CACHE = "0"
"""The resourceVersion that lets the API server answer from its cache; none asks etcd."""


class Pace(Struct, frozen=True):
    """The waits of a watch, in seconds."""

    backoff_first: float = 0.5
    backoff_most: float = 30.0
    list_most: float = 60.0
    """A list has to end within this."""
    idle_most: float = 150.0
    """A stream without a word for this long is taken for dead; bookmarks come every minute."""
    watch_length: float = 480.0
    """The server ends a stream after about this; it then goes on from the last version."""
    stale_after: float = 60.0
    """A watch that has failed for this long is a problem: what is known may be old."""


class Collection(Protocol):
    """What a watch keeps up to date. Called on the watch's thread only."""

    def replace(self, listed: JsonText) -> None:
        """Take a whole list. Raises SourceError (malformed), and changes nothing then."""

    def put(self, found: JsonText) -> None:
        """Take one new or changed object. A malformed one is skipped, and told in `read`."""

    def drop(self, found: JsonText) -> None:
        """Forget one object."""


class _Event(Struct):
    type: str
    object: Raw


class _Versioned(Struct):
    metadata: ListMeta


class _Status(Struct):
    code: int = 0
    message: str = ""


class Watch:
    """A thread that keeps a Collection like the API server's.

    `path` is like /api/v1/pods, `field_selector` what limits it to this node.
    """

    def __init__(
        self,
        api: KubeApi,
        path: str,
        field_selector: str,
        collection: Collection,
        pace: Pace,
    ) -> None:
        self._api = api
        self._path = path
        self._field_selector = field_selector
        self._collection = collection
        self._pace = pace
        self._closed = threading.Event()
        self._settled = threading.Event()
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._error: SourceError | None = None
        self._failing_since: float | None = None
        self._failures = 0
        self._listed = False
        self._version: str | None = None
        # What the next list asks for. One that is refused (410) before any event came after
        # the last list met a cache that is too old: then etcd is asked.
        self._list_version = FROM_CACHE
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def listed(self) -> bool:
        """Whether the collection has ever been taken whole."""
        return self._listed

    @property
    def error(self) -> SourceError | None:
        """Why the watch fails at present; None while it works."""
        with self._lock:
            return self._error

    @property
    def stale_seconds(self) -> float:
        """For how long it has been failing; 0 while it works."""
        with self._lock:
            since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def wait(self, seconds: float) -> None:
        """Wait until the first list has worked or failed."""
        self._settled.wait(seconds)

    def close(self) -> None:
        """Ask the thread to end, and wake it from its stream. Does not wait for it."""
        self._closed.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.interrupt()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end. One that waits for a dead server ends by its timeout."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                if self._version is None:
                    self._list()
                self._follow()
            except SourceError as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - a dead thread would freeze what is known
                self._failed(SourceError("failed", f"{self._path}: {error!r}", "Report this."))
            else:
                # A server that ends every stream at once is not asked in a tight loop.
                quick = time.monotonic() - began < self._pace.backoff_first
                self._failures = self._failures + 1 if quick else 0
            if self._failures:
                self._closed.wait(self._backoff())

    def _backoff(self) -> float:
        doubled = self._pace.backoff_first * 2.0 ** min(self._failures - 1, 16)
        most = min(doubled, self._pace.backoff_most)
        return most * random.uniform(0.5, 1)  # noqa: S311 - spreads nodes, hides nothing

    def _failed(self, error: SourceError) -> None:
        # Kept without its traceback, whose frames hold the connection.
        error = SourceError(error.kind, str(error), error.remedy)
        with self._lock:
            self._error = error
            self._failures += 1
            if self._failing_since is None:
                self._failing_since = time.monotonic()
        self._settled.set()

    def _works(self) -> None:
        with self._lock:
            self._error = None
            self._failing_since = None
        self._settled.set()

    def _list(self) -> None:
        """Take everything anew. Raises SourceError."""
        query = {"fieldSelector": self._field_selector}
        if self._list_version:
            query["resourceVersion"] = self._list_version
        deadline = time.monotonic() + self._pace.list_most
        with closing(self._open(query, self._api.timeout_seconds)) as stream:
            body = bytearray()
            for chunk in stream.chunks():
                body += chunk
                if len(body) > MAX_LIST_BYTES:
                    raise SourceError(
                        "too_large",
                        f"the list of {self._path} is larger than {MAX_LIST_BYTES} bytes",
                        "Is this the API server?",
                    )
                if time.monotonic() > deadline:
                    raise SourceError(
                        "timeout",
                        f"the list of {self._path} did not end in {self._pace.list_most:g} s",
                        "Look at the API server's load.",
                    )
        try:
            version = msgspec.json.decode(body, type=_Versioned).metadata.resource_version
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _not_kubernetes(self._path, error) from error
        self._collection.replace(body)
        self._version = version or ""
        self._list_version = ""
        self._listed = True
        self._works()

    def _follow(self) -> None:
        """Take events until the server ends the stream. Raises SourceError if it broke."""
        spread = random.uniform(0.75, 1.25)  # noqa: S311 - spreads nodes, hides nothing
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "fieldSelector": self._field_selector,
            "resourceVersion": self._version or "",
            "timeoutSeconds": str(max(1, round(self._pace.watch_length * spread))),
        }
        try:
            with closing(self._open(query, self._pace.idle_most)) as stream:
                self._works()
                self._take_all(stream)
        except SourceError as error:
            if error.kind in ("gone", "too_large", "malformed"):
                # Asked again from here, the same would come again. A list goes round it.
                self._version = None
            if error.kind != "gone":
                raise

    def _take_all(self, stream: Stream) -> None:
        try:
            for line in _lines(stream, self._path):
                self._take(line)
                self._failures = 0
        except SourceError as error:
            # A dead connection looks like this, and so does a quiet one: the next one tells.
            if error.kind != "timeout":
                raise

    def _take(self, line: bytes) -> None:
        """Apply one event. Raises SourceError."""
        try:
            event = msgspec.json.decode(line, type=_Event)
            if event.type == "ERROR":
                status = msgspec.json.decode(event.object, type=_Status)
                raise SourceError(
                    "gone" if status.code == GONE else "failed",
                    f"the watch of {self._path} ended with {status.code}: {status.message}",
                )
            version = msgspec.json.decode(event.object, type=_Versioned).metadata.resource_version
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _not_kubernetes(self._path, error) from error
        if event.type in ("ADDED", "MODIFIED"):
            self._collection.put(event.object)
        elif event.type == "DELETED":
            self._collection.drop(event.object)
        if version:
            self._version = version
            self._list_version = FROM_CACHE

    def _open(self, query: dict[str, str], read_seconds: float) -> Stream:
        stream = self._api.get(self._path, query, read_seconds)
        with self._lock:
            self._stream = stream
        if self._closed.is_set():
            stream.interrupt()
        return stream


def _lines(stream: Stream, path: str) -> Iterator[bytes]:
    """The lines of a stream, each at most MAX_EVENT_BYTES. Raises SourceError."""
    rest = bytearray()
    for chunk in stream.chunks():
        rest += chunk
        if b"\n" in chunk:
            *whole, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            yield from (line for line in whole if line.strip())
        if len(rest) > MAX_EVENT_BYTES:
            raise SourceError(
                "too_large",
                f"an event of {path} is larger than {MAX_EVENT_BYTES} bytes",
                "Look for an object of that size on this node.",
            )


def _not_kubernetes(path: str, error: Exception) -> SourceError:
    return SourceError(
        "malformed", f"{path} did not answer as Kubernetes does: {error}", "Is it the API server?"
    )
