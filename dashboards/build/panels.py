"""Panels as values: what is asked, in which unit, and how it is drawn."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

USD = "currencyUSD"
RATIO = "percentunit"
SECONDS = "s"
BYTES = "bytes"
WATTS = "watt"
NUMBER = "short"
PLAIN = "none"
REQUESTS_PER_SECOND = "reqps"
FROM_NOW = "dateTimeFromNow"

Json = dict[str, Any]

HALF = 12
"""Of the 24 columns of a board."""
Thresholds = tuple[tuple[float | None, str], ...]
"""(from this value on, colour); the first is from None."""

GREEN, YELLOW, ORANGE, RED, BLUE = "#56A64B", "#E0B400", "#E5731B", "#C4162A", "#3274D9"
GREY = "#8E8E9B"
NEUTRAL: Thresholds = ((None, BLUE),)
LOW_IS_GOOD: Thresholds = ((None, GREEN), (0.2, YELLOW), (0.4, RED))
"""For shares of waste."""
HIGH_IS_GOOD: Thresholds = ((None, RED), (0.3, YELLOW), (0.6, GREEN))
"""For activity."""
NONE_IS_GOOD: Thresholds = ((None, GREEN), (1, RED))

STATE_COLOURS = {
    "used": "#37872D",
    "underused": "#96D98D",
    "idle": "#F2CC0C",
    "starting": "#5794F2",
    "failing": "#E02F44",
    "terminating": "#B877D9",
    "unmeasured": "#9FA7B3",
    "unallocated": "#FF9830",
    "stranded": "#C15C17",
    "unattributed": "#6E7280",
    "unhealthy": "#8B0A1A",
    "provisioning": "#8AB8FF",
}
"""One colour a state on every board: green works, yellow to red wastes, grey is not known."""


class Query(Struct, frozen=True):
    """PromQL and what its series are called. `instant`: only the end of the time range."""

    expr: str
    legend: str = ""
    instant: bool = False


class Panel(Struct, frozen=True):
    """`width` in 24ths of the board, `height` in rows of 30 pixels.

    `may_be_empty` says when no data is right, in words that the panel then shows.
    """

    kind: str
    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str
    width: int
    height: int
    options: Json
    decimals: int | None = None
    custom: Json = {}
    thresholds: Thresholds = NEUTRAL
    color: str = "palette-classic"
    minimum: float | None = None
    maximum: float | None = None
    mappings: tuple[Json, ...] = ()
    overrides: tuple[Json, ...] = ()
    transformations: tuple[Json, ...] = ()
    may_be_empty: str = ""
    interval: str = ""
    links: tuple[Json, ...] = ()


class Row(Struct, frozen=True):
    """A heading and the panels beneath it. The first row of a board may have no title."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


def coloured(name: str, colour: str) -> Json:
    """The series of this name in this colour."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }


STATES = tuple(coloured(state, colour) for state, colour in STATE_COLOURS.items())


def stat(
    title: str,
    description: str,
    expr: str,
    unit: str,
    *,
    width: int = 4,
    decimals: int | None = None,
    thresholds: Thresholds = NEUTRAL,
    trend: bool = True,
    may_be_empty: str = "",
    mappings: tuple[Json, ...] = (),
) -> Panel:
    """One figure, with its course behind it where `trend`."""
    return Panel(
        kind="stat",
        title=title,
        description=description,
        queries=(Query(expr, instant=not trend),),
        unit=unit,
        width=width,
        height=4,
        decimals=decimals,
        minimum=0 if trend else None,  # of the trend: else it would magnify the noise of floats
        thresholds=thresholds,
        color="thresholds",
        mappings=mappings,
        may_be_empty=may_be_empty,
        options={
            "colorMode": "value",
            "graphMode": "area" if trend else "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "value",
            "wideLayout": True,
        },
    )


def chart(
    title: str,
    description: str,
    queries: tuple[Query, ...],
    unit: str,
    *,
    width: int = 12,
    height: int = 8,
    decimals: int | None = None,
    style: Literal["lines", "stack", "bars", "steps"] = "lines",
    minimum: float | None = 0,
    maximum: float | None = None,
    overrides: tuple[Json, ...] = (),
    legend: tuple[str, ...] = ("lastNotNull",),
    interval: str = "",
    may_be_empty: str = "",
    soft: tuple[float, float] | None = None,
) -> Panel:
    """Series over time; stacked where their sum means something.

    The axis shows at least what `soft` says, so that noise stays small.
    """
    stacked = style in ("stack", "bars")
    return Panel(
        kind="timeseries",
        title=title,
        description=description,
        queries=queries,
        unit=unit,
        width=width,
        height=height,
        decimals=decimals,
        minimum=minimum,
        maximum=maximum,
        overrides=overrides,
        interval=interval,
        may_be_empty=may_be_empty,
        custom={
            "drawStyle": "bars" if style == "bars" else "line",
            "fillOpacity": {"stack": 60, "bars": 85}.get(style, 8),
            "lineInterpolation": "stepAfter" if style == "steps" else "linear",
            "lineWidth": 0 if stacked else 2,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        }
        | ({"axisSoftMin": soft[0], "axisSoftMax": soft[1]} if soft else {}),
        options={
            "legend": {
                "calcs": list(legend),
                "displayMode": "table",
                "placement": "right" if width >= HALF else "bottom",
                "showLegend": True,
                "sortBy": "Last *",
                "sortDesc": True,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def bars(
    title: str,
    description: str,
    expr: str,
    legend: str,
    unit: str,
    *,
    width: int = 8,
    height: int = 8,
    decimals: int | None = None,
    thresholds: Thresholds = NEUTRAL,
    maximum: float | None = None,
    overrides: tuple[Json, ...] = (),
    may_be_empty: str = "",
) -> Panel:
    """A bar a series, longest first: what the query's sort gives."""
    return Panel(
        kind="bargauge",
        title=title,
        description=description,
        queries=(Query(expr, legend, instant=True),),
        unit=unit,
        width=width,
        height=height,
        decimals=decimals,
        thresholds=thresholds,
        color="thresholds",
        minimum=0,
        maximum=maximum,
        overrides=overrides,
        may_be_empty=may_be_empty,
        options={
            "displayMode": "gradient",
            "orientation": "horizontal",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showUnfilled": True,
            "valueMode": "color",
        },
    )


def donut(
    title: str,
    description: str,
    expr: str,
    legend: str,
    unit: str,
    *,
    width: int = 8,
    height: int = 8,
    decimals: int | None = None,
    overrides: tuple[Json, ...] = (),
    may_be_empty: str = "",
) -> Panel:
    """Parts of a whole, for few parts."""
    return Panel(
        kind="piechart",
        title=title,
        description=description,
        queries=(Query(expr, legend, instant=True),),
        unit=unit,
        width=width,
        height=height,
        decimals=decimals,
        overrides=overrides,
        may_be_empty=may_be_empty,
        options={
            "displayLabels": [],
            "legend": {
                "displayMode": "table",
                "placement": "right",
                "showLegend": True,
                "values": ["value", "percent"],
            },
            "pieType": "donut",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
    )


def timeline(
    title: str,
    description: str,
    queries: tuple[Query, ...],
    names: tuple[tuple[float, str, str], ...],
    *,
    width: int = 24,
    height: int = 8,
    may_be_empty: str = "",
) -> Panel:
    """A line a series whose values have names: (value, name, colour)."""
    return Panel(
        kind="state-timeline",
        title=title,
        description=description,
        queries=queries,
        unit=PLAIN,
        width=width,
        height=height,
        color="thresholds",
        mappings=(named_values(names),),
        may_be_empty=may_be_empty,
        custom={"fillOpacity": 80, "lineWidth": 0},
        options={
            "alignValue": "left",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "mergeValues": True,
            "rowHeight": 0.85,
            "showValue": "auto",
            "tooltip": {"mode": "single", "sort": "none"},
        },
    )


def named_values(names: tuple[tuple[float, str, str], ...]) -> Json:
    """Names and colours for values."""
    return {
        "type": "value",
        "options": {
            f"{value:g}": {"text": text, "color": colour, "index": place}
            for place, (value, text, colour) in enumerate(names)
        },
    }


def steps(thresholds: Thresholds) -> Json:
    """The thresholds as Grafana writes them."""
    return {
        "mode": "absolute",
        "steps": [{"color": colour, "value": value} for value, colour in thresholds],
    }
