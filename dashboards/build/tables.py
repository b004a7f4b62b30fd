"""Tables: a row a set of labels, a column a query."""

from __future__ import annotations

from msgspec import Struct

from dashboards.build.panels import Json, Panel, Query, Thresholds, steps


class Label(Struct, frozen=True):
    """A column that shows a label; `link` leads to another board, for the row's values."""

    label: str
    title: str
    link: str = ""
    width: int | None = None
    unit: str = "string"


class Column(Struct, frozen=True):
    """A column of figures. `bar`: drawn as a bar within the cell; `thresholds` colour its text."""

    title: str
    expr: str
    unit: str
    decimals: int | None = None
    bar: bool = False
    thresholds: Thresholds = ()
    maximum: float | None = None
    width: int | None = None
    hidden: bool = False
    mappings: tuple[Json, ...] = ()


def table(
    title: str,
    description: str,
    labels: tuple[Label, ...],
    columns: tuple[Column, ...],
    *,
    width: int = 24,
    height: int = 10,
    sort: str = "",
    total: tuple[str, ...] = (),
    may_be_empty: str = "",
) -> Panel:
    """A row a set of labels, a column a query: joined on the labels, which all queries share.

    `sort` names the column of figures that is largest first. `total` names columns whose sum
    stands at the foot. What is shown can be taken as CSV (Inspect, Data).
    """
    refs = [chr(ord("A") + number) for number in range(len(columns))]
    value = {ref: f"Value #{ref}" if len(columns) > 1 else "Value" for ref in refs}
    named = {value[ref]: column.title for ref, column in zip(refs, columns, strict=True)}
    order = [it.label for it in labels] + list(named)
    overrides = [_label_column(it) for it in labels]
    overrides += [_figure_column(it) for it in columns]
    return Panel(
        kind="table",
        title=title,
        description=description,
        queries=tuple(Query(it.expr, instant=True) for it in columns),
        unit=columns[0].unit,
        width=width,
        height=height,
        color="thresholds",
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True},
        overrides=tuple(overrides),
        transformations=(
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {
                        "Time": True,
                        **{value[r]: True for r, c in zip(refs, columns, strict=True) if c.hidden},
                    },
                    "indexByName": {name: place for place, name in enumerate(order)},
                    "renameByName": {it.label: it.title for it in labels} | named,
                },
            },
        ),
        may_be_empty=may_be_empty,
        options={
            "cellHeight": "sm",
            "footer": {
                "countRows": False,
                "enablePagination": True,
                "fields": list(total),
                "reducer": ["sum"],
                "show": bool(total),
            },
            "showHeader": True,
            "sortBy": [{"desc": True, "displayName": sort}] if sort else [],
        },
    )


def _label_column(it: Label) -> Json:
    properties: list[Json] = [{"id": "unit", "value": it.unit}]
    if it.width:
        properties.append({"id": "custom.width", "value": it.width})
    if it.link:
        link = {"title": f"Open {it.title.lower()}", "url": it.link}
        properties.append({"id": "links", "value": [link]})
    return {"matcher": {"id": "byName", "options": it.title}, "properties": properties}


def _figure_column(it: Column) -> Json:
    properties: list[Json] = [{"id": "unit", "value": it.unit}]
    if it.decimals is not None:
        properties.append({"id": "decimals", "value": it.decimals})
    if it.width:
        properties.append({"id": "custom.width", "value": it.width})
    if it.maximum is not None:
        properties += [{"id": "min", "value": 0}, {"id": "max", "value": it.maximum}]
    if it.mappings:
        properties.append({"id": "mappings", "value": list(it.mappings)})
    if it.thresholds:
        properties.append({"id": "thresholds", "value": steps(it.thresholds)})
    if it.bar:
        cell = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
        properties.append({"id": "custom.cellOptions", "value": cell})
    elif it.thresholds:
        properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
    return {"matcher": {"id": "byName", "options": it.title}, "properties": properties}
