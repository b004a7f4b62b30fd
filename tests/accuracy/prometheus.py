"""A real Prometheus that is written to and asked.

Samples go in by remote write (its specification 1.0: a snappy-compressed WriteRequest), since only
so can a series be given the staleness marker that a scrape would give it; text that is backfilled
carries none.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Self

from programs import program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
"""The NaN that says that a series has ended (prometheus model/value)."""

_PATIENCE = 600.0
_SAMPLES_AT_ONCE = 100_000


class Prometheus:
    """The server, from `with` to its end."""

    def __init__(self, folder: Path) -> None:
        """Its data lies in the folder."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = self._folder / "prometheus.yml"
        config.write_text("scrape_configs: []\n")
        self.url = f"http://127.0.0.1:{port}"
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    "--storage.tsdb.retention.time=10y",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--web.enable-remote-write-receiver",
                    "--query.max-samples=500000000",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):  # noqa: S310
                    return self
            except (OSError, urllib.error.URLError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE)

    def ask(self, expression: str, at: float) -> dict[str, float]:
        """The values of an instant query that leaves one label, or none, by that label's value."""
        query = urllib.parse.urlencode({"query": expression, "time": at, "timeout": "600s"})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=600) as answer:  # noqa: S310
            found = json.load(answer)["data"]["result"]
        return {
            "".join(value for _, value in row["metric"].items()): float(row["value"][1])
            for row in found
        }


class Writer:
    """Adds samples, many at a time: what comes for one series goes in one piece."""

    def __init__(self, url: str) -> None:
        """`url` is the server's."""
        self._url = f"{url}/api/v1/write"
        self._labels: list[bytes] = []
        self._waiting: dict[int, bytearray] = {}
        self._samples = 0

    def series(self, labels: Mapping[str, str]) -> int:
        """A number for a series, by which its samples are added."""
        encoded = b""
        for pair in sorted(labels.items()):
            if pair[1]:
                words = b""
                for tag, text in zip((b"\x0a", b"\x12"), pair, strict=True):
                    word = text.encode()
                    words += tag + _varint(len(word)) + word
                encoded += b"\x0a" + _varint(len(words)) + words
        self._labels.append(encoded)
        return len(self._labels) - 1

    def add(self, at: float, values: Mapping[int, float]) -> None:
        """Add a sample to each of these series (Unix time); STALE ends one."""
        stamp = b"\x10" + _varint(round(at * 1000))
        head = b"\x12" + bytes((9 + len(stamp),)) + b"\x09"
        waiting = self._waiting
        for series, value in values.items():
            sample = head + struct.pack("<d", value) + stamp
            if series in waiting:
                waiting[series] += sample
            else:
                waiting[series] = bytearray(sample)
        self._samples += len(values)
        if self._samples >= _SAMPLES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        body = b"".join(
            b"\x0a"
            + _varint(len(self._labels[series]) + len(samples))
            + self._labels[series]
            + samples
            for series, samples in self._waiting.items()
        )
        self._waiting, self._samples = {}, 0
        request = urllib.request.Request(  # noqa: S310 - our own server
            self._url,
            data=_snappy(body),
            headers={
                "Content-Encoding": "snappy",
                "Content-Type": "application/x-protobuf",
                "X-Prometheus-Remote-Write-Version": "0.1.0",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE):  # noqa: S310
                pass
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error


def _snappy(data: bytes) -> bytes:
    """Snappy's block format, of one literal: it need not be small (format_description.txt)."""
    return _varint(len(data)) + b"\xfc" + struct.pack("<I", len(data) - 1) + data


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
