"""Keeps the ledger on disk: a Report is shown only once the ledger that it shows is there.

So no counter that anybody has seen falls when the process dies. A thread of its own writes, for a
slow disk must not stop the readings: while it waits, the newest Report waits too, and those
between are passed over. A disk that fails for longer than `GRACE_SECONDS` stops the bill from
being safe, not from being shown: the old file is withdrawn first, so that the next start begins
at 0, which Prometheus takes for the reset that it is, and never at an older value.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.checkpoint import MAX_BYTES, Checkpoint, CheckpointError, decode, encode
from gpucost.gap import holds_of
from gpucost.model import Ledger, Problem, SourceStatus
from gpucost.restart import SOURCE, Moment, changed_devices, remembered, resumed
from gpucost.state_folder import StateError

if TYPE_CHECKING:
    from collections.abc import Callable
    from zoneinfo import ZoneInfo

    from gpucost.model import Device, Report
    from gpucost.state_folder import StateFolder

log = logging.getLogger("gpucost")

GRACE_SECONDS = 30.0
"""How long pages wait for a disk that fails or hangs."""

_LOCK_WAIT_SECONDS = 30.0
"""How long another exporter is waited for that still ends."""

_TOLD_SECONDS = 900.0
"""How long a Problem stays that is an event."""

_REMEDIES = {
    "in_use": "Give each exporter a state directory of its own, and run one on a node.",
    "unwritable": "Free its disk, or mount it writable for the exporter's user. The ledger is"
    " kept in memory meanwhile, and a restart begins at 0.",
    "unreadable": "Look at the file and its disk.",
    "hung": "Look at the node's disk (dmesg). The ledger is kept in memory meanwhile, and a"
    " restart may begin at an older value.",
    "corrupt": "Nothing to do for the counters: Prometheus takes it for a restart. Look at the"
    " node's disk. The file is kept beside the new one.",
    "version": "Nothing to do for the counters: Prometheus takes it for a restart. The file is"
    " kept beside the new one, for the version of gpucost that wrote it.",
}
_BUG = "This is a bug: please report it."


class _Offer(Struct, frozen=True):
    """A Report to be kept, charged up to a moment of the monotonic clock."""

    report: Report
    at: float


class Keeper:
    """The ledger's keeper. `open` it before the first cycle and `close` it after the last."""

    def __init__(
        self,
        folder: StateFolder,
        publish: Callable[[Report], None],
        *,
        node: str,
        boot_id: str,
        grace_seconds: float = GRACE_SECONDS,
        lock_wait_seconds: float = _LOCK_WAIT_SECONDS,
    ) -> None:
        """`publish` shows a Report; `node` and `boot_id` say whose ledger it is."""
        self._folder = folder
        self._publish = publish
        self._node = node
        self._boot_id = boot_id
        self._grace = grace_seconds
        self._lock_wait = lock_wait_seconds
        self._found: Checkpoint | None = None
        self._on_disk = False
        self._events: list[tuple[float | None, Problem]] = []
        self._trouble: Problem | None = None
        self._last_success: float | None = None
        self._durable_at: float | None = None
        self._shown_at: float | None = None
        self._showing = threading.Lock()
        self._wake = threading.Condition()
        self._offered: _Offer | None = None
        self._busy_since: float | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    # --- At the start -------------------------------------------------------------------------

    def open(self, now: Moment) -> tuple[Device, ...]:
        """Read what is there; the GPUs that are known from it. Never raises."""
        try:
            self._wait_for_lock()
            # Where nothing can be written now, perhaps nothing could then: what is there may be
            # older than what was shown last.
            self._folder.check_writable()
            self._found = self._read(now)
        except StateError as error:
            self._fail(error.kind, str(error))
        self._thread.start()
        return () if self._found is None else remembered(self._found, now)

    def _wait_for_lock(self) -> None:
        until = time.monotonic() + self._lock_wait
        while True:
            try:
                return self._folder.lock()
            except StateError as error:
                if error.kind != "in_use" or time.monotonic() >= until:
                    raise
            time.sleep(0.2)

    def _read(self, now: Moment) -> Checkpoint | None:
        kind, message = "", ""
        try:
            data = self._folder.read(MAX_BYTES)
            if data is None:
                log.info("no ledger in %s: a new one begins", self._folder.path)
                return None
            found = decode(data)
        except (StateError, CheckpointError) as error:
            kind, message = error.kind, str(error)
        else:
            self._on_disk = True
            return found
        kept = self._folder.set_aside(kind, now.wall_time)
        self._tell(
            Problem(
                SOURCE,
                kind,
                f"{self._folder.path}: the ledger could not be read: {message}. It is kept as"
                f" {kept}, and a new one begins at 0.",
                _REMEDIES.get(kind, ""),
            )
        )
        return None

    def resume(self, wall_time: float, monotonic_seconds: float, zone: ZoneInfo) -> Ledger:
        """The ledger to begin with, and what is to be told of it."""
        if self._found is None:
            return Ledger(started_at=wall_time)
        now = Moment(wall_time, monotonic_seconds, self._node, self._boot_id)
        found = resumed(self._found, now, zone)
        for problem in found.problems:
            self._tell(problem)
        if not found.problems:
            log.info("%s", found.told)
        if found.set_aside is not None:
            self._on_disk = False
            try:
                self._folder.set_aside(found.set_aside, wall_time)
            except StateError as error:
                self._fail(error.kind, str(error))
        return found.ledger

    # --- In every cycle -----------------------------------------------------------------------

    def offer(self, report: Report, monotonic_seconds: float) -> None:
        """Take a Report to be kept, and shown when it is."""
        if self._found is not None and report.snapshot.gpus:
            now = (gpu.device for gpu in report.snapshot.gpus)
            if changed := changed_devices(self._found.devices, now):
                self._tell(changed)
            self._found = None
        offer = _Offer(report, monotonic_seconds)
        with self._wake:
            self._offered = offer
            busy_since = self._busy_since
            self._wake.notify()
        if busy_since is not None and (hung := time.monotonic() - busy_since) > self._grace:
            self._fail("hung", f"{self._folder.path}: a write has taken {hung:.0f} s so far")
            self._show(offer, hung)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Keep the last Report that was offered, and end; a disk that hangs is not waited for."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        if not self._thread.is_alive():
            self._folder.unlock()

    def _run(self) -> None:
        while (offer := self._next()) is not None:
            start = time.monotonic()
            kept = self._keep(offer)
            if kept or self._durable_at is None or offer.at - self._durable_at > self._grace:
                if not kept and self._on_disk:
                    self._withdraw()
                self._show(offer, time.monotonic() - start)

    def _next(self) -> _Offer | None:
        """The newest offer, waited for; None at the end."""
        with self._wake:
            self._busy_since = None
            while self._offered is None and not self._closing:
                self._wake.wait()
            offer, self._offered = self._offered, None
            self._busy_since = time.monotonic()
            return offer

    def _keep(self, offer: _Offer) -> bool:
        """Whether the Report's ledger is on disk now."""
        report = offer.report
        try:
            data = encode(
                Checkpoint(
                    node=self._node,
                    boot_id=self._boot_id,
                    wall_time=report.snapshot.wall_time,
                    monotonic_seconds=offer.at,
                    ledger=report.ledger,
                    devices=tuple(gpu.device for gpu in report.snapshot.gpus),
                    holds=holds_of(report),
                )
            )
            self._folder.write(data)
        except (StateError, CheckpointError) as error:
            self._fail(error.kind, str(error))
            return False
        except Exception as error:  # the border: without this thread no page would be renewed
            log.exception("the ledger could not be kept")
            self._fail("internal", f"the ledger could not be kept: {error}")
            return False
        if self._trouble is not None:
            log.info("%s: %s: over", SOURCE, self._trouble.kind)
        self._trouble = None
        self._on_disk = True
        self._durable_at = offer.at
        self._last_success = report.snapshot.wall_time
        return True

    def _withdraw(self) -> None:
        """Take the old file away, before newer figures are shown than it has."""
        try:
            self._folder.withdraw()
        except StateError as error:
            self._fail(error.kind, str(error))
        else:
            self._on_disk = False

    def _show(self, offer: _Offer, seconds: float) -> None:
        """Publish a Report, unless a newer one is shown, with how keeping it went."""
        report, trouble = offer.report, self._trouble
        status = SourceStatus(SOURCE, trouble is None, seconds, self._last_success)
        snapshot = replace(report.snapshot, sources=(*report.snapshot.sources, status))
        with self._showing:
            if self._shown_at is not None and offer.at <= self._shown_at:
                return
            self._shown_at = offer.at
            self._events = [
                (offer.at if since is None else since, problem)
                for since, problem in self._events
                if since is None or offer.at - since < _TOLD_SECONDS
            ]
            problems = [*(problem for _, problem in self._events), *((trouble,) if trouble else ())]
            self._publish(
                replace(report, snapshot=snapshot, problems=(*report.problems, *problems))
            )

    # --- What is told -------------------------------------------------------------------------

    def _tell(self, problem: Problem) -> None:
        """Show an event for a while."""
        with self._showing:
            self._events.append((None, problem))
        log.warning("%s: %s: %s %s", problem.source, problem.kind, problem.message, problem.remedy)

    def _fail(self, kind: str, message: str) -> None:
        """Show what is wrong until it is over."""
        problem = Problem(SOURCE, kind, message, _REMEDIES.get(kind, _BUG))
        if self._trouble is None or self._trouble.kind != kind:
            log.warning("%s: %s: %s %s", SOURCE, kind, message, problem.remedy)
        self._trouble = problem
