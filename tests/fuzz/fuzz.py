"""Fuzzes the parsers, guided by coverage (atheris), and says what of each was gone through.

    fuzz.py                      every target, and the HTTP server
    fuzz.py --runs N TARGET...   those; N inputs each

A crash, a hang or a growing memory ends it with status 1, and the input lies in
build/fuzz/<target>. What was found on the way is in build/fuzz/<target>/found: a run goes on from
there. Where atheris is not installed the seeds are changed at random instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build/fuzz"
RUNS = 50_000
CONVERSATIONS = 2000
MAX_INPUT_BYTES = 1 << 15
HANG_SECONDS = 10
MAX_MEMORY_MIB = 1024
MIN_COVERED = 95.0
HTTP = "http"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(it) for it in (ROOT / "exporter", ROOT / "tests", HERE)),
}


def main() -> int:
    """Each target in a process of its own; the exit status is 1 if any fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return guided(given.one, given.runs) if has_atheris() else unguided(given.one, given.runs)
    import targets  # noqa: PLC0415 - uninstrumented here

    failed = False
    for name in given.targets or [*targets.TARGETS, HTTP]:
        if name == HTTP:
            import http_conversations  # noqa: PLC0415 - it needs no guide

            failed |= not http_conversations.hold(CONVERSATIONS, seed=time.time_ns())
            continue
        failed |= not one(name, given.runs)
    return int(failed)


def has_atheris() -> bool:
    """Whether the guide is there."""
    return importlib.util.find_spec("atheris") is not None


def one(name: str, runs: int) -> bool:
    """Fuzz a target; whether all went well."""
    folder = BUILD / name
    (folder / "found").mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    command = [sys.executable, __file__, "--one", name, "--runs", str(runs)]
    with (folder / "log").open("wb") as log:
        done = subprocess.run(
            command,
            cwd=folder,
            env=ENVIRONMENT,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    seconds = time.monotonic() - start
    covered, missing = coverage_of(name)
    well = done.returncode == 0 and covered >= MIN_COVERED
    print(
        f"{'ok  ' if well else 'FAIL'} {name:18} {runs} inputs in {seconds:.0f} s,"
        f" branch coverage {covered:.1f} %"
    )
    if done.returncode:
        print((folder / "log").read_text("utf-8", "replace")[-3000:])
    for line in missing if covered < MIN_COVERED else ():
        print("    not gone through:", line)
    return well


def guided(name: str, runs: int) -> int:
    """Run libFuzzer on a target; this process ends with it."""
    import atheris  # noqa: PLC0415 - where it installs

    with atheris.instrument_imports(include=["gpucost"]):
        import targets  # noqa: PLC0415 - instrumented here

    seeds = Path("seeds")
    seeds.mkdir(exist_ok=True)
    for number, seed in enumerate(targets.seeds_of(name)):
        (seeds / f"{number:03}").write_bytes(seed)
    arguments = [
        *("fuzz", "found", "seeds", f"-runs={runs}", f"-max_len={MAX_INPUT_BYTES}"),
        *(f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MAX_MEMORY_MIB}", "-print_final_stats=1"),
    ]
    dictionary = HERE / "corpus" / f"{name}.dict"
    if dictionary.exists():
        arguments.append(f"-dict={dictionary}")
    atheris.Setup(arguments, lambda data: targets.tried(name, data))
    atheris.Fuzz()
    return 0


def unguided(name: str, runs: int) -> int:
    """Change the seeds at random."""
    import targets  # noqa: PLC0415 - as above

    chance = random.Random()  # noqa: S311 - inputs
    seeds = targets.seeds_of(name)
    for _ in range(runs):
        data = changed(chance.choice(seeds), seeds, chance)
        Path("last").write_bytes(data)
        start = time.monotonic()
        targets.tried(name, data)
        if time.monotonic() - start > HANG_SECONDS:
            print("hung on the input in `last`")
            return 1
    return 0


def changed(seed: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """An input like the seed: bytes changed, cut out, repeated, or taken from another."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 4, 16, 200)))
        what = chance.randrange(5)
        if what == 0:
            data[at:end] = chance.randbytes(end - at)
        elif what == 1:
            del data[at:end]
        elif what == 2:
            data[at:at] = data[at:end] * chance.choice((1, 2, 50))
        elif what == 3:
            other = chance.choice(others)
            cut = chance.randrange(len(other) + 1)
            data[at:end] = other[cut : cut + chance.choice((4, 40, 400))]
        elif at < len(data):
            data[at] = chance.choice(b"\0\xff\n\"'{}[]:,=0-9e\\ ")
    return bytes(data[:MAX_INPUT_BYTES])


def coverage_of(name: str) -> tuple[float, list[str]]:
    """How much of a target's branches its seeds and what was found go through, in per cent."""
    report = BUILD / name / "coverage.json"
    script = (
        "import sys; from pathlib import Path; import coverage; c = coverage.Coverage("
        "branch=True, data_file=None, source_pkgs=['gpucost']); c.start(); import targets\n"
        "for data in [*targets.seeds_of(sys.argv[1]),"
        " *(p.read_bytes() for p in sorted(Path('found').iterdir()))]:\n"
        "    targets.tried(sys.argv[1], data)\n"
        "c.stop(); c.json_report(outfile='coverage.json')"
    )
    subprocess.run(
        [sys.executable, "-c", script, name],
        cwd=BUILD / name,
        env=ENVIRONMENT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    import targets  # noqa: PLC0415 - uninstrumented here

    files = {
        path.rpartition("exporter/gpucost/")[2]: found
        for path, found in json.loads(report.read_text())["files"].items()
    }
    hit = there = 0
    missing: list[str] = []
    for covered in targets.TARGETS[name].covers:
        file, _, function = covered.partition(":")
        found = files[file]
        part = found["functions"][function] if function else found
        summary = part["summary"]
        hit += summary["covered_lines"] + summary["covered_branches"]
        there += summary["num_statements"] + summary["num_branches"]
        missing += [f"{covered} line {line}" for line in part["missing_lines"]]
        missing += [f"{covered} branch {a} -> {b}" for a, b in part["missing_branches"]]
    return 100.0 * hit / there, missing


if __name__ == "__main__":
    sys.exit(main())
