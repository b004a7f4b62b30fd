"""What `make cluster` and its kin do, from outside and from inside."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from cluster import images, operators, prerequisites, programs
from cluster.failure import ClusterError
from cluster.machine import close_machine, entering, is_open, open_machine
from cluster.node import bring_up
from cluster.place import ROOT, Place
from cluster.traces import Traces, namespaces_of

if TYPE_CHECKING:
    from collections.abc import Sequence

UP_SECONDS = 600
KUBECTL = """\
#!/bin/sh
# Asks the cluster from outside: enters its machine first.
exec {entering} {kubectl} --kubeconfig={kubeconfig} "$@"
"""


def main(words: Sequence[str]) -> int:
    """Run one command; an exit status of 1 is told in one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring the cluster up; does what is left to do if it is")
    commands.add_parser("down", help="end it and leave nothing")
    commands.add_parser("status", help="say whether it is up")
    built = commands.add_parser("programs", help="build programs and images, and start nothing")
    built.add_argument(
        "--operators",
        action="store_true",
        help="KEDA, prometheus-operator, Alertmanager, kube-router too",
    )
    commands.add_parser("inside", help=argparse.SUPPRESS)
    for name, what in (
        ("enter", "run a command inside, as on the node itself"),
        ("run", "the same, with a cluster for as long as it takes; with KUBECONFIG on that one"),
    ):
        commands.add_parser(name, help=what).add_argument("words", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(words)
    place = Place.of_environment()
    try:
        match chosen.command:
            case "up":
                up(place)
            case "down":
                prerequisites.require_root()
                close_machine(place)
            case "status":
                print(f"cluster: {'up' if is_open(place) else 'down'}")
            case "programs":
                prerequisites.require(place)
                _programs(place, with_operators=chosen.operators)
            case "inside":
                bring_up(place)
            case "enter":
                return enter_machine(place, chosen.words)
            case "run":
                return run_with_cluster(place, chosen.words)
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


def up(place: Place) -> None:
    """Build what is missing, open the machine, start everything, say how to use it."""
    prerequisites.require(place)
    _programs(place)
    begin, new = time.monotonic(), not is_open(place)
    if new:
        open_machine(place)
    done = subprocess.run(
        [*entering(place), sys.executable, "-m", "cluster", "inside"],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'exporter'}"},
        timeout=UP_SECONDS,
        check=False,
    )
    if done.returncode:
        raise ClusterError(f"not up. Its logs are in {place.logs}; make cluster tries again")
    place.kubectl.write_text(
        KUBECTL.format(
            entering=" ".join(entering(place)),
            kubectl=programs.program(programs.KUBERNETES, "kubectl", place.programs),
            kubeconfig=place.kubeconfig,
        )
    )
    place.kubectl.chmod(0o755)
    took = time.monotonic() - begin
    if new:
        place.up_seconds.write_text(f"{took:.1f}")
    programs.say(f"up in {took:.0f} s. Ask it:")
    print(f"  {place.kubectl} get pods -A")


def enter_machine(place: Place, words: Sequence[str]) -> int:
    """Run a command inside, on this terminal, with kubectl and helm on its PATH."""
    folders = [
        str(module.folder_in(place.programs))
        for module in (*programs.FOR_CLUSTER, *programs.FOR_TESTS)
    ]
    folders.append(str(place.programs / "debian/usr/bin"))
    env = os.environ | {
        "GPUCOST_CLUSTER_INSIDE": "1",
        "KUBECONFIG": str(place.kubeconfig),
        "PATH": ":".join([*folders, os.environ["PATH"]]),
    }
    shell = [shutil.which("bash") or "sh"]
    return subprocess.run([*entering(place), *(words or shell)], env=env, check=False).returncode


def run_with_cluster(place: Place, words: Sequence[str]) -> int:
    """Run a command on a cluster, which is taken down again if it was not up before.

    Raises ClusterError where that left anything on this machine.
    """
    if "KUBECONFIG" in os.environ:
        return subprocess.run(words, check=False).returncode
    if is_open(place):
        up(place)
        return enter_machine(place, words)
    prerequisites.require_root()
    close_machine(place)  # what a half-dead one left is not this one's
    before, own = Traces.of(place), frozenset[str]()
    try:
        up(place)
        own = namespaces_of(place)
        status = enter_machine(place, words)
    finally:
        close_machine(place)
    if left := Traces.of(place, own).since(before):
        raise ClusterError("it went, and this machine is not as before:\n  " + "\n  ".join(left))
    programs.say("down, and nothing is left of it")
    return status


def _programs(place: Place, *, with_operators: bool = False) -> None:
    programs.build((*programs.FOR_CLUSTER, *programs.FOR_TESTS), place.programs)
    programs.debian(place.programs)
    images.make_images(place.programs)
    if with_operators:
        operators.prepare(place.programs)
