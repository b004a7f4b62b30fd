"""Programs that run inside: started once, found again by a later command, stopped alone.

Seen from inside the machine. A program's process id and start time are kept in a file, so that
what is signalled is what was started, never a process that has since been given its number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.failure import ClusterError
from cluster.identity import living, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cluster.place import Place

STOP_SECONDS = 30
TAIL_LINES = 12


def start(
    place: Place, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None
) -> None:
    """Start a program in the background, unless it runs. Its words go to logs/NAME.log."""
    if running(place, name):
        return
    log = (place.logs / f"{name}.log").open("ab")
    with log:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | dict(env or {}),
            start_new_session=True,
        )
    process.returncode = 0  # the machine's first process buries it
    (place.pids / name).write_text(str(name_of(process.pid)))


def stop(place: Place, name: str, with_signal: signal.Signals = signal.SIGTERM) -> None:
    """End a program and wait for its end; one that ignores the signal is killed."""
    pid = living(place.pids / name)
    if pid is None:
        return
    os.kill(pid, with_signal)
    deadline = time.monotonic() + STOP_SECONDS
    # Gone is what has no entry: a program of many threads is a zombie before its last one has
    # closed its sockets.
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # else the machine's first process buries it
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
    (place.pids / name).unlink()


def tell(place: Place, name: str, what: signal.Signals) -> None:
    """Send a signal that does not end it; nothing where it does not run."""
    pid = living(place.pids / name)
    if pid is not None:
        os.kill(pid, what)


def running(place: Place, name: str) -> bool:
    """Whether the program lives."""
    return living(place.pids / name) is not None


def wait_until(
    what: str, check: Callable[[], bool], seconds: float, place: Place | None = None, log: str = ""
) -> None:
    """Wait until the check holds.

    Raises ClusterError after so many seconds, or when the program `log` has ended, with the end
    of its log.
    """
    deadline = time.monotonic() + seconds
    while not check():
        died = place is not None and bool(log) and not running(place, log)
        if died or time.monotonic() > deadline:
            why = f"{log} ended" if died else f"not within {seconds:.0f} s"
            raise ClusterError(f"{what}: {why}{_tail(place, log)}")
        time.sleep(0.2)


def _tail(place: Place | None, log: str) -> str:
    if place is None or not log:
        return ""
    path = place.logs / f"{log}.log"
    lines = path.read_text(errors="replace").splitlines()[-TAIL_LINES:] if path.exists() else []
    return "\n".join([f"; the end of {path}:", *(f"  {line[:300]}" for line in lines)])
