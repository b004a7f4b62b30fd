"""Makes what the docs say of code from the code: docs/metrics.md, and the settings' tables.

It makes the schema of `gpucost report --format json` too, and by gen_chart.py what the chart says
of its values.

    gen_docs.py            write what changed
    gen_docs.py --check    write nothing; exit 1 if something would change

Between the markers of docs/operations.md, and in the whole of docs/metrics.md, a hand edit is
lost: change catalog.py, config.py or the tables below.
"""

from __future__ import annotations

import ast
import inspect
import sys
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import inspect as types

import gen_chart
from gpucost import config
from gpucost.advice.report.document import Report
from gpucost.catalog import FAMILIES, Family
from tables import table

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- settings: made by scripts/gen_docs.py from exporter/gpucost/config.py -->"
END = "<!-- end of settings -->"

GROUPS = (
    (("gpucost_node_", "gpucost_gpu_", "gpucost_mig_"), "The node and its GPUs"),
    (("gpucost_pod_",), "Pods: who holds them, and what it costs"),
    (("gpucost_workload_", "gpucost_billing_"), "The durable bill of a calendar month"),
    (("gpucost_",), "The exporter itself"),
)
"""Prefixes of a group's families, and its title; the first that applies."""

LABELS = {
    "node": "The node's name. On every series.",
    "gpu": "The driver's index of the GPU.",
    "uuid": "UUID of the physical GPU.",
    "mig_uuid": "UUID of the MIG instance; empty for a whole GPU.",
    "profile": "MIG profile, like `3g.40gb`.",
    "gpu_model": "The GPU's model, as its driver names it.",
    "instance_type": "The cloud's instance type.",
    "region": "The cloud's region.",
    "zone": "The cloud's zone.",
    "node_pool": "Node pool or group.",
    "provider": "The cloud, from the node's provider id.",
    "capacity_type": "`on_demand`, `spot` or `reserved`: how the node is paid.",
    "price_source": "Where the price comes from: `node_annotation`, `table`, `catalogue`,"
    " `fallback`, `on_premises`, or `none`.",
    "split": "How a node's price became a GPU's: `whole_node`, `gpu_only`, `per_gpu` (priced as a"
    " GPU), `on_premises`, or `none`. Of served models: how a pod's cost became a model's: `whole`"
    " (its only one), `compute_time`, `tokens` or `requests`.",
    "state": "What the GPU-second was spent on; the states are in [design.md](design.md).",
    "reason": "The state that makes the waste.",
    "signal": "Which reading the activity is.",
    "kind": "Of an efficiency: `sm`, `tensor` or `memory`. Of a problem: a short stable word.",
    "method": "How the share was found: `exclusive`, `mig`, `replicas` or `even`. Of a cost per"
    " million tokens: how the cost was divided between input and output: `prefill_decode_time` or"
    " `tokens`.",
    "engine": "The kind of inference server, as in [requests.md](requests.md).",
    "served_model": "The model or adapter, as the engine or the pod's annotation names it; else"
    " `unknown`.",
    "outcome": "`success`, `failure`, or `aborted` by the client: those that the engine tells"
    " apart.",
    "direction": "`input` (computed), `cached_input` (from a prefix cache) or `output`.",
    "xid": "The driver's error code.",
    "namespace": "The pod's namespace.",
    "pod": "The pod's name.",
    "container": "The container's name.",
    "workload": "What the pod belongs to: a Deployment, Job, RayCluster, ... by name.",
    "workload_kind": "The kind of that.",
    "team": "From the pod label that the settings name.",
    "month": "The calendar month in the billing time zone, like `2026-11`.",
    "ledger": "When this node's ledger began, so that a node that comes back with an empty disk"
    " is not taken for a counter reset.",
    "source": "The source: nvml, dcgm, kubelet, kubernetes, ...",
    "version": "The exporter's version.",
}
"""What each label of the catalogue means."""

PLAIN_KINDS: dict[type[types.Type], str] = {
    types.BoolType: "true or false",
    types.DateType: "date",
    types.StrType: "text",
    types.StructType: "section",
}
"""How a setting's type is called, where it has no parts and no bounds."""

METRICS_HEAD = """\
<!-- Made by scripts/gen_docs.py from exporter/gpucost/catalog.py; edit that. -->

# Metrics

Every family that gpucost publishes. Units are base units, in the names; counters end in
`_total`. A series that is absent means that the value is not known: it is never shown as 0.
Counters are first shown at 0 and stay there for two scrape intervals, so that `increase()` sees
the first dollar; see [design.md](design.md) for why the numbers add up.

Beside them `/metrics` has the usual `process_*` and `python_info` of the exporter's own process,
which carry no `node` label.
"""


def main(arguments: list[str]) -> int:
    """Write the generated docs, or with --check say which are out of date."""
    stale = [path for path, text in pages() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date; run: make docs")
        return 1 if stale else 0
    for path, text in pages():
        path.write_text(text)
    return 0


def pages() -> Iterator[tuple[Path, str]]:
    """Each generated page: its path, and the text it must have."""
    yield ROOT / "docs/metrics.md", metrics_page()
    operations = ROOT / "docs/operations.md"
    yield operations, with_settings(operations.read_text())
    yield ROOT / "docs/report.schema.json", report_schema()
    yield from gen_chart.pages()


def report_schema() -> str:
    """What `gpucost report --format json` writes, as JSON Schema."""
    schema = msgspec.json.schema(Report)
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


# --- docs/metrics.md --------------------------------------------------------------------------


def metrics_page() -> str:
    """The catalogue as a page: a table for each group, then the labels."""
    parts = [METRICS_HEAD]
    for _, title in GROUPS:
        families = [family for family in FAMILIES.values() if group_of(family) == title]
        parts.append(f"## {title}\n")
        parts.append(table(("Family", "Type", "Labels", "What it says"), map(_row, families)))
    used = {"node", *(label for family in FAMILIES.values() for label in family.labels)}
    parts.append("## Labels\n")
    parts.append(
        table(
            ("Label", "Meaning"),
            ((f"`{label}`", meaning) for label, meaning in LABELS.items() if label in used),
        )
    )
    return "\n".join(parts)


def group_of(family: Family) -> str:
    """The title of the group that a family is listed in."""
    return next(title for prefixes, title in GROUPS if family.name.startswith(prefixes))


def _row(family: Family) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in ("node", *family.labels))
    if family.open_labels:
        labels += ", and those that the settings choose"
    return f"`{family.name}`", family.type, labels, family.help


# --- The settings -----------------------------------------------------------------------------


def with_settings(page: str) -> str:
    """The page with the tables between its markers made anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/operations.md lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{settings_tables()}\n{END}{after}"


def settings_tables() -> str:
    """A table for each section of the configuration, outermost first."""
    return "\n".join(_section(config.Config, ""))


def _section(section: type[msgspec.Struct], path: str) -> Iterator[str]:
    described = described_fields(section)
    rows: list[tuple[str, ...]] = []
    inner: list[tuple[type[msgspec.Struct], str]] = []
    info = types.type_info(section)
    if not isinstance(info, types.StructType):
        raise TypeError(f"{section} is not a section")
    for field in info.fields:
        structs = list(_structs_in(field.type))
        kind = _kind(field.type)
        meaning = described.get(field.name) or " ".join(map(_first_line, structs))
        rows.append((f"`{field.name}`", kind, _default(field), meaning))
        many = isinstance(field.type, types.VarTupleType)
        inner.extend((struct, f"{path}{field.name}{'[]' if many else ''}.") for struct in structs)
    title = f"`{path.rstrip('.')}`" if path else "Top level"
    yield f"#### {title}\n\n{inspect.getdoc(section)}\n"
    yield table(("Setting", "Type", "Default", "Meaning"), rows)
    for struct, inner_path in inner:
        yield from _section(struct, inner_path)


def described_fields(section: type[msgspec.Struct]) -> dict[str, str]:
    """The text that follows each field in the source, which Python itself throws away."""
    body = [line for tree in ast.parse(inspect.getsource(section)).body for line in _body(tree)]
    described: dict[str, str] = {}
    for field, text in pairwise(body):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                described[name] = inspect.cleandoc(words).replace("\n", " ")
    return described


def _first_line(section: type[msgspec.Struct]) -> str:
    return (inspect.getdoc(section) or "").partition("\n")[0]


def _body(tree: ast.stmt) -> list[ast.stmt]:
    return tree.body if isinstance(tree, ast.ClassDef) else []


def _structs_in(kind: types.Type) -> Iterator[type[msgspec.Struct]]:
    match kind:
        case types.StructType(cls=cls):
            yield cls
        case types.UnionType(types=options):
            for option in options:
                yield from _structs_in(option)
        case types.VarTupleType(item_type=item):
            yield from _structs_in(item)


def _kind(kind: types.Type) -> str:
    match kind:
        case types.Metadata(type=inner):
            return _kind(inner)
        case types.UnionType(types=options):
            return " or ".join(_kind(o) for o in options if not isinstance(o, types.NoneType))
        case types.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case types.VarTupleType(item_type=item):
            return f"list of {_kind(item)}"
        case types.DictType(key_type=key, value_type=value):
            return f"map of {_kind(key)} to {_kind(value)}"
        case types.FloatType() | types.IntType():
            return ("number" if isinstance(kind, types.FloatType) else "integer") + _bounds(kind)
    return PLAIN_KINDS[type(kind)]


def _bounds(number: types.FloatType | types.IntType) -> str:
    bounds = [
        f"{sign} {bound:.15g}"
        for sign, bound in (
            (">", number.gt),
            (">=", number.ge),
            ("<", number.lt),
            ("<=", number.le),
        )
        if bound is not None
    ]
    return f" {', '.join(bounds)}" if bounds else ""


def _default(field: types.Field) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, Enum):
        value = value.value
    match value:
        case msgspec.Struct():
            return "as below"
        case None | () | {} | "":
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"`{value:.12g}`"
        case tuple():
            return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
