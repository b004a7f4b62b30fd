"""Charts, timelines, bars and donuts as SVG."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from drawing.values import clock, mapped, properties, text, threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]
PALETTE = (
    "#73BF69",
    "#F2CC0C",
    "#8AB8FF",
    "#FF780A",
    "#F2495C",
    "#5794F2",
    "#B877D9",
    "#705DA0",
    "#37872D",
    "#FADE2A",
    "#447EBC",
    "#C15C17",
    "#890F02",
    "#0A437C",
    "#6D1F62",
    "#584477",
)
INK, FAINT, GRID = "#ccccdc", "#8e8e9b", "rgba(204,204,220,0.10)"


class Line(Struct, frozen=True):
    """A series with its name."""

    name: str
    points: tuple[tuple[float, float], ...]


class Box(Struct, frozen=True):
    """Where to draw: pixels, time range and the moment of asking."""

    width: float
    height: float
    start: float
    end: float
    step: float


def chart(panel: Json, lines: Sequence[Line], box: Box) -> str:
    """A time series panel with its legend."""
    custom = panel["fieldConfig"]["defaults"]["custom"]
    stacked = custom["stacking"]["mode"] == "normal"
    right = panel["options"]["legend"]["placement"] == "right"
    legend_width = min(260.0, box.width * 0.34) if right else 0.0
    legend_height = 0.0 if right else min(22.0 * min(len(lines), 4) + 20, box.height * 0.42)
    width, height = box.width - legend_width, box.height - legend_height
    colours = [
        properties(panel, it.name).get("color", PALETTE[place % len(PALETTE)])
        for place, it in enumerate(lines)
    ]
    low, high = _extent(panel, lines, stacked=stacked)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    left = 62.0
    plot = _Plot(left, 8.0, width - left - 10, height - 32, low, high, box)
    out = [f'<svg width="{width:.0f}" height="{height:.0f}">']
    shown = properties(panel, "")
    for tick in ticks:
        y = plot.y(tick)
        label = text(tick, shown["unit"], _tick_decimals(shown["unit"], ticks), box.end)
        out.append(
            f'<line x1="{left}" x2="{width - 10:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>'
            + _word(left - 6, y + 4, label, "end")
        )
    for at in _times(box, width):
        x = plot.x(at)
        out.append(_word(x, height - 8, clock(at), "middle"))
    base: dict[float, float] = {}
    below: dict[float, float] = {}
    for line, colour in zip(lines, colours, strict=True):
        style = properties(panel, line.name)
        if custom["drawStyle"] == "bars":
            out.append(_bars(plot, line, colour, base, below))
        elif stacked:
            out.append(_area(plot, line, colour, base))
        else:
            out.append(
                _curve(plot, line, colour, style, stepped="step" in custom["lineInterpolation"])
            )
    out.append("</svg>")
    legend = _legend(panel, lines, colours, box)
    size = (
        f"width:{legend_width:.0f}px;height:{box.height:.0f}px"
        if right
        else f"height:{legend_height:.0f}px"
    )
    direction = "row" if right else "column"
    return (
        f'<div style="display:flex;flex-direction:{direction}">{"".join(out)}'
        f'<div class="legend" style="{size}">{legend}</div></div>'
    )


def _word(x: float, y: float, words: str, anchor: str, style: str = "t") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">'
        f"{escape(words)}</text>"
    )


class _Plot(Struct, frozen=True):
    left: float
    top: float
    width: float
    height: float
    low: float
    high: float
    box: Box

    def x(self, at: float) -> float:
        part = (at - self.box.start) / (self.box.end - self.box.start)
        return self.left + part * self.width

    def y(self, value: float) -> float:
        return self.top + (1 - (value - self.low) / ((self.high - self.low) or 1)) * self.height


def _extent(panel: Json, lines: Sequence[Line], *, stacked: bool) -> tuple[float, float]:
    field = panel["fieldConfig"]["defaults"]
    sums: dict[float, float] = {}
    values: list[float] = []
    for line in lines:
        for at, value in line.points:
            if stacked:
                key = at if value >= 0 else -at
                sums[key] = sums.get(key, 0.0) + value
            else:
                values.append(value)
    values += sums.values()
    soft = (field["custom"].get("axisSoftMin"), field["custom"].get("axisSoftMax"))
    values += [it for it in soft if it is not None]
    low = field.get("min", min(values, default=0.0))
    high = field.get("max", max(values, default=1.0))
    low, high = min(low, 0.0) if stacked else low, max(high, 0.0) if stacked else high
    if high <= low:
        spread = abs(high) * 0.1 or 1.0
        return (low - spread if "min" not in field else low), high + spread
    return low, high if "max" in field else high + 0.03 * (high - low)


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * it for it in (1, 2, 2.5, 5, 10) if size * it >= raw)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [step * it for it in range(first, last + 1)]


def _tick_decimals(unit: str, ticks: list[float]) -> int | None:
    if unit == "currencyUSD":
        step = ticks[1] - ticks[0]
        return 0 if step >= 1 else min(9, math.ceil(-math.log10(step) - 1e-9) + 1)
    if unit == "percentunit":
        return max(0, math.ceil(-math.log10(ticks[1] - ticks[0]) - 2 - 1e-9))
    return None


def _times(box: Box, width: float) -> list[float]:
    span = box.end - box.start
    room = max(2, int(width // 90))
    step = next(
        it
        for it in (300, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200, 86_400)
        if span / it <= room
    )
    first = math.ceil(box.start / step) * step
    last = box.end - 0.02 * span  # its word would stand outside
    return [at for at in range(int(first), int(last) + 1, step) if at - box.start > step * 0.2]


def _runs(line: Line, step: float) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = []
    last = -math.inf
    for at, value in line.points:
        if at - last > 1.5 * step:
            runs.append([])
        runs[-1].append((at, value))
        last = at
    return runs


def _curve(plot: _Plot, line: Line, colour: str, style: Json, *, stepped: bool) -> str:
    dash = (
        "".join((' stroke-dasharray="', " ".join(map(str, style["dash"])), '"'))
        if "dash" in style
        else ""
    )
    out = []
    for run in _runs(line, plot.box.step):
        points: list[tuple[float, float]] = []
        for at, value in run:
            x, y = plot.x(at), plot.y(value)
            if stepped and points:
                points.append((x, points[-1][1]))
            points.append((x, y))
        if len(points) == 1:
            out.append(
                f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="1.6" fill="{colour}"/>'
            )
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>'
        )
    return "".join(out)


def _area(plot: _Plot, line: Line, colour: str, base: dict[float, float]) -> str:
    out = []
    for run in _runs(line, plot.box.step):
        top, bottom = [], []
        ends = run if len(run) > 1 else [run[0], (run[0][0] + plot.box.step, run[0][1])]
        for at, value in ends:
            under = base.get(at, 0.0)
            bottom.append((plot.x(at), plot.y(under)))
            top.append((plot.x(at), plot.y(under + value)))
        shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in (*top, *reversed(bottom)))
        edge = " ".join(f"{x:.1f},{y:.1f}" for x, y in top)
        out.append(
            f'<polygon points="{shape}" fill="{colour}" fill-opacity="0.72"/>'
            f'<polyline points="{edge}" fill="none" stroke="{colour}" stroke-width="1"/>'
        )
    for at, value in line.points:
        base[at] = base.get(at, 0.0) + value
    return "".join(out)


def _bars(
    plot: _Plot, line: Line, colour: str, base: dict[float, float], below: dict[float, float]
) -> str:
    width = max(2.0, plot.box.step / (plot.box.end - plot.box.start) * plot.width * 0.8)
    out = []
    for at, value in line.points:
        side = base if value >= 0 else below
        under = side.get(at, 0.0)
        side[at] = under + value
        y = plot.y(max(under, under + value))
        height = abs(plot.y(under) - plot.y(under + value))
        x = max(plot.left, min(plot.x(at) - width / 2, plot.left + plot.width - width))
        out.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' fill="{colour}"/>'
        )
    return "".join(out)


def _legend(panel: Json, lines: Sequence[Line], colours: list[str], box: Box) -> str:
    how = panel["options"]["legend"]["calcs"]
    field = panel["fieldConfig"]["defaults"]
    rows = []
    for line, colour in zip(lines, colours, strict=True):
        last = sum(v for _, v in line.points) if how == ["sum"] else line.points[-1][1]
        rows.append((last, line.name, colour))
    rows.sort(reverse=True)
    cells = "".join(
        f'<tr><td><i style="background:{colour}"></i>{escape(name)}</td>'
        f"<td>{escape(text(last, field['unit'], field.get('decimals'), box.end))}</td></tr>"
        for last, name, colour in rows
    )
    word = "Total" if how == ["sum"] else "Last *"
    return f"<table><tr><th>Name</th><th>{word}</th></tr>{cells}</table>"


def donut(panel: Json, lines: Sequence[Line], box: Box) -> str:
    """Parts of a whole, with their legend."""
    whole = sum(it.points[-1][1] for it in lines) or 1.0
    radius = min(box.width * 0.42, box.height) / 2 - 8
    middle = radius + 8
    out = [f'<svg width="{2 * middle:.0f}" height="{box.height:.0f}">']
    angle = -math.pi / 2
    rows = []
    field = panel["fieldConfig"]["defaults"]
    for place, line in enumerate(lines):
        value = line.points[-1][1]
        colour = properties(panel, line.name).get("color", PALETTE[place % len(PALETTE)])
        to = angle + 2 * math.pi * min(value / whole, 0.99999)
        out.append(_sector(middle, box.height / 2, radius, angle, to, colour))
        angle = to
        shown = text(value, field["unit"], field.get("decimals"), box.end)
        rows.append(
            f'<tr><td><i style="background:{colour}"></i>{escape(line.name)}</td>'
            f"<td>{escape(shown)}</td><td>{value / whole:.0%}</td></tr>"
        )
    out.append("</svg>")
    return (
        f'<div style="display:flex;align-items:center">{"".join(out)}<div class="legend">'
        f"<table><tr><th>Name</th><th>Value</th><th>Percent</th></tr>{''.join(rows)}</table></div></div>"
    )


def _sector(x: float, y: float, radius: float, a: float, b: float, colour: str) -> str:
    inner = radius * 0.6
    large = int(b - a > math.pi)
    points = [
        (x + r * math.cos(it), y + r * math.sin(it))
        for r, it in ((radius, a), (radius, b), (inner, b), (inner, a))
    ]
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = points
    return (
        f'<path d="M{ax:.1f} {ay:.1f}A{radius:.1f} {radius:.1f} 0 {large} 1 {bx:.1f} {by:.1f}'
        f"L{cx:.1f} {cy:.1f}A{inner:.1f} {inner:.1f} 0 {large} 0 {dx:.1f} {dy:.1f}Z"
        f'" fill="{colour}"/>'
    )


def bars(panel: Json, lines: Sequence[Line], box: Box) -> str:
    """A bar a series."""
    field = panel["fieldConfig"]["defaults"]
    top = field.get("max") or max((it.points[-1][1] for it in lines), default=1.0) or 1.0
    rows = []
    for line in lines:
        value = line.points[-1][1]
        colour = threshold(field["thresholds"]["steps"], value)
        shown = text(value, field["unit"], field.get("decimals"), box.end)
        part = max(0.0, min(1.0, value / top))
        rows.append(
            f'<div class="bar"><span>{escape(line.name)}</span><b><u style="width:{part:.1%};'
            f'background:{colour}"></u></b><em style="color:{colour}">{escape(shown)}</em></div>'
        )
    return f'<div class="bars" style="height:{box.height:.0f}px">{"".join(rows)}</div>'


def timeline(panel: Json, lines: Sequence[Line], box: Box) -> str:
    """A line a series, coloured by the names of its values."""
    mappings = panel["fieldConfig"]["defaults"]["mappings"]
    left = 170.0
    height = min(34.0, (box.height - 50) / max(1, len(lines)))
    plot = _Plot(left, 0, box.width - left - 10, 1, 0, 1, box)
    out = [f'<svg width="{box.width:.0f}" height="{box.height:.0f}">']
    seen: dict[str, str] = {}
    for place, line in enumerate(lines):
        y = 4 + place * height
        out.append(
            f'<text x="{left - 8}" y="{y + height / 2 + 4:.1f}" text-anchor="end" class="t">'
            f"{escape(line.name)}</text>"
        )
        merged: list[list[float]] = []
        for at, value in line.points:
            if merged and merged[-1][2] == value and at - merged[-1][1] < 1.5 * box.step:
                merged[-1][1] = at
            else:
                merged.append([at, at, value])
        for start, end, value in merged:
            name, colour = mapped(value, mappings) or (f"{value:g}", "#444")
            seen[name] = colour
            x = plot.x(start)
            width = max(1.0, plot.x(min(end + box.step, box.end)) - x)
            out.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height * 0.85:.1f}"'
                f' fill="{colour}" fill-opacity="0.85"/>'
            )
            if width > 9 * len(name):
                out.append(_word(x + 5, y + height / 2 + 3, name, "start", "in"))
    y = 4 + len(lines) * height + 14
    out += [
        f'<text x="{plot.x(at):.1f}" y="{y:.1f}" text-anchor="middle" class="t">{clock(at)}</text>'
        for at in _times(box, box.width - left)
    ]
    x = left
    for name, colour in seen.items():
        out.append(
            f'<rect x="{x:.1f}" y="{y + 8:.1f}" width="12" height="4" fill="{colour}"/>'
            f'<text x="{x + 17:.1f}" y="{y + 15:.1f}" class="t">{escape(name)}</text>'
        )
        x += 36 + 7 * len(name)
    return "".join(out) + "</svg>"


def trend(line: Line, colour: str, box: Box) -> str:
    """The course behind a figure."""
    values = [v for _, v in line.points]
    low, high = min(0.0, *values), max(values)
    if high == low:
        high = low + 1
    plot = _Plot(0, 4, box.width, box.height - 4, low, high, box)
    run = [(plot.x(at), plot.y(v)) for at, v in line.points]
    if len(run) < 2:
        return ""
    edge = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
    shape = f"{run[0][0]:.1f},{box.height:.1f} {edge} {run[-1][0]:.1f},{box.height:.1f}"
    return (
        f'<svg width="{box.width:.0f}" height="{box.height:.0f}" class="trend">'
        f'<polygon points="{shape}" fill="{colour}" fill-opacity="0.18"/>'
        f'<polyline points="{edge}" fill="none" stroke="{colour}" stroke-opacity="0.7"/></svg>'
    )
