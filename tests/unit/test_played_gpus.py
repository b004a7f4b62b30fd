"""Played GPUs: their settings, how work looks to the driver, what containers get."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fake_nvml import World, h100
from fake_nvml.world import GIB
from played_gpus import node as node_module
from played_gpus import runtime
from played_gpus.broker import Broker, Refused, container_of
from played_gpus.broker import given as was_given
from played_gpus.install import HERE, PAUSE, WORKER, build_images, write_runtime
from played_gpus.machine import cards, offered
from played_gpus.node import Node, scenario
from played_gpus.settings import SettingsError, load, parse
from played_gpus.work import Order, Work, play

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from played_gpus.broker import Asker

SECONDS = 30.0
ID = "0123456789abcdef" * 4


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestSettings:
    def test_the_default_is_eight_h100(self) -> None:
        settings = load(HERE / "default.yaml")
        (devices,) = offered(settings, cards(settings, "node-1")).values()
        assert len({device.uuid for device in devices}) == 8

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("gpus: []", "gpus: there are 0"),
            ("gpus: [{count: 33}]", "gpus: there are 33; give 1 to 32"),
            ("gpus: [{count: 0}]", r"gpus\[0\].count: 0"),
            ("gpus: [{cuont: 1}]", r"unknown field `cuont`.*gpus"),
            ("gpus: [{count: many}]", r"Expected `int`.*gpus\[0\]|gpus\[...\].count"),
            ("gpus: [{model: Mystery}]", r"gpus\[0\].memory_gib: 'Mystery'"),
            ("gpus: [{memory_gib: 0}]", r"gpus\[0\].memory_gib: 0"),
            ("gpus: [{model: Tesla T4, mig: [1g.10gb]}]", r"gpus\[0\].mig: the model has no MIG"),
            ("gpus: [{mig: [huge]}]", "'huge' is not like 1g.10gb"),
            ("gpus: [{mig: [4g.40gb, 4g.40gb]}]", "8 slices; a GPU of this model has 7"),
            ("gpus: [{replicas: 0}]", r"gpus\[0\].replicas: 0"),
            ("gpus: [{resource: gpu}]", "'gpu' is not like nvidia.com/gpu"),
            ("gpus: [{offer: dra, replicas: 2}]", "only offer: device-plugin has them"),
            ("gpus: [{shared: true}]", "only offer: dra has it"),
            ("{gpus: [{}], missing: [1]}", "missing: there is no GPU 1; they are 0 to 0"),
            ("{gpus: [{}], mig_strategy: single}", "single needs MIG devices of one profile"),
            ("gpus: [", "not YAML"),
            ("gpus: [{offer: magic}]", "magic"),
        ],
    )
    def test_a_bad_field_is_named(self, text: str, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            parse(text)

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"absent\.yaml: cannot be read"):
            load(tmp_path / "absent.yaml")


class TestMachine:
    def test_uuids_follow_from_the_node_and_the_place_alone(self) -> None:
        def uuids(text: str, node: str = "node-1") -> list[str]:
            return [card.gpu.uuid for card in cards(parse(text), node)]

        eight = uuids("gpus: [{count: 8}]")
        assert uuids("{gpus: [{count: 8, replicas: 3}], missing: [2]}") == eight[:2] + eight[3:]
        assert not set(uuids("gpus: [{count: 8}]", "node-2")) & set(eight)

    def test_the_same_layout_has_the_same_mig_devices(self) -> None:
        def parts(*profiles: str) -> list[str]:
            (card,) = cards(parse(f"gpus: [{{mig: [{', '.join(profiles)}]}}]"), "node-1")
            return [part.uuid for part in card.gpu.mig or ()]

        assert parts("3g.40gb", "1g.10gb") == parts("3g.40gb", "1g.10gb")
        assert not set(parts("2g.20gb")) & set(parts("3g.40gb"))

    @pytest.mark.parametrize(
        ("text", "resources"),
        [
            ("gpus: [{count: 2, replicas: 4}]", {"nvidia.com/gpu": 8}),
            ("gpus: [{replicas: 4, rename: true}]", {"nvidia.com/gpu.shared": 4}),
            ("gpus: [{mig: [3g.40gb]}]", {"nvidia.com/gpu": 1}),
            (
                "{gpus: [{count: 2, mig: [1g.10gb, 1g.10gb]}], mig_strategy: single}",
                {"nvidia.com/gpu": 4},
            ),
            (
                "{gpus: [{mig: [3g.40gb, 1g.10gb+me]}, {}], mig_strategy: mixed}",
                {"nvidia.com/gpu": 1, "nvidia.com/mig-3g.40gb": 1, "nvidia.com/mig-1g.10gb.me": 1},
            ),
            ("gpus: [{resource: example.com/h100}]", {"example.com/h100": 1}),
            ("gpus: [{offer: dra}, {}]", {"nvidia.com/gpu": 1}),
            ("{gpus: [{}], missing: [0]}", {"nvidia.com/gpu": 0}),
        ],
    )
    def test_resources_are_named_as_nvidia_s_plugin_names_them(
        self, text: str, resources: dict[str, int]
    ) -> None:
        settings = parse(text)
        found = offered(settings, cards(settings, "node-1"))
        assert {name: len(devices) for name, devices in found.items()} == resources
        assert all(len(it.id) <= 63 for devices in found.values() for it in devices)


class TestWork:
    def test_programs_that_share_a_gpu_get_no_more_than_all_of_it(self) -> None:
        gpu = h100()
        play([gpu], [Work(1, (gpu.uuid,), Order(0.9, GIB)), Work(2, (gpu.uuid,), Order(0.6, GIB))])
        assert gpu.utilization == 1.0
        assert [round(process.sm, 2) for process in gpu.processes] == [0.6, 0.4]
        assert gpu.used_bytes == 2 * GIB
        play([gpu], [])
        assert (gpu.utilization, gpu.used_bytes, gpu.processes) == (0.0, 0, [])

    def test_a_mig_device_is_busy_for_itself(self) -> None:
        gpu = h100(mig=("3g.40gb", "1g.10gb"))
        large, small = gpu.mig or []
        play([gpu], [Work(1, (large.uuid,), Order(0.7, 30 * GIB))])
        assert large.gpm is not None
        assert small.gpm is not None
        assert (large.gpm.graphics, small.gpm.graphics) == (0.7, 0.0)
        assert (large.used_bytes, small.used_bytes, gpu.used_bytes) == (30 * GIB, 0, 30 * GIB)
        assert [(it.gi, it.ci) for it in gpu.processes] == [(large.gi, large.ci)]
        assert gpu.gpm is not None
        assert gpu.gpm.graphics == pytest.approx(0.3)


class TestRuntime:
    """The edit of a bundle, as `runc spec` and containerd's CRI make one."""

    def config(self, *env: str, kind: str = "container") -> dict[str, Any]:
        return {
            "ociVersion": "1.0.2",
            "process": {"args": ["/worker"], "env": ["PATH=/bin", *env], "cwd": "/"},
            "root": {"path": "rootfs", "readonly": True},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "annotations": {
                "io.kubernetes.cri.container-type": kind,
                "io.kubernetes.cri.container-name": "main",
                "io.kubernetes.cri.sandbox-name": "pod",
                "io.kubernetes.cri.sandbox-namespace": "ml",
            },
        }

    @pytest.fixture
    def state(self, tmp_path: Path) -> Path:
        """A state folder with its runtime, whose runc writes down what it is told."""
        runc = tmp_path / "runc"
        runc.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "${0%/*}/told"\n', encoding="utf-8")
        runc.chmod(0o755)
        write_runtime(tmp_path / "state", runc)
        return tmp_path / "state"

    def run(self, state: Path, *arguments: str) -> list[str]:
        subprocess.run([state / "nvidia-container-runtime", *arguments], check=True, timeout=60)
        return (state.parent / "told").read_text(encoding="utf-8").splitlines()

    def create(self, state: Path, config: dict[str, Any]) -> dict[str, Any]:
        bundle = state.parent / "bundle"
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(config), encoding="utf-8")
        told = ["--root", "/x", "create", "--bundle", str(bundle), "--pid-file", "p", ID]
        assert self.run(state, *told) == told
        edited: dict[str, Any] = json.loads((bundle / "config.json").read_bytes())
        return edited

    def test_a_container_with_a_device_gets_the_library_and_the_world(self, state: Path) -> None:
        edited = self.create(state, self.config("NVIDIA_VISIBLE_DEVICES=GPU-a,GPU-b"))
        shared, library = edited["mounts"][1:]
        assert shared["source"] == str(state / "shared")
        assert library["destination"] == "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
        assert Path(library["source"]).is_file()
        assert all("ro" in mount["options"] for mount in (shared, library))
        assert f"FAKE_NVML_SCENARIO={shared['destination']}/scenario" in edited["process"]["env"]
        assert was_given(ID, state / "containers") == ("GPU-a", "GPU-b")
        self.run(state, "delete", "--force", ID)
        with pytest.raises(Refused, match="was given no GPU"):
            was_given(ID, state / "containers")

    @pytest.mark.parametrize(
        "env", [(), ("NVIDIA_VISIBLE_DEVICES=",), ("NVIDIA_VISIBLE_DEVICES=void",)]
    )
    def test_other_containers_are_left_as_they_are(self, state: Path, env: tuple[str, ...]) -> None:
        config = self.config(*env)
        assert self.create(state, config) == config
        assert not list((state / "containers").iterdir())

    def test_a_pod_s_sandbox_is_left_as_it_is(self, state: Path) -> None:
        config = self.config("NVIDIA_VISIBLE_DEVICES=all", kind="sandbox")
        assert self.create(state, config) == config

    def test_none_is_the_library_without_a_device(self, state: Path) -> None:
        assert len(self.create(state, self.config("NVIDIA_VISIBLE_DEVICES=none"))["mounts"]) == 3
        assert was_given(ID, state / "containers") == ()

    def test_without_the_capability_utility_there_is_no_nvml(self, state: Path) -> None:
        asked = ("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute")
        assert len(self.create(state, self.config(*asked))["mounts"]) == 2

    def test_other_calls_are_runc_s(self, state: Path) -> None:
        assert self.run(state, "state", ID) == ["state", ID]

    def test_a_bundle_that_cannot_be_read_is_left_to_runc(self, state: Path) -> None:
        told = ["create", "--bundle", str(state / "none"), ID]
        assert self.run(state, *told) == told

    def test_a_claim_s_devices_are_asked_of_the_broker(self, state: Path) -> None:
        asked: list[Asker] = []

        def claimed(asker: Asker) -> tuple[str, ...]:
            asked.append(asker)
            return ("GPU-c",)

        (state / "shared").mkdir()
        (state / "dra").touch()
        broker = Broker(state / "shared" / "broker.sock", lambda _: (), claimed, lambda _: None)
        broker.start()
        try:
            assert len(self.create(state, self.config())["mounts"]) == 3
        finally:
            broker.stop()
        assert was_given(ID, state / "containers") == ("GPU-c",)
        assert [(it.namespace, it.pod, it.container) for it in asked] == [("ml", "pod", "main")]

    def test_it_needs_nothing_but_the_standard_library(self) -> None:
        code = f"import sys; sys.path.append({str(HERE)!r}); import runtime"
        subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=60)

    def test_the_worker_looks_where_the_runtime_mounts(self) -> None:
        worker = (HERE / "programs/worker/gpu.go").read_text(encoding="utf-8")
        assert f'"{runtime.SHARED}/broker.sock"' in worker
        library = (HERE.parent / "fake_nvml/world.c").read_text(encoding="utf-8")
        assert f'"{runtime.SHARED}/scenario"' in library


class TestBroker:
    def test_the_container_is_the_deepest_in_the_cgroup(self, tmp_path: Path) -> None:
        (tmp_path / "7").mkdir()
        (tmp_path / "7/cgroup").write_text(
            f"4:memory:/kubepods/besteffort/pod1/{ID}\n0::/system.slice\n", encoding="ascii"
        )
        assert container_of(7, tmp_path) == ID
        (tmp_path / "7/cgroup").write_text("0::/user.slice\n", encoding="ascii")
        with pytest.raises(Refused, match="in no container"):
            container_of(7, tmp_path)

    @pytest.fixture
    def works(self) -> list[list[Work]]:
        return [[]]

    @pytest.fixture
    def broker(self, tmp_path: Path, works: list[list[Work]]) -> Iterator[Path]:
        path = tmp_path / "broker.sock"

        def claimed(_: Asker) -> tuple[str, ...]:
            raise Refused("no claims here")

        broker = Broker(path, lambda _: ("GPU-a", "GPU-b"), claimed, works.append)
        broker.start()
        yield path
        broker.stop()
        assert not path.exists()

    def program(self, broker: Path, *orders: bytes) -> subprocess.Popen[bytes]:
        """A program that gives orders and stays."""
        code = (
            "import socket,sys,time; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "f=s.makefile('rwb');"
            "[(f.write(o.encode()+b'\\n'),f.flush(),print(f.readline().decode(),end='',flush=True))"
            " for o in sys.argv[2:]];"
            "time.sleep(60)"
        )
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code, broker, *orders], stdout=subprocess.PIPE
        )

    def test_a_program_works_by_its_own_pid_until_it_is_killed(
        self, broker: Path, works: list[list[Work]]
    ) -> None:
        with self.program(broker, b'{"busy":0.9,"memory_bytes":5}') as program:
            _until(lambda: bool(works[-1]))
            assert works[-1] == [Work(program.pid, ("GPU-a", "GPU-b"), Order(0.9, 5))]
            program.kill()
        _until(lambda: not works[-1])

    def test_a_program_may_use_some_of_its_gpus_and_think_again(
        self, broker: Path, works: list[list[Work]]
    ) -> None:
        with self.program(broker, b'{"busy":1}', b'{"busy":0.1,"gpus":[1]}') as program:
            _until(lambda: bool(works[-1]) and works[-1][0].devices == ("GPU-b",))
            program.kill()

    @pytest.mark.parametrize(
        ("order", "error"),
        [
            (b'{"busy":2}', "give 0 to 1"),
            (b'{"busy":0.5,"gpus":[2]}', "there are 0 to 1"),
            (b"nonsense", "malformed"),
            (b'{"speed":1}', "unknown field"),
            (b'{"claimed":{"namespace":"a","pod":"b","container":"c"}}', "no claims here"),
        ],
    )
    def test_an_order_that_cannot_be_is_refused_with_the_reason(
        self, broker: Path, works: list[list[Work]], order: bytes, error: str
    ) -> None:
        with self.program(broker, order) as program:
            assert program.stdout is not None
            assert error in json.loads(program.stdout.readline())["error"]
            program.kill()
        assert works[-1] == []


class TestNode:
    """The whole process, with a real program for the work."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text("gpus: [{count: 2}]", encoding="utf-8")
        return path

    @pytest.fixture
    def started(
        self, tmp_path: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Node]:
        monkeypatch.setattr(node_module, "container_of", lambda _: ID)
        (tmp_path / "plugins").mkdir()
        node = Node(settings, tmp_path / "state", tmp_path / "plugins", "node-1")
        (tmp_path / "state/containers" / ID).write_text('["1"]', encoding="utf-8")
        ended = threading.Event()
        playing = threading.Thread(target=node.run, args=(ended, threading.Event()))
        playing.start()
        _until(scenario(tmp_path / "state").exists)
        yield node
        ended.set()
        playing.join(SECONDS)
        assert not playing.is_alive()

    def lines(self, tmp_path: Path, words: str) -> list[str]:
        text = scenario(tmp_path / "state").read_text(encoding="utf-8")
        return [line for line in text.splitlines() if words in line]

    @pytest.mark.usefixtures("started")
    def test_work_shows_on_the_device_of_the_container_and_goes_with_the_program(
        self, tmp_path: Path
    ) -> None:
        with socket.socket(socket.AF_UNIX) as program:
            program.connect(str(tmp_path / "state/shared/broker.sock"))
            program.sendall(b'{"busy":0.5}\n')
            assert b"GPU-" in program.recv(4096)
            assert self.lines(tmp_path, f"gpu 1 proc pid={os.getpid()} ")
            assert self.lines(tmp_path, "gpu 1 util gpu=50 ")
            assert self.lines(tmp_path, "gpu 0 util gpu=0 ")
        _until(lambda: not self.lines(tmp_path, " proc "))

    def test_settings_are_followed_and_bad_ones_refused(
        self, tmp_path: Path, settings: Path, started: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.write_text("gpus: [{count: none}]", encoding="utf-8")
        _until(lambda: "the settings before stay in force" in caplog.text)
        assert len(started.cards) == 2
        settings.write_text("{gpus: [{count: 2, mig: [3g.40gb]}], missing: [0]}", encoding="utf-8")
        _until(lambda: len(self.lines(tmp_path, " mig slot=0 ")) == 1)
        assert started.known(("all",)) == started.known(("1",))
        assert started.known(("0",)) == ()

    def test_the_command_ends_cleanly_and_leaves_the_world(
        self, tmp_path: Path, settings: Path
    ) -> None:
        state = tmp_path / "state"
        (tmp_path / "plugins").mkdir()
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "played_gpus",
            "--settings",
            settings,
            "--state",
            state,
        ]
        command += ["--plugins-dir", tmp_path / "plugins", "--node", "node-1"]
        paths = os.pathsep.join(str(HERE.parents[1] / name) for name in ("exporter", "tests"))
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}) as program:
            _until(scenario(state).exists)
            program.send_signal(signal.SIGTERM)
            assert program.wait(SECONDS) == 0
        assert scenario(state).exists()
        assert not (state / "shared/broker.sock").exists()

    def test_the_command_says_what_is_wrong(self, tmp_path: Path) -> None:
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "played_gpus",
            "--settings",
            tmp_path / "none.yaml",
        ]
        command += ["--state", tmp_path, "--node", "node-1"]
        paths = os.pathsep.join(str(HERE.parents[1] / name) for name in ("exporter", "tests"))
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert "none.yaml: cannot be read" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_images_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = (build_images(tmp_path / name) for name in ("first", "second"))
    assert first.keys() == second.keys() == {PAUSE, WORKER}
    for name, archive in first.items():
        assert archive.read_bytes() == second[name].read_bytes()


def test_who_is_in_another_pid_namespace_sees_no_process(tmp_path: Path) -> None:
    """A driver tells of processes that have a PID where the caller is."""
    world = World(tmp_path / "scenario", [h100()])
    play(world.gpus, [Work(os.getpid(), (world.gpus[0].uuid,), Order(0.5))])
    code = (
        "import ctypes,sys; from fake_nvml import preload, library; preload(library());"
        "import pynvml as n; n.nvmlInit(); d=n.nvmlDeviceGetHandleByIndex(0);"
        "print(len(n.nvmlDeviceGetComputeRunningProcesses(d)))"
    )
    for namespace, seen in ((Path("/proc/self/ns/pid").stat().st_ino, "1"), (1, "0")):
        world.pid_namespace = namespace
        world.write()
        env = {
            **os.environ,
            "FAKE_NVML_SCENARIO": str(world.path),
            "PYTHONPATH": str(HERE.parent),
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.strip() == seen
