"""Times the cycle and the encoding in one process, against what they are made of.

    python in_process.py FOLDER CYCLES     (FAKE_NVML_SCENARIO, LD_LIBRARY_PATH and KUBECONFIG set)

Prints JSON: medians in seconds of a whole cycle without encoding, of the bare NVML calls that
it made, of encoding a Report, and of prometheus_client's generate_latest over the same samples.
The two of a pair are timed in turn, so that a machine whose speed drifts slows both.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from collections.abc import Callable, Iterable

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


def seconds(work: Callable[[], object]) -> float:
    """How long a piece of work takes, once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


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
    timed: dict[str, list[float]] = {name: [] for name in ("cycle", "bare", "encode", "latest")}
    for _ in range(cycles):
        # Both begin after a pause, with cold caches, as every 5 s cycle does.
        pause()
        timed["cycle"].append(seconds(loop.step))
        pause()
        timed["bare"].append(seconds(recorder.replay))
    report = loop.step()
    ready = Ready(list(families(report, version=__version__)))
    for _ in range(cycles):
        timed["encode"].append(seconds(lambda: encode(report)))
        timed["latest"].append(seconds(lambda: generate_latest(ready)))
    source.close()
    node.close()
    figures = {name: statistics.median(values) for name, values in timed.items()}
    samples = sum(len(metric.samples) for metric in ready.collect())
    print(json.dumps(figures | {"samples": samples, "calls": calls}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
