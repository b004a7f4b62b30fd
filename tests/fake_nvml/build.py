"""Building the library: once for each state of its sources, with the machine's C compiler."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("nvml.c", "world.c", "world.h", "old_driver.map")
SONAME = "libnvidia-ml.so.1"
OLD_DRIVER = "old_driver"
FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")


def library(variant: str = "") -> Path:
    """The built library; `OLD_DRIVER` is one that lacks what came after the R450 drivers."""
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in SOURCES)).hexdigest()
    built = _cache() / digest[:16] / (variant or "current") / SONAME
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        _compile(built, variant)
    return built


def preload(path: Path) -> None:
    """Load it into this process, so that pynvml finds it by its SONAME."""
    ctypes.CDLL(str(path))


def _cache() -> Path:
    """Beside the checkout, or where that cannot be written, in the temporary folder."""
    beside = HERE.parent.parent / ".cache" / "fake_nvml"
    try:
        beside.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / f"gpucost-fake-nvml-{os.getuid()}"
    return beside if os.access(beside, os.W_OK) else Path(tempfile.mkdtemp())


def _compile(target: Path, variant: str) -> None:
    """Compile beside the target and rename: two test runs may build at once."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("The tests need a C compiler: apt-get install gcc libc6-dev.")
    hidden = [f"-Wl,--version-script={HERE / 'old_driver.map'}"] if variant else []
    sources = [str(HERE / name) for name in SOURCES if name.endswith(".c")]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        output = Path(folder) / SONAME
        command = [compiler, *FLAGS, f"-Wl,-soname,{SONAME}", *hidden, "-o", str(output), *sources]
        subprocess.run([*command, "-lpthread"], check=True)
        output.replace(target)
