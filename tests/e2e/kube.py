"""Asks the cluster, and keeps what it was asked: the evidence that a failed step prints."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

from cluster.place import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KUBECTL_SECONDS = 60
CHART = ROOT / "helm/gpucost"


class CommandError(Exception):
    """A command that failed, with what it said."""


class Evidence:
    """What a step asked and was told, in order."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._asked = ""
        self._times = 0
        self._begin = time.monotonic()

    def add(self, words: str) -> None:
        """Note it with the seconds since the step began.

        Of what is asked again and again, the first and the last answer stay.
        """
        asked = words.partition(" -> ")[0]
        self._times = self._times + 1 if asked == self._asked else 1
        self._asked = asked
        if self._times > 2:
            self._lines.pop()
        self._lines.append(f"{time.monotonic() - self._begin:7.1f} s  {words}")

    def text(self, last: int = 120) -> str:
        """The last lines of it."""
        return "\n".join(self._lines[-last:])


def run(*words: str | Path, stdin: str | None = None, timeout: float = KUBECTL_SECONDS) -> str:
    """A command's output.

    Raises CommandError with what it said if it fails, or does not end.
    """
    try:
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise CommandError(f"{' '.join(map(str, words))}: not within {timeout:.0f} s") from late
    if done.returncode:
        raise CommandError(f"{' '.join(map(str, words))}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def upgrade(*words: str) -> None:
    """`helm upgrade` of gpucost to these values and no others. Raises CommandError."""
    run("helm", "upgrade", "--reset-values", "gpucost", str(CHART), *words, timeout=120)


class Kube:
    """kubectl, against whatever cluster KUBECONFIG names."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence

    def __call__(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        """What kubectl answers. Raises CommandError."""
        said = run("kubectl", *words, stdin=stdin, timeout=timeout)
        self._evidence.add(f"kubectl {' '.join(words)[:200]} -> {said.strip()[:300]!r}")
        return said

    def get(self, *words: str) -> dict[str, Any]:
        """An object, or a list of them."""
        answer: dict[str, Any] = json.loads(run("kubectl", "get", *words, "-ojson"))
        return answer

    def apply(self, *objects: dict[str, Any]) -> None:
        """Make objects, or make them so."""
        self(
            "apply",
            "-f",
            "-",
            stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
        )

    def delete_pod(self, namespace: str, name: str, grace: int = 1) -> None:
        """End a pod and wait until it has gone."""
        self("-n", namespace, "delete", "pod", name, f"--grace-period={grace}", timeout=120)

    def pod(self, namespace: str, name: str) -> dict[str, Any]:
        """A pod, with its status."""
        return self.get("-n", namespace, "pod", name)

    def hasten(self, selector: str, *, namespace: str = "default") -> None:
        """Have the kubelet bring changed ConfigMaps to these pods now.

        A changed pod is looked after at once, and its files with it; else within a minute or two.
        """
        now = f"gpucost.io/now={time.monotonic():.0f}"
        self("-n", namespace, "annotate", "pod", "-l", selector, "--overwrite", now)

    def stays(self, what: str, check: Callable[[], bool], seconds: float) -> None:
        """See that the check holds for as long. Raises AssertionError."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert check(), what
            time.sleep(2)

    def wait(self, what: str, check: Callable[[], bool], seconds: float = 120) -> float:
        """Wait until the check holds; how long it took. Asks again when the API server is away.

        Raises TimeoutError.
        """
        begin = time.monotonic()
        last = ""
        while True:
            try:
                if check():
                    self._evidence.add(f"{what}: after {time.monotonic() - begin:.1f} s")
                    return time.monotonic() - begin
            except (CommandError, OSError) as error:
                last = f" ({error})"
            if time.monotonic() - begin > seconds:
                raise TimeoutError(f"{what}: not within {seconds:.0f} s{last}")
            time.sleep(0.5)


def gpu_pod(
    name: str,
    namespace: str,
    work: list[str],
    gpus: int = 1,
    container: dict[str, Any] | None = None,
    restart: str = "Never",
) -> dict[str, Any]:
    """A pod whose one container, `main`, runs the worker with these words."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "main",
                    "image": "localhost/worker:1",
                    "imagePullPolicy": "Never",
                    "args": work,
                    "resources": {"limits": {"nvidia.com/gpu": gpus}},
                    **(container or {}),
                }
            ],
        },
    }
