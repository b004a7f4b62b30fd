"""The chart as real Helm renders and lints it.

By Helm's SDK in a library, so that no `helm` is needed; with GPUCOST_HELM=path by the `helm` on
PATH, or another one by its path. Values are YAML text, which Helm itself reads.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import helm_python
import yaml

from programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CHART = ROOT / "helm/gpucost"
OLD_CHART = ROOT / "tests/helm/old"
"""The chart as it first was, which upgrades are tried from."""

NAMESPACE = "metering"

Object = dict[str, Any]


class Refused(Exception):  # noqa: N818 - what happened to the values
    """Helm would not install the chart with these values; the message is Helm's."""


class Release(NamedTuple):
    """What an install would make: every object, hooks too, and what the user is told."""

    objects: tuple[Object, ...]
    notes: str

    def one(self, kind: str) -> Object:
        """The only object of a kind."""
        [found] = (each for each in self.objects if each["kind"] == kind)
        return found

    @property
    def pod(self) -> Object:
        """The spec of the DaemonSet's pods."""
        spec: Object = self.one("DaemonSet")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Object:
        """Its one container."""
        [found] = self.pod["containers"]
        assert isinstance(found, dict)
        return found

    @property
    def config(self) -> str:
        """The text of gpucost's own config.yaml."""
        [(name, text)] = self.one("ConfigMap")["data"].items()
        assert name == "config.yaml"
        assert isinstance(text, str)
        return text


def install(values: str = "", *, name: str = "gpucost", chart: Path = CHART) -> Release:
    """Render as for a first install. Raises Refused."""
    helm = _program()
    return _by_sdk(values, name, chart) if helm is None else _by_program(helm, values, name, chart)


def lint(values: str = "", chart: Path = CHART) -> list[str]:
    """What `helm lint --strict` finds, from warnings up."""
    helm = _program()
    if helm is not None:
        ran = _run(helm, ["lint", str(chart), "--strict", "-f", "-"], values)
        lines = ran.stdout.splitlines()
        found = [line for line in lines if line.startswith(("[WARNING]", "[ERROR]"))]
        return found if found or not ran.returncode else [ran.stderr]
    report = helm_python.lint(chart, helm_python.values_from_yaml(values), strict=True)
    messages = [str(each["error"]) for each in report["messages"] if each["severity"] > 1]
    return [*messages, *report["errors"]]


def _program() -> str | None:
    """The `helm` to run; None for the SDK."""
    chosen = os.environ.get("GPUCOST_HELM")
    if chosen != "path":
        return chosen or None
    found = shutil.which("helm")
    if found is None:
        raise FileNotFoundError("GPUCOST_HELM=path, but there is no helm on PATH")
    return found


def _by_sdk(values: str, name: str, chart: Path) -> Release:
    with helm_python.Chart.load(chart) as loaded:
        try:
            given = helm_python.values_from_yaml(values)
            texts = loaded.render(given, name=name, namespace=NAMESPACE)
        except (helm_python.HelmValuesError, helm_python.HelmRenderError) as error:
            raise Refused(str(error)) from error
    notes = next(texts.pop(path) for path in list(texts) if path.endswith("/NOTES.txt"))
    return Release(_objects(texts.values()), notes)


def _by_program(helm: str, values: str, name: str, chart: Path) -> Release:
    ran = _run(
        helm,
        ["install", name, str(chart), "-n", NAMESPACE, "--dry-run=client", "-o", "json", "-f", "-"],
        values,
    )
    if ran.returncode:
        raise Refused(ran.stderr)
    release = json.loads(ran.stdout)
    hooks = [hook["manifest"] for hook in release.get("hooks", ())]
    return Release(_objects([release["manifest"], *hooks]), release["info"]["notes"])


def _run(helm: str, arguments: list[str], values: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [helm, *arguments],
        input=values,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        env={**os.environ, "KUBECONFIG": os.devnull},  # whatever cluster is near is not asked
    )


def _objects(texts: Any) -> tuple[Object, ...]:  # noqa: ANN401 - views and lists of text
    return tuple(each for text in texts for each in yaml.safe_load_all(text) if each)
