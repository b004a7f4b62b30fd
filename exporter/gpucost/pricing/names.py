"""One GPU model has many names; here they are one.

NVML says `NVIDIA H100 80GB HBM3`, the node's label `NVIDIA-H100-80GB-HBM3-SHARED`, a price list
`H100-80GB`. Names are compared without case, punctuation, maker and sharing suffixes, and then
through the table of known models (data/gpu_models.csv, read by prices.py). Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MAKER = re.compile(r"^(?:(?:nvidia|tesla|grid|geforce)-)+")
"""`Tesla` names stay for Volta and Turing cards, `NVIDIA` comes with Ampere, `GRID` before."""

_SHARING = re.compile(r"(?:-mig-.+)?(?:-shared)?$")
"""What GPU feature discovery appends to nvidia.com/gpu.product (k8s-device-plugin,
internal/lm/resource.go): `-MIG-1g.10gb` under the single strategy, `-SHARED` last."""


class GpuModel(Struct, frozen=True):
    """A known model: its id in price lists, NVML's names for it, and what it has.

    `memory_gib` is the nominal size; `mig_slices` is None where it cannot be partitioned.
    """

    id: str
    names: tuple[str, ...]
    memory_gib: float
    mig_slices: int | None = None


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """The name without case, punctuation, maker and sharing suffix: `h100-80gb-hbm3`."""
    words = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")
    return _SHARING.sub("", _MAKER.sub("", words))


def index(models: Iterable[GpuModel]) -> Mapping[str, str]:
    """Every plain name of the models, to the plain id of its model."""
    return {plain(name): plain(model.id) for model in models for name in (model.id, *model.names)}


def is_model(stated: str, actual: str, names: Mapping[str, str]) -> bool:
    """Whether what a person stated covers a GPU's name.

    A stated name that is no model of its own is a family: `H100` covers every H100, `A100-SXM4`
    both sizes; but `L40` is a model, and never an L40S.
    """
    wanted, seen = plain(stated), plain(actual)
    if not wanted:
        return False
    known = names.get(seen, seen)
    if names.get(wanted, wanted) == known:
        return True
    return wanted not in names and any(it.startswith(f"{wanted}-") for it in (seen, known))
