"""Writes what a command made into a file, whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.config import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, page: str) -> None:
    """Who reads it at that moment has the one before. Raises ConfigError."""
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(page, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}.") from error
