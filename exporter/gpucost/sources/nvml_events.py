"""XID events: the driver's critical errors, counted as they come.

The driver queues them for each listener from its registration on, so a poll without waiting
loses none.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpucost.sources.nvml_calls import NvmlCalls, Unit
    from gpucost.sources.nvml_gpu import Gpu

XID_CRITICAL_ERROR = 8  # nvmlEventTypeXidCriticalError
MAX_EVENTS_PER_READ = 256


class XidEvents:
    """The queue of one initialisation of the library."""

    def __init__(self, calls: NvmlCalls, system: Unit) -> None:
        self._calls = calls
        self._system = system
        self._set = calls.ask(system, "nvmlEventSetCreate")
        self._gpus: dict[int | None, Gpu] = {}

    def register(self, gpu: Gpu) -> None:
        """Listen to a GPU. Raises what `NvmlCalls.ask` does."""
        if self._set is None:
            return
        name = "nvmlDeviceRegisterEvents"
        self._calls.ask(gpu, name, gpu.handle, XID_CRITICAL_ERROR, self._set)
        self._gpus[_pointer(gpu.handle)] = gpu

    def count(self) -> None:
        """Take the events since the last time out of the queue, into each GPU's `xids`."""
        if self._set is None:
            return
        for _ in range(MAX_EVENTS_PER_READ):
            event = self._calls.ask(self._system, "nvmlEventSetWait", self._set, 0)
            if event is None:
                return
            gpu = self._gpus.get(_pointer(event.device))
            if gpu is not None and event.eventType == XID_CRITICAL_ERROR:
                xid = int(event.eventData)
                gpu.xids = {**gpu.xids, xid: gpu.xids.get(xid, 0) + 1}

    def close(self) -> None:
        """Stop listening."""
        if self._set is not None:
            self._calls.ask(self._system, "nvmlEventSetFree", self._set)


def _pointer(handle: Any) -> int | None:  # noqa: ANN401 - an untyped ctypes pointer
    return ctypes.cast(handle, ctypes.c_void_p).value
