"""Images of one layer, as the tar that `ctr images import` takes: no registry, no builder.

The format is docker-archive (the OCI image specification's config, Docker's manifest.json). What
goes in decides every byte: times, owners and order are fixed, so the same files make the same
image, and an import of what is there already costs nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIRECTORY: Final = 0o755
_STICKY: Final = 0o1777


def write_image(
    out: Path,
    name: str,
    files: Mapping[str, Path],
    entrypoint: Sequence[str],
    env: Mapping[str, str] | None = None,
    user: str = "",
    architecture: str = "amd64",
) -> None:
    """Write the image `name` ("localhost/pause:1") to the docker-archive `out`.

    `files` maps absolute paths in the image to files of this machine, which keep only their
    executable bit, or to directories, which come whole (symbolic links as such). /tmp is there,
    empty and writable by all. `user` is "uid" or "uid:gid"; empty is root. Raises OSError where a
    file cannot be read, ValueError where a path in the image is not absolute or is used twice. A
    reader of `out` sees the former file or the whole new one.
    """
    layer = _layer(files)
    diff_id = hashlib.sha256(layer).hexdigest()
    settings: dict[str, object] = {
        "Entrypoint": list(entrypoint),
        "Env": [f"{key}={value}" for key, value in sorted({"PATH": _PATH, **(env or {})}.items())],
    }
    if user:
        settings["User"] = user
    config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "gpucost tests"}],
        }
    )
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_name = f"{diff_id}/layer.tar"
    manifest = _json([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}])
    partial = out.with_name(f"{out.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, content in (
            (config_name, config),
            (layer_name, layer),
            ("manifest.json", manifest),
        ):
            _add(archive, member, 0o644, content)
    partial.replace(out)


def _layer(files: Mapping[str, Path]) -> bytes:
    """The tar of the image's one layer: directories before what is in them, then by path."""
    members: dict[PurePosixPath, Path] = {}
    for inside, source in files.items():
        target = PurePosixPath(inside)
        if not target.is_absolute() or ".." in target.parts:
            raise ValueError(f"{inside}: a path in the image must be absolute")
        for path, found in _expand(target, source):
            if path in members:
                raise ValueError(f"{path}: two files of the image have this path")
            members[path] = found
    directories = {parent for path in members for parent in path.parents} | {PurePosixPath("/tmp")}  # noqa: S108 -- the image's
    directories.discard(PurePosixPath("/"))
    buffer = io.BytesIO()
    # PAX only where a path needs it: chromium and Python have paths past USTAR's 100 bytes.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as layer:
        for path in sorted(directories | members.keys()):
            member = str(path.relative_to("/"))
            file: Path | None = members.get(path)
            if file is None or (file.is_dir() and not file.is_symlink()):
                mode = _STICKY if path == PurePosixPath("/tmp") else _DIRECTORY  # noqa: S108
                _add(layer, member, mode, None)
            elif file.is_symlink() and path not in map(PurePosixPath, files):
                _add(layer, member, 0o777, None, link=str(file.readlink()))
            else:
                executable = file.stat().st_mode & stat.S_IXUSR
                _add(layer, member, 0o755 if executable else 0o644, file.read_bytes())
    return buffer.getvalue()


def _expand(target: PurePosixPath, source: Path) -> list[tuple[PurePosixPath, Path]]:
    if not source.is_dir():
        return [(target, source)]
    return [
        (target, source),
        *((target / file.relative_to(source).as_posix(), file) for file in source.rglob("*")),
    ]


def _add(
    archive: tarfile.TarFile, name: str, mode: int, content: bytes | None, link: str = ""
) -> None:
    """One member with root as owner and no time: a directory where `content` is None."""
    member = tarfile.TarInfo(name)
    member.mode = mode
    if link:
        member.type, member.linkname = tarfile.SYMTYPE, link
    elif content is None:
        member.type = tarfile.DIRTYPE
    else:
        member.size = len(content)
    archive.addfile(member, io.BytesIO(content or b""))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
