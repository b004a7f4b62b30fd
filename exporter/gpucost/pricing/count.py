"""How many GPUs a node's price is for. Pure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.pricing.words import gpus, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpucost.config import PriceRow
    from gpucost.model import Node
    from gpucost.pricing.catalogue import Catalogue

_COUNT_LABELS = (
    "karpenter.k8s.aws/instance-gpu-count",
    "karpenter.azure.com/sku-gpu-count",
    "cloud.google.com/gke-accelerator-count",
    "nvidia.com/gpu.count",
)
"""Node labels that count physical GPUs; the last one not always (`_label_count`)."""


class Count(Struct, frozen=True):
    """How many GPUs a node's price is for; `expected` is None where only the eye says."""

    devices: int
    words: str
    expected: float | None = None
    source: str = ""


def count_gpus(seen: int, node: Node, rows: Iterable[PriceRow], catalogue: Catalogue) -> Count:
    """GPUs that the node should have: of the user's rows, its type or its labels; else seen.

    Never fewer than are seen, or the GPUs would cost more than the node.
    """
    stated = [row.gpu_count for row in rows if row.gpu_count is not None]
    if stated:
        expected, source = max(stated), "gpu_count in prices.table"
    elif catalogue.gpu_count is not None:
        expected, source = catalogue.gpu_count, f"the catalogue for {catalogue.instance_type}"
    elif label := _label_count(seen, node.labels):
        expected, source = label
    else:
        return Count(max(seen, 1), f"{gpus(max(seen, 1))} seen")
    devices = max(math.ceil(expected), seen)
    words = gpus(devices) if expected >= 1 else f"{gpus(devices)}, {number(expected)} of a card"
    return Count(devices, words, expected, source)


def _label_count(seen: int, labels: Mapping[str, str]) -> tuple[int, str] | None:
    """Physical GPUs by the node's labels, with the label.

    GPU feature discovery's count is of MIG devices under the single strategy (its product then
    says `-MIG-`), and of one model on a mixed node: below what is seen, it is not believed.
    """
    for label in _COUNT_LABELS:
        value = labels.get(label, "")
        if label == "nvidia.com/gpu.count" and (
            "-MIG-" in labels.get("nvidia.com/gpu.product", "-MIG-")
            and labels.get("nvidia.com/mig.strategy") == "single"
        ):
            continue
        if re.fullmatch(r"[0-9]{1,4}", value) and int(value) >= max(seen, 1):
            return int(value), f"the label {label}"
    return None
