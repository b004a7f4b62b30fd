"""Reads a source under a deadline: on a thread of its own, so that a hung driver stops nothing."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from msgspec import Struct

from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Outcome(Struct, Generic[T]):
    """What one read gave: a value, or the error that kept it."""

    value: T | None
    error: SourceError | None
    seconds: float
    fresh: bool = True
    """False where an earlier read's answer was given again."""


class Reader(Generic[T]):
    """Reads one source on a thread of its own, so that a hung driver stops nothing else.

    A call that outlives its deadline is not called again until it returns: a second one would
    only hang as well.
    """

    def __init__(self, name: str, read: Callable[[], T], timeout_seconds: float) -> None:
        """Start the thread; `read` raises SourceError and nothing else it can help."""
        self.name = name
        self._read = read
        self._timeout = timeout_seconds
        self._asked: queue.SimpleQueue[Callable[[], T] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Outcome[T]] = queue.SimpleQueue()
        self._busy_since: float | None = None
        self._started_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"source-{name}", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Begin a read, unless the last one still hangs."""
        self._started_at = time.monotonic()
        if self._busy_since is None:
            self._busy_since = self._started_at
            self._asked.put(self._read)

    def answer(self) -> Outcome[T]:
        """Wait for the read that `ask` began, until its deadline."""
        if self._busy_since is None:
            raise RuntimeError(f"{self.name} was not asked")
        left = self._started_at + self._timeout - time.monotonic()
        try:
            outcome = self._answers.get(timeout=max(left, 0.0))
        except queue.Empty:
            hung = time.monotonic() - self._busy_since
            return Outcome(
                None,
                SourceError(
                    "timeout",
                    f"{self.name} has not answered for {hung:.0f} s",
                    "The last known state stays in force. If it persists, look for a hung driver"
                    " or server (dmesg, kubelet log).",
                ),
                hung,
            )
        self._busy_since = None
        return outcome

    def close(self, timeout_seconds: float = 2.0) -> bool:
        """End the thread; False where it hangs in a call (it dies with the process)."""
        self._asked.put(None)
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (read := self._asked.get()) is not None:
            self._answers.put(_outcome(self.name, read))


class Direct(Generic[T]):
    """Reads a source in place, when it is asked: for what does no input or output.

    Sources that are asked after it may go by its `outcome`.
    """

    def __init__(self, name: str, read: Callable[[], T]) -> None:
        """Take the source's `read`, which raises SourceError and nothing else."""
        self.name = name
        self._read = read
        self.outcome: Outcome[T] | None = None
        """The last one; None until it was asked."""

    def ask(self) -> None:
        """Read now."""
        self.outcome = _outcome(self.name, self._read)

    def answer(self) -> Outcome[T]:
        """What the read gave that `ask` made."""
        if self.outcome is None:
            raise RuntimeError(f"{self.name} was not asked")
        return self.outcome

    def close(self) -> bool:
        """Nothing to end."""
        return True


class Paced(Generic[T]):
    """Asks a source only when there may be something new; else it answers as before.

    There may be while `token` gives another object than at the last read, for `settle_seconds`
    after that, after an error, and every `interval_seconds` anyway.
    """

    def __init__(
        self,
        asked: Asked[T],
        token: Callable[[], object],
        *,
        settle_seconds: float,
        interval_seconds: float,
    ) -> None:
        """Pace `asked`; `token` does no I/O and does not raise."""
        self.name = asked.name
        self._asked = asked
        self._token = token
        self._settle = settle_seconds
        self._interval = interval_seconds
        self._last: Outcome[T] | None = None
        self._seen: object = None
        self._changed_at = self._read_at = 0.0
        self._due = True

    def ask(self) -> None:
        """Begin a read, if one is due."""
        now, token = time.monotonic(), self._token()
        if token is not self._seen:
            self._seen, self._changed_at = token, now
        self._due = (
            self._last is None
            or self._last.error is not None
            or now - self._changed_at < self._settle
            or now - self._read_at >= self._interval
        )
        if self._due:
            self._read_at = now
            self._asked.ask()

    def answer(self) -> Outcome[T]:
        """The read's outcome, or the last one's."""
        if self._due or self._last is None:
            self._last = self._asked.answer()
            return self._last
        return Outcome(self._last.value, self._last.error, self._last.seconds, fresh=False)

    def close(self) -> bool:
        """Close the source's reader."""
        return self._asked.close()


class Found(Generic[T]):
    """A source that may not be there: then it answers nothing, and no thread is woken."""

    def __init__(self, asked: Asked[T | None], is_there: Callable[[], bool]) -> None:
        """Ask `asked` while `is_there`, which does no I/O and does not raise."""
        self.name = asked.name
        self._asked = asked
        self._is_there = is_there
        self._waiting = False

    def ask(self) -> None:
        """Begin a read, if it is there."""
        self._waiting = self._is_there()
        if self._waiting:
            self._asked.ask()

    def answer(self) -> Outcome[T | None]:
        """The read's outcome; no value where it is not there."""
        return self._asked.answer() if self._waiting else Outcome(None, None, 0.0)

    def close(self) -> bool:
        """Close the source's reader."""
        return self._asked.close()


class Asked(Protocol[T]):
    """A source that is asked first and answers later, perhaps with an error."""

    name: str

    def ask(self) -> None:
        """Begin a read."""

    def answer(self) -> Outcome[T]:
        """Wait for it, until its deadline."""

    def close(self) -> bool:
        """End; False where it could not in time."""


def _outcome(name: str, read: Callable[[], T]) -> Outcome[T]:
    start = time.monotonic()
    value, error = None, None
    try:
        value = read()
    except SourceError as raised:
        error = raised
    except Exception as raised:  # noqa: BLE001 - the border: a bug in one source must not stop the ledger
        error = SourceError(
            "internal",
            f"{name}: {type(raised).__name__}: {raised}",
            "This is a bug: please report it with the output of `gpucost record`.",
        )
    return Outcome(value, error, time.monotonic() - start)
