"""The schemas of what the chart makes, and actionlint, from where they are published: Go modules.

Nothing of them is copied. A plain `make test` needs no Go, so it passes over what is not on this
machine; `make published` brings all of it (`python -m published`) and fails where any is missing.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import yaml

from cluster.place import Place
from cluster.programs import ACTIONLINT, build
from programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helm_chart import Object

TOOLS = ROOT / "tests/cluster/tools"

Schema = dict[str, Any]

# Where a module of tests/cluster/tools has CRDs.
CRDS = {
    ("keda", "github.com/kedacore/keda/v2"): "config/crd/bases",
    (
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator",
    ): "example/prometheus-operator-crd",
    ("crds", "github.com/aws/karpenter-provider-aws"): "pkg/apis/crds",
    ("crds", "github.com/grafana/grafana-operator/v5"): "config/crd/bases",
}
KUBERNETES = ("kubernetes", "k8s.io/kubernetes")

ALL_HERE = "GPUCOST_PUBLISHED"
"""Set where nothing may be missing: `make published`."""


def missing(what: str) -> NoReturn:
    """Pass over a test of something that is not on this machine, where that may be."""
    if os.environ.get(ALL_HERE):
        raise AssertionError(f"no {what}; `python -m published` should have brought it")
    pytest.skip(f"no {what} on this machine: make published")


def actionlint() -> Path:
    """The program."""
    found = ACTIONLINT.folder_in(Place.of_environment().programs) / "actionlint"
    if not found.is_file():
        missing("actionlint")
    return found


def bring() -> None:
    """Download the modules and build actionlint. Raises ClusterError where there is no Go."""
    build((ACTIONLINT,), Place.of_environment().programs)
    for tool, module in (*CRDS, KUBERNETES):
        subprocess.run(
            ["go", "mod", "download", module],  # noqa: S607 - the Go that built actionlint
            cwd=TOOLS / tool,
            check=True,
            timeout=600,
        )


@functools.cache
def folder_of(tool: str, module: str) -> Path | None:
    """Where a module's files are; None where they are not."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        return None
    ran = subprocess.run(
        [go, "list", "-m", "-f", "{{.Dir}}", module],
        cwd=TOOLS / tool,
        env=os.environ | {"GOPROXY": "off", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    found = ran.stdout.strip()
    return Path(found) if found else None


@functools.cache
def crds() -> dict[tuple[str, str], Schema]:
    """API version and kind to the schema, of every module that is here."""
    found: dict[tuple[str, str], Schema] = {}
    for (tool, module), inside in CRDS.items():
        folder = folder_of(tool, module)
        for path in sorted((folder / inside).glob("*.yaml")) if folder else ():
            text = re.sub(r"(?m)- =$", '- "="', path.read_text())
            for each in yaml.load_all(text, yaml.CSafeLoader):
                if not each or each["kind"] != "CustomResourceDefinition":
                    continue
                spec = each["spec"]
                for version in spec["versions"]:
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    found[key] = version["schema"]["openAPIV3Schema"]
    return found


@functools.cache
def kubernetes() -> dict[tuple[str, str], Schema]:
    """The same of Kubernetes' own kinds."""
    folder = folder_of(*KUBERNETES)
    if folder is None:
        return {}
    swagger = json.loads((folder / "api/openapi-spec/swagger.json").read_text())
    definitions = swagger["definitions"]
    found: dict[tuple[str, str], Schema] = {}
    for schema in definitions.values():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            version = "/".join(filter(None, (kind["group"], kind["version"])))
            found[version, kind["kind"]] = {**schema, "definitions": definitions}
    return found


def schema_of(made: Object) -> Schema | None:
    """The published schema of an object; None where it is not on this machine."""
    key = (made["apiVersion"], made["kind"])
    return crds().get(key) or kubernetes().get(key)


def faults(made: Object, schema: Schema) -> list[str]:
    """What the API server would refuse, or drop without a word: unknown fields too."""
    return list(_faults(made, schema, "", schema.get("definitions", {})))


def _faults(value: Any, schema: Schema, path: str, named: Schema) -> Iterator[str]:  # noqa: ANN401
    if "$ref" in schema:
        schema = named[schema["$ref"].rpartition("/")[2]]
    if value is None:
        return
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        if not isinstance(value, int | str):
            yield f"{path}: {value!r} is neither a number nor text"
    elif not _is_of(value, schema):
        yield f"{path}: {value!r} is no {schema['type']}"
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _faults(each, schema.get("items", {}), f"{path}[{index}]", named)
    elif isinstance(value, dict):
        yield from _faults_of_map(value, schema, path, named)
    else:
        yield from _faults_of_word(value, schema, path)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def _is_of(value: object, schema: Schema) -> bool:
    kind = schema.get("type")
    if kind == "string" and "quantity" in str(schema.get("description", "")).lower():
        return isinstance(value, str | int | float)  # published as text; a number is taken for one
    return kind not in _TYPES or isinstance(value, _TYPES[kind])


def _faults_of_word(value: object, schema: Schema, path: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    pattern = schema.get("pattern")
    if pattern and isinstance(value, str) and not re.search(pattern, value):
        yield f"{path}: {value!r} does not match {pattern}"


def _faults_of_map(value: Object, schema: Schema, path: str, named: Schema) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}: lacks {name}"
    known = schema.get("properties")
    rest = schema.get("additionalProperties")
    for name, each in value.items():
        if known and name in known:
            yield from _faults(each, known[name], f"{path}.{name}", named)
        elif isinstance(rest, dict):
            yield from _faults(each, rest, f"{path}.{name}", named)
        elif known and not schema.get("x-kubernetes-preserve-unknown-fields") and path:
            yield f"{path}: knows no {name}"


if __name__ == "__main__":
    bring()
