"""Every rule test once more, with every target scraped twice by two replicas: nothing may change.

A second scrape under another job and a second replica of Prometheus must neither double a dollar
nor fail a join.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import mutate_rules
from programs import ROOT, program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

FILES = sorted(
    path
    for path in (ROOT / "rules/tests").glob("*.yaml")
    if not path.name.startswith("words-") and 'job="gpucost"' in path.read_text()
)
ABOUT_SCRAPING = {"GpucostLabelsClobbered", "GpucostScrapedTwice"}
"""Alerts that tell of the jobs themselves."""


def twice(test: dict[str, Any]) -> dict[str, Any]:
    """A test with each series of the exporter's job twice."""
    again = [
        {
            "series": it["series"]
            .replace('job="gpucost"', 'job="gpucost-again"')
            .replace("}", ', prometheus_replica="b"}'),
            "values": it["values"],
        }
        for it in test["input_series"]
        if 'job="gpucost"' in it["series"] and "prometheus_replica" not in it["series"]
    ]
    return {**test, "input_series": [*test["input_series"], *again]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_second_scrape_and_a_second_replica_change_nothing(path: Path, tmp_path: Path) -> None:
    mutate_rules.write(tmp_path, mutate_rules.pack())
    document = yaml.safe_load(path.read_text())
    document["tests"] = [
        twice(test)
        for test in document["tests"]
        if not {it["alertname"] for it in test.get("alert_rule_test", [])} & ABOUT_SCRAPING
    ]
    changed = tmp_path / "tests" / path.name
    changed.write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(changed)],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
