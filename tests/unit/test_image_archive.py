"""Images made without a builder: what containerd reads in them, and that they are reproducible."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from cluster.archive import write_image

if TYPE_CHECKING:
    from pathlib import Path


def _program(folder: Path, name: str = "program") -> Path:
    program = folder / name
    program.write_bytes(b"\x7fELF of a kind")
    program.chmod(0o700)
    return program


def _read(image: Path) -> tuple[dict[str, Any], dict[str, Any], tarfile.TarFile, bytes]:
    with tarfile.open(image) as archive:
        contents = {
            member.name: (archive.extractfile(member) or io.BytesIO()).read() for member in archive
        }
    (manifest,) = json.loads(contents["manifest.json"])
    (layer,) = manifest["Layers"]
    data = contents[layer]
    config = json.loads(contents[manifest["Config"]])
    return manifest, config, tarfile.open(fileobj=io.BytesIO(data)), data


def test_an_image_says_its_name_entrypoint_environment_and_user(tmp_path: Path) -> None:
    out = tmp_path / "image.tar"
    write_image(
        out,
        "localhost/worker:1",
        {"/worker": _program(tmp_path)},
        ["/worker"],
        env={"A": "b"},
        user="65532:65532",
    )
    manifest, config, layer, data = _read(out)
    assert manifest["RepoTags"] == ["localhost/worker:1"]
    assert config["config"]["Entrypoint"] == ["/worker"]
    assert config["config"]["User"] == "65532:65532"
    assert "A=b" in config["config"]["Env"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(data).hexdigest()}"]
    worker = layer.getmember("worker")
    assert (worker.mode, worker.uid, worker.gid, worker.mtime) == (0o755, 0, 0, 0)
    assert layer.getmember("tmp").mode == 0o1777


def test_the_same_files_make_the_same_bytes_whatever_their_times_and_order(tmp_path: Path) -> None:
    one, two = _program(tmp_path, "one"), _program(tmp_path, "two")
    write_image(tmp_path / "a.tar", "localhost/x:1", {"/a/one": one, "/two": two}, ["/two"])
    for file in (one, two):
        os.utime(file, (1, 1))
    write_image(tmp_path / "b.tar", "localhost/x:1", {"/two": two, "/a/one": one}, ["/two"])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_a_directory_comes_whole_with_its_links_and_long_paths(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    deep = tree / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    (deep / "file").write_text("text", encoding="utf-8")
    (tree / "link").symlink_to("elsewhere")
    write_image(tmp_path / "image.tar", "localhost/x:1", {"/opt/tree": tree}, ["/x"])
    _, _, layer, _ = _read(tmp_path / "image.tar")
    names = layer.getnames()
    assert names.index("opt") < names.index("opt/tree") < names.index("opt/tree/link")
    assert layer.getmember("opt/tree/link").linkname == "elsewhere"
    assert layer.getmember(f"opt/tree/{'d' * 90}/{'e' * 90}/file").mode == 0o644


def test_a_named_link_is_followed_so_that_the_program_is_in_the_image(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(_program(tmp_path))
    write_image(tmp_path / "image.tar", "localhost/x:1", {"/bin/x": link}, ["/bin/x"])
    _, _, layer, _ = _read(tmp_path / "image.tar")
    assert layer.getmember("bin/x").isreg()


@pytest.mark.parametrize("path", ["worker", "/../worker"])
def test_a_path_that_would_leave_the_image_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="must be absolute"):
        write_image(tmp_path / "image.tar", "x", {path: _program(tmp_path)}, ["/x"])


def test_two_files_of_one_path_are_refused(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    _program(tree, "x")
    with pytest.raises(ValueError, match="two files"):
        write_image(tmp_path / "image.tar", "x", {"/t": tree, "/t/x": _program(tmp_path)}, ["/x"])
