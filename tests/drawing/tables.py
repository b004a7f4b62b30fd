"""Tables as HTML: the answers joined, renamed and ordered as the panel's transformations say."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from drawing.values import mapped, properties, text, threshold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from real_prometheus import Series

Json = dict[str, Any]
Cell = str | float | None


def merged(
    panel: Json, answers: Sequence[Sequence[Series]]
) -> tuple[list[str], list[dict[str, Cell]]]:
    """The columns in order, and the rows: what `merge` and `organize` make of the answers."""
    rows: dict[tuple[tuple[str, str], ...], dict[str, Cell]] = {}
    several = len(answers) > 1
    labels: dict[str, None] = {}
    for target, series in zip(panel["targets"], answers, strict=True):
        column = f"Value #{target['refId']}" if several else "Value"
        for it in series:
            name = {k: v for k, v in it.labels.items() if k != "__name__"}
            labels |= dict.fromkeys(name)
            row = rows.setdefault(tuple(sorted(name.items())), dict(name))
            row[column] = it.points[-1][1]
    organize: Json = next(
        (it["options"] for it in panel["transformations"] if it["id"] == "organize"), {}
    )
    names: Mapping[str, str] = organize["renameByName"]
    order: Mapping[str, int] = organize["indexByName"]
    hidden = organize["excludeByName"]
    values = [f"Value #{it['refId']}" if several else "Value" for it in panel["targets"]]
    columns = [
        it
        for it in sorted((*labels, *values), key=lambda it: order.get(it, 99))
        if not hidden.get(it)
    ]
    shown = [{names.get(c, c): row.get(c) for c in columns} for row in rows.values()]
    return [names.get(c, c) for c in columns], shown


def table(panel: Json, answers: Sequence[Sequence[Series]], height: float, now: float) -> str:
    """The table, as many rows as there is room for."""
    columns, rows = merged(panel, answers)
    options = panel["options"]
    for key in options["sortBy"]:
        rows.sort(key=lambda row: _sortable(row.get(key["displayName"])), reverse=key["desc"])
    footer = options["footer"]
    room = max(1, int((height - 32 - (32 if footer["show"] else 0)) // 32))
    style = {it: properties(panel, it) for it in columns}
    largest: dict[str, float] = {
        it: style[it]["max"] or max(_figures(rows, it), default=1.0) for it in columns
    }
    figures = {it for row in rows for it, value in row.items() if isinstance(value, float)}

    def width(column: str) -> str:
        return (
            f"width:{style[column]['custom.width']}px;" if "custom.width" in style[column] else ""
        )

    def align(column: str) -> str:
        return (
            "text-align:right;"
            if column in figures and style[column].get("cell") != "gauge"
            else ""
        )

    head = "".join(f'<th style="{width(c)}{align(c)}">{escape(c)}</th>' for c in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{align(c)}">{_cell(row.get(c), style[c], largest[c], now)}</td>'
            for c in columns
        )
        + "</tr>"
        for row in rows[:room]
    )
    foot = ""
    if footer["show"]:
        sums = {c: sum(_figures(rows, c)) for c in footer["fields"]}
        foot = (
            "<tr class='foot'>"
            + "".join(
                f'<td style="{align(c)}">{_sum(sums.get(c), style[c], now)}</td>' for c in columns
            )
            + "</tr>"
        )
    more = f'<div class="more">{len(rows) - room} more rows</div>' if len(rows) > room else ""
    return f'<table class="data"><tr>{head}</tr>{body}{foot}</table>{more}'


def _figures(rows: Sequence[Mapping[str, Cell]], column: str) -> list[float]:
    return [it for row in rows if isinstance(it := row.get(column), float)]


def _sum(value: float | None, style: Json, now: float) -> str:
    return "" if value is None else escape(text(value, style["unit"], style["decimals"], now))


def _sortable(value: Cell) -> float:
    return value if isinstance(value, float) else float("-inf")


def _cell(value: Cell, style: Json, largest: float, now: float) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        link = ' class="link"' if "links" in style else ""
        return f"<span{link}>{escape(value)}</span>"
    if found := mapped(value, style["mappings"]):
        return f'<span style="color:{found[1]}">{escape(found[0])}</span>'
    shown = escape(text(value, style["unit"], style["decimals"], now))
    colour = threshold(style["steps"], value)
    if style.get("cell") == "gauge":
        part = max(0.0, min(1.0, value / (largest or 1.0)))
        return (
            f'<div class="cell"><b><u style="width:{part:.1%};background:{colour}"></u></b>'
            f"<em>{shown}</em></div>"
        )
    if style.get("cell") == "color-text" and colour != "text":
        return f'<span style="color:{colour}">{shown}</span>'
    return shown
