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
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client.samples import Sample

STALE = struct.pack("<Q", 0x7FF0000000000002)
"""The NaN that says that a series has ended (prometheus model/value)."""

_PATIENCE = 60.0

Series = tuple[str, ...]


def series_of(sample: Sample) -> Series:
    """A sample's name and labels in one flat tuple."""
    return (sample.name, *(word for pair in sample.labels.items() for word in pair))


class Prometheus:
    """The server, from `with` to its end."""

    def __init__(self, folder: Path) -> None:
        """Its data lies in the folder."""
        self._folder = folder
        self._labels: dict[Series, bytes] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = self._folder / "prometheus.yml"
        config.write_text("scrape_configs: []\n")
        self._url = f"http://127.0.0.1:{port}"
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
                with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5):  # noqa: S310
                    return self
            except (OSError, urllib.error.URLError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE)

    def write(self, at: float, samples: Iterable[tuple[Series, float | None]]) -> None:
        """Add samples of one moment (Unix time); None ends a series."""
        stamp = b"\x10" + _varint(round(at * 1000))
        parts = []
        for series, value in samples:
            labels = self._labels.get(series) or self._encoded(series)
            sample = b"\x09" + (STALE if value is None else struct.pack("<d", value)) + stamp
            body = labels + b"\x12" + _varint(len(sample)) + sample
            parts.append(b"\x0a" + _varint(len(body)) + body)
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self._url}/api/v1/write",
            data=_snappy(b"".join(parts)),
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

    def _encoded(self, series: Series) -> bytes:
        """The labels as protobuf, sorted by name as Prometheus wants them."""
        pairs = {"__name__": series[0], **dict(zip(series[1::2], series[2::2], strict=True))}
        found = b""
        for name, value in sorted(pairs.items()):
            if value:
                label = b""
                for tag, text in ((b"\x0a", name), (b"\x12", value)):
                    word = text.encode()
                    label += tag + _varint(len(word)) + word
                found += b"\x0a" + _varint(len(label)) + label
        self._labels[series] = found
        return found

    def ask(self, expression: str, at: float) -> dict[tuple[str, ...], float]:
        """The values of an instant query, by their label values sorted by name."""
        query = urllib.parse.urlencode({"query": expression, "time": at, "timeout": "600s"})
        with urllib.request.urlopen(f"{self._url}/api/v1/query?{query}", timeout=600) as answer:  # noqa: S310
            found = json.load(answer)["data"]["result"]
        return {
            tuple(value for _, value in sorted(row["metric"].items())): float(row["value"][1])
            for row in found
        }


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
