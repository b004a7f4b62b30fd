"""The node's GPUs as a step wants them: the settings of the played ones, in the cluster's state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.node import DEFAULT_GPUS

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.kube import Evidence


class Gpus:
    """Shows others from the next fifth of a second on (tests/played_gpus/settings.py)."""

    def __init__(self, settings: Path, evidence: Evidence) -> None:
        self._settings = settings
        self._evidence = evidence

    def show(self, text: str) -> None:
        """Show these, in the words of the settings file."""
        self._evidence.add(f"GPUs: {text}")
        draft = self._settings.with_suffix(".new")
        draft.write_text(text)
        draft.replace(self._settings)

    def put_back(self) -> None:
        """Show those that the cluster comes with."""
        self.show(DEFAULT_GPUS.read_text())
