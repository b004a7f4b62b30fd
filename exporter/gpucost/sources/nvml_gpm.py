"""GPM, the driver's own profiling counters (Hopper and newer): how busy, and how hard at work.

A metric is the mean between two samples, so each GPU and GPU instance keeps its last one: what
is read covers exactly the time since the last reading. NVML asks for more than 100 ms between
the two (nvml.h, nvmlGpmMetricsGet).
"""

from __future__ import annotations

import ctypes
import struct
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from gpucost.model import Activity, Efficiency, Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpucost.sources.nvml_calls import NvmlCalls, Unit

WINDOW_SECONDS = 0.11
FULL_PERCENT = 100.0
RUBBISH = 200.0
"""Above 100 by rounding and on small MIG instances it is seen (NVIDIA/DCGM issue 152), and means
100; past this, and NaN, is rubbish."""

# NVML_GPM_METRIC_* of nvml.h, in the order of the slots.
GRAPHICS_UTIL = 1
SM_UTIL = 2
ANY_TENSOR_UTIL = 5
DRAM_BW_UTIL = 10
METRICS = (GRAPHICS_UTIL, SM_UTIL, ANY_TENSOR_UTIL, DRAM_BW_UTIL)

_SIGNAL = Signal.GPM_GRAPHICS
_POINTERS = struct.Struct("@2P")


class Buffer(NamedTuple):
    """The driver's memory for one sample: pynvml's pointer, and where it points."""

    pointer: Any
    address: int


class Window:
    """The last sample of a unit, and a buffer for the next."""

    __slots__ = ("last", "spare", "taken_at")

    def __init__(self, last: Buffer, spare: Buffer) -> None:
        self.last = last
        self.spare = spare
        self.taken_at: float | None = None


class Gpm:
    """Takes samples and turns each pair into metrics."""

    def __init__(self, calls: NvmlCalls, clock: Callable[[], float]) -> None:
        self._calls = calls
        self._clock = clock
        library = calls.library
        # One request serves all units. Its array grew between versions of the header that all
        # call themselves 1; the driver fills as many slots as are asked. It is written and read
        # in its bare memory: pynvml's structures cost ten times as much a field.
        request, slot = library.c_nvmlGpmMetricsGet_t, library.c_nvmlGpmMetric_t
        self._memory = bytearray(ctypes.sizeof(request))
        self._request = request.from_buffer(self._memory)
        self._request.version = library.NVML_GPM_METRICS_GET_VERSION
        self._request.numMetrics = len(METRICS)
        for place, metric in enumerate(METRICS):
            self._request.metrics[place].metricId = metric
        # sample1 and sample2 follow one another, as do an answer's code and its value.
        self._samples_at = request.sample1.offset
        self._answers_at = request.metrics.offset + slot.nvmlReturn.offset
        rest = ctypes.sizeof(slot) - slot.value.offset - slot.value.size + slot.nvmlReturn.offset
        self._answers = struct.Struct("=" + f"Id{rest}x" * (len(METRICS) - 1) + "Id")

    def supported(self, gpu: Unit) -> bool:
        """Whether the GPU has GPM."""
        support = self._calls.ask(gpu, "nvmlGpmQueryDeviceSupport", gpu.handle)
        return support is not None and bool(support.isSupportedDevice)

    def open(self, gpu: Unit) -> Window | None:
        """Buffers for a unit of this GPU, to be closed; None where the driver gives none."""
        last, spare = [self._calls.ask(gpu, "nvmlGpmSampleAlloc") for _ in range(2)]
        if last is None or spare is None:
            return None
        return Window(_buffer(last), _buffer(spare))

    def close(self, unit: Unit, window: Window) -> None:
        """Give the buffers back."""
        for buffer in (window.last, window.spare):
            self._calls.ask(unit, "nvmlGpmSampleFree", buffer.pointer)

    def measure(
        self, unit: Unit, gpu: Unit, gi: int | None, window: Window
    ) -> tuple[Activity | None, Efficiency | None]:
        """What the unit did since the last sample.

        A unit whose last sample is too young waits: only in the first reading after a start,
        and the wait of one unit serves all, for their first samples are taken before.
        """
        if window.taken_at is None:
            self.begin(unit, gpu, gi, window)
            return None, None
        now = self._clock()
        if now < window.taken_at + WINDOW_SECONDS:
            time.sleep(min(window.taken_at + WINDOW_SECONDS - now, WINDOW_SECONDS))
            now = self._clock()
        if not self._sample(unit, gpu, gi, window):
            return None, None
        window.taken_at = now
        _POINTERS.pack_into(
            self._memory, self._samples_at, window.spare.address, window.last.address
        )
        if self._calls.ask(unit, "nvmlGpmMetricsGet", self._request) is None:
            return None, None
        return _measured(*self._answers.unpack_from(self._memory, self._answers_at))

    def begin(self, unit: Unit, gpu: Unit, gi: int | None, window: Window) -> None:
        """Take the first sample of a unit: the GPU instance `gi`, or the whole GPU."""
        if self._sample(unit, gpu, gi, window):
            window.taken_at = self._clock()

    def _sample(self, unit: Unit, gpu: Unit, gi: int | None, window: Window) -> bool:
        """Take a sample, which becomes the window's last; whether it worked."""
        if gi is None:
            taken = self._calls.ask(unit, "nvmlGpmSampleGet", gpu.handle, window.spare.pointer)
        else:
            taken = self._calls.ask(
                unit, "nvmlGpmMigSampleGet", gpu.handle, gi, window.spare.pointer
            )
        if taken is None:
            return False
        window.last, window.spare = window.spare, window.last
        return True


def _buffer(pointer: Any) -> Buffer:  # noqa: ANN401 - an untyped ctypes pointer
    return Buffer(pointer, ctypes.cast(pointer, ctypes.c_void_p).value or 0)


def _measured(
    code_1: int,
    graphics: float,
    code_2: int,
    sm: float,
    code_3: int,
    tensor: float,
    code_4: int,
    memory: float,
) -> tuple[Activity | None, Efficiency | None]:
    """What METRICS say of a unit."""
    if (
        0.0 <= graphics <= FULL_PERCENT
        and 0.0 <= sm <= FULL_PERCENT
        and 0.0 <= tensor <= FULL_PERCENT
        and 0.0 <= memory <= FULL_PERCENT
        and not (code_1 or code_2 or code_3 or code_4)
    ):  # as nearly always: to ask of each whether it can be costs as much as all the rest here
        ratio = graphics / FULL_PERCENT
        return Activity(ratio, ratio, _SIGNAL), Efficiency(
            sm / FULL_PERCENT, tensor / FULL_PERCENT, memory / FULL_PERCENT
        )
    ratios = (_ratio(code_2, sm), _ratio(code_3, tensor), _ratio(code_4, memory))
    busy = _ratio(code_1, graphics)
    return (
        None if busy is None else Activity(busy, busy, _SIGNAL),
        None if ratios == (None, None, None) else Efficiency(*ratios),
    )


def _ratio(code: int, percent: float) -> float | None:
    """A metric as a ratio; None where the driver gave none (its return code) or rubbish."""
    if code or not 0.0 <= percent <= RUBBISH:
        return None
    return percent / FULL_PERCENT if percent < FULL_PERCENT else 1.0
