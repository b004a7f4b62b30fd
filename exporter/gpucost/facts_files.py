"""Reads the shipped tables of facts, and a person's own beside them."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from gpucost.sizing.facts import Facts, FactsError, merged, parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SHIPPED = ("gpu_speeds.txt", "llm_models.txt", "llm_api.txt", "serverless.txt")

MAX_FILE_BYTES = 4 << 20
"""Hundreds of times a shipped table."""


@lru_cache(maxsize=1)
def shipped_facts() -> Facts:
    """The tables of the package."""
    folder = resources.files("gpucost") / "data"
    return merged(
        *(parse((folder / name).read_text(encoding="utf-8").splitlines()) for name in SHIPPED)
    )


def facts_of(files: Sequence[Path]) -> Facts:
    """The shipped tables, and files whose figures go before them; a later file before an earlier.

    Raises FactsError for a file that cannot be used.
    """
    return merged(*(_read(path) for path in reversed(files)), shipped_facts())


def _read(path: Path) -> Facts:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FactsError(f"{path} cannot be read: {error.strerror}") from error
    if len(text) > MAX_FILE_BYTES:
        raise FactsError(f"{path} is larger than {MAX_FILE_BYTES} bytes. Is it a table of facts?")
    decoded: str | None = None
    with suppress(UnicodeDecodeError):
        decoded = text.decode()
    if decoded is None:
        raise FactsError(f"{path} is not text. Is it a table of facts?")
    try:
        return parse(decoded.splitlines())
    except FactsError as error:
        raise FactsError(f"{path}, {error}") from error
