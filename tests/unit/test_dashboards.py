"""The boards are as their source makes them, portable, and ask only for what there is.

`grafana/dashboard-linter` is a Go program on no package index; its rules are said again here. Not
taken are those on `job` and `instance` (template-job, template-instance, target-job,
target-instance): gpucost's rules take these labels off, so that no dollar counts twice.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from as_grafana import FILES, View, expression, load, panels
from board_data import rules
from dashboards.build.__main__ import files
from gpucost.catalog import FAMILIES
from programs import ROOT
from promql_names import metrics_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

BOARDS = {board["uid"]: board for board in map(load, FILES)}

RECORDED = {str(rule["record"]) for rule in rules() if "record" in rule}

OTHERS = {
    "ALERTS",
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "kube_deployment_spec_replicas",
    "kube_deployment_status_replicas_ready",
    "kube_horizontalpodautoscaler_info",
    "kube_horizontalpodautoscaler_spec_max_replicas",
    "kube_horizontalpodautoscaler_status_desired_replicas",
    "karpenter_nodeclaims_created_total",
    "karpenter_nodeclaims_terminated_total",
}
"""Series of Prometheus, kube-state-metrics and Karpenter."""

UNITS = {
    "currencyUSD", "percentunit", "s", "bytes", "watt", "short", "none", "reqps", "dateTimeFromNow",
    "celsius", "hertz", "massg", "string",
}  # fmt: skip
"""Those in use, all of grafana/grafana's packages/grafana-data/src/valueFormats/categories.ts."""

VIEW = View(
    0, 86_400, {"namespace": "serving", "workload": "chat", "node": "n"}
)  # for boards that want one chosen


PANELS = [
    pytest.param(board, panel, id=f"{uid}: {panel['title']}")
    for uid, board in BOARDS.items()
    for panel in panels(board)
]
TARGETS = [
    pytest.param(board, panel, target, id=f"{uid}: {panel['title']}: {target['refId']}")
    for uid, board in BOARDS.items()
    for panel in panels(board)
    for target in panel["targets"]
]


def asked(board: Json, panel: Json, target: Json) -> str:
    return expression(board, panel, target, VIEW)


def test_the_files_are_what_the_source_makes_and_no_others() -> None:
    made = dict(files())
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, "run: make docs"
    assert {*made} == {*FILES}


def test_the_seven_boards_are_there() -> None:
    assert set(BOARDS) == {
        f"gpucost-{name}"
        for name in ("fleet", "team", "workload", "serving", "budget", "node", "exporter")
    }


# --- Portable ---------------------------------------------------------------------------------


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_board_works_in_any_grafana(board: Json) -> None:
    assert not {"__inputs", "__requires", "__elements"} & set(board)
    assert board["id"] is None
    assert len(board["uid"]) <= 40
    assert board["editable"] is False
    assert board["timezone"] == "utc"
    assert "gpucost" in board["tags"]
    assert board["description"]
    first, *others = board["templating"]["list"]
    assert (first["type"], first["name"], first["label"]) == (
        "datasource",
        "datasource",
        "Data source",
    )
    assert "datasource" not in [it["type"] for it in others]
    for place in sources(board):
        assert place == {"type": "prometheus", "uid": "${datasource}"}


def sources(value: object) -> Iterator[object]:
    """Every `datasource` anywhere in a board."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "datasource":
                yield inner
            else:
                yield from sources(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from sources(inner)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_variables_follow_the_time_range_and_may_be_empty(board: Json) -> None:
    known = {it["name"]: it for it in board["templating"]["list"]}
    assert "cluster" in known
    for it in known.values():
        if it["type"] != "query":
            continue
        assert it["refresh"] == 2
        assert re.fullmatch(r"label_values\(.+, \w+\)", it["query"])
        assert it["query"] == it["definition"]
        if it["includeAll"]:
            assert it["allValue"] == ".*"  # finds series without the label too
            assert it["multi"]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_variable_is_used_and_a_used_one_is_there(board: Json) -> None:
    text = " ".join(
        [target["expr"] for panel in panels(board) for target in panel["targets"]]
        + [it["expr"] for it in board["annotations"]["list"]]
        + [it.get("query", "") for it in board["templating"]["list"]]
    )
    used = {a or b for a, b in re.findall(r"\$\{(\w+)|\$(\w+)", text)}
    used = {name for name in used if not name.startswith("__")}
    names = {it["name"] for it in board["templating"]["list"]} - {"datasource"}
    # A budget is not of one cluster; the choice is there so that links keep it.
    assert used - names == set()
    assert names - used <= {"cluster"}


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_says_what_it_shows_and_in_which_unit(board: Json, panel: Json) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    units = {panel["fieldConfig"]["defaults"]["unit"]}
    for override in panel["fieldConfig"]["overrides"]:
        units |= {it["value"] for it in override["properties"] if it["id"] == "unit"}
    assert units <= UNITS
    assert panel["targets"]
    place = panel["gridPos"]
    assert place["x"] + place["w"] <= 24
    assert board["schemaVersion"] >= 39


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_do_not_lie_on_each_other(board: Json) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        it = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(it["x"], it["x"] + it["w"])
            for y in range(it["y"], it["y"] + it["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)


# --- What is asked ----------------------------------------------------------------------------


@pytest.mark.parametrize(("board", "panel", "target"), TARGETS)
def test_every_metric_exists(board: Json, panel: Json, target: Json) -> None:
    missing = metrics_of(asked(board, panel, target)) - set(FAMILIES) - RECORDED - OTHERS
    assert not missing
    if "basis" in target["expr"]:
        other = View(VIEW.start, VIEW.end, {**VIEW.chosen, "basis": "gpucost_loaded_cost_usd"})
        assert metrics_of(expression(board, panel, target, other)) <= RECORDED | set(FAMILIES)


def test_no_series_of_others_is_listed_in_vain() -> None:
    used = {
        name
        for board in BOARDS.values()
        for panel in panels(board)
        for target in panel["targets"]
        for name in metrics_of(asked(board, panel, target))
    }
    assert used >= OTHERS


@pytest.mark.parametrize(("board", "panel", "target"), TARGETS)
def test_queries_are_written_so_that_they_hold_everywhere(
    board: Json, panel: Json, target: Json
) -> None:
    text = target["expr"]
    for window in re.findall(r"\b(?:rate|irate|increase)\([^\[]*\[([^\]]+)\]", text):
        assert window == "$__rate_interval"
    # Of a counter only its rate means something; of Karpenter's, exact steps are taken.
    for counter in re.findall(r"\b((?:gpucost|kube)_\w+_total)\b", text):
        assert re.search(rf"\b(?:rate|increase)\({counter}\b", text), counter
    # Dollars go through the reader's factor, and are said in dollars.
    fields = [panel["fieldConfig"]["defaults"]["unit"]]
    if panel["type"] == "table":
        place = panel["targets"].index(target)
        renamed = next(it for it in panel["transformations"] if it["id"] == "organize")["options"]
        name = f"Value #{target['refId']}" if len(panel["targets"]) > 1 else "Value"
        title = renamed["renameByName"][name]
        assert place < len(panel["targets"])
        fields = [
            it["value"]
            for override in panel["fieldConfig"]["overrides"]
            if override["matcher"]["options"] == title
            for it in override["properties"]
            if it["id"] == "unit"
        ]
    assert ("currencyUSD" in fields) == ("$currency_factor" in text), board["uid"]


@pytest.mark.parametrize(("board", "panel", "target"), TARGETS)
def test_raw_series_are_asked_for_a_node_or_workload_only_or_are_one_a_node(
    board: Json, panel: Json, target: Json
) -> None:
    """A board of 20,000 GPUs opens fast: what is one series a GPU or pod is never asked of all."""
    small = {"gpucost_node_info", "gpucost_build_info"}
    raw = metrics_of(asked(board, panel, target)) & set(FAMILIES) - small
    whole = board["uid"] in ("gpucost-fleet", "gpucost-team", "gpucost-budget")
    assert not (raw and whole), raw


# --- Links ------------------------------------------------------------------------------------


def check_link(address: str) -> None:
    whole = re.sub(r"\{\{ (with [^}]*|end) \}\}", "", address)
    parts = urlsplit(re.sub(r"\$\{[^}]*\}|\{\{[^}]*\}\}", "x", whole))
    uid = parts.path.removeprefix("/d/")
    assert uid in BOARDS, address
    known = {it["name"] for it in BOARDS[uid]["templating"]["list"]}
    for name in parse_qs(parts.query):
        assert not name.startswith("var-") or name.removeprefix("var-") in known, address


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_links_lead_to_boards_and_keep_time_and_choices(board: Json) -> None:
    [menu] = board["links"]
    assert menu["type"] == "dashboards"
    assert menu["tags"] == ["gpucost"]
    assert menu["keepTime"]
    assert menu["includeVars"]
    for panel in panels(board):
        for override in panel["fieldConfig"]["overrides"]:
            for it in override["properties"]:
                for link in it["value"] if it["id"] == "links" else ():
                    check_link(link["url"])
                    assert "${__url_time_range}" in link["url"]
                    assert "${datasource:queryparam}" in link["url"]
                    shown = re.findall(r"__data\.fields\.(\w+)", link["url"])
                    columns = panel["transformations"][1]["options"]["renameByName"].values()
                    assert set(shown) <= set(columns)


def test_alerts_lead_to_boards_that_take_their_variables() -> None:
    addresses = [
        rule["annotations"]["dashboard_url"]
        for path in (ROOT / "rules").glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert len(addresses) > 20
    for address in addresses:
        check_link(address)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_alerts_are_marked_in_the_charts(board: Json) -> None:
    [marks] = board["annotations"]["list"]
    assert metrics_of(marks["expr"]) == {"ALERTS"}
    assert 'alertstate="firing"' in marks["expr"]
