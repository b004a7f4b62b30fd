"""A Report is shown when its ledger is on disk, and a disk that fails stops no bill."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Self
from zoneinfo import ZoneInfo

import pytest

from gpucost.checkpoint import decode
from gpucost.keeper import Keeper
from gpucost.restart import MAX_AGE_SECONDS, Moment
from gpucost.state_folder import FILE, StateError, StateFolder
from stage import Stage, gpu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpucost.model import Ledger, Report

PATIENCE = 60.0


def until(wanted: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Disk(StateFolder):
    """A real folder whose writes the test may hold up or refuse, as a bad disk does."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.open = threading.Event()
        self.open.set()
        self.refuses = False
        self.read_only = False
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        assert self.open.wait(PATIENCE)
        if self.refuses or self.read_only:
            raise StateError("unwritable", f"{self.path}: no space left on device")
        super().write(data)

    def check_writable(self) -> None:
        if self.read_only:
            raise StateError("unwritable", f"{self.path}: read-only file system")
        super().check_writable()

    def withdraw(self) -> None:
        if self.read_only:
            raise StateError("unwritable", f"{self.path}: read-only file system")
        super().withdraw()


class Life:
    """One life of an exporter on a stage and a disk."""

    def __init__(self, stage: Stage, disk: Disk, grace_seconds: float = 30.0) -> None:
        self.stage, self.disk = stage, disk
        self.shown: list[Report] = []
        self.keeper = Keeper(
            disk,
            self.shown.append,
            node=stage.node.name,
            boot_id=stage.boot_id,
            grace_seconds=grace_seconds,
            lock_wait_seconds=0.5,
        )
        self.devices = self.keeper.open(self._now())

    def _now(self) -> Moment:
        stage = self.stage
        return Moment(stage.wall, stage.steady, stage.node.name, stage.boot_id)

    def __enter__(self) -> Self:
        stage = self.stage
        stage.report = None
        stage.go_on_with(self.keeper.resume(stage.wall, stage.steady, ZoneInfo("UTC")))
        return self

    def __exit__(self, *_: object) -> None:
        self.disk.open.set()
        self.keeper.close(PATIENCE)

    def cycle(self, times: int = 1) -> None:
        """Cycles, each offered."""
        for _ in range(times):
            self.keeper.offer(self.stage.cycle(), self.stage.steady)

    def shows(self, clock_seconds: float) -> None:
        """Wait until a Report of this moment of the ledger's clock is shown."""
        until(lambda: self.shown and self.shown[-1].ledger.clock_seconds == clock_seconds)

    def kinds(self) -> set[str]:
        return {p.kind for p in self.shown[-1].problems if p.source == "state"}

    def is_up_after_a_cycle(self) -> bool:
        self.cycle()
        return self.up()

    def up(self) -> bool:
        [status] = [s for s in self.shown[-1].snapshot.sources if s.source == "state"]
        return status.up


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def on_disk(disk: Disk) -> Ledger:
    return decode((disk.path / FILE).read_bytes()).ledger


def test_what_is_shown_is_on_disk(disk: Disk) -> None:
    with Life(Stage(), disk) as life:
        for turn in range(20):
            life.cycle()
            if life.shown:
                assert on_disk(disk).billed_usd >= life.shown[-1].ledger.billed_usd
            if turn % 5 == 4:
                life.shows(5.0 * turn)
        assert life.up()
        assert not life.kinds()


def test_while_the_disk_is_slow_pages_wait_and_readings_do_not(disk: Disk) -> None:
    with Life(Stage(), disk) as life:
        life.cycle()
        life.shows(0.0)
        disk.open.clear()
        life.cycle()
        until(lambda: disk.writes == 2)
        life.cycle(times=5)  # returns at once
        assert [it.ledger.clock_seconds for it in life.shown] == [0.0]
        disk.open.set()
        life.shows(30.0)
        # The one that was being written, and the newest: those between are passed over.
        assert [it.ledger.clock_seconds for it in life.shown] == [0.0, 5.0, 30.0]
        assert disk.writes == 3


def test_the_next_life_goes_on_and_knows_the_gpus(disk: Disk) -> None:
    stage = Stage(gpu(0), gpu(1))
    with Life(stage, disk) as life:
        life.cycle(times=5)
        assert life.devices == ()
    stage.wall += 12.0
    stage.steady += 12.0
    with Life(stage, disk) as life:
        assert [it.uuid for it in life.devices] == ["GPU-0", "GPU-1"]
        life.cycle()
        life.shows(20.0)
        assert life.shown[-1].ledger.billed_usd == pytest.approx(2 * 0.032)
        assert not life.kinds()


def test_the_last_report_is_kept_when_it_ends(disk: Disk) -> None:
    with Life(Stage(), disk) as life:
        life.cycle(times=9)
    assert on_disk(disk).clock_seconds == 40.0


def test_a_full_disk_stops_no_bill_and_the_next_life_begins_at_0(disk: Disk) -> None:
    stage = Stage()
    with Life(stage, disk) as life:
        life.cycle(times=4)
        life.shows(15.0)
        disk.refuses = True
        written = disk.writes
        life.cycle(times=2)
        until(lambda: disk.writes > written)
        assert life.shown[-1].ledger.clock_seconds == 15.0  # for a moment pages wait
        life.cycle(times=6)
        life.shows(55.0)
        assert life.kinds() == {"unwritable"}
        assert not life.up()
        assert not (disk.path / FILE).exists()
    with Life(stage, disk) as life:
        disk.refuses = False
        life.cycle(times=2)
        life.shows(5.0)
        assert life.up()
        assert not life.kinds()
        assert on_disk(disk).billed_usd == pytest.approx(0.005)


def test_a_disk_that_recovers_has_the_newest_ledger_again(disk: Disk) -> None:
    with Life(Stage(), disk, grace_seconds=0.0) as life:
        life.cycle()
        life.shows(0.0)
        disk.refuses = True
        life.cycle()
        life.shows(5.0)
        disk.refuses = False
        life.cycle()
        life.shows(10.0)
        assert life.up()
        assert on_disk(disk).clock_seconds == 10.0


def test_where_nothing_can_be_written_an_old_file_is_not_believed(disk: Disk) -> None:
    stage = Stage()
    with Life(stage, disk) as life:
        life.cycle(times=4)
    disk.read_only = True
    with Life(stage, disk) as life:
        life.cycle(times=2)
        life.shows(5.0)
        assert life.kinds() == {"unwritable"}
        assert life.shown[-1].ledger.billed_usd == pytest.approx(0.005)


def test_a_disk_that_hangs_is_waited_for_and_then_no_more(disk: Disk) -> None:
    with Life(Stage(), disk, grace_seconds=0.2) as life:
        life.cycle()
        life.shows(0.0)
        disk.open.clear()
        life.cycle()
        until(lambda: disk.writes == 2)
        time.sleep(0.3)
        life.cycle()
        assert life.shown[-1].ledger.clock_seconds == 10.0
        assert life.kinds() == {"hung"}
        assert not life.up()
        disk.open.set()
        until(life.is_up_after_a_cycle)
        clocks = [it.ledger.clock_seconds for it in life.shown]
        assert clocks == sorted(clocks)  # the write that hung is not shown after its successors


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "corrupt"), (b"garbage", "corrupt"), (b"gpucost-checkpoint 9 0 0\n", "version")],
)
def test_a_file_that_cannot_be_read_is_kept_and_told(disk: Disk, content: bytes, kind: str) -> None:
    (disk.path / FILE).write_bytes(content)
    with Life(Stage(), disk) as life:
        life.cycle(times=2)
        life.shows(5.0)
        assert life.kinds() == {kind}
        assert life.up()
    [kept] = disk.path.glob(f"{FILE}.*{kind}")
    assert kept.read_bytes() == content


def test_a_checkpoint_that_is_too_old_is_kept_and_told_for_a_while(disk: Disk) -> None:
    stage = Stage()
    with Life(stage, disk) as life:
        life.cycle(times=4)
    stage.wall += MAX_AGE_SECONDS + 60
    stage.steady += MAX_AGE_SECONDS + 60
    with Life(stage, disk) as life:
        life.cycle(times=2)
        life.shows(5.0)
        assert life.kinds() == {"too_old"}
        life.cycle(times=181)
        life.shows(910.0)
        assert not life.kinds()
    assert len(list(disk.path.glob(f"{FILE}.*too-old"))) == 1


def test_other_gpus_than_before_are_told(disk: Disk) -> None:
    stage = Stage(gpu(0), gpu(1))
    with Life(stage, disk) as life:
        life.cycle()
    stage.gpus = (gpu(0), gpu(2))
    with Life(stage, disk) as life:
        life.cycle()
        life.shows(0.0)
        assert life.kinds() == {"devices_changed"}


def test_two_exporters_on_one_folder_do_not_mix(disk: Disk) -> None:
    with Life(Stage(), disk) as first:
        first.cycle(times=2)
        first.shows(5.0)
        with Life(Stage(gpu(), gpu(1)), Disk(disk.path)) as second:
            second.cycle(times=2)
            second.shows(5.0)
            assert second.kinds() == {"in_use"}
        assert len(on_disk(disk).gpus) == 1


def test_no_descriptor_is_left_open(disk: Disk) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names

    before = descriptors()
    for _ in range(3):
        with Life(Stage(), disk) as life:
            life.cycle(times=3)
    assert descriptors() == before
