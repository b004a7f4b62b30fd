"""The requests source: asks the inference servers in this node's GPU pods for their metrics.

It goes at its own pace, on threads of its own: a cycle only takes what is there. Each server is
asked every `interval_seconds`, all of them spread over that time, at most `max_concurrent` at
once; one that is slow, huge or wrong is a Problem of its pod and keeps nobody else waiting for
longer than its deadline.

What a server said last stays for two intervals, and is then unknown.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from zlib import crc32

from msgspec.structs import replace

from gpucost.model import EngineReading, Problem
from gpucost.sources.base import RequestsRead, SourceError
from gpucost.sources.engine_endpoints import engine_table
from gpucost.sources.engine_fetch import Trust, fetch
from gpucost.sources.engine_page import EnginePage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpucost.config import Requests
    from gpucost.engines import EngineTable
    from gpucost.model import Endpoint, ModelReading, Pod, Serving

NAME = "requests"
UNKNOWN_MODEL = "unknown"
"""What a pod serves, where neither it nor its engine says."""

PodKey = tuple[str, str]

GRACE_SECONDS = 600.0
"""How long a server that has never answered may be silent: loading a model takes minutes."""

SLOW_DOWN = 4
"""A page that was not meant for us, and is none of an engine, is asked for so many times less."""

CLOSE_SECONDS = 2.0
"""How long `close` waits for the threads; one that waits for a pod ends with its deadline."""

_ANYBODYS = ("unrecognised", "http_status", "redirect", "malformed", "tls")
"""What is no Problem where the pod's words were not meant for us: it may be any page."""


class _Target:
    """A pod that is asked; changed under the source's lock only."""

    def __init__(self, key: PodKey, uid: str, serving: Serving, due_at: float) -> None:
        self.key = key
        self.uid = uid
        self.serving = serving
        self.since = self.due_at = due_at
        self.busy = False
        self.reading: EngineReading | None = None
        self.error: SourceError | None = None


class RequestsSource:
    """Asks the pods that `follow` names, and gives what they said last.

    `follow`, `read` and `close` are called by one thread.
    """

    name = NAME

    def __init__(self, settings: Requests, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._table = engine_table(settings)
        self._clock = clock
        self._changed = threading.Condition()
        self._targets: dict[PodKey, _Target] = {}
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._pods: Mapping[PodKey, Pod] | None = None
        self._fresh = False
        self._last = RequestsRead()

    def follow(self, pods: Mapping[PodKey, Pod] | None) -> None:
        """Ask these pods from now on; None changes nothing."""
        if pods is None or pods is self._pods:
            return
        self._pods = pods
        wanted = {
            key: (pod.uid, pod.serving)
            for key, pod in pods.items()
            if pod.serving is not None and pod.serving.endpoints and not pod.finished
        }
        with self._changed:
            before = self._targets
            self._targets = {}
            for key, (uid, serving) in wanted.items():
                known = before.get(key)
                if known is not None and (known.uid, known.serving) == (uid, serving):
                    self._targets[key] = known
                else:
                    self._targets[key] = _Target(key, uid, serving, self._first_time(key))
            if self._targets.keys() != before.keys():
                self._fresh = True
            self._start_threads()
            self._changed.notify_all()

    def read(self) -> RequestsRead | None:
        """What the pods said last; no I/O. The same object while nothing changed.

        None where no pod shows metrics.
        """
        with self._changed:
            if not self._targets:
                return None
            now = self._clock()
            believed = 2 * self._settings.interval_seconds + self._settings.timeout_seconds
            for target in self._targets.values():
                if target.reading is not None and now - target.reading.read_at > believed:
                    target.reading = None
                    self._fresh = True
            if self._fresh or any(it.error is not None for it in self._targets.values()):
                self._fresh = False
                found = self._now(now)
                if found != self._last:
                    self._last = found
            return self._last

    def close(self) -> None:
        """End the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _now(self, now: float) -> RequestsRead:
        targets = sorted(self._targets.items())
        return RequestsRead(
            pods={key: it.reading for key, it in targets if it.reading is not None},
            problems=tuple(p for _, it in targets if (p := self._problem(it, now)) is not None),
        )

    def _problem(self, target: _Target, now: float) -> Problem | None:
        error = target.error
        if error is None:
            return None
        if error.kind == "unreachable" and (
            target.reading is None and now - target.since < GRACE_SECONDS
        ):
            return None
        stated = any(endpoint.stated for endpoint in target.serving.endpoints)
        if not stated and target.reading is None and error.kind in _ANYBODYS:
            return None
        return Problem(NAME, error.kind, f"{'/'.join(target.key)}: {error}", error.remedy)

    def _first_time(self, key: PodKey) -> float:
        """Soon, and not for all pods at once."""
        spread = crc32("/".join(key).encode()) / 2**32
        return self._clock() + spread * min(self._settings.interval_seconds, 5.0)

    def _start_threads(self) -> None:
        while len(self._threads) < min(self._settings.max_concurrent, len(self._targets)):
            name = f"source-{NAME}-{len(self._threads)}"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while (target := self._next()) is not None:
            reading, error = None, None
            began = self._clock()
            try:
                reading = ask(target.serving, self._settings, self._table, self._clock)
            except SourceError as raised:
                error = raised
            except Exception as raised:  # noqa: BLE001 - the border: one pod must not end the thread
                error = SourceError(
                    "internal",
                    f"{type(raised).__name__}: {raised}",
                    "This is a bug: please report it with the output of `gpucost record`.",
                )
            self._done(target, reading, error, began)

    def _next(self) -> _Target | None:
        """The target that is due next, when it is; None when the source closes."""
        with self._changed:
            while not self._closing:
                free = [it for it in self._targets.values() if not it.busy]
                soonest = min(free, key=lambda it: it.due_at, default=None)
                wait = None if soonest is None else soonest.due_at - self._clock()
                if soonest is not None and wait is not None and wait <= 0:
                    soonest.busy = True
                    return soonest
                self._changed.wait(wait)
            return None

    def _done(
        self,
        target: _Target,
        reading: EngineReading | None,
        error: SourceError | None,
        began: float,
    ) -> None:
        with self._changed:
            target.busy = False
            if reading is not None:
                target.reading = reading
            target.error = error
            slow = error is not None and error.kind == "unrecognised" and target.reading is None
            pace = self._settings.interval_seconds * (SLOW_DOWN if slow else 1)
            # On its own beat, unless a beat was missed.
            beat = target.due_at + pace
            target.due_at = beat if beat > began else began + pace
            self._fresh = True
            self._changed.notify()


def ask(
    serving: Serving, settings: Requests, table: EngineTable, clock: Callable[[], float]
) -> EngineReading:
    """What all endpoints of a pod say. Raises SourceError for the first that says nothing."""
    models: dict[tuple[str, str], ModelReading] = {}
    for endpoint in serving.endpoints:
        page = EnginePage(table)
        if fetch(
            endpoint.url,
            page.feed,
            timeout_seconds=settings.timeout_seconds,
            max_bytes=settings.max_bytes,
            trust=trust_of(endpoint, settings),
        ):
            page.end()
        for model in page.models(endpoint.engine, serving.models):
            found = named(model, serving)
            models.setdefault((found.engine, found.served_model), found)
    return EngineReading(clock(), tuple(models.values()))


def trust_of(endpoint: Endpoint, settings: Requests) -> Trust:
    """What the endpoint's rule says; a pod that speaks for itself is shown no token."""
    if endpoint.rule is None:
        return Trust()
    rule = settings.rules[endpoint.rule]
    return Trust(rule.ca_file, rule.insecure_skip_verify, rule.bearer_token_file)


def named(model: ModelReading, serving: Serving) -> ModelReading:
    """The reading with the name that the pod's annotations give it, where its engine gives none."""
    if model.served_model:
        return model
    return replace(model, served_model=serving.served_model or UNKNOWN_MODEL)
