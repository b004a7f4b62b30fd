"""A released chart names its image by digest, and says where it is from and what is new."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from helm_chart import CHART, install, lint
from programs import ROOT
from release_chart import Released, changes, release

if TYPE_CHECKING:
    from pathlib import Path

IMAGE, DIGEST = "ghcr.io/someone/gpucost", "sha256:" + "0a" * 32
HOME = "https://github.com/someone/gpucost"
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
CHANGELOG = f"""# Changelog

## [Unreleased]

### Added

- What is not out yet.

## [{VERSION}] - 2026-12-01

### Added

- A board: `x`, of two
  lines.
- Another.

### Fixed

- Counters, "kept".

## [0.0.1] - 2026-01-01

### Added

- The first.
"""


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A copy of the chart, released."""
    copy = tmp_path / "gpucost"
    shutil.copytree(CHART, copy)
    release(copy, CHANGELOG, Released(IMAGE, DIGEST, HOME))
    return copy


def test_its_image_is_the_one_that_was_built(chart: Path) -> None:
    assert install(chart=chart).container["image"] == f"{IMAGE}@{DIGEST}"
    assert lint(chart=chart) == []


def test_nothing_else_of_what_it_makes_is_changed(chart: Path) -> None:
    ours = str(install(f"image: {{registry: ghcr.io/someone, digest: '{DIGEST}'}}").objects)
    assert str(install(chart=chart).objects) == ours


def test_it_says_where_it_is_from_and_what_is_new(chart: Path) -> None:
    before, after = (
        yaml.safe_load((folder / "Chart.yaml").read_text()) for folder in (CHART, chart)
    )
    notes: dict[str, Any] = after.pop("annotations")
    assert (after.pop("home"), after.pop("sources")) == (HOME, [HOME])
    assert notes.items() > before.pop("annotations").items()
    assert after == before
    assert yaml.safe_load(notes["artifacthub.io/changes"]) == [
        {"kind": "added", "description": "A board: `x`, of two lines."},
        {"kind": "added", "description": "Another."},
        {"kind": "fixed", "description": 'Counters, "kept".'},
    ]
    assert yaml.safe_load(notes["artifacthub.io/images"]) == [
        {"name": "gpucost", "image": f"{IMAGE}@{DIGEST}"}
    ]
    links = [link["url"] for link in yaml.safe_load(notes["artifacthub.io/links"])]
    links.remove(f"{HOME}/issues")
    # Without its repository the README's links lead nowhere.
    links += re.findall(r"\]\((http[^)]*|\.\.[^)]*)\)", (chart / "README.md").read_text())
    ours = [link for link in links if link.startswith(HOME)]
    assert len(ours) > 4
    assert not any(link.startswith("..") for link in links)
    for link in ours:
        assert (ROOT / link.removeprefix(f"{HOME}/blob/v{VERSION}/")).exists(), link


def test_a_version_that_the_changelog_does_not_tell_of_is_not_released() -> None:
    with pytest.raises(ValueError, match=r"no section of 9\.9\.9"):
        changes(CHANGELOG, "9.9.9")


def test_the_projects_own_changelog_is_read() -> None:
    found = changes((ROOT / "CHANGELOG.md").read_text(), "Unreleased")
    kinds = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert {each["kind"] for each in found} <= kinds
    assert len(found) > 30
