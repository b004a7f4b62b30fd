"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import fake_nvml
from gpucost.config import Nvml
from gpucost.sources.nvml import NvmlSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# How long an example takes is the machine's load, not the code's fault.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell without job control starts what it puts in the background with SIGINT ignored, programs
# inherit that, and bash cannot even trap it then: the programs under test could not be stopped
# by Ctrl-C however right they are.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def fake_driver() -> None:
    """The fake NVML library, in this process for good: NVML is never unloaded."""
    fake_nvml.preload(fake_nvml.library())


@pytest.fixture
def world(
    fake_driver: None,  # noqa: ARG001 - it need only be there
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., fake_nvml.World]:
    """Makes the machine that pynvml shows in this test: `world(h100(), t4())`."""
    path = tmp_path / "nvml.world"
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(path))
    return lambda *gpus: fake_nvml.World(path, gpus)


@pytest.fixture
def nvml() -> Iterator[NvmlSource]:
    """The NVML source, closed at the end."""
    source = NvmlSource(settings=Nvml())
    yield source
    source.close()
