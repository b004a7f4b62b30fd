"""How the ledger goes on from a checkpoint: what is believed of it, and what time passed. Pure.

| what is found | the ledger | the time since |
|---|---|---|
| same boot | goes on | a gap, by the kernel's monotonic clock |
| another boot | goes on | from the boot only: what ran before it is not known to have been paid |
| another node's name | begins anew: its series are others | a gap, within one boot |
| a file older than `MAX_AGE_SECONDS` | begins anew | is not charged |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.gap import YOUNG_NODE_SECONDS, interrupted
from gpucost.model import Ledger, Problem, State
from gpucost.months import by_month

if TYPE_CHECKING:
    from collections.abc import Iterable
    from zoneinfo import ZoneInfo

    from gpucost.checkpoint import Checkpoint
    from gpucost.model import Device

MAX_AGE_SECONDS = 7 * 86_400.0
"""After longer than this a bill for the time between would surprise more than it tells."""

SOURCE = "state"
"""The name under which durable state has its problems and its `gpucost_source_up`."""

STANDS_IN = "missing-"
"""How the names of GPUs begin that the node should have and never showed (cycle.py)."""


class Moment(Struct, frozen=True):
    """Now, and which boot of which node it is.

    `boot_id` is the kernel's (random(4)), the host's in a container too; empty if unknown.
    """

    wall_time: float
    monotonic_seconds: float
    node: str
    boot_id: str


class Resumed(Struct, frozen=True):
    """The ledger to go on with; `told` says in a line how.

    `set_aside` is a word for why the file must be kept under another name, None where it was
    gone on with.
    """

    ledger: Ledger
    told: str
    problems: tuple[Problem, ...] = ()
    set_aside: str | None = None


def same_boot(checkpoint: Checkpoint, now: Moment) -> bool:
    """Whether the machine has run since, so that its monotonic clock goes on."""
    return (
        checkpoint.boot_id == now.boot_id and checkpoint.monotonic_seconds <= now.monotonic_seconds
    )


def remembered(checkpoint: Checkpoint, now: Moment) -> tuple[Device, ...]:
    """The GPUs that were there and still must be: within one boot they do not leave unnoticed."""
    if not same_boot(checkpoint, now):
        return ()
    return tuple(it for it in checkpoint.devices if not it.uuid.startswith(STANDS_IN))


def resumed(checkpoint: Checkpoint, now: Moment, zone: ZoneInfo) -> Resumed:
    """What to go on with, `zone` being the billing time zone."""
    running = same_boot(checkpoint, now)
    fresh = Ledger(started_at=now.wall_time)
    since = now.monotonic_seconds - checkpoint.monotonic_seconds
    age = since if running else now.wall_time - checkpoint.wall_time
    if age > MAX_AGE_SECONDS:
        problem = Problem(
            SOURCE,
            "too_old",
            f"The ledger on disk is {age / 86_400:.0f} days old; a new one begins at 0.",
            "Nothing to do, if this exporter was away for so long. The old file is kept beside"
            " the new one.",
        )
        return Resumed(fresh, problem.message, (problem,), set_aside="too-old")

    renamed = checkpoint.node != now.node
    ledger = fresh if renamed else _reopened(checkpoint.ledger)
    if running:
        ledger = interrupted(
            ledger,
            by_month(now.wall_time, since, zone),
            gpus=tuple(it.uuid for it in checkpoint.devices),
            held=checkpoint.holds,
        )
        told = f"{since:.0f} s after its last checkpoint"
    else:
        uptime = now.monotonic_seconds
        young = uptime < YOUNG_NODE_SECONDS
        ledger = interrupted(
            ledger,
            by_month(now.wall_time, uptime, zone),
            gpus=None,
            held=(),
            state=State.PROVISIONING if young else State.UNATTRIBUTED,
        )
        told = f"{uptime:.0f} s after a reboot"
    if not renamed:
        return Resumed(ledger, f"The ledger goes on, {told}.")
    problem = Problem(
        SOURCE,
        "renamed",
        f"The ledger on disk is of the node `{checkpoint.node}`; this is `{now.node}`, whose"
        " counters are other series and begin at 0.",
        "Nothing to do, if the node was renamed. The old file is kept beside the new one. Give"
        " each node a state directory of its own, and leave it out of machine images.",
    )
    return Resumed(ledger, problem.message, (problem,), set_aside="renamed")


def _reopened(ledger: Ledger) -> Ledger:
    """The ledger for sources that are opened anew, and count their XID events from 0."""
    return replace(ledger, xids={key: replace(it, read=0) for key, it in ledger.xids.items()})


def changed_devices(before: Iterable[Device], now: Iterable[Device]) -> Problem | None:
    """What to say where the node has other GPUs, or other MIG instances, than at the checkpoint."""
    old, new = ({it.uuid: it.mig for it in devices} for devices in (before, now))
    words = [
        f"{what}: {', '.join(sorted(uuids))}"
        for what, uuids in (
            ("new", new.keys() - old.keys()),
            ("gone", old.keys() - new.keys()),
            ("partitioned anew", {it for it in old.keys() & new.keys() if old[it] != new[it]}),
        )
        if uuids
    ]
    if not words:
        return None
    return Problem(
        SOURCE,
        "devices_changed",
        f"The GPUs changed while the exporter was away ({'; '.join(words)}). What nobody"
        " provably held in that time is `unattributed`.",
        "Nothing to do, if the change was meant.",
    )
