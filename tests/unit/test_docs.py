"""The docs say what the code says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import gen_docs
from gpucost.catalog import FAMILIES
from gpucost.cli import main
from gpucost.model import State
from programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = (
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "helm/gpucost/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_generated_pages_are_up_to_date() -> None:
    for page, text in gen_docs.pages():
        assert page.read_text() == text, f"{name(page)} is out of date; run: make docs"


def test_metrics_page_has_every_family_with_its_type_and_labels() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    for family in FAMILIES.values():
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{family.name}` |")]
        assert f"| {family.type} |" in row
        for label in ("node", *family.labels):
            assert f"`{label}`" in row


def test_every_label_is_explained() -> None:
    used = {label for family in FAMILIES.values() for label in family.labels}
    assert used <= gen_docs.LABELS.keys()
    assert gen_docs.LABELS.keys() <= {"node", *used}


def test_every_test_that_the_table_of_faults_names_exists() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)(?:\[([^]]+)\])?`", page)
    assert len(named) > 30
    for file, test, case in named:
        text = (ROOT / "tests" / file).read_text()
        assert f"def {test}(" in text, f"{file} has no {test}"
        assert f'"{case}"' in text or not case, f"{file} has no case {case}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_metric_named_in_the_docs_exists(page: Path) -> None:
    # `gpucost_pod_*` and `gpucost_pod_` speak of a family of families.
    # After a colon it is part of a recorded series' name.
    for found in re.findall(r"(?<!:)\bgpucost_\w+", page.read_text()):
        if found.endswith("_"):
            assert any(known.startswith(found) for known in FAMILIES), found
        else:
            assert found in FAMILIES, found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("state", list(State))
def test_every_state_is_explained(state: State) -> None:
    assert f"`{state}`" in (ROOT / "docs/design.md").read_text()


def test_settings_tables_describe_what_the_source_describes() -> None:
    tables = gen_docs.settings_tables()
    assert "| `cycle_seconds` | number >= 1, <= 300 | `5` |" in tables
    assert "#### `prices.table[].on_premises`" in tables
    assert "Assumed while the GPU's power is not known" in tables


@pytest.mark.parametrize("command", ["serve", "demo", "once", "record", "check"])
def test_every_flag_and_environment_variable_is_documented(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    spoken = capsys.readouterr().out
    operations = (ROOT / "docs/operations.md").read_text()
    assert f"`gpucost {command}" in operations
    for flag in re.findall(r"(?<![\w-])--[\w-]+", spoken):
        assert flag == "--help" or f"`{flag}" in operations, flag
    for variable in re.findall(r"\benv\s+(\w+)", spoken):
        assert f"`{variable}`" in operations, variable
