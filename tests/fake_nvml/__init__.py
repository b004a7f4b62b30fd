"""A played `libnvidia-ml.so.1`, and the machine it plays.

`library()` builds it; a process uses it by `preload()` before pynvml's first call (the loader
finds a library of that SONAME in the process), or by LD_LIBRARY_PATH set to its folder before
the process starts. What it plays is a `World`: change its GPUs, `write()`, and every process
whose FAKE_NVML_SCENARIO names the file sees the change at its next call.

    world = World(path, [h100(), h100(mig=("3g.40gb", "1g.10gb"))])
    world.gpus[0].power_watts = 412.0
    world.write()
    world.fail("nvmlDeviceGetPowerUsage", 15, gpu=1, after=3, times=2, delay_ms=500)
"""

from fake_nvml.build import OLD_DRIVER, library, preload
from fake_nvml.world import Gpm, Gpu, Instance, Kind, Process, World, a100, h100, t4

__all__ = [
    "OLD_DRIVER",
    "Gpm",
    "Gpu",
    "Instance",
    "Kind",
    "Process",
    "World",
    "a100",
    "h100",
    "library",
    "preload",
    "t4",
]
