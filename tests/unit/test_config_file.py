"""The configuration file while it changes: followed, and the last good one stays in force."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gpucost.config import Config, ConfigError, load
from gpucost.config_file import ConfigFile

if TYPE_CHECKING:
    from pathlib import Path


def trouble(file: ConfigFile) -> str | None:
    """The problem in words, if there is one."""
    return None if file.problem is None else file.problem.message


def write(path: Path, text: str) -> None:
    """Write a file whose time of change is surely another one than before."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text, encoding="utf-8")
    later = max(path.stat().st_mtime_ns, before + 1_000_000)
    os.utime(path, ns=(later, later))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "config.yaml"
    write(found, "cycle_seconds: 7\n")
    return found


def test_without_a_file_everything_has_its_default_and_nothing_changes() -> None:
    file = ConfigFile(None)
    assert file.config == Config()
    assert not file.poll()
    assert file.problem is None


def test_a_bad_file_is_refused_at_the_start(path: Path) -> None:
    write(path, "cycle_seconds: -1\n")
    with pytest.raises(ConfigError, match="cycle_seconds"):
        ConfigFile(path)


@pytest.mark.parametrize("kind", ["absent", "directory"])
def test_what_is_no_file_is_refused_at_the_start(tmp_path: Path, kind: str) -> None:
    where = tmp_path if kind == "directory" else tmp_path / "nowhere.yaml"
    with pytest.raises(ConfigError, match=str(where)):
        ConfigFile(where)


def test_a_change_is_in_force_once_it_is_polled(path: Path) -> None:
    file = ConfigFile(path)
    assert file.config.cycle_seconds == 7
    assert not file.poll()
    write(path, "cycle_seconds: 9\n")
    assert file.config.cycle_seconds == 7
    assert file.poll()
    assert file.config.cycle_seconds == 9
    assert not file.poll()


def test_a_change_that_says_the_same_is_no_change_but_was_read(path: Path) -> None:
    file = ConfigFile(path)
    read_at = file.read_at
    write(path, "# a comment\ncycle_seconds: 7\n")
    assert not file.poll()
    assert file.read_at >= read_at
    assert file.config.cycle_seconds == 7


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cycle_seconds: -1\n", "cycle_seconds"),
        ("cycel_seconds: 5\n", "cycel_seconds"),
        ("prices: {fallback: {H100: -2}}\n", "prices.fallback"),
        ("a: [\n", "line"),
        ("cycle_seconds: 5\ncycle_seconds: 6\n", "twice"),
        ("\x00", "YAML"),
        ("x" * (2 << 20), "larger"),
    ],
)
def test_a_bad_change_leaves_the_last_good_one_in_force_and_is_a_problem(
    path: Path, text: str, named: str
) -> None:
    file = ConfigFile(path)
    read_at = file.read_at
    write(path, text)
    assert not file.poll()
    assert file.config.cycle_seconds == 7
    assert file.read_at == read_at
    assert file.problem is not None
    assert (file.problem.source, file.problem.kind) == ("config", "invalid")
    assert named in file.problem.message
    assert str(path) in file.problem.message
    assert "stays in force" in file.problem.remedy
    # It stays a problem until it is mended.
    assert not file.poll()
    assert file.problem is not None


def test_mending_it_ends_the_problem(path: Path) -> None:
    file = ConfigFile(path)
    write(path, "nonsense")
    file.poll()
    write(path, "cycle_seconds: 7\n")
    assert not file.poll()  # it says what was in force all the while
    assert file.problem is None


def test_another_file_ends_the_problem(path: Path) -> None:
    file = ConfigFile(path)
    write(path, "nonsense")
    file.poll()
    write(path, "cycle_seconds: 8\n")
    assert file.poll()
    assert file.problem is None
    assert file.config.cycle_seconds == 8


def test_a_file_that_is_away_is_a_problem_until_it_is_back(path: Path) -> None:
    file = ConfigFile(path)
    path.unlink()
    assert not file.poll()
    assert trouble(file) is not None
    assert file.config.cycle_seconds == 7
    write(path, "cycle_seconds: 11\n")
    assert file.poll()
    assert trouble(file) is None
    assert file.config.cycle_seconds == 11


def test_a_config_maps_swap_of_links_is_seen(tmp_path: Path) -> None:
    # As the kubelet's AtomicWriter does: ..data is a link to a dated directory, replaced by
    # rename(2); the file's own link never changes.
    def publish(name: str, text: str) -> None:
        (tmp_path / name).mkdir()
        write(tmp_path / name / "config.yaml", text)
        (tmp_path / "..data_tmp").symlink_to(name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    publish("..2026_11_22_19_56_03.1", "cycle_seconds: 7\n")
    path = tmp_path / "config.yaml"
    path.symlink_to("..data/config.yaml")
    file = ConfigFile(path)
    assert file.config.cycle_seconds == 7
    # The same length, and even the same time of change: another file all the same.
    before = path.stat().st_mtime_ns
    publish("..2026_11_22_19_57_04.2", "cycle_seconds: 8\n")
    os.utime(tmp_path / "..2026_11_22_19_57_04.2" / "config.yaml", ns=(before, before))
    assert file.poll()
    assert file.config.cycle_seconds == 8


def test_a_file_that_changes_while_it_is_first_read_is_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `load` reads, and the file changes before the constructor is done.
    def load_and_change(where: Path) -> Config:
        config = load(where)
        write(path, "cycle_seconds: 12\n")
        return config

    monkeypatch.setattr("gpucost.config_file.load", load_and_change)
    file = ConfigFile(path)
    monkeypatch.undo()
    assert file.config.cycle_seconds == 7
    assert file.poll()
    assert file.config.cycle_seconds == 12
