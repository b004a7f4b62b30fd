"""The pages of the latest Report, each made at most once a Report, when first asked for."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from gpucost import __version__
from gpucost.exposition import families
from gpucost.status import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.core import Metric

    from gpucost.model import Report


class _Families(Collector):
    """Metric families as prometheus_client's encoders want them."""

    def __init__(self, *parts: Iterable[Metric]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        for part in self._parts:
            yield from part


def encode(
    report: Report,
    *,
    openmetrics: bool = False,
    reveal: bool = False,
    beside: Sequence[Collector] = (),
) -> bytes:
    """A Report as Prometheus text or OpenMetrics.

    `reveal` shows new counters at once (see exposition.families); `beside` are collectors whose
    families follow, such as the process's own.
    """
    page = _Families(
        families(report, version=__version__, reveal=reveal), *(c.collect() for c in beside)
    )
    if openmetrics:
        return bytes(generate_openmetrics(page))  # type: ignore[no-untyped-call]
    return bytes(generate_latest(page))


class Pages:
    """What the server shows: pages of the latest Report.

    Threads ask, one loop publishes. A Report is swapped whole, so that a scrape never sees half
    of one, and a page that is being made keeps the Report it began with.
    """

    alive: Callable[[], bool]
    """Whether the loop goes on; set by who starts it."""

    def __init__(self, beside: Sequence[Collector] = ()) -> None:
        """`beside`: see `encode`."""
        self.alive = lambda: True
        self._beside = beside
        self._report: Report | None = None
        self._made: dict[str, tuple[Report, bytes]] = {}
        self._making = {kind: threading.Lock() for kind in ("text", "openmetrics", "status")}

    def publish(self, report: Report) -> None:
        """Show this Report from now on."""
        self._report = report

    def metrics(self, openmetrics: bool) -> bytes | None:  # noqa: FBT001 - the Protocol's signature
        """/metrics; None before the first Report."""
        return self._page(
            "openmetrics" if openmetrics else "text",
            lambda report: encode(report, openmetrics=openmetrics, beside=self._beside),
        )

    def status(self) -> bytes | None:
        """The status page; None before the first Report."""
        return self._page(
            "status", lambda report: render(report, version=__version__, now=time.time())
        )

    def healthy(self) -> bool:
        """Whether the loop is alive."""
        return self.alive()

    def ready(self) -> bool:
        """Whether there is a Report."""
        return self._report is not None

    def _page(self, kind: str, make: Callable[[Report], bytes]) -> bytes | None:
        with self._making[kind]:
            report = self._report
            if report is None:
                return None
            made = self._made.get(kind)
            if made is None or made[0] is not report:
                made = self._made[kind] = (report, make(report))
            return made[1]
