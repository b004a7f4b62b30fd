"""A node with played GPUs: its settings, World, broker and plugins, kept going by one loop."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fake_nvml import World
from played_gpus.broker import Asker, Broker, Refused, container_of, given
from played_gpus.machine import Card, cards, offered
from played_gpus.plugin import Plugins
from played_gpus.settings import SettingsError, load
from played_gpus.work import Work, play

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD_SECONDS: Final = 0.2
RETURN_SECONDS: Final = 0.5
"""Programs that lost their broker are back within this."""

log = logging.getLogger(__name__)


def scenario(state: Path) -> Path:
    """The World's file in a state folder; containers have its folder."""
    return state / "shared" / "scenario"


class Node:
    """The GPUs of one node. Raises SettingsError where the settings cannot be used at first."""

    def __init__(
        self,
        settings: Path,
        state: Path,
        plugins_dir: Path,
        node: str,
        claimed: Callable[[Asker], tuple[str, ...]] | None = None,
        present: Callable[[tuple[Card, ...]], None] | None = None,
    ) -> None:
        """`present` is told of the GPUs at first and when they change, `claimed` of whom to ask."""
        self._file = settings
        self._name = node
        self._stamp = _stamp(settings)
        self.settings = load(settings)
        self._claims = state / "dra"
        self._present = present or _nobody_told
        self._containers = state / "containers"
        shared = scenario(state).parent
        for folder in (state, shared, self._containers):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.cards = cards(self.settings, node)
        self._lock = threading.Lock()
        self._world: World | None = None
        self._scenario = scenario(state)
        self._works: list[Work] = []
        self._broker = Broker(
            shared / "broker.sock", self.devices_of, claimed or _nothing_claimed, self._play
        )
        self._plugins = Plugins(plugins_dir)

    def run(self, ended: threading.Event, again: threading.Event) -> None:
        """Play until `ended` is set; `again` has the settings read whether they changed or not."""
        self._broker.start()
        try:
            if self._scenario.exists():
                ended.wait(RETURN_SECONDS)  # so that who works is not seen to stop
            self._show()
            self._plugins.show(offered(self.settings, self.cards))
            while not ended.is_set():
                self._follow(forced=again.is_set())
                again.clear()
                self._plugins.keep()
                ended.wait(PERIOD_SECONDS)
        finally:
            self._plugins.stop()
            self._broker.stop()

    def devices_of(self, pid: int) -> tuple[str, ...]:
        """UUIDs of the devices that a process may use, in the node's order."""
        return self.known(given(container_of(pid), self._containers))

    def known(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The devices that are there of those named: UUIDs, minor numbers, or `all`.

        A GPU in MIG mode has no use itself: its MIG devices are what `all` or its name gives.
        """
        found: list[str] = []
        for card in self.cards:
            parts = [part.uuid for part in card.gpu.mig or ()]
            if "all" in names or {card.gpu.uuid, str(card.minor)} & set(names):
                found += [card.gpu.uuid] if card.gpu.mig is None else parts
            else:
                found += [uuid for uuid in parts if uuid in names]
        return tuple(found)

    def _play(self, works: list[Work]) -> None:
        """Called by the broker, whenever what programs do changes."""
        with self._lock:
            self._works = works
            if self._world is not None:
                play(self._world.gpus, works)
                self._world.write()

    def _show(self) -> None:
        """Put the GPUs that are now on the bus into the World, energy counters kept."""
        with self._lock:
            gpus = [card.played() for card in self.cards]
            play(gpus, self._works)
            if self._world is None:
                self._world = World(self._scenario, gpus)
            else:
                energy = {gpu.uuid: gpu.energy_joules for gpu in self._world.gpus}
                for gpu in gpus:
                    gpu.energy_joules = energy.get(gpu.uuid, gpu.energy_joules)
                self._world.gpus = gpus
            self._world.pid_namespace = Path("/proc/self/ns/pid").stat().st_ino
            self._world.write()
        if any(group.offer == "dra" for group in self.settings.gpus):
            self._claims.touch()
        else:
            self._claims.unlink(missing_ok=True)
        self._present(self.cards)

    def _follow(self, *, forced: bool) -> None:
        stamp = _stamp(self._file)
        if stamp == self._stamp and not forced:
            return
        self._stamp = stamp
        try:
            settings = load(self._file)
        except SettingsError as error:
            log.error("%s; the settings before stay in force", error)  # noqa: TRY400 - no trace
            return
        if settings == self.settings:
            return
        self.settings, self.cards = settings, cards(settings, self._name)
        log.info("settings: %d GPUs on the bus", len(self.cards))
        self._show()
        self._plugins.show(offered(settings, self.cards))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - the numbers, through links
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _nothing_claimed(asker: Asker) -> tuple[str, ...]:
    raise Refused(f"{asker}: the node has no DRA driver")


def _nobody_told(present: tuple[Card, ...]) -> None:
    if any(card.group.offer == "dra" for card in present):
        log.warning("GPUs with offer: dra are offered to nobody: give a --kubeconfig")
