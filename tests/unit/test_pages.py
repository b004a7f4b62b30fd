"""Pages are made at most once a Report and format, whoever asks, and never from half a Report."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gpucost.pages import Pages, encode
from stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from gpucost.model import Report

LONG = 60.0


class Beside(Collector):
    """Families that count how often they are collected: once an encoding."""

    def __init__(self) -> None:
        self.times = 0
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def collect(self) -> Iterable[Metric]:
        self.times += 1
        self.begun.set()
        assert self.go_on.wait(LONG)
        yield GaugeMetricFamily("beside", "Something beside.", value=self.times)


def reports(count: int) -> list[Report]:
    stage = Stage()
    return [stage.cycle() for _ in range(count)]


def made(page: bytes | None) -> int:
    """Which encoding a page is of."""
    assert page is not None
    [line] = [line for line in page.decode().splitlines() if line.startswith("beside ")]
    return int(float(line.split()[1]))


def test_before_the_first_report_there_are_no_pages() -> None:
    pages = Pages()
    assert not pages.ready()
    assert (pages.metrics(openmetrics=False), pages.metrics(openmetrics=True)) == (None, None)
    assert pages.status() is None
    assert pages.healthy()


def test_a_page_is_what_encoding_the_report_gives() -> None:
    [report] = reports(1)
    pages = Pages()
    pages.publish(report)
    assert pages.ready()
    assert pages.metrics(openmetrics=False) == encode(report)
    assert pages.metrics(openmetrics=True) == encode(report, openmetrics=True)
    status = pages.status()
    assert status is not None
    assert b"node-1" in status


@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_page_is_made_once_however_many_ask(*, openmetrics: bool) -> None:
    first, second = reports(2)
    beside = Beside()
    pages = Pages((beside,))
    for turn, report in enumerate((first, second), start=1):
        pages.publish(report)
        barrier = threading.Barrier(16)

        def ask(barrier: threading.Barrier = barrier) -> bytes | None:
            barrier.wait(LONG)
            return pages.metrics(openmetrics=openmetrics)

        with ThreadPoolExecutor(16) as threads:
            answers = {future.result() for future in [threads.submit(ask) for _ in range(16)]}
        assert len(answers) == 1
        assert beside.times == turn


def test_a_page_that_nobody_asks_for_is_not_made() -> None:
    beside = Beside()
    pages = Pages((beside,))
    for report in reports(3):
        pages.publish(report)
    assert beside.times == 0
    assert made(pages.metrics(openmetrics=False)) == 1


def test_each_format_is_made_for_itself() -> None:
    beside = Beside()
    pages = Pages((beside,))
    pages.publish(reports(1)[0])
    assert made(pages.metrics(openmetrics=False)) == 1
    assert made(pages.metrics(openmetrics=True)) == 2
    assert made(pages.metrics(openmetrics=False)) == 1


def test_a_report_that_comes_while_a_page_is_made_is_on_the_next_page() -> None:
    first, second = reports(2)
    beside = Beside()
    beside.go_on.clear()
    pages = Pages((beside,))
    pages.publish(first)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(pages.metrics, openmetrics=False)
        assert beside.begun.wait(LONG)
        pages.publish(second)
        beside.go_on.set()
        page = slow.result(LONG)
    assert page is not None
    assert page.startswith(encode(first))
    page = pages.metrics(openmetrics=False)
    assert page is not None
    assert page.startswith(encode(second))
    assert beside.times == 2


def test_one_format_does_not_wait_for_another() -> None:
    beside = Beside()
    beside.go_on.clear()
    pages = Pages((beside,))
    pages.publish(reports(1)[0])
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(pages.metrics, openmetrics=False)
        assert beside.begun.wait(LONG)
        assert pages.status() is not None
        assert not slow.done()
        beside.go_on.set()
        assert slow.result(LONG)


def test_health_is_the_loops() -> None:
    pages = Pages()
    pages.alive = lambda: False
    assert not pages.healthy()
