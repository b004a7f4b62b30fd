"""Boards as values, and the JSON that Grafana reads of them.

Every panel, query and variable names `${datasource}`, and nothing names a folder, a number or a
data source of one Grafana, so that a board works wherever it is put, by hand, sidecar or operator.
Written for schema version 39 (Grafana 10.3); newer ones migrate it themselves.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from dashboards.build.panels import Json, Panel, Query, Row, steps

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "gpucost"
COLUMNS = 24
MONEY_FACTOR = "currency_factor"


class Variable(Struct, frozen=True):
    """A choice at the top of a board: the values of `label` among the series of `selector`.

    `several` may be chosen, or all, which then matches also what lacks the label.
    """

    name: str
    title: str
    selector: str
    description: str
    several: bool = True
    label: str = ""


class Choice(Struct, frozen=True):
    """A choice between stated values: (shown, value); the first is the default."""

    name: str
    title: str
    description: str
    values: tuple[tuple[str, str], ...]


CLUSTER = Variable(
    "cluster",
    "Cluster",
    "gpucost_build_info",
    "Clusters, where the series say so (external labels, or the chart's `cluster`).",
)


class Board(Struct, frozen=True):
    """`uid` is fixed: links, and alerts' `dashboard_url`, lead to it.

    `alerts` selects, beside the cluster, the alerts that are marked in the charts.
    """

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable | Choice, ...] = ()
    alerts: str = ""
    since: str = "now-24h"
    refresh: Literal["1m", "5m"] = "1m"
    money: bool = True


def link(board: str, **variables: str) -> str:
    """The address of another board, with these variables, and the time range and source of this."""
    given = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return (
        f"/d/{board}?${{datasource:queryparam}}&${{cluster:queryparam}}"
        f"&${{{MONEY_FACTOR}:queryparam}}&${{__url_time_range}}{given}"
    )


TO_WORKLOAD = link(
    "gpucost-workload",
    namespace="${__data.fields.Namespace}",
    workload="${__data.fields.Workload}",
)
"""From a table's row that has both columns, to the board of that workload."""


def to_json(board: Board) -> Json:
    """The board as Grafana takes it."""
    return {
        "annotations": {"list": [_alerts(board)]},
        "description": board.description,
        "editable": False,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "id": None,
        "links": [
            {
                "asDropdown": True,
                "icon": "external link",
                "includeVars": True,
                "keepTime": True,
                "tags": [TAG],
                "targetBlank": False,
                "title": "GPU cost boards",
                "tooltip": "The other boards, with the same time range and choices",
                "type": "dashboards",
                "url": "",
            }
        ],
        "panels": placed(board.rows),
        "refresh": board.refresh,
        "schemaVersion": 39,
        "tags": [TAG, "gpu", "cost"],
        "templating": {"list": _variables(board)},
        "time": {"from": board.since, "to": "now"},
        "timepicker": {},
        "timezone": "utc",
        "title": board.title,
        "uid": board.uid,
        "version": 1,
        "weekStart": "",
    }


def _alerts(board: Board) -> Json:
    more = f", {board.alerts}" if board.alerts else ""
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": 'ALERTS{alertname=~"GPU.*|Gpucost.*", alertstate="firing", cluster=~"$cluster"'
        + more
        + "}",
        "hide": False,
        "iconColor": "#E5731B",
        "name": "Alerts",
        "step": "5m",
        "tagKeys": "severity",
        "textFormat": "{{namespace}} {{workload}} {{node}} {{budget}}",
        "titleFormat": "{{alertname}}",
        "useValueForTime": False,
    }


def _variables(board: Board) -> list[Json]:
    out: list[Json] = [
        {
            "current": {},
            "description": "The Prometheus (or Thanos, Mimir, VictoriaMetrics) with gpucost's"
            " series and rules.",
            "hide": 0,
            "includeAll": False,
            "label": "Data source",
            "multi": False,
            "name": "datasource",
            "options": [],
            "query": "prometheus",
            "refresh": 1,
            "regex": "",
            "skipUrlSync": False,
            "type": "datasource",
        }
    ]
    out += [
        _choice(it) if isinstance(it, Choice) else _values(it) for it in (CLUSTER, *board.variables)
    ]
    if board.money:
        out.append(
            {
                "current": {"selected": True, "text": "1", "value": "1"},
                "description": "Every dollar is multiplied by this, to be read in another currency."
                " The sign stays $.",
                "hide": 0,
                "label": "Currency factor",
                "name": MONEY_FACTOR,
                "options": [{"selected": True, "text": "1", "value": "1"}],
                "query": "1",
                "skipUrlSync": False,
                "type": "textbox",
            }
        )
    return out


def _values(it: Variable) -> Json:
    query = f"label_values({it.selector}, {it.label or it.name})"
    made: Json = {
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]} if it.several else {},
        "datasource": DATASOURCE,
        "definition": query,
        "description": it.description,
        "hide": 0,
        "includeAll": it.several,
        "label": it.title,
        "multi": it.several,
        "name": it.name,
        "options": [],
        "query": query,
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
        "type": "query",
    }
    if it.several:
        made["allValue"] = ".*"
    return made


def _choice(it: Choice) -> Json:
    options = [
        {"selected": place == 0, "text": text, "value": value}
        for place, (text, value) in enumerate(it.values)
    ]
    return {
        "current": options[0],
        "description": it.description,
        "hide": 0,
        "includeAll": False,
        "label": it.title,
        "multi": False,
        "name": it.name,
        "options": options,
        "query": ", ".join(f"{text} : {value}" for text, value in it.values),
        "skipUrlSync": False,
        "type": "custom",
    }


def placed(rows: tuple[Row, ...]) -> list[Json]:
    """The panels with their places: from left to right, then beneath."""
    out: list[Json] = []
    top = 0
    number = 0
    for row in rows:
        if row.title:
            number += 1
            out.append(
                {
                    "id": number,
                    "type": "row",
                    "title": row.title,
                    "collapsed": row.collapsed,
                    "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
                    "panels": [],
                }
            )
            top += 1
        left = tallest = 0
        inside: list[Json] = []
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top, tallest = 0, top + tallest, 0
            number += 1
            inside.append(_panel(panel, number, left, top))
            left += panel.width
            tallest = max(tallest, panel.height)
        top += tallest
        if row.title and row.collapsed:
            out[-1]["panels"] = inside
        else:
            out.extend(inside)
    return out


def _panel(panel: Panel, number: int, left: int, top: int) -> Json:
    defaults: Json = {
        "color": {"mode": panel.color},
        "custom": panel.custom,
        "mappings": list(panel.mappings),
        "thresholds": steps(panel.thresholds),
        "unit": panel.unit,
    }
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.minimum is not None:
        defaults["min"] = panel.minimum
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.may_be_empty:
        defaults["noValue"] = panel.may_be_empty
    made: Json = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": list(panel.overrides)},
        "options": panel.options,
        "targets": [_target(panel, it, place) for place, it in enumerate(panel.queries)],
        "transformations": list(panel.transformations),
    }
    if panel.interval:
        made["interval"] = panel.interval
    if panel.links:
        made["links"] = list(panel.links)
    return made


def _target(panel: Panel, query: Query, place: int) -> Json:
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "format": "table" if panel.kind == "table" else "time_series",
        "instant": query.instant,
        "legendFormat": query.legend or "__auto",
        "range": not query.instant,
        "refId": chr(ord("A") + place),
    }
