"""The locked requirements hold together, and name no place to fetch them from."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(file: str) -> dict[str, list[str]]:
    """Package to its versions: one, or one a platform or Python version."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "requirements" / file).read_text()
    for package, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(package), []).append(version)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_pin_has_a_hash_and_no_file_names_a_host(file: Path) -> None:
    text = file.read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE), "an option, such as an index"
    for entry in re.split(r"\n(?=[\w])", text):
        if not entry.startswith("#"):
            assert "--hash=sha256:" in entry, entry


def groups(*names: str) -> list[str]:
    return [line for name in names for line in PROJECT["dependency-groups"][name]]


@pytest.mark.parametrize(
    ("file", "asked"),
    [
        ("runtime.txt", PROJECT["project"]["dependencies"]),
        ("build.txt", groups("build")),
        ("test.txt", PROJECT["project"]["dependencies"] + groups("test", "lint", "build")),
        ("bench.txt", groups("bench")),
        ("fuzz.txt", PROJECT["project"]["dependencies"] + groups("fuzz")),
    ],
)
def test_what_pyproject_asks_for_is_locked(file: str, asked: list[str]) -> None:
    locked = pins(file)
    for line in asked:
        requirement = Requirement(line)
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not in {file}; run: make lock"
        assert all(requirement.specifier.contains(v) for v in versions), line


@pytest.mark.parametrize("shipped", ["runtime.txt", "build.txt"])
def test_what_is_tested_is_what_is_shipped(shipped: str) -> None:
    tested = pins("test.txt")
    for package, versions in pins(shipped).items():
        assert tested[package] == versions
