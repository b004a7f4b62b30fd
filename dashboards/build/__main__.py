"""Writes dashboards/*.json.

python -m dashboards.build             write what changed
python -m dashboards.build --check     write nothing; exit 1 if something would change
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.build import budget, exporter, fleet, node, serving, team, workload
from dashboards.build.board import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent.parent

BOARDS = (
    fleet.BOARD,
    team.BOARD,
    workload.BOARD,
    serving.BOARD,
    budget.BOARD,
    node.BOARD,
    exporter.BOARD,
)


def files() -> Iterator[tuple[Path, str]]:
    """Each board's file, and the text it must have."""
    for board in BOARDS:
        text = json.dumps(to_json(board), indent=2, sort_keys=True, ensure_ascii=False)
        yield HERE / f"{board.uid}.json", text + "\n"


def main() -> int:
    """Write or check, as the command line says."""
    stale = [
        (path, text)
        for path, text in files()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        print(f"{path.name}: {'not as its source' if '--check' in sys.argv else 'written'}")  # noqa: T201 - a command line
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
