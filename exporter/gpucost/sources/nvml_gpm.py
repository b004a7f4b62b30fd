"""GPM, the driver's own profiling counters (Hopper and newer): how busy, and how hard at work.

A metric is the mean between two samples, so each GPU and GPU instance keeps its last one: what
is read covers exactly the time since the last reading. NVML asks for more than 100 ms between
the two (nvml.h, nvmlGpmMetricsGet).
"""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING, Any

from gpucost.model import Activity, Efficiency, Signal
from gpucost.sources.nvml_calls import set_field

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


class Window:
    """The last sample of a unit, and a buffer for the next."""

    __slots__ = ("last", "spare", "taken_at")

    def __init__(self, last: Any, spare: Any) -> None:  # noqa: ANN401 - untyped ctypes pointers
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
        # call themselves 1; the driver fills as many slots as are asked.
        memory = bytearray(ctypes.sizeof(library.c_nvmlGpmMetricsGet_t))
        self._request = library.c_nvmlGpmMetricsGet_t.from_buffer(memory)
        self._request.version = library.NVML_GPM_METRICS_GET_VERSION
        self._request.numMetrics = len(METRICS)
        for slot, metric in enumerate(METRICS):
            self._request.metrics[slot].metricId = metric
        # Views of the answers in that memory, for a field at a time is ten times as dear.
        slot_type = library.c_nvmlGpmMetric_t
        begin, size = library.c_nvmlGpmMetricsGet_t.metrics.offset, ctypes.sizeof(slot_type)
        slots = memoryview(memory)[begin : begin + size * len(METRICS)]
        self._values = slots.cast("d")[slot_type.value.offset // 8 :: size // 8]
        self._codes = slots.cast("I")[slot_type.nvmlReturn.offset // 4 :: size // 4]

    def supported(self, gpu: Unit) -> bool:
        """Whether the GPU has GPM."""
        support = self._calls.ask(gpu, "nvmlGpmQueryDeviceSupport", gpu.handle)
        return support is not None and bool(support.isSupportedDevice)

    def open(self, gpu: Unit) -> Window | None:
        """Buffers for a unit of this GPU, to be closed; None where the driver gives none."""
        buffers = [self._calls.ask(gpu, "nvmlGpmSampleAlloc") for _ in range(2)]
        if None in buffers:
            return None
        return Window(*buffers)

    def close(self, unit: Unit, window: Window) -> None:
        """Give the buffers back."""
        for buffer in (window.last, window.spare):
            self._calls.ask(unit, "nvmlGpmSampleFree", buffer)

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
        request = self._request
        set_field(request, "sample1", window.spare)
        set_field(request, "sample2", window.last)
        if self._calls.ask(unit, "nvmlGpmMetricsGet", request) is None:
            return None, None
        graphics, sm, tensor, memory = [
            None
            if code or not 0.0 <= percent <= RUBBISH
            else percent / 100.0
            if percent < FULL_PERCENT
            else 1.0
            for percent, code in zip(self._values.tolist(), self._codes.tolist(), strict=True)
        ]
        activity = None if graphics is None else Activity(graphics, graphics, Signal.GPM_GRAPHICS)
        if sm is None and tensor is None and memory is None:
            return activity, None
        return activity, Efficiency(sm, tensor, memory)

    def begin(self, unit: Unit, gpu: Unit, gi: int | None, window: Window) -> None:
        """Take the first sample of a unit: the GPU instance `gi`, or the whole GPU."""
        if self._sample(unit, gpu, gi, window):
            window.taken_at = self._clock()

    def _sample(self, unit: Unit, gpu: Unit, gi: int | None, window: Window) -> bool:
        """Take a sample, which becomes the window's last; whether it worked."""
        if gi is None:
            taken = self._calls.ask(unit, "nvmlGpmSampleGet", gpu.handle, window.spare)
        else:
            taken = self._calls.ask(unit, "nvmlGpmMigSampleGet", gpu.handle, gi, window.spare)
        if taken is None:
            return False
        window.last, window.spare = window.spare, window.last
        return True
