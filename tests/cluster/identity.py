"""Names a process for good: its id together with when it began."""

from __future__ import annotations

from pathlib import Path


def name_of(pid: int) -> str | None:
    """`<pid> <start in clock ticks since boot>` of a process that lives; else None.

    An id alone is given to another process after a while; together they never are (proc(5),
    field 22 of stat).
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] == "Z" else f"{pid} {after_name[19]}"


def living(written: Path) -> int | None:
    """The id of the process whose name is in the file, if that very process lives."""
    try:
        name = written.read_text().strip()
        pid = int(name.partition(" ")[0])
    except (FileNotFoundError, ValueError):
        return None
    return pid if name_of(pid) == name else None
