"""The status page at /: this node's GPUs and pods with dollars per hour, waste and why.

    Report -> figures.of (values) -> page.document (HTML) -> bytes

No script, no font, no picture from anywhere: one HTML text with one style block, whose hash is
the only thing that the Content-Security-Policy lets through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.status import figures, page

if TYPE_CHECKING:
    from gpucost.model import Report

__all__ = ["CONTENT_SECURITY_POLICY", "render"]

CONTENT_SECURITY_POLICY = page.CONTENT_SECURITY_POLICY
"""What the page needs, and nothing else."""


def render(report: Report, *, version: str, now: float) -> bytes:
    """Return the status page of a Report as UTF-8 HTML; `now` is Unix time."""
    text = page.document(figures.of(report, now), version)
    return text.encode("utf-8", "replace")
