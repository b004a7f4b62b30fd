"""What a person should know about a node's prices, and exactly what to set. Pure."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

from gpucost.model import Problem
from gpucost.pricing.catalogue import where
from gpucost.pricing.order import ANNOTATION, why_unpriced
from gpucost.pricing.words import gpus, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpucost.model import Node, Price
    from gpucost.pricing.catalogue import Catalogue
    from gpucost.pricing.count import Count
    from gpucost.pricing.order import Case

_MAX_USD = 1e9
# float() alone would take `nan`, `1_0`, digits of any script, and 1e999 as infinite.
_PLAIN_NUMBER = re.compile(r"\d+(\.\d*)?([eE][+-]?\d{1,3})?|\.\d+", re.ASCII)


def read_annotation(node: Node) -> tuple[float | None, tuple[Problem, ...]]:
    """The node's own price, if its annotation is one; else what is wrong with it."""
    text = node.annotations.get(ANNOTATION)
    if text is None:
        return None, ()
    figure = text.strip()
    if _PLAIN_NUMBER.fullmatch(figure) and 0 < (usd := float(figure)) <= _MAX_USD:
        return usd, ()
    return None, (
        Problem(
            "pricing",
            "invalid_annotation",
            f"The annotation {ANNOTATION} of node {node.name} is {text[:80]!r}, which is not a"
            " price; the next in order is used.",
            f"Set it to USD an hour for one GPU, e.g. `kubectl annotate --overwrite node"
            f" {node.name} {ANNOTATION}=2.50`, or remove it: `kubectl annotate node {node.name}"
            f" {ANNOTATION}-`.",
        ),
    )


def unpriced(cases: Sequence[Case]) -> Iterator[Problem]:
    """One Problem for each model without a price."""
    by_model: dict[str, list[Case]] = {}
    for case in cases:
        by_model.setdefault(case.gpu.device.model, []).append(case)
    for model, alike in by_model.items():
        yield Problem(
            "pricing",
            "unpriced",
            f"{gpus(len(alike))} ({model}) of node {alike[0].node.name} without a price:"
            f" {why_unpriced(alike[0])}",
            _how_to_price(alike[0]),
        )


def _how_to_price(case: Case) -> str:
    """Exactly what to set; the rows can be pasted as they are, but for the figure."""
    node = case.node
    conditions = {
        "instance_type": node.instance_type,
        "region": node.region,
        "capacity_type": node.capacity_type,
    }
    stated = "".join(f"{key}: {json.dumps(it)}, " for key, it in conditions.items() if it)
    rows = [f"`- {{{stated}node_usd_per_hour: 12.34}}` for the whole node, or"] if stated else []
    rows.append(f"`- {{gpu_model: {json.dumps(case.gpu.device.model)}, gpu_usd_per_hour: 1.23}}`")
    lead = "The effective rate of a reserved node is yours to say. " * (
        node.capacity_type == "reserved"
    )
    annotate = f"`kubectl annotate node {node.name} {ANNOTATION}=1.23`"
    return f"{lead}Add to prices.table {' '.join(rows)} for one GPU; or {annotate}."


def without_host(node: Node, catalogue: Catalogue) -> Problem:
    """GPUs attached to a host whose own price nobody knows."""
    return Problem(
        "pricing",
        "host_unpriced",
        f"The price list has no price for the host {node.instance_type} in {where(node)}: its"
        f" {catalogue.gpu_model} GPUs cost what they cost alone, which is less than the bill.",
        "Add the node's whole price to prices.table: `- {instance_type: "
        f"{json.dumps(node.instance_type)}, region: {json.dumps(node.region)},"
        " node_usd_per_hour: 1.23}`; or `gpucost prices refresh --provider gcp`.",
    )


def doubtful(
    priced: Sequence[Price], node: Node, count: Count, seen: int, models: int
) -> Iterator[Problem]:
    """Prices that are right only if something holds which the node puts in doubt."""
    of_node = any(price.split in ("whole_node", "gpu_only") for price in priced)
    what = node.instance_type or node.name
    if of_node and models > 1:
        yield Problem(
            "pricing",
            "mixed_models",
            f"{what} has GPUs of {models} models, and its price is split evenly over them.",
            "Give each model its price: rows with gpu_model and gpu_usd_per_hour in prices.table.",
        )
    if any(p.source == "catalogue" for p in priced) and not node.capacity_type:
        yield Problem(
            "pricing",
            "capacity_unknown",
            f"Nothing says whether node {node.name} is on_demand, spot or reserved; it is priced"
            " as on_demand.",
            "Set node.capacity_type, or label the node karpenter.sh/capacity-type=on-demand.",
        )
    if count.expected is None:
        return
    expected = math.ceil(count.expected)
    if seen > expected and of_node:
        yield Problem(
            "pricing",
            "gpu_count",
            f"{what} shows {gpus(seen)}, but {count.source} says {number(count.expected)}; its"
            f" price is split over the {seen}.",
            "Set gpu_count to the number of GPUs in the row of prices.table for this node.",
        )
    if 0 < seen < expected:
        yield Problem(
            "pricing",
            "missing_gpu",
            f"{what} has {gpus(expected)} by {count.source}, and shows {seen}. What is missing"
            " is still billed.",
            "Look for Xid events in the kernel log (79: fallen off the bus), then drain the node"
            " and reboot or replace it. If it never had more, set gpu_count in its row of"
            " prices.table.",
        )
