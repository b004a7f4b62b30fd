"""What the cluster needs before a kubelet runs: the runtime for containerd, images to run.

Containerd's settings name `write_runtime()`'s file as runc's BinaryName.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from cluster.archive import write_image
from fake_nvml import library

HERE: Final = Path(__file__).parent
PAUSE, WORKER = "localhost/pause:1", "localhost/worker:1"
BUILD_SECONDS: Final = 600.0
_RUNTIME: Final = """#!/bin/sh
# Made by tests/played_gpus/install.py. Only what needs it pays for a Python.
for word; do
  case $word in
    create|delete) exec {python} -I -S {program} {state} {library} {runc} "$@" ;;
  esac
done
exec {runc} "$@"
"""


def write_runtime(state: Path, runc: Path | None = None) -> Path:
    """Write the executable that plays nvidia-container-runtime. Raises OSError, RuntimeError.

    It and what it names must stay where they are for as long as containers live.
    """
    found = runc or shutil.which("runc")
    if found is None:
        raise RuntimeError("runc is not on PATH: apt-get install runc")
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    (state / "containers").mkdir(exist_ok=True)
    words = {
        "python": sys.executable,
        "program": HERE / "runtime.py",
        "state": state.resolve(),
        "library": library(),
        "runc": found,
    }
    path = state / "nvidia-container-runtime"
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(
        _RUNTIME.format(**{name: shlex.quote(str(word)) for name, word in words.items()}),
        encoding="utf-8",
    )
    draft.chmod(0o755)
    draft.replace(path)
    return path


def build_images(folder: Path) -> dict[str, Path]:
    """Build the images of pause and the worker: their docker-archives by name.

    Raises RuntimeError without a Go >= 1.26 and CalledProcessError with the compiler's words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archives: dict[str, Path] = {}
    for image in (PAUSE, WORKER):
        name = image.partition("/")[2].partition(":")[0]
        program = _build(name, folder / name)
        archives[image] = folder / f"{name}.tar"
        write_image(archives[image], image, {f"/{name}": program}, [f"/{name}"])
    return archives


def _build(name: str, program: Path) -> Path:
    """Build one static program of programs/, the same from the same sources."""
    go = shutil.which("go")
    if go is None:
        raise RuntimeError("go is not on PATH: install Go 1.26 or later")
    subprocess.run(
        [go, "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", str(program), f"./{name}"],
        cwd=HERE / "programs",
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"},
        check=True,
        timeout=BUILD_SECONDS,
    )
    return program
