"""The chart brings every board of dashboards/ to Grafana, as it is."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from helm_chart import CHART, NAMESPACE, install

if TYPE_CHECKING:
    from pathlib import Path

BOARD = '{\n  "uid": "gpucost-x",\n  "legend": "{{ pod }} `$cost`",\n  "title": "GPU cost"\n}\n'
BOARDS = "files/dashboards"


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """The chart with one board."""
    copy = tmp_path / "gpucost"
    shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("dashboards"))
    (copy / BOARDS).mkdir(parents=True)
    (copy / BOARDS / "overview.json").write_text(BOARD)
    return copy


def test_a_board_comes_in_a_config_map_that_the_sidecar_finds(chart: Path) -> None:
    values = "dashboards: {method: configMap, annotations: {grafana_folder: GPU}}"
    [found] = [
        each
        for each in install(values, chart=chart).objects
        if "grafana_dashboard" in each["metadata"].get("labels", {})
    ]
    assert found["kind"] == "ConfigMap"
    assert found["metadata"]["name"] == "gpucost-overview"
    assert found["metadata"]["namespace"] == NAMESPACE
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "GPU"}
    assert found["data"]["overview.json"].strip() == BOARD.strip()


def test_a_board_comes_as_a_grafana_dashboard(chart: Path) -> None:
    values = """
dashboards:
  method: grafanaDashboard
  namespace: watch
  labels: {of: gpucost}
  grafanaOperator: {matchLabels: {grafana: main}, folder: GPUs, allowCrossNamespaceImport: false}
"""
    found = install(values, chart=chart).one("GrafanaDashboard")
    assert found["metadata"]["namespace"] == "watch"
    assert found["metadata"]["labels"]["of"] == "gpucost"
    spec: dict[str, Any] = found["spec"]
    assert spec["instanceSelector"]["matchLabels"]["grafana"] == "main"
    assert (spec["folder"], spec["allowCrossNamespaceImport"]) == ("GPUs", False)
    assert json.loads(spec["json"]) == json.loads(BOARD)


def test_without_a_method_no_board_comes(chart: Path) -> None:
    assert "gpucost-x" not in str(install(chart=chart).objects)


def test_every_board_of_the_repository_is_in_the_chart_and_fits_into_a_config_map() -> None:
    boards = CHART / BOARDS
    ours = CHART.parent.parent / "dashboards"
    assert {path.name for path in boards.glob("*.json")} == {
        path.name for path in ours.glob("*.json")
    }
    for path in boards.glob("*.json"):
        assert path.read_bytes() == (ours / path.name).read_bytes()
        assert path.stat().st_size < 1_000_000  # ConfigMaps hold 1 MiB
