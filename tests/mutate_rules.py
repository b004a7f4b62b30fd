"""Take each side of each `or`, each condition, each `for` out of the rules, and see what is missed.

    mutate_rules.py [--only WORD]      prints what no test misses; exit 1 if there is any

One at a time. A side is taken out by `and on () (vector(0) > 1)`, which nothing passes; a condition
(`and ...`, `unless ...`) is left out. Each is tried with one test after the other of those that
load its file, those that name its rule first, until one fails.
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
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from programs import program
from render_rules import RULES, read_settings, rendered

if TYPE_CHECKING:
    from collections.abc import Iterator

RULE = re.compile(
    r"(?m)^      - (?:alert|record): (?P<name>\S+)\n(?:        (?!expr:).*\n)*"
    r"        expr: (?P<expr>.*\n(?:          .*\n)*)"
)
ANNOTATIONS = re.compile(r"(?m)^        annotations:\n(?:          .*\n)+")
FOR = re.compile(r"        for: .*\n")
NOTHING = "(vector(0) > 1)"
TOKEN = re.compile(
    r"""(?P<skip>\s*#.*|"(?:[^"\\]|\\.)*"|'[^']*')|(?P<word>[\w:]+)|(?P<sign>[(){},])"""
)
ON = re.compile(r"\s*on \([^)]*\)")


class Mutant(NamedTuple):
    """A rule file without one of its parts."""

    file: str
    rule: str
    line: int
    part: str
    text: str


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """Two for each `or`, one for each `and` and `unless` of the expressions, one for each `for`."""
    for rule in RULE.finditer(text):
        tokens = [it for it in TOKEN.finditer(text, *rule.span("expr")) if not it["skip"]]
        for number, token in enumerate(tokens):
            if token[0] in ("or", "and", "unless"):
                line = text.count("\n", 0, token.start()) + 1
                for part, changed in changes(text, tokens[number:], rule.end("expr") - 1):
                    yield Mutant(file, rule["name"], line, part, changed)
        if wait := FOR.match(text, rule.end()):
            line = text.count("\n", 0, rule.end()) + 1
            yield Mutant(file, rule["name"], line, "`for`", text[: rule.end()] + text[wait.end() :])


def changes(text: str, tokens: list[re.Match[str]], end: int) -> Iterator[tuple[str, str]]:
    """What is taken out at the first of these tokens, and the file without it."""
    first = tokens[0]
    before, after = text[: first.start()], text[first.end() :]
    if first[0] == "or":
        on = found[0] if (found := ON.match(after)) else ""
        yield "left side", f"{before}and on () {NOTHING} or{after}"
        yield "right side", f"{before}or{on} {NOTHING} and on (){after[len(on) :]}"
    else:
        yield f"`{first[0]}`", before + text[operand_end(tokens[1:], end) :]


def operand_end(tokens: list[re.Match[str]], end: int) -> int:
    """Where the operand ends that begins here: before the next operator of sets around it."""
    depth = 0
    for token in tokens:
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(token[0], 0)
        if depth < 0 or (depth == 0 and token[0] in ("or", "and", "unless", ",")):
            return token.start()
    return end


def pack() -> dict[str, str]:
    """The rule files, those that settings change for the settings of the tests."""
    texts = {path.name: path.read_text() for path in RULES.glob("*.yaml")}
    settings = read_settings(RULES / "settings/tests.yaml")
    full = rendered(settings, sorted(RULES.glob("*.yaml")))
    return texts | {"scaling.yaml": full["scaling.yaml"], "all": full["settings.yaml"]}


def write(folder: Path, texts: dict[str, str]) -> None:
    """The pack beside its tests of behaviour, which know it without words."""
    (folder / "tests/settings").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "tests" / place_of(name)).write_text(ANNOTATIONS.sub("", text))
    for path in (RULES / "tests").glob("*.yaml"):
        if not path.name.startswith("words-"):
            shutil.copy(path, folder / "tests")


def place_of(file: str) -> str:
    """A rule file's path from the tests."""
    return "settings/all.yaml" if file == "all" else f"../{file}"


@cache
def every_test() -> list[tuple[str, list[str], str]]:
    """Each test of behaviour: the file it is from, the rule files it loads, it alone as a file."""
    return [
        (path.name, whole["rule_files"], yaml.safe_dump({**whole, "tests": [test]}))
        for path in sorted((RULES / "tests").glob("*.yaml"))
        if not path.name.startswith("words-")
        for whole in [yaml.safe_load(path.read_text())]
        for test in whole["tests"]
    ]


def loading(file: str, rule: str = "") -> list[str]:
    """The tests that load a rule file: those that name the rule, then its own, short ones first."""
    found = [
        (rule not in text, name != file, len(text), text)
        for name, loads, text in every_test()
        if place_of(file) in loads
    ]
    return [text for *_, text in sorted(found)]


def missed(mutant: Mutant, texts: dict[str, str]) -> bool:
    """Whether a test fails without that part."""
    changed = {**texts, mutant.file: mutant.text}
    return fails(mutant.file, loading(mutant.file, mutant.rule), changed)


def fails(file: str, tests: list[str], texts: dict[str, str]) -> bool:
    """Whether one of the tests of a rule file fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, texts)
        promtool("check", folder / "tests" / place_of(file)).check_returncode()
        alone = folder / "tests/alone.yaml"
        return any(alone.write_text(test) and promtool("test", alone).returncode for test in tests)


def promtool(what: str, file: Path) -> subprocess.CompletedProcess[bytes]:
    """Check or test rules."""
    command = [program("promtool"), what, "rules", str(file)]
    return subprocess.run(command, check=False, capture_output=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Do the tests miss every part of the rules?")
    parser.add_argument("--only", default="", help="rule files whose name has this")
    only = parser.parse_args().only
    texts = pack()
    every = [it for file in sorted(texts) if only in file for it in mutants(file, texts[file])]
    if any(fails(file, loading(file), texts) for file in {it.file for it in every}):
        sys.exit("tests fail with every part in its place: run scripts/check_rules.sh")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = list(pool.map(lambda it: missed(it, texts), every))
    unseen = [it for it, seen in zip(every, answers, strict=True) if not seen]
    for it in unseen:
        print(f"rules/{it.file}:{it.line}: nothing misses the {it.part}")
    print(f"{len(every) - len(unseen)} of {len(every)} parts are missed by a test")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
