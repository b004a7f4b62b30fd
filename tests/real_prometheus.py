"""A real Prometheus with a past: samples of any time by remote write, and answers by its API.

Its clock is not asked: every question names its moment, so a test's day is the same day always.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from contextlib import contextmanager
from functools import lru_cache
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from msgspec import Struct

from programs import program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

Labels = tuple[tuple[str, str], ...]
"""Sorted by name, the metric's as `__name__`."""

Samples = Sequence[tuple[int, float]]
"""Unix milliseconds and value, in order of time."""

STALE = math.nan
"""Written as Prometheus writes it where a series ends (model/value.StaleNaN)."""

START_SECONDS = 120.0
_BATCH_BYTES = 4 << 20

_CONFIG = """\
global: {scrape_interval: 1h}
storage: {tsdb: {out_of_order_time_window: 8760h}}
"""


class RefusedError(AssertionError):
    """Prometheus would not answer a query; the words are its own."""


class Series(Struct, frozen=True):
    """One series of an answer: its labels, and (Unix seconds, value) in order of time."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


class Prometheus:
    """One that runs; `port` is on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    def write(self, series: Mapping[Labels, Samples]) -> None:
        """Store series of (Unix milliseconds, value), each in order of time."""
        self.write_each(series.items())

    def write_each(self, series: Iterable[tuple[Labels, Samples]]) -> None:
        """The same, of more series than one would hold at once."""
        batch: list[bytes] = []
        size = 0
        last, encoded = None, b""
        for labels, samples in series:
            if samples is not last:
                last, encoded = samples, _samples(samples)
            message = _labels(labels) + encoded
            batch.append(_field(1, message))
            size += len(message)
            if size > _BATCH_BYTES:
                self._write(b"".join(batch))
                batch, size = [], 0
        if batch:
            self._write(b"".join(batch))

    def _write(self, request: bytes) -> None:
        status, text = self._ask(
            "POST",
            "/api/v1/write",
            _snappy(request),
            {
                "Content-Type": "application/x-protobuf",
                "Content-Encoding": "snappy",
                "X-Prometheus-Remote-Write-Version": "0.1.0",
            },
        )
        assert status in (200, 204), text

    def at(self, query: str, when: float) -> list[Series]:
        """What an instant query answers at this moment. Raises RefusedError."""
        return [
            Series(it["metric"], ((when, float(it["value"][1])),))
            for it in self._query("query", query=query, time=f"{when:.3f}")
        ]

    def over(self, query: str, start: float, end: float, step: float) -> list[Series]:
        """What a range query answers. Raises RefusedError."""
        answer = self._query(
            "query_range",
            query=query,
            start=f"{start:.3f}",
            end=f"{end:.3f}",
            step=f"{step:g}",
        )
        return [
            Series(it["metric"], tuple((float(t), float(v)) for t, v in it["values"]))
            for it in answer
        ]

    def _query(self, kind: str, **parameters: str) -> list[Any]:
        status, text = self._ask(
            "POST",
            f"/api/v1/{kind}",
            urlencode(parameters).encode(),
            {"Content-Type": "application/x-www-form-urlencoded"},
        )
        answer = json.loads(text)
        if status != 200 or answer["status"] != "success":
            raise RefusedError(f"{parameters['query']}\n{answer.get('error', text)}")
        data = answer["data"]
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        result: list[Any] = data["result"]
        return result

    def label_values(self, selector: str, label: str, start: float, end: float) -> list[str]:
        """The values of a label among the series that a selector finds."""
        query = urlencode({"match[]": selector, "start": f"{start:.3f}", "end": f"{end:.3f}"})
        _, text = self._ask("GET", f"/api/v1/label/{label}/values?{query}", b"", {})
        values: list[str] = json.loads(text)["data"]
        return values

    def rules(self) -> list[dict[str, Any]]:
        """The rules that it evaluates, with how the last evaluation of each went."""
        status, text = self._ask("GET", "/api/v1/rules", b"", {})
        assert status == 200, text
        return [rule for group in json.loads(text)["data"]["groups"] for rule in group["rules"]]

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def ready(self) -> bool:
        try:
            return self._ask("GET", "/-/ready", b"", {})[0] == 200
        except OSError:
            return False


class VictoriaMetrics(Prometheus):
    """What is written there can be asked for a second later, or when it is told to hurry."""

    def write(self, series: Mapping[Labels, Sequence[tuple[int, float]]]) -> None:
        super().write(series)
        status, text = self._ask("GET", "/internal/force_flush", b"", {})
        assert status == 200, text


@contextmanager
def prometheus(
    directory: Path, executable: str = "", retention: str = "20y"
) -> Iterator[Prometheus]:
    """Run one that scrapes nothing and keeps its data under `directory`, which must be empty.

    It is the tests' own unless another is named.
    """
    (directory / "prometheus.yml").write_text(_CONFIG)
    port = free_port()
    command = [
        executable or program("prometheus"),
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--storage.tsdb.retention.time={retention}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-remote-write-receiver",
        "--query.lookback-delta=5m",
        "--log.level=warn",
    ]
    it = Prometheus(port)
    with running(command, directory / "log", it.ready):
        yield it


@contextmanager
def victoria_metrics(
    directory: Path, executable: str = "", options: Sequence[str] = ()
) -> Iterator[Prometheus]:
    """Run a VictoriaMetrics, which takes and answers what a Prometheus does, but for its engine."""
    port = free_port()
    command = [
        executable or program("victoria-metrics"),
        f"-storageDataPath={directory}/data",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=20y",
        "-search.disableCache",
        "-search.latencyOffset=0s",
        "-search.maxStalenessInterval=5m",
        "-loggerLevel=WARN",
        *options,
    ]
    it = VictoriaMetrics(port)
    with running(command, directory / "log", it.ready):
        yield it


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], log_file: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """Run a program, from when it is ready to when it has ended."""
    with log_file.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ready():
                said = log_file.read_text()
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# --- Remote write 1.0: prompb.WriteRequest, in snappy's block format ---------------------------


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


@lru_cache(maxsize=1 << 16)
def _labels(labels: Labels) -> bytes:
    return b"".join(
        _field(1, _field(1, name.encode()) + _field(2, text.encode())) for name, text in labels
    )


def _samples(samples: Samples) -> bytes:
    out = bytearray()
    for milliseconds, value in samples:
        packed = STALE_BYTES if math.isnan(value) else struct.pack("<d", value)
        sample = b"\x09" + packed + b"\x10" + _varint(milliseconds)
        out += b"\x12" + _varint(len(sample)) + sample
    return bytes(out)


STALE_BYTES = struct.pack("<Q", 0x7FF0000000000002)
"""StaleNaN: a float of Python may lose the payload of a NaN."""

_LITERAL_MAX = 1 << 16


def _snappy(data: bytes) -> bytes:
    """`data` as snappy literals: its format without its compression."""
    out = bytearray(_varint(len(data)))
    for start in range(0, len(data), _LITERAL_MAX):
        piece = data[start : start + _LITERAL_MAX]
        # Tag 61 in the upper six bits: a literal whose length less 1 is in the next two bytes.
        out += bytes((61 << 2,)) + struct.pack("<H", len(piece) - 1) + piece
    return bytes(out)
