"""Take each side of each `or` out of the rules, one at a time, and see whether a test misses it.

    mutate_rules.py [--only WORD]      prints the sides that no test misses; exit 1 if there are any

A side is taken out by `and on () (vector(0) > 1)`, which nothing passes. Only an `or` that begins a
line is known. Each is tried with the tests that load its file, its own first, until one fails: a
quarter of an hour on two processors.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from programs import program
from render_rules import RULES, read_settings, rendered

if TYPE_CHECKING:
    from collections.abc import Iterator

ANNOTATIONS = re.compile(r"(?m)^        annotations:\n(?:          .*\n)+")
NOTHING = "(vector(0) > 1)"
OR = re.compile(r"(?P<indent> +)or(?P<on> on \([^)]*\))?(?P<rest> .*)?")


class Mutant(NamedTuple):
    """A rule file without one side of an `or`."""

    file: str
    line: int
    side: str
    text: str


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """Two for each `or`."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if found := OR.fullmatch(line):
            indent, on, rest = found["indent"], found["on"] or "", (found["rest"] or "").strip()
            for side, instead in (
                ("left", f"{indent}and on () {NOTHING} or{on} {rest}"),
                ("right", f"{indent}or{on} {NOTHING} and on () {rest}"),
            ):
                changed = [*lines[:number], instead, *lines[number + 1 :]]
                yield Mutant(file, number + 1, side, "\n".join(changed) + "\n")


def pack() -> dict[str, str]:
    """The rule files as the tests of behaviour have them."""
    texts = {path.name: path.read_text() for path in RULES.glob("*.yaml")}
    settings = read_settings(RULES / "settings/tests.yaml")
    full = rendered(settings, sorted(RULES.glob("*.yaml")))
    texts |= {"scaling.yaml": full["scaling.yaml"], "all": full["settings.yaml"]}
    return {name: ANNOTATIONS.sub("", text) for name, text in texts.items()}


def write(folder: Path, texts: dict[str, str]) -> None:
    """The pack beside its tests."""
    (folder / "tests/settings").mkdir(parents=True)
    for name, text in texts.items():
        place = "tests/settings/all.yaml" if name == "all" else name
        (folder / place).write_text(text)
    for path in (RULES / "tests").glob("*.yaml"):
        if not path.name.startswith("words-"):
            shutil.copy(path, folder / "tests")


def tests_of(file: str) -> list[str]:
    """The test files that load a rule file: its own, then the smallest first."""
    found = [
        path
        for path in (RULES / "tests").glob("*.yaml")
        if not path.name.startswith("words-")
        and f"../{file}" in yaml.safe_load(path.read_text())["rule_files"]
    ]
    return [
        path.name for path in sorted(found, key=lambda it: (it.name != file, it.stat().st_size))
    ]


def missed(mutant: Mutant, texts: dict[str, str]) -> bool:
    """Whether a test fails without that side."""
    return fails(mutant.file, {**texts, mutant.file: mutant.text})


def fails(file: str, texts: dict[str, str]) -> bool:
    """Whether a test of a rule file fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, texts)
        promtool("check", folder / file).check_returncode()
        tests = (folder / "tests" / test for test in tests_of(file))
        return any(promtool("test", test).returncode for test in tests)


def promtool(what: str, file: Path) -> subprocess.CompletedProcess[bytes]:
    """Check or test rules."""
    command = [program("promtool"), what, "rules", str(file)]
    return subprocess.run(command, check=False, capture_output=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Do the tests miss a side of an `or`?")
    parser.add_argument("--only", default="", help="rule files whose name has this")
    only = parser.parse_args().only
    texts = pack()
    every = [it for file in sorted(texts) if only in file for it in mutants(file, texts[file])]
    if any(fails(file, texts) for file in {it.file for it in every}):
        sys.exit("tests fail with every side in its place: run scripts/check_rules.sh")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = list(pool.map(lambda it: missed(it, texts), every))
    unseen = [it for it, seen in zip(every, answers, strict=True) if not seen]
    for it in unseen:
        print(f"rules/{it.file}:{it.line}: nothing misses the {it.side} side")
    print(f"{len(every) - len(unseen)} of {len(every)} sides are missed by a test")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
