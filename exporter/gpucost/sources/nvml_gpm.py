"""GPM, the driver's own profiling counters (Hopper and newer): how busy, and how hard at work.

A metric is the mean between two samples, so each GPU and GPU instance keeps its last one: what
is read covers exactly the time since the last reading. NVML asks for more than 100 ms between
the two (nvml.h, nvmlGpmMetricsGet).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gpucost.model import Activity, Efficiency, Signal
from gpucost.sources.nvml_calls import field, set_field

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpucost.sources.nvml_calls import NvmlCalls, Unit

WINDOW_SECONDS = 0.11
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
        self._request = library.c_nvmlGpmMetricsGet_t()
        self._request.version = library.NVML_GPM_METRICS_GET_VERSION
        self._request.numMetrics = len(METRICS)
        self._slots = [self._request.metrics[k] for k in range(len(METRICS))]
        for slot, metric in zip(self._slots, METRICS, strict=True):
            slot.metricId = metric

    def open(self, gpu: Unit) -> Window | None:
        """Buffers for a unit of this GPU, which must be closed; None where it has no GPM."""
        buffers = [self._calls.ask(gpu, "nvmlGpmSampleAlloc") for _ in range(2)]
        if None in buffers:
            return None
        return Window(*buffers)

    def supported(self, gpu: Unit) -> bool:
        """Whether the GPU has GPM."""
        support = self._calls.ask(gpu, "nvmlGpmQueryDeviceSupport", gpu.handle)
        return support is not None and bool(support.isSupportedDevice)

    def close(self, unit: Unit, window: Window) -> None:
        """Give the buffers back."""
        for buffer in (window.last, window.spare):
            self._calls.ask(unit, "nvmlGpmSampleFree", buffer)

    def sample(self, unit: Unit, gpu: Unit, gi: int | None, window: Window) -> bool:
        """Take a sample; whether it worked. It becomes the window's last."""
        if gi is None:
            taken = self._calls.ask(unit, "nvmlGpmSampleGet", gpu.handle, window.spare)
        else:
            taken = self._calls.ask(unit, "nvmlGpmMigSampleGet", gpu.handle, gi, window.spare)
        if taken is None:
            return False
        window.last, window.spare = window.spare, window.last
        window.taken_at = self._clock()
        return True

    def measure(
        self, unit: Unit, gpu: Unit, gi: int | None, window: Window
    ) -> tuple[Activity | None, Efficiency | None]:
        """What the unit did since the last sample.

        A unit without one waits until it has: only the first reading after a start, and the
        wait of one unit serves all, for their first samples are taken before.
        """
        if window.taken_at is None:
            return None, None
        if (wait := window.taken_at + WINDOW_SECONDS - self._clock()) > 0:
            time.sleep(min(wait, WINDOW_SECONDS))
        if not self.sample(unit, gpu, gi, window):
            return None, None
        request = self._request
        set_field(request, "sample1", window.spare)
        set_field(request, "sample2", window.last)
        if self._calls.ask(unit, "nvmlGpmMetricsGet", request) is None:
            return None, None
        graphics, sm, tensor, memory = [
            None
            if field(slot, "nvmlReturn") or not 0.0 <= (percent := field(slot, "value")) <= RUBBISH
            else min(percent / 100.0, 1.0)
            for slot in self._slots
        ]
        activity = None if graphics is None else Activity(graphics, graphics, Signal.GPM_GRAPHICS)
        if sm is None and tensor is None and memory is None:
            return activity, None
        return activity, Efficiency(sm, tensor, memory)
