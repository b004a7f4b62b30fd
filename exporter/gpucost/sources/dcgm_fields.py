"""What the DCGM fields mean, and which of their values mean nothing.

A table of rows: units, bounds, and whose value it is on a MIG row. DCGM writes "no value" as a
large number (a sentinel); that is absent, not zero.
"""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

_MIB = 1 << 20


class Field(Struct, frozen=True, eq=False):
    """What a DCGM field means: raw value x `factor` / `divisor` in base units, up to `most`.

    `on_mig` says whose value stands on a MIG row: the instance's, the whole GPU's, or nobody's.
    """

    name: str
    factor: float
    most: float
    on_mig: Literal["instance", "gpu", "nobody"]
    least: float = 0.0
    divisor: float = 1.0


GR_ENGINE = Field("graphics engine activity", 1, 1, "instance")
# Not available on MIG, where some versions write 0 (dcgm-exporter issue 216): 0 is not idle.
GPU_UTIL = Field("GPU utilisation", 1, 1, "nobody", divisor=100)
SM = Field("SM activity", 1, 1, "instance")
TENSOR = Field("tensor activity", 1, 1, "instance")
DRAM = Field("memory activity", 1, 1, "instance")
FB_USED = Field("memory used", _MIB, 1 << 44, "instance")
FB_FREE = Field("memory free", _MIB, 1 << 44, "instance")
FB_RESERVED = Field("memory reserved", _MIB, 1 << 44, "instance")
POWER = Field("power", 1, 100_000, "gpu")
ENERGY = Field("energy", 1, 1e15, "gpu", divisor=1000)
TEMPERATURE = Field("temperature", 1, 300, "gpu", least=-100)
SM_CLOCK = Field("SM clock", 1e6, 1e11, "gpu")
REMAP_FAILURE = Field("row remap failure", 1, 1, "gpu")

FIELDS = {
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": GR_ENGINE,
    "DCGM_FI_DEV_GPU_UTIL": GPU_UTIL,
    "DCGM_FI_PROF_SM_ACTIVE": SM,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": TENSOR,
    "DCGM_FI_PROF_DRAM_ACTIVE": DRAM,
    "DCGM_FI_DEV_FB_USED": FB_USED,
    "DCGM_FI_DEV_FB_FREE": FB_FREE,
    "DCGM_FI_DEV_FB_RESERVED": FB_RESERVED,
    "DCGM_FI_DEV_POWER_USAGE": POWER,
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ENERGY,
    "DCGM_FI_DEV_GPU_TEMP": TEMPERATURE,
    "DCGM_FI_DEV_SM_CLOCK": SM_CLOCK,
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": REMAP_FAILURE,
    # The names that DCGM 4 gave the same fields (dcgm_fields.h). Its DCGM_FI_DEV_GPU_UTIL_RATIO
    # is left out: a percentage under one release and a ratio under the next, 1 could be either.
    "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO": GR_ENGINE,
    "DCGM_FI_PROF_SM_UTIL_RATIO": SM,
    "DCGM_FI_PROF_TENSOR_UTIL_RATIO": TENSOR,
    "DCGM_FI_PROF_DRAM_UTIL_RATIO": DRAM,
    "DCGM_FI_DEV_BOARD_POWER_WATTS": POWER,
    "DCGM_FI_DEV_GPU_TEMP_CELSIUS": TEMPERATURE,
    "DCGM_FI_DEV_ROW_REMAP_FAILED": REMAP_FAILURE,
    # Those of dcgm-exporter 1.x, which it still has as etc/1.x-compatibility-metrics.csv.
    "dcgm_fi_prof_gr_engine_active": GR_ENGINE,
    "dcgm_gpu_utilization": GPU_UTIL,
    "dcgm_fi_prof_sm_active": SM,
    "dcgm_fi_prof_pipe_tensor_active": TENSOR,
    "dcgm_fi_prof_dram_active": DRAM,
    "dcgm_fb_used": FB_USED,
    "dcgm_fb_free": FB_FREE,
    "dcgm_power_usage": POWER,
    "dcgm_total_energy_consumption": ENERGY,
    "dcgm_gpu_temp": TEMPERATURE,
    "dcgm_sm_clock": SM_CLOCK,
}

PREFIXES = ("DCGM_", "dcgm_")
"""What the names of DCGM's metrics begin with."""

# dcgm_structs.h: blank, not found, not supported, not permissioned, as int32 and as double. As
# floats the four of int64 are one number. Energy is a 64-bit count, which passes the others.
_BLANKS = frozenset(float(first + n) for first in (0x7FFF_FFF0, 2**47) for n in range(4))
_BLANK_INT64 = float(0x7FFF_FFFF_FFFF_FFF0)

RATIO_TOLERANCE = 1.5
"""A ratio up to here counts as 1: SM activity of 1.294 was seen on MIG (DCGM issue 152)."""


def is_blank(field: Field, raw: float) -> bool:
    """Whether DCGM says that it has no value, rather than one that cannot be true."""
    if math.isnan(raw) or raw >= _BLANK_INT64:
        return True
    return field is not ENERGY and raw in _BLANKS


def to_base_units(field: Field, raw: float) -> float | None:
    """A value in base units; None where it cannot be true."""
    value = raw * field.factor / field.divisor
    if field.most == 1 and 1 < value <= RATIO_TOLERANCE:
        return 1.0
    return value if field.least <= value <= field.most else None
