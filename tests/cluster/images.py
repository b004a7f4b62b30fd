"""The images that the node needs, made without a registry and brought into its containerd.

The exporter's is built from the project's own Dockerfile, on a Debian that mmdebstrap makes from
the package archive. Made outside, where there is a network, and kept by the hash of their
sources; imported inside.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import gpucost
from cluster.archive import write_image
from cluster.failure import ClusterError
from cluster.place import ROOT
from cluster.programs import COREDNS, PROMETHEUS, program, say
from played_gpus.install import build_images

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cluster.components import Components
    from cluster.place import Place

EXPORTER = f"docker.io/library/gpucost:{gpucost.__version__}"
"""What the chart asks for where no value says otherwise."""
BASE = "localhost/base:bookworm"
BUILD_SECONDS = 1200
EXPORTER_SOURCES = (
    "Dockerfile",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "requirements/build.txt",
    "requirements/runtime.txt",
    "exporter",
)


STATIC = {COREDNS: "coredns", PROMETHEUS: "prometheus"}


def make_images(cache: Path) -> dict[str, Path]:
    """Name and archive of every image the node needs; made, if their sources have changed.

    Raises ClusterError with the end of the builder's words where it fails.
    """
    folder = cache / "images"
    folder.mkdir(parents=True, exist_ok=True)
    archives = build_images(folder)  # pause and the worker: quick, and always as their sources are
    for module, name in STATIC.items():
        image = f"localhost/{name}:1"
        archives[image] = folder / f"{name}-{module.key()}.tar"
        if not archives[image].exists():
            file = program(module, name, cache)
            write_image(archives[image], image, {f"/{name}": file}, [f"/{name}"])
    archives[EXPORTER] = _exporter(cache)
    return archives


def _exporter(cache: Path) -> Path:
    folder = cache / "images"
    made = folder / f"gpucost-{_hash_of(EXPORTER_SOURCES)}.tar"
    if made.exists():
        return made
    base = _base(folder)
    say("building the exporter's image from the Dockerfile")
    builder = _Buildah(cache / "buildah")
    if BASE not in builder.run("images", "--format", "{{.Name}}:{{.Tag}}").split():
        container = builder.run("from", "scratch").strip()
        builder.run("add", container, str(base), "/")
        builder.run("commit", "--rm", container, BASE)
    # The machine's own certificates and index settings: where a company's proxy stands between,
    # pip fails without them.
    mounts = [f"--volume={path}:{path}:ro" for path in _PIP_FILES if os.path.exists(path)]  # noqa: PTH110
    env = [f"--env={name}" for name in os.environ if name.startswith("PIP_")]
    builder.run(
        "build", "--network=host", "--layers", *mounts, *env, f"--build-arg=BASE_IMAGE={BASE}",
        f"--tag={EXPORTER}", str(ROOT),
    )  # fmt: skip
    partial = made.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    builder.run("push", EXPORTER, f"docker-archive:{partial}:{EXPORTER}")
    for old in folder.glob("gpucost-*.tar"):
        old.unlink()
    partial.rename(made)
    return made


def import_images(components: Components, archives: dict[str, Path], place: Place) -> None:
    """Bring archives into containerd; those that it has already, as they are, are passed over.

    Raises ClusterError where containerd refuses one.
    """
    for name, archive in archives.items():
        mark = place.images / name.replace("/", "_")
        stamp = f"{archive} {archive.stat().st_mtime_ns}"
        if mark.exists() and mark.read_text() == stamp:
            continue
        done = components.ctr("images", "import", str(archive))
        if done.returncode:
            raise ClusterError(f"containerd does not take {archive}: {done.stderr.strip()}")
        mark.write_text(stamp)


_PIP_FILES = ("/etc/ssl/certs", "/etc/pip.conf")


def _base(folder: Path) -> Path:
    """A Debian with Python and nothing else."""
    made = folder / "base-bookworm.tar"
    folder.mkdir(parents=True, exist_ok=True)
    if not made.exists():
        say("making a Debian for the exporter's image")
        partial = made.with_name("base-bookworm.partial.tar")
        include = "--include=python3,python3-venv,ca-certificates"
        _run(["mmdebstrap", "--quiet", "--variant=minbase", include, "bookworm", str(partial)])
        partial.rename(made)
    return made


class _Buildah:
    """Builds in a store of its own, without a daemon or the machine's images."""

    def __init__(self, store: Path) -> None:
        self._options = [
            f"--root={store / 'root'}",
            f"--runroot={store / 'run'}",
            "--storage-driver=overlay",
        ]

    def run(self, *words: str) -> str:
        return _run(["buildah", *self._options, *words], BUILDAH_ISOLATION="chroot")


def _run(command: Sequence[str], **env: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        env=os.environ | env,
        check=False,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise ClusterError(f"{command[0]} failed:\n{tail}")
    return done.stdout


def _hash_of(sources: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        path = ROOT / source
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
