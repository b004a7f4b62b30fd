"""Asks a board's queries as Grafana would: variables put in, steps and ranges by the time range."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from real_prometheus import Prometheus, Series

Json = dict[str, Any]

FILES = tuple(sorted((ROOT / "dashboards").glob("*.json")))


class View(Struct, frozen=True):
    """A time range, Unix seconds, and what is chosen; what is not is All, or a choice's default."""

    start: float
    end: float
    chosen: Mapping[str, str] = {}
    scrape_seconds: float = 60.0
    points: int = 288

    def step(self, panel: Json) -> float:
        """Seconds between the points of a panel's query."""
        least = seconds_of(panel.get("interval") or f"{self.scrape_seconds:g}s")
        return max((self.end - self.start) / self.points, least)


def load(path: Path) -> Json:
    board: Json = json.loads(path.read_text(encoding="utf-8"))
    return board


def panels(board: Json) -> Iterator[Json]:
    """The panels that ask something, those of closed rows too."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def seconds_of(interval: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([smhd])", interval).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[unit]


def values(board: Json, view: View) -> dict[str, str]:
    """What each variable stands for in a query."""
    out: dict[str, str] = {}
    for it in board["templating"]["list"]:
        name = it["name"]
        if name in view.chosen:
            out[name] = view.chosen[name]
        elif it["type"] == "datasource":
            out[name] = "prometheus"
        elif it["type"] in ("custom", "textbox"):
            out[name] = it["current"]["value"]
        elif it["includeAll"]:
            out[name] = it["allValue"]
        else:
            raise ValueError(f"{board['title']}: nothing is chosen for {name}")
    return out


def put_in(expression: str, known: Mapping[str, str]) -> str:
    """The expression with every variable's value; KeyError names one that the board lacks."""
    return re.sub(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)", lambda it: known[it[1] or it[2]], expression)


def expression(board: Json, panel: Json, target: Json, view: View) -> str:
    """What Prometheus is asked."""
    step = view.step(panel)
    rate = max(step + view.scrape_seconds, 4 * view.scrape_seconds)
    length = f"{view.end - view.start:.0f}"
    builtin = {
        "__interval": f"{step:.0f}s",
        "__rate_interval": f"{rate:.0f}s",
        "__range": f"{length}s",
        "__range_s": length,
    }
    return put_in(target["expr"], values(board, view) | builtin)


def ask(prometheus: Prometheus, board: Json, panel: Json, target: Json, view: View) -> list[Series]:
    """The answer to one query of a panel."""
    asked = expression(board, panel, target, view)
    if target["instant"]:
        return prometheus.at(asked, view.end)
    step = view.step(panel)
    first = math_ceil(view.start / step) * step
    return prometheus.over(asked, first, view.end, step)


def math_ceil(value: float) -> int:
    return -int(-value // 1)


def legend(target: Json, series: Series) -> str:
    """What the series is called."""
    if target["legendFormat"] == "__auto":
        labels = {name: value for name, value in series.labels.items() if name != "__name__"}
        return ", ".join(labels.values()) or "Value"
    return re.sub(
        r"\{\{\s*(\w+)\s*\}\}", lambda it: series.labels.get(it[1], ""), target["legendFormat"]
    )
