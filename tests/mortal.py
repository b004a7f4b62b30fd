"""A ledger that is kept on disk, in a process that dies at one of the calls that keep it.

    python mortal.py FOLDER CALL [before|after]

Prints the dollars of every Report as it is shown. From the third Report that is offered on, the
CALLth call that the state folder makes of the operating system is its last: SIGKILL comes just
before it, or just after. Ends with "survived" where there are not so many.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from gpucost import state_folder
from gpucost.keeper import Keeper
from gpucost.restart import Moment
from stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpucost.model import Report


class Doomed:
    """The operating system, until a number of calls is reached."""

    def __init__(self, last: int, *, after: bool) -> None:
        self.left: int | None = None
        self._last, self._after = last, after

    def arm(self) -> None:
        """Count from now on."""
        self.left = self._last

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever os has
        found = getattr(os, name)
        return self._counted(found) if callable(found) else found

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the call's own
            if self.left is not None:
                self.left -= 1
            if self.left == 0 and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **named)
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted


def main(folder: Path, last: int, *, after: bool) -> None:
    """Live."""
    doom = Doomed(last, after=after)
    vars(state_folder)["os"] = doom
    stage = Stage()
    shown: list[float] = []

    def show(report: Report) -> None:
        shown.append(report.ledger.clock_seconds)
        print(repr(report.ledger.billed_usd), flush=True)  # noqa: T201 - its output

    keeper = Keeper(
        state_folder.StateFolder(folder), show, node=stage.node.name, boot_id=stage.boot_id
    )
    now = Moment(stage.wall, stage.steady, stage.node.name, stage.boot_id)
    keeper.open(now)
    stage.go_on_with(keeper.resume(stage.wall, stage.steady, ZoneInfo("UTC")))
    for turn in range(6):
        if turn == 3:
            doom.arm()
        report = stage.cycle()
        keeper.offer(report, stage.steady)
        while report.ledger.clock_seconds not in shown:
            time.sleep(0.001)
    keeper.close()
    print("survived")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), after=sys.argv[3] == "after")
