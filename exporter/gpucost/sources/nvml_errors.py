"""NVML's errors: what to do about each, as a table.

The rule of this file: an error costs at most the value that was asked for, unless the table
says that the GPU, or the driver, is at fault.
"""

from __future__ import annotations

from enum import Enum, auto

from gpucost.sources.base import SourceError


class Reaction(Enum):
    """What to do about an error."""

    EMPTY = auto()
    """Nothing there, which is normal."""
    ABSENT = auto()
    """This device or driver does not have it: not asked again."""
    DENIED = auto()
    """Not allowed: asked again slowly, and a Problem."""
    AGAIN = auto()
    """Asked again at once."""
    STALE = auto()
    """The MIG handle is of an instance that is gone: enumerate again."""
    LATER = auto()
    """Passing: asked again next cycle, then ever more slowly, and a Problem if it stays."""
    LOST = auto()
    """This GPU is gone; the others are not."""
    RESET = auto()
    """This GPU needs a reset; the others do not."""
    RESTART = auto()
    """The library has lost its state: shut it down and initialise it anew."""
    DOWN = auto()
    """There is no driver: the read failed."""
    MISMATCH = auto()
    """The driver was upgraded under this process, which keeps the old library mapped."""


# nvmlReturn_t of nvml.h. A code that is not here is LATER.
REACTIONS = {
    0: Reaction.EMPTY,  # nvmlDeviceGetProcessUtilization "fails" with SUCCESS when it has none
    1: Reaction.RESTART,  # UNINITIALIZED
    2: Reaction.STALE,  # INVALID_ARGUMENT
    3: Reaction.ABSENT,  # NOT_SUPPORTED
    4: Reaction.DENIED,  # NO_PERMISSION
    6: Reaction.EMPTY,  # NOT_FOUND
    7: Reaction.AGAIN,  # INSUFFICIENT_SIZE: the list grew between the call for its size and this
    9: Reaction.DOWN,  # DRIVER_NOT_LOADED
    10: Reaction.LATER,  # TIMEOUT
    11: Reaction.LATER,  # IRQ_ISSUE
    12: Reaction.DOWN,  # LIBRARY_NOT_FOUND
    13: Reaction.ABSENT,  # FUNCTION_NOT_FOUND: the driver is older than the call
    15: Reaction.LOST,  # GPU_IS_LOST
    16: Reaction.RESET,  # RESET_REQUIRED
    17: Reaction.DENIED,  # OPERATING_SYSTEM: cgroups block it
    18: Reaction.MISMATCH,  # LIB_RM_VERSION_MISMATCH
    19: Reaction.LATER,  # IN_USE
    20: Reaction.LATER,  # MEMORY
    21: Reaction.EMPTY,  # NO_DATA
    23: Reaction.LATER,  # INSUFFICIENT_RESOURCES
    25: Reaction.ABSENT,  # ARGUMENT_VERSION_MISMATCH
    26: Reaction.ABSENT,  # DEPRECATED
    27: Reaction.LATER,  # NOT_READY
    28: Reaction.RESTART,  # GPU_NOT_FOUND
    29: Reaction.LATER,  # INVALID_STATE
    999: Reaction.LATER,  # UNKNOWN
}

SPECIAL = {
    # A wait of no time that brought no event.
    ("nvmlEventSetWait", 10): Reaction.EMPTY,
    # Two samples that do not fit together, such as after a re-partitioning; the next pair will.
    ("nvmlGpmMetricsGet", 2): Reaction.EMPTY,
}
"""Codes that mean something else for one call."""


FUNCTION_NOT_FOUND = 13


class Restart(Exception):  # noqa: N818 - a signal to the caller, not an error to show
    """NVML must be shut down and initialised anew."""

    def __init__(self, code: int) -> None:
        super().__init__(f"NVML error {code}")
        self.code = code


class StaleHandle(Exception):  # noqa: N818 - the same
    """A MIG instance went away while it was read."""


class GpuFault(Exception):  # noqa: N818 - the same
    """This GPU cannot be used. `word` says why, as GpuReading.faults has it."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


_INIT_ERRORS = {
    4: ("permission", "Let the container see the GPUs (runtimeClassName or privileged)."),
    9: ("driver_not_loaded", "Load the NVIDIA driver on this node; it is tried again every cycle."),
    12: (
        "library_not_found",
        (
            "Run the container with the NVIDIA runtime (runtimeClassName: nvidia), or mount the"
            " driver's libnvidia-ml.so.1 and put its directory into LD_LIBRARY_PATH."
        ),
    ),
    17: ("permission", "Let the container see the GPUs (runtimeClassName or privileged)."),
    18: ("driver_mismatch", "The driver was upgraded under this process: restart it."),
    999: (
        "access_lost",
        (
            "In a container this usually is lost access to the GPU devices, after `systemctl"
            " daemon-reload` on the node (NVIDIA/nvidia-container-toolkit issue 48): restart the"
            " pod."
        ),
    ),
}


def init_error(code: int) -> SourceError:
    """What a person sees when NVML as a whole does not work."""
    kind, remedy = _INIT_ERRORS.get(code, ("unreachable", "See nvidia-smi and dmesg on the node."))
    return SourceError(kind, f"NVML does not start or stopped working (error {code}).", remedy)
