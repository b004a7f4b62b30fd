"""KEDA, prometheus-operator and Alertmanager for the steps that need them: images and manifests.

Programs and manifests come from one Go module each, so they are of one version. Made outside, where
there is a network; what is ready is found again inside.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.archive import write_image
from cluster.failure import ClusterError
from cluster.programs import (
    ALERTMANAGER,
    FOR_OPERATORS,
    KEDA,
    KUBERNETES,
    PROMETHEUS,
    PROMETHEUS_OPERATOR,
    build,
    program,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.programs import Module

NOBODY = "65532:65532"
KEDA_IMAGE = "localhost/keda:1"
OPERATOR_IMAGE = "localhost/prometheus-operator:1"
RELOADER_IMAGE = "localhost/prometheus-config-reloader:1"
# The operator mounts the data at /prometheus, where the plain image has the program.
PROMETHEUS_IMAGE = "localhost/prometheus-operated:1"
ALERTMANAGER_IMAGE = "localhost/alertmanager:1"

# Image, and its files with the programs they are.
_IMAGES: dict[str, tuple[Module, Mapping[str, str]]] = {
    KEDA_IMAGE: (
        KEDA,
        {"/keda": "operator", "/keda-adapter": "adapter", "/keda-admission-webhooks": "webhooks"},
    ),
    OPERATOR_IMAGE: (PROMETHEUS_OPERATOR, {"/bin/operator": "operator"}),
    RELOADER_IMAGE: (
        PROMETHEUS_OPERATOR,
        {"/bin/prometheus-config-reloader": "prometheus-config-reloader"},
    ),
    PROMETHEUS_IMAGE: (PROMETHEUS, {"/bin/prometheus": "prometheus"}),
    ALERTMANAGER_IMAGE: (ALERTMANAGER, {"/bin/alertmanager": "alertmanager"}),
}

Object = dict[str, Any]


def prepare(cache: Path) -> None:
    """Build the programs and write the manifests down. Raises ClusterError."""
    build(FOR_OPERATORS, cache)
    for module, path, make in (
        (KEDA, "github.com/kedacore/keda/v2", _kustomized),
        (PROMETHEUS_OPERATOR, "github.com/prometheus-operator/prometheus-operator", _bundled),
    ):
        written = _manifest(module, cache)
        if not written.exists():
            written.write_text(make(_folder_of(module, path), cache))


def archives(cache: Path, *images: str) -> dict[str, Path]:
    """Name and archive of each of these images, made if need be."""
    made = {}
    (cache / "images").mkdir(parents=True, exist_ok=True)
    for image in images:
        module, files = _IMAGES[image]
        name = image.removeprefix("localhost/").partition(":")[0]
        made[image] = cache / "images" / f"{name}-{module.key()}.tar"
        if not made[image].exists():
            found = {inside: program(module, name, cache) for inside, name in files.items()}
            write_image(made[image], image, found, [next(iter(files))], user=NOBODY)
    return made


def keda(cache: Path) -> list[Object]:
    """KEDA's own objects, with our image."""
    objects = _read(KEDA, cache)
    for each in objects:
        if each["kind"] == "Deployment":
            _use(each, KEDA_IMAGE)
    return objects


def prometheus_operator(cache: Path) -> list[Object]:
    """prometheus-operator's own objects, with our images."""
    objects = _read(PROMETHEUS_OPERATOR, cache)
    for each in objects:
        if each["kind"] == "Deployment":
            _use(each, OPERATOR_IMAGE)
            [container] = each["spec"]["template"]["spec"]["containers"]
            container["args"] = [
                f"--prometheus-config-reloader={RELOADER_IMAGE}"
                if arg.startswith("--prometheus-config-reloader=")
                else arg
                for arg in container["args"]
            ]
    return objects


def _use(deployment: Object, image: str) -> None:
    pod = deployment["spec"]["template"]["spec"]
    pod["tolerations"] = [{"operator": "Exists"}]
    pod["securityContext"] = {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
    for container in pod["containers"]:
        container["image"] = image
        container["imagePullPolicy"] = "Never"
        container["resources"] = {}


def _manifest(module: Module, cache: Path) -> Path:
    return module.folder_in(cache) / "manifest.yaml"


def _read(module: Module, cache: Path) -> list[Object]:
    try:
        text = _manifest(module, cache).read_text()
    except OSError as error:
        raise ClusterError(f"{module.name} is not prepared: {error}. Run: make e2e-long") from error
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


def _folder_of(module: Module, path: str) -> Path:
    """Where the Go module's own files are."""
    subprocess.run(["go", "mod", "download", path], cwd=module.folder, check=True, timeout=600)
    found = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", path],
        cwd=module.folder,
        env=os.environ | {"GOFLAGS": "-mod=readonly"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return Path(found.stdout.strip())


def _kustomized(folder: Path, cache: Path) -> str:
    done = subprocess.run(
        [program(KUBERNETES, "kubectl", cache), "kustomize", folder / "config/default"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise ClusterError(f"KEDA's manifests: {done.stderr.strip()[-500:]}")
    return done.stdout


def _bundled(folder: Path, cache: Path) -> str:  # noqa: ARG001 - as the other one
    # PyYAML has a tag of its own for a bare `=`.
    return re.sub(r"(?m)- =$", '- "="', (folder / "bundle.yaml").read_text())
