"""Figures and states in words: how money, shares, bytes and times are written on the page."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from gpucost.model import State

UNKNOWN = "\N{EM DASH}"

MEANINGS = {
    State.USED: "busy",
    State.UNDERUSED: "held by a working pod, but not busy",
    State.IDLE: "held, and no work at all",
    State.STARTING: "held by a pod that is not Ready yet",
    State.FAILING: "held by a pod that crashes or cannot start",
    State.TERMINATING: "held by a pod that is being deleted",
    State.UNMEASURED: "held, but no activity signal exists",
    State.UNALLOCATED: "held by nobody, and free",
    State.STRANDED: "no MIG instance covers it, so nobody can hold it",
    State.UNATTRIBUTED: "who holds it is not known",
    State.UNHEALTHY: "lost or failed, and still billed",
    State.PROVISIONING: "paid while the node came up",
}


def money(usd: float | None) -> str:
    """Write an amount to the cent, and small ones to four digits; `—` if not known."""
    if usd is None or not math.isfinite(usd):
        return UNKNOWN
    if usd and abs(usd) < 0.00005:  # noqa: PLR2004 - half of the last digit
        return "< 0.0001" if usd > 0 else "> -0.0001"
    digits = 4 if usd and abs(usd) < 0.095 else 2  # noqa: PLR2004 - where cents lose too much
    return f"{usd:,.{digits}f}"


def percent(ratio: float | None) -> str:
    """Write a share in whole per cent; never 0 or 100 where it is only near."""
    if ratio is None or not math.isfinite(ratio):
        return UNKNOWN
    if 0 < ratio < 0.005:  # noqa: PLR2004 - would round to 0
        return "< 1\N{NARROW NO-BREAK SPACE}%"
    if 0.995 <= ratio < 1 - 1e-9:  # noqa: PLR2004 - would round to 100
        return "> 99\N{NARROW NO-BREAK SPACE}%"
    return f"{ratio * 100:.0f}\N{NARROW NO-BREAK SPACE}%"


def count(number: float) -> str:
    """Write a number of GPUs: whole ones plainly, others to two digits."""
    whole = round(number)
    return str(whole) if abs(number - whole) < 0.005 else f"{number:.2f}"  # noqa: PLR2004 - shown digits


def hours(number: float) -> str:
    """Write GPU-hours; the first ones in more digits, so that they are not nothing."""
    return f"{number:.3f}" if 0 < number < 1 else f"{number:,.1f}"


def gibibytes(size: float | None) -> str:
    """Write a size of memory in GiB."""
    if size is None:
        return UNKNOWN
    gib = size / (1 << 30)
    return f"{gib:.0f}" if gib >= 100 or gib == round(gib) else f"{gib:.1f}"  # noqa: PLR2004 - enough digits


def age(seconds: float | None) -> str:
    """Write how long ago something was."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    seconds = max(0.0, seconds)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}\N{NO-BREAK SPACE}{unit}"
    return f"{seconds:.0f}\N{NO-BREAK SPACE}s"


def duration(seconds: float) -> str:
    """Write how long something took."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}\N{NO-BREAK SPACE}ms"
    return f"{seconds:.1f}\N{NO-BREAK SPACE}s"


def moment(unix_seconds: float) -> str:
    """Write a moment in UTC."""
    try:
        return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return UNKNOWN
