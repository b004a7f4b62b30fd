"""A board as a page of HTML, and the page as a picture by headless Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from as_grafana import ask, legend, values
from drawing import charts
from drawing.charts import Box, Line
from drawing.tables import table
from drawing.values import clock, mapped, text, threshold

if TYPE_CHECKING:
    from as_grafana import View
    from real_prometheus import Prometheus

Json = dict[str, Any]

WIDTH, UNIT, GAP, TOP = 1680, 30, 8, 96
COLUMN = (WIDTH - 2 * 16 - 23 * GAP) / 24
TITLE = 32

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def page(prometheus: Prometheus, board: Json, view: View) -> tuple[str, int]:
    """The board as HTML, and its height in pixels."""
    parts = []
    bottom = 0.0
    for panel in board["panels"]:
        at = panel["gridPos"]
        left = 16 + at["x"] * (COLUMN + GAP)
        top = TOP + at["y"] * (UNIT + GAP)
        width = at["w"] * COLUMN + (at["w"] - 1) * GAP
        height = at["h"] * UNIT + (at["h"] - 1) * GAP
        bottom = max(bottom, top + height)
        if panel["type"] == "row":
            parts.append(
                f'<div class="r" style="top:{top + 6:.0f}px">{escape(panel["title"])}</div>'
            )
            continue
        inner = Box(width - 2, height - TITLE, view.start, view.end, view.step(panel))
        parts.append(
            f'<div class="p" style="left:{left:.1f}px;top:{top:.1f}px;width:{width:.1f}px;'
            f'height:{height:.1f}px"><h2>{escape(panel["title"])}</h2>'
            f"{_inside(prometheus, board, panel, view, inner)}</div>"
        )
    known = {name: it.replace(".*", "All") for name, it in values(board, view).items()}
    chosen = "".join(
        f"<span>{escape(it['label'])} <b>{escape(known[it['name']])}</b></span>"
        for it in board["templating"]["list"]
    )
    head = (
        f"<h1>{escape(board['title'])} <small style='color:#8e8e9b'>{clock(view.start)} to"
        f" {clock(view.end)} UTC</small></h1><div class='vars'>{chosen}</div>"
    )
    height = int(bottom + 16)
    return (
        f"<!doctype html><meta charset=utf-8><style>{CSS}body{{height:{height}px}}</style>{head}"
        + "".join(parts)
    ), height


def _inside(prometheus: Prometheus, board: Json, panel: Json, view: View, box: Box) -> str:
    answers = [ask(prometheus, board, panel, it, view) for it in panel["targets"]]
    if not any(answers):
        words = panel["fieldConfig"]["defaults"].get("noValue", "NO DATA")
        return f'<div class="none">{escape(words)}</div>'
    if panel["type"] == "table":
        return table(panel, answers, box.height, view.end)
    lines = [
        Line(legend(target, it), it.points)
        for target, answer in zip(panel["targets"], answers, strict=True)
        for it in answer
    ]
    draw = {
        "timeseries": charts.chart,
        "state-timeline": charts.timeline,
        "bargauge": charts.bars,
        "piechart": charts.donut,
        "stat": _stat,
    }[panel["type"]]
    if panel["type"] in ("timeseries", "state-timeline"):
        lines.sort(key=lambda it: it.name)
    return draw(panel, lines, box)


def _stat(panel: Json, lines: list[Line], box: Box) -> str:
    field = panel["fieldConfig"]["defaults"]
    value = lines[0].points[-1][1]
    colour = threshold(field["thresholds"]["steps"], value)
    shown = text(value, field["unit"], field.get("decimals"), box.end)
    if found := mapped(value, field["mappings"]):
        shown, colour = found
    size = min(40.0, box.width / (0.62 * max(4, len(shown))))
    behind = ""
    if panel["options"]["graphMode"] == "area":
        under = Box(box.width, box.height * 0.45, box.start, box.end, box.step)
        behind = charts.trend(lines[0], colour, under)
    style = f"color:{colour};font-size:{size:.0f}px"
    return f'{behind}<div class="stat" style="{style}">{escape(shown)}</div>'


def chromium() -> str | None:
    """The browser's path: GPUCOST_CHROMIUM, or from PATH."""
    names = ("chromium", "google-chrome")
    found = (shutil.which(name) for name in names)
    return os.environ.get("GPUCOST_CHROMIUM") or next(filter(None, found), None)


def picture(address: str, to: Path, width: int, height: int) -> None:
    """A picture of what the browser shows at this address."""
    browser = chromium()
    assert browser, "no chromium on PATH. Run: scripts/bootstrap.sh chromium"
    to.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [
                browser,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--run-all-compositor-stages-before-draw",
                "--no-first-run",
                "--disable-extensions",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-proxy-server",
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                "--virtual-time-budget=20000",
                f"--screenshot={to}",
                address,
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert to.exists(), done.stderr
