"""The exporter dies at any instant: no counter falls that was scraped, and no second is lost.

GPUCOST_KILLS says how many random deaths there are (50 unless set).
"""

from __future__ import annotations

import math
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import fake_nvml
from gpucost.checkpoint import decode
from gpucost.ledger import imbalance_usd
from gpucost.model import State
from gpucost.state_folder import FILE
from lives import (
    PATIENCE,
    USD_PER_HOUR,
    Series,
    charged_seconds,
    counters,
    playing,
    problems,
    sources_up,
    waiting_seconds,
)
from programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("GPUCOST_KILLS") or 50)
NODES_AT_ONCE = 2 * (os.cpu_count() or 1)


def die_often(folder: Path, kills: int, seed: int) -> None:
    """So many lives, each killed at a random instant; after each everything must be right."""
    chance = random.Random(seed)  # noqa: S311 - instants
    scraped: dict[Series, float] = {}
    began: tuple[float, float] | None = None
    with playing(folder) as exporter:
        for life in range(kills):
            exporter.start()
            exporter.first_page()
            if not life:
                exporter.shows_counters()
            until = time.monotonic() + chance.uniform(0.0, 3.5)
            while True:
                page = counters(exporter.first_page())
                for key, value in page.items():
                    assert value >= scraped.get(key, 0.0), (life, key)
                assert scraped.keys() <= page.keys(), life
                scraped = page
                if time.monotonic() >= until:
                    break
                time.sleep(chance.uniform(0.0, 0.2))
            exporter.end()
            kept = exporter.kept()
            began = began or (kept.monotonic_seconds, charged_seconds(kept))
            passed = kept.monotonic_seconds - began[0]
            charged = charged_seconds(kept) - began[1]
            assert math.isclose(charged, passed, rel_tol=1e-9, abs_tol=1e-6), life
            assert math.isclose(
                kept.ledger.billed_usd,
                (charged_seconds(kept) - waiting_seconds(kept)) * USD_PER_HOUR / 3600,
                rel_tol=1e-9,
                abs_tol=1e-9,
            )
            assert abs(imbalance_usd(kept.ledger)) < 1e-9
        states: dict[str, float] = {}
        for (name, labels), value in scraped.items():
            if name == "gpucost_gpu_seconds_total":
                states[dict(labels)["state"]] = value
        # What is lost is the state: while it was away nobody measured. Who held is known.
        assert states["unmeasured"] > 0
        assert states["unattributed"] == 0


def test_killed_at_random_no_counter_falls_and_no_second_is_lost(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            die_often(tmp_path / str(number), -(-KILLS // NODES_AT_ONCE), seed=number)
        except BaseException as failure:  # noqa: BLE001 - told by the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(NODES_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_told_to_stop_it_keeps_what_it_showed_and_the_next_life_goes_on(tmp_path: Path) -> None:
    with playing(tmp_path / "node") as exporter:
        exporter.start()
        exporter.first_page()
        exporter.shows_counters()
        before = counters(exporter.scrape() or {})
        assert exporter.end(signal.SIGTERM) == 0
        exporter.start()
        after = counters(exporter.first_page())
        assert before.keys() <= after.keys()
        assert all(after[key] >= value for key, value in before.items())
        assert "The ledger goes on" in exporter.log


@pytest.mark.parametrize("seconds", [4.0, pytest.param(150.0, marks=pytest.mark.slow)])
def test_stopped_and_continued_it_charges_what_passed(tmp_path: Path, seconds: float) -> None:
    """What it missed for minutes is a gap: charged to who held throughout, and measured by none."""
    with playing(tmp_path / "node") as exporter:
        exporter.start()
        exporter.first_page()
        first = exporter.kept()
        assert exporter.process is not None
        exporter.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        exporter.process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        while exporter.kept().monotonic_seconds < first.monotonic_seconds + seconds + 1.0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        last = exporter.kept()
        passed = last.monotonic_seconds - first.monotonic_seconds
        assert charged_seconds(last) - charged_seconds(first) == pytest.approx(passed, abs=1e-6)
        [gpu] = last.ledger.gpus.values()
        unmeasured = gpu.account.seconds.get(State.UNMEASURED, 0.0)
        assert unmeasured == pytest.approx(0.0 if seconds < 60 else seconds, abs=3.0)
        assert State.UNATTRIBUTED not in gpu.account.seconds


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_call_that_keeps_the_ledger_it_has_what_was_shown(
    tmp_path: Path, when: str
) -> None:
    for call in range(1, 40):
        folder = tmp_path / f"{call}"
        done = subprocess.run(
            [sys.executable, ROOT / "tests/mortal.py", folder, str(call), when],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        lines = done.stdout.split()
        if lines[-1] == "survived":
            assert done.returncode == 0, done.stderr
            assert call > 8  # open, open, write, fsync, close, rename, fsync, close
            return
        assert done.returncode == -signal.SIGKILL, done.stderr
        kept = decode((folder / FILE).read_bytes())
        assert kept.ledger.billed_usd >= float(lines[-1])
        assert kept.ledger.clock_seconds in (10.0, 15.0, 20.0, 25.0)
    pytest.fail("it never survived")


def test_a_gpu_that_fell_off_the_bus_while_it_was_away_is_still_billed(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with playing(folder) as exporter:
        kept, lost = fake_nvml.h100(), fake_nvml.h100()
        fake_nvml.World(folder / "nvml.world", [kept, lost])
        exporter.start()
        exporter.shows_counters()
        exporter.end()
        fake_nvml.World(folder / "nvml.world", [kept])
        exporter.start()
        deadline = time.monotonic() + PATIENCE
        while not any(
            name == "gpucost_gpu_seconds_total" and value and ("state", "unhealthy") in labels
            for (name, labels), value in exporter.first_page().items()
        ):
            assert time.monotonic() < deadline, exporter.log
            time.sleep(0.1)
        healthy = {
            dict(labels)["uuid"]: value
            for (name, labels), value in exporter.first_page().items()
            if name == "gpucost_gpu_healthy"
        }
        assert healthy == {kept.uuid: 1.0, lost.uuid: 0.0}


def test_under_another_name_it_begins_anew_and_says_so(tmp_path: Path) -> None:
    with playing(tmp_path / "node") as exporter:
        exporter.start()
        exporter.shows_counters()
        exporter.end()
        exporter.rename("gpu-2")
        exporter.start()
        page = exporter.first_page()
        assert ("state", "renamed") in problems(page)
        assert all(dict(labels)["node"] == "gpu-2" for _, labels in page)
        assert len(list(exporter.state.glob(f"{FILE}.*renamed"))) == 1


def test_a_file_that_was_damaged_is_kept_and_it_begins_at_0(tmp_path: Path) -> None:
    with playing(tmp_path / "node") as exporter:
        exporter.start()
        exporter.shows_counters()
        exporter.end()
        file = exporter.state / FILE
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        file.write_bytes(damaged)
        exporter.start()
        page = exporter.first_page()
        assert ("state", "corrupt") in problems(page)
        assert not any(counters(page).values())
        [kept] = exporter.state.glob(f"{FILE}.*corrupt")
        assert kept.read_bytes() == damaged


def test_a_disk_that_fills_up_stops_no_bill_and_the_next_life_begins_at_0(tmp_path: Path) -> None:
    """A limit on the size of its files stands in for the disk's end (setrlimit(2))."""
    with playing(tmp_path / "node") as exporter:
        exporter.start()
        exporter.shows_counters()
        assert exporter.process is not None
        resource.prlimit(exporter.process.pid, resource.RLIMIT_FSIZE, (64, 64))
        deadline = time.monotonic() + PATIENCE
        while True:
            page = exporter.first_page()
            if ("state", "unwritable") in problems(page):
                break
            assert time.monotonic() < deadline, exporter.log
            time.sleep(0.2)
        assert sources_up(page)["state"] == 0
        assert not (exporter.state / FILE).exists()
        exporter.end()
        exporter.start()
        assert not any(counters(exporter.first_page()).values())
