"""Recordings: what is read of a folder, what is refused, and that docs say what may stand in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import inspect

from gpucost.config import Config
from gpucost.config import parse as parse_config
from gpucost.model import Activity, Device, GpuReading, MigInstance, Signal, UnitReading
from gpucost.sources.base import SourceError
from gpucost.sources.recorded import (
    FILES,
    MAX_FILE_BYTES,
    Frame,
    NvmlRecording,
    RecordedNode,
    RecordingError,
    load,
    node_name,
    parse_nvml,
    recorded_at,
)
from programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GPU: dict[str, Any] = {"device": {"uuid": "GPU-1", "model": "NVIDIA H100 80GB HBM3"}}


def write(folder: Path, **files: str) -> Path:
    """A folder with files; `t30__node_json` is t30/node.json."""
    for name, text in files.items():
        path = folder.joinpath(
            *name.replace("_json", ".json").replace("_yaml", ".yaml").split("__")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def page(folder: Path, name: str) -> None:
    (folder / "engines").mkdir()
    (folder / "engines" / name).touch()


def frame(**files: str) -> Frame:
    return Frame(0.0, {n.replace("_json", ".json"): text.encode() for n, text in files.items()})


# --- Folders ------------------------------------------------------------------------------------


def test_a_folder_of_files_is_one_frame(tmp_path: Path) -> None:
    assert load(write(tmp_path, node_json="{}", nvml_json="x")) == (
        Frame(0.0, {"nvml.json": b"x", "node.json": b"{}"}),
    )


def test_frames_come_in_the_order_of_time_and_keep_what_did_not_change(tmp_path: Path) -> None:
    write(tmp_path, t100__nvml_json="c", t0__nvml_json="a", t0__node_json="n", pods_json="p")
    write(tmp_path, **{"t20.5__nvml_json": "b"}, t100__pods_json="q")
    assert load(tmp_path) == (
        Frame(0.0, {"pods.json": b"p", "node.json": b"n", "nvml.json": b"a"}),
        Frame(20.5, {"pods.json": b"p", "node.json": b"n", "nvml.json": b"b"}),
        Frame(100.0, {"pods.json": b"q", "node.json": b"n", "nvml.json": b"c"}),
    )


def test_files_beside_the_frames_hold_from_the_start(tmp_path: Path) -> None:
    frames = load(write(tmp_path, nvml_json="a", t30__nvml_json="b"))
    assert [(f.at_seconds, f.files["nvml.json"]) for f in frames] == [(0.0, b"a"), (30.0, b"b")]


def test_other_files_may_lie_beside(tmp_path: Path) -> None:
    write(tmp_path, nvml_json="a")
    for name in ("README.md", "expected.prom", ".DS_Store"):
        (tmp_path / name).write_text("x")
    assert load(tmp_path)[0].files.keys() == {"nvml.json"}


def test_a_frame_may_hold_the_pages_of_inference_servers(tmp_path: Path) -> None:
    write(tmp_path, t0__nvml_json="a")
    page(tmp_path, "serving_chat-0.prom")
    page(tmp_path / "t0", "ml_chat.v2-0.prom")
    assert load(tmp_path)[0].files.keys() == {
        "nvml.json",
        "engines/serving_chat-0.prom",
        "engines/ml_chat.v2-0.prom",
    }


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "holds none of config.yaml, nvml.json"),
        (lambda d: d.rmdir(), "no such folder"),
        (lambda d: (d / "t30").mkdir(), "starts with a folder t0"),
        (lambda d: (d / "T30").mkdir(), "T30: not a frame"),
        (lambda d: (d / "t-5").mkdir(), "t-5: not a frame"),
        (lambda d: (d / "t1e3").mkdir(), "t1e3: not a frame"),
        (lambda d: (d / "t٣").mkdir(), "not a frame"),
        (lambda d: (d / "t31622401").mkdir(), "a year at most"),
        (lambda d: (d / "nvml.json").mkdir(), "nvml.json: not a frame"),
        (lambda d: (d / "podresource.json").touch(), "podresource.json: not a file of a recording"),
        (lambda d: page(d, "chat-0.prom"), "chat-0.prom: not called <namespace>_<pod>.prom"),
        (lambda d: (d / "config.yml").touch(), "config.yml: not a file of a recording"),
        (lambda d: write(d, t0__nodes_json="{}"), "nodes.json: not a file of a recording"),
        (lambda d: (d / "nvml.json").symlink_to("/nowhere"), "nvml.json: cannot be read"),
    ],
)
def test_a_folder_that_is_no_recording_is_refused_and_says_why(
    make: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    make(folder)
    with pytest.raises(RecordingError) as raised:
        load(folder)
    assert words in str(raised.value)
    assert str(folder) in str(raised.value)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such folder"):
        load(write(tmp_path, nvml_json="a") / "nvml.json")


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    with (tmp_path / "dcgm.prom").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no disk
    with pytest.raises(RecordingError, match=r"dcgm\.prom: larger than 67108864 bytes"):
        load(tmp_path)


# --- When and where -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ('{"creationTimestamp": "2026-11-22T12:00:00Z"}', 1795348800.0),
        ('{"lastHeartbeatTime":"2026-11-22T12:00:00.250000Z"}', 1795348800.25),
        ('{"startTime": "2026-11-22T12:00:00.123456789Z"}', 1795348800.123456),
        ('{"startTime": "2026-11-22T14:00:00+02:00"}', 1795348800.0),
        ('{"startTime": "2026-11-22T12:00:00Z", "startedAt": "2026-11-22T12:00:09Z"}', 1795348809),
        # No moments, or none that has passed.
        ('{"startTime": "2026-13-45T99:00:00Z"}', None),
        ('{"startTime": "2026-11-22T12:00:00"}', None),
        ('{"startTime": null}', None),
        ('{"deletionTimestamp": "2026-11-22T12:30:00Z"}', None),
        ('{"annotations": {"valid-until": "2099-01-01T00:00:00Z"}}', None),
        ('{"applied": "{\\"startTime\\": \\"2099-01-01T00:00:00Z\\"}"}', None),
    ],
)
def test_a_recording_was_made_when_its_objects_were_last_heard_of(
    text: str, moment: float | None
) -> None:
    assert recorded_at(frame(pods_json=text)) == moment
    assert recorded_at(frame(node_json=text)) == moment


def test_nvml_json_knows_best_when_it_was_recorded() -> None:
    pods = '{"startTime": "2026-11-22T12:00:00Z"}'
    assert recorded_at(frame(nvml_json='{"gpus": [], "recorded_at": 7.5}', pods_json=pods)) == 7.5
    assert recorded_at(frame(nvml_json='{"gpus": []}', pods_json=pods)) == 1795348800.0
    assert recorded_at(frame(nvml_json="torn", pods_json=pods)) == 1795348800.0
    assert recorded_at(frame()) is None


def pods_on(*nodes: str) -> str:
    return json.dumps({"items": [{"metadata": {}, "spec": {"nodeName": name}} for name in nodes]})


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"node_json": '{"metadata": {"name": "n"}}', "pods_json": pods_on("p")}, "n"),
        ({"node_json": "torn", "pods_json": pods_on("p", "p")}, "p"),
        ({"pods_json": pods_on("p", "q")}, ""),
        ({"pods_json": "torn"}, ""),
        ({"pods_json": '{"items": null}'}, ""),
        ({}, ""),
    ],
)
def test_a_recording_names_its_node_if_anything_does(files: dict[str, str], name: str) -> None:
    assert node_name([frame(), frame(**files)]) == name


# --- nvml.json ----------------------------------------------------------------------------------


def test_what_record_writes_is_read_back_whole() -> None:
    mig = MigInstance(gi=1, ci=0, profile="1g.10gb", compute_slices=1, uuid="MIG-1")
    recording = NvmlRecording(
        gpus=(
            GpuReading(
                Device(uuid="GPU-1", model="H100", mig=(mig,), mig_slices=7),
                instances=(UnitReading(Activity(0.5, 0.75, Signal.GPM_GRAPHICS)),),
                faults=("lost",),
                xid_events={79: 2},
            ),
        ),
        recorded_at=1.5,
    )
    assert parse_nvml(msgspec.json.encode(recording)) == recording


def with_mig(instances: list[dict[str, Any]], readings: int) -> dict[str, Any]:
    mig = [{"gi": 1, "ci": 0, "profile": "1g", "compute_slices": 1, **it} for it in instances]
    return {"device": {**GPU["device"], "mig": mig}, "instances": [{}] * readings}


def active(ratio: float, peak: float) -> dict[str, Any]:
    activity = {"ratio": ratio, "peak": peak, "signal": "gpm_graphics_util"}
    return {**GPU, "reading": {"activity": activity}}


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ({}, "Expected `array`"),
        ([{}], "missing required field `device`"),
        ([{"device": {"uuid": "GPU-1"}}], "missing required field `model`"),
        ([{"device": {"uuid": 7, "model": "x"}}], "Expected `str`, got `int`"),
        ([{"device": {"uuid": "", "model": "x"}}], "uuid is empty - at `$.gpus[0]`"),
        ([GPU, {"device": {"uuid": "gpu-1", "model": "x"}}], "before it - at `$.gpus[1]`"),
        ([{**GPU, "instances": [{}]}], "has 1 readings for the 0 of device.mig"),
        ([with_mig([{}], 0)], "has 0 readings for the 1"),
        ([with_mig([{}, {}], 2)], "the same gi and ci"),
        ([with_mig([{"compute_slices": 0}], 1)], "without compute slices"),
        ([active(1.5, 1.5)], "0 <= ratio <= peak <= 1"),
        ([active(0.5, 0.4)], "0 <= ratio <= peak <= 1"),
        ([active(-0.1, 0.4)], "0 <= ratio <= peak <= 1"),
        (
            [{**GPU, "reading": {"activity": {"ratio": 1, "peak": 1, "signal": "?"}}}],
            "Invalid enum",
        ),
    ],
)
def test_nonsense_of_a_driver_is_malformed_and_named(gpus: object, words: str) -> None:
    with pytest.raises(SourceError) as raised:
        parse_nvml(json.dumps({"gpus": gpus}).encode())
    assert raised.value.kind == "malformed"
    assert words in str(raised.value)
    assert str(raised.value).startswith("nvml.json: ")
    assert raised.value.remedy


def test_figures_that_no_process_can_have_are_dropped_and_the_process_stays() -> None:
    figures = [(0.5, 0.6), (42.0, 42.0), (-0.1, 0.1), (0.2, None), (1e9, None)]
    reading = {
        "processes": [{"pid": n, "sm_ratio": r, "sm_peak": p} for n, (r, p) in enumerate(figures)]
    }
    recording = parse_nvml(json.dumps({"gpus": [{**GPU, "reading": reading}]}).encode())
    processes = recording.gpus[0].reading.processes or ()
    assert [(it.pid, it.sm_ratio, it.sm_peak) for it in processes] == [
        (0, 0.5, 0.6),
        (1, None, None),
        (2, None, None),
        (3, 0.2, None),
        (4, None, None),
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"gpus": []} trailing',
        b'{"gpus": [], "recorded_at": -1}',
        b'{"gpus": [], "recorded_at": 1e300}',
        b'{"gpus": [], "gpu": []}',
        b'{"gpus": [{"device": {"uuid": "\\ud800", "model": "x"}}]}',
        b"[" * 100_000,
    ],
    ids=lambda text: text[:20].decode("latin1"),
)
def test_what_is_not_nvml_json_is_malformed(text: bytes) -> None:
    with pytest.raises(SourceError) as raised:
        parse_nvml(text)
    assert raised.value.kind == "malformed"


# --- Sources ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "\x00", '{"items": 7}'])
@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("nvml_json", "nvml"),
        ("podresources_json", "kubelet"),
        ("pods_json", "kubernetes"),
        ("node_json", "kubernetes"),
    ],
)
def test_a_malformed_file_is_a_source_that_fails(file: str, source: str, text: str) -> None:
    node = RecordedNode(frame(**{file: text}), Config(), "")
    with pytest.raises(SourceError) as raised:
        getattr(node, source)()
    assert raised.value.kind == "malformed"


def test_pods_are_this_nodes_and_a_kubectl_list_will_do() -> None:
    item = {"metadata": {"name": "a", "namespace": "ml"}, "spec": {"nodeName": "n"}}
    other = {"metadata": {"name": "b", "namespace": "ml"}, "spec": {"nodeName": "m"}}
    for kind in ("PodList", "List"):
        text = json.dumps({"kind": kind, "apiVersion": "v1", "items": [item, other]})
        read = RecordedNode(frame(pods_json=text), Config(), "n").kubernetes()
        assert read.pods is not None
        assert read.pods.keys() == {("ml", "a")}
        assert read.node is None


GPU_A = {"resource_name": "nvidia.com/gpu", "device_ids": ["GPU-a"]}


def test_a_torn_list_of_what_is_offered_leaves_who_holds_what() -> None:
    held = {"name": "a", "namespace": "ml", "containers": [{"name": "c", "devices": [GPU_A]}]}
    listed = json.dumps({"pod_resources": [held]})
    read = RecordedNode(frame(podresources_json=listed, allocatable_json="torn"), Config(), "")
    found = read.kubelet()
    assert [it.device_id for it in found.holdings.holdings] == ["GPU-a"]
    assert found.holdings.offered is None
    assert [problem.kind for problem in found.problems] == ["malformed"]


@pytest.mark.parametrize("torn", ["pods_json", "node_json"])
def test_a_torn_file_does_not_take_the_other_with_it(torn: str) -> None:
    files = {
        "pods_json": '{"items": [{"metadata": {"name": "a", "namespace": "ml"}}]}',
        "node_json": '{"metadata": {"name": "n"}}',
    }
    read = RecordedNode(frame(**(files | {torn: "torn"})), Config(), "n").kubernetes()
    assert (read.pods is None, read.node is None) == (torn == "pods_json", torn == "node_json")
    assert [(problem.source, problem.kind) for problem in read.problems] == [
        ("kubernetes", "malformed")
    ]


def test_a_source_is_parsed_anew_when_its_file_or_the_settings_change() -> None:
    pods = {"items": [{"metadata": {"name": "a", "labels": {"squad": "blue", "team": "red"}}}]}
    node = RecordedNode(frame(pods_json=json.dumps(pods)), Config(), "")
    first = node.kubernetes()
    assert node.kubernetes() is first
    node.config = parse_config("kubernetes: {team_labels: [squad]}")
    read = node.kubernetes().pods
    assert read is not None
    assert read["default", "a"].team == "blue"
    node.frame = frame(pods_json='{"items": []}')
    assert node.kubernetes().pods == {}


# --- The docs -----------------------------------------------------------------------------------


def fields_of(
    kind: inspect.Type, path: str = "", described: dict[type, str] | None = None
) -> Iterator[tuple[str, str]]:
    """Every field of a JSON document by its path, with its type in words; each object once."""
    described = {} if described is None else described
    if not isinstance(kind, inspect.StructType):
        return
    described[kind.cls] = path
    for field in kind.fields:
        at = f"{path}.{field.encode_name}".lstrip(".")
        inner, optional = _without_null(field.type)
        if isinstance(inner, inspect.VarTupleType):
            inner, at = inner.item_type, f"{at}[]"
        before = described.get(inner.cls) if isinstance(inner, inspect.StructType) else None
        words = _words(inner) if before is None else f"object like `{before}`"
        if field.required:
            words += ", required"
        yield at, words + (" or null" if optional else "")
        if before is None:
            yield from fields_of(inner, at, described)


def _without_null(kind: inspect.Type) -> tuple[inspect.Type, bool]:
    if not isinstance(kind, inspect.UnionType):
        return kind, False
    (inner,) = (it for it in kind.types if not isinstance(it, inspect.NoneType))
    return inner, True


def _words(kind: inspect.Type) -> str:
    match kind:
        case inspect.StrType():
            return "text"
        case inspect.IntType():
            return "integer"
        case inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "true or false"
        case inspect.EnumType():
            return ", ".join(f"`{member.value}`" for member in kind.cls)
        case inspect.DictType():
            return f"map of {_words(kind.key_type)} to {_words(kind.value_type)}"
        case _:
            return "object"


def section() -> str:
    page = (ROOT / "docs/operations.md").read_text()
    return page.partition("\n## Recordings\n")[2].partition("\n## ")[0]


def test_the_docs_list_every_field_of_nvml_json_with_its_type() -> None:
    rows = [line.strip("| ").split(" | ") for line in section().splitlines() if "| `" in line]
    described = {name.strip("`"): words for name, *words in rows if name.strip("`") not in FILES}
    assert {name: words[0] for name, words in described.items()} == dict(
        fields_of(inspect.type_info(NvmlRecording))
    )
    assert all(len(words) == 2 and words[1] for words in described.values())


def test_the_docs_name_every_file_of_a_recording() -> None:
    for file in FILES:
        assert f"| `{file}` |" in section()
