"""`make demo` as a newcomer meets it: the real script, the real Prometheus, over loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, urlsplit

import pytest

from programs import ROOT, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_SECONDS = 240.0
"""For a slow, shared, two-core machine; a quick one takes twenty seconds."""

STOP_SECONDS = 60.0

PAGE_SECONDS = 480.0
"""An idle minute, a few evaluations, and as much again for a slow machine."""


class Demo:
    """A running demo, and what it has printed."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_until_up(self) -> None:
        self.wait_for("Four queries")

    def wait_for(self, words: str, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.2)

    def url(self, title: str) -> str:
        found = re.search(rf"^ +{title} +(http://127\.0\.0\.1:\d+)/", self.output, re.MULTILINE)
        assert found, self.output
        return found[1]


@contextmanager
def demo(directory: Path, **environment: str) -> Iterator[Demo]:
    log = directory / "output"
    temporary = directory / "tmp"
    temporary.mkdir()
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(ROOT / "scripts/demo.sh")],
            cwd=ROOT,
            # Ports of its own, so that two runs on one machine do not reach for the same.
            env={
                **os.environ,
                "TMPDIR": str(temporary),
                "DEMO_PORT": str(20_000 + os.getpid() % 4000 * 2),
                "DEMO_PROMETHEUS_PORT": str(28_000 + os.getpid() % 2000 * 2),
                "DEMO_ALERTMANAGER_PORT": str(24_000 + os.getpid() % 2000 * 2),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that Ctrl-C below reaches it as a terminal's would
        )
    try:
        yield Demo(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def get(url: str) -> str:
    parts = urlsplit(url)
    assert parts.hostname
    connection = HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, text
        return text
    finally:
        connection.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with demo(tmp_path_factory.mktemp("demo")) as up:
        up.wait_until_up()
        yield up
        up.process.terminate()
        assert up.process.wait(STOP_SECONDS) == 0, up.output
        assert group_is_gone(up.process.pid)


def query(running: Demo, expression: str) -> list[dict[str, dict[str, str]]]:
    text = get(f"{running.url('Prometheus')}/api/v1/query?query={quote(expression)}")
    answer = json.loads(text)
    assert answer["status"] == "success", text
    result: list[dict[str, dict[str, str]]] = answer["data"]["result"]
    return result


def test_prometheus_holds_dollars_by_pod(running: Demo) -> None:
    pods = query(running, "sum by (namespace, pod) (gpucost_pod_cost_usd_total) > 0")
    assert pods
    assert all(pod["metric"]["namespace"] and pod["metric"]["pod"] for pod in pods)


def test_the_target_is_named_after_its_node_and_clobbers_no_label(running: Demo) -> None:
    assert query(running, "up{job='gpucost'} == 1")
    for series in query(running, "gpucost_pod_cost_usd_total"):
        labels = series["metric"]
        assert labels["instance"] == labels["node"]
        assert not [name for name in labels if name.startswith("exported_")]


def test_every_query_it_prints_works(running: Demo) -> None:
    printed = re.findall(r"^ {6}(\S.*)$", running.output, re.MULTILINE)
    assert len(printed) == 4
    for expression in printed:
        deadline = time.monotonic() + START_SECONDS  # an increase needs two scrapes
        while not query(running, expression):
            assert time.monotonic() < deadline, expression
            time.sleep(1)


def test_an_idle_gpu_pages_through_alertmanager_with_its_money(running: Demo) -> None:
    running.wait_for("PAGE GPUIdle", PAGE_SECONDS)
    [cost] = query(running, "730 * gpucost_pod_cost_usd_per_hour{pod='ada-0'}")
    value = cast("list[str]", cost["value"])[1]
    running.wait_for("rules/RUNBOOK.md#gpuidle")
    words = " ".join(running.output.split())  # a page is in lines that a terminal has room for
    assert f"wastes ${float(value):.2f} a month" in words
    assert "Pod notebooks/ada-0 (Notebook ada, team research) has left" in words


def test_every_rule_evaluates_without_an_error(running: Demo) -> None:
    answer = json.loads(get(f"{running.url('Prometheus')}/api/v1/rules"))
    rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
    assert len(rules) > 100
    assert [
        (rule["name"], rule.get("lastError")) for rule in rules if rule["health"] == "err"
    ] == []


def test_the_month_to_date_is_what_the_ledger_says_plain_and_loaded(running: Demo) -> None:
    """It lags by what two evaluations lag, and never runs ahead."""
    for cost in ("cost", "loaded_cost"):
        recorded = f"sum(workload:gpucost_{cost}_usd:month_to_date)"
        ledger = "sum(gpucost_workload_cost_usd_total"
        expression = f"{ledger} offset 45s) <= {recorded} * (1 + 1e-9) <= {ledger}) * (1 + 2e-9)"
        deadline = time.monotonic() + START_SECONDS
        while not query(running, expression):
            assert time.monotonic() < deadline, (
                query(running, recorded),
                query(running, ledger + ")"),
            )
            time.sleep(1)


def test_the_page_it_names_says_that_it_is_simulated(running: Demo) -> None:
    assert "imulated" in get(f"{running.url('this node now')}/")


def test_promtool_finds_no_fault_with_its_metrics(running: Demo) -> None:
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=get(f"{running.url('this node now')}/metrics"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_stop_everything_and_leave_nothing(
    tmp_path: Path, how: signal.Signals
) -> None:
    with demo(tmp_path) as up:
        up.wait_for("waiting for the first dollars")
        if how is signal.SIGINT:
            os.killpg(up.process.pid, how)  # a terminal sends it to the whole group
        else:
            up.process.send_signal(how)
        assert up.process.wait(STOP_SECONDS) == 0, up.output
        assert group_is_gone(up.process.pid)
        assert list((tmp_path / "tmp").iterdir()) == []


def test_it_ends_by_itself_when_asked_to(tmp_path: Path) -> None:
    with demo(tmp_path, DEMO_SECONDS="1") as up:
        up.wait_until_up()
        assert up.process.wait(STOP_SECONDS) == 0, up.output
        assert group_is_gone(up.process.pid)


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
