"""The Kubernetes source, watching a server of kube_api."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kubernetes.client import Configuration

from gpucost.config import Dcgm, Kubernetes
from gpucost.sources.kube_watch import Pace
from gpucost.sources.kubernetes import KubernetesSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kube_api import KubeApiServer

FAST = Pace(backoff_first=0.02, backoff_most=0.1, idle_most=30.0, stale_after=0.3)


@contextmanager
def watching(
    server: KubeApiServer,
    *,
    pace: Pace = FAST,
    timeout_seconds: float = 20.0,
    dcgm: Dcgm | None = None,
    configure: Callable[[], Any] | None = None,
    settled: bool = True,
) -> Iterator[KubernetesSource]:
    """A started source; with `settled`, one whose streams are open."""
    source = KubernetesSource(
        Kubernetes(timeout_seconds=timeout_seconds),
        dcgm or Dcgm(),
        "gpu-1",
        pace=pace,
        configure=configure or (lambda: Configuration(host=server.host)),
    )
    source.start()
    try:
        if settled:
            until(lambda: server.streams == 2)
        yield source
    finally:
        source.close()
        gc.collect()  # a leaked socket warns here, in the test that leaked it


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds; generous, for slow machines."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)
