"""Finds the real programs that tests run; one that is missing is a failure, never a skip."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

NEEDS = {
    "victoria-metrics": "victoriametrics",
    "vmalert": "victoriametrics",
    "alertmanager": "alertmanager",
}
"""What scripts/bootstrap.sh calls what brings it; the others come with Prometheus."""


def program(name: str) -> str:
    """The path of a program like `prometheus`: from GPUCOST_<NAME>, PATH, or what make fetched."""
    if chosen := os.environ.get(f"GPUCOST_{name.upper().replace('-', '_')}"):
        return chosen
    need = NEEDS.get(name, "prometheus")
    cache = ROOT / ".cache" / need / "bin"
    found = shutil.which(name) or shutil.which(name, path=str(cache))
    if found is None:
        raise FileNotFoundError(
            f"{name} is not on PATH and not in {cache}. Run: scripts/bootstrap.sh {need}"
        )
    return found
