"""Times the cycle and the encoding in one process, against what they are made of.

    python in_process.py FOLDER CYCLES     (FAKE_NVML_SCENARIO, LD_LIBRARY_PATH and KUBECONFIG set)

Prints JSON: a whole cycle without encoding against the bare NVML calls that it made, and encoding
a Report against prometheus_client's generate_latest over the same samples. The two of a pair are
timed in turn and each pair gives a ratio, of which the median is told: a machine whose speed
drifts slows both of a pair, and one that is busy for a moment spoils a few. Time is that of the
processor, of all threads (those of the sources and watches are the cycle's alone); the ratio by
the wall clock stands beside.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml
from prometheus_client import generate_latest

from gpucost import __version__
from gpucost.config_file import ConfigFile
from gpucost.exposition import families
from gpucost.live import LiveNode
from gpucost.loop import Loop, calm_collector
from gpucost.pages import Pages, encode
from gpucost.sources import nvml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.core import Metric

NODE = "gpu-1"
WARM_SECONDS = 20.0
"""Until the last pods have settled (live.KUBELET_SETTLE_SECONDS)."""
PAUSE_SECONDS = 0.25
"""Between cycles: profiling samples (GPM) are apart, and the driver's buffers fill a little."""


class Recorder:
    """pynvml, with every call of a cycle noted, to be made again bare."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - pynvml is untyped
        found = getattr(pynvml, name)
        if not name.startswith("nvml") or not callable(found):
            return found

        def noted(*args: Any, **named: Any) -> Any:  # noqa: ANN401 - the same
            self.calls.append((found, (*args, *named.values())))
            return found(*args, **named)

        return noted

    def replay(self) -> None:
        """Make the noted calls, and nothing else."""
        for call, args in self.calls:
            try:
                call(*args)
            except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError):
                continue


class Ready:
    """Families that are made already, as a collector."""

    def __init__(self, made: list[Metric]) -> None:
        self._made = made

    def collect(self) -> Iterable[Metric]:
        """Them."""
        return self._made


class Took(NamedTuple):
    """How long a piece of work took, in seconds: of the processor, and by the clock on the wall."""

    cpu: float
    wall: float


def took(work: Callable[[], object]) -> Took:
    """Do it once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.process_time() - cpu, time.perf_counter() - wall)


def compared(pairs: Sequence[tuple[Took, Took]]) -> dict[str, float]:
    """Medians over pairs of the two works, and of how many times the second the first took."""
    return {
        "seconds": statistics.median(ours.cpu for ours, _ in pairs),
        "base_seconds": statistics.median(base.cpu for _, base in pairs),
        "ratio": statistics.median(ours.cpu / base.cpu for ours, base in pairs),
        "wall_ratio": statistics.median(ours.wall / base.wall for ours, base in pairs),
    }


def pause() -> None:
    """Wait, and have the played driver take in its new readings before the clock runs.

    It reads its scenario anew at the first call after each change. That takes a third as long
    as all of a cycle's calls, and is neither the driver's work nor ours.
    """
    time.sleep(PAUSE_SECONDS)
    pynvml.nvmlDeviceGetCount()


def main(folder: Path, cycles: int) -> None:
    """Time it and print the medians."""
    pages = Pages()
    node = LiveNode(ConfigFile(folder / "config.yaml"), NODE)
    if node.sources.kubernetes is None or node.sources.nvml is None:
        raise SystemExit("the played node is not there")
    node.sources.kubernetes.wait(30)

    # A second source of its own, on the library's recorder: the calls of one steady read.
    recorder = Recorder()
    source = nvml.NvmlSource(settings=node.config.nvml, library=recorder)
    for _ in range(3):
        recorder.calls.clear()
        source.read()
        time.sleep(PAUSE_SECONDS)
    calls = len(recorder.calls)  # closing makes more

    loop = Loop(node, node.terms, lambda report, _: pages.publish(report))
    end = time.monotonic() + WARM_SECONDS
    while time.monotonic() < end:
        loop.step()
        time.sleep(PAUSE_SECONDS)
    calm_collector()  # as the loop does after its first cycle
    cycled = []
    for _ in range(cycles):
        # Both begin after a pause, with cold caches, as every 5 s cycle does.
        pause()
        whole = took(loop.step)
        pause()
        cycled.append((whole, took(recorder.replay)))
    report = loop.step()
    ready = Ready(list(families(report, version=__version__)))
    encoded = [
        (took(lambda: encode(report)), took(lambda: generate_latest(ready))) for _ in range(cycles)
    ]
    source.close()
    node.close()
    figures = {
        "cycle": compared(cycled),
        "encode": compared(encoded),
        "samples": sum(len(metric.samples) for metric in ready.collect()),
        "calls": calls,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
