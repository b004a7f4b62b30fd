"""The ledger as bytes, and back: versioned, checksummed, bounded. Pure.

The file is one line, `gpucost-checkpoint 1 <sha256 of the rest> <length of the rest>`, and a
Checkpoint in msgpack.

What is read back is either exactly what was written or refused. A field that is new here has a
default, so older files stay readable; `VERSION` changes when a field changes its meaning.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from gpucost.model import Device, Hold, Ledger  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.model import Account

VERSION = 1
MAX_BYTES = 16 << 20
"""Some ten times what the ledger's own limits allow."""

_NAME = b"gpucost-checkpoint"
_HEADER_BYTES = 128
_HEADER_WORDS = 4


class CheckpointError(Exception):
    """The bytes cannot be used: `kind` is a word for it, the message says what is wrong."""

    def __init__(self, kind: str, message: str) -> None:
        """`kind`: corrupt, too_large or version."""
        super().__init__(message)
        self.kind = kind


class Checkpoint(Struct, frozen=True):
    """The ledger at one moment, and what was known then of the time after it.

    `monotonic_seconds` is the kernel's CLOCK_MONOTONIC, the same for all processes of one boot
    (clock_gettime(2)), up to which the ledger is charged. `devices` are the node's GPUs and
    `holds` who held them.
    """

    node: str
    boot_id: str
    wall_time: float
    monotonic_seconds: float
    ledger: Ledger
    devices: tuple[Device, ...] = ()
    holds: tuple[Hold, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Checkpoint)


def encode(checkpoint: Checkpoint) -> bytes:
    """The file's bytes. Raises CheckpointError where they would be too many."""
    body = _encoder.encode(checkpoint)
    header = b"%s %d %s %d\n" % (_NAME, VERSION, sha256(body).hexdigest().encode(), len(body))
    if len(header) + len(body) > MAX_BYTES:
        raise CheckpointError("too_large", f"the ledger takes more than {MAX_BYTES} bytes")
    return header + body


def decode(data: bytes) -> Checkpoint:
    """What `encode` wrote. Raises CheckpointError for anything else."""
    header, newline, body = data[:_HEADER_BYTES].partition(b"\n")
    words = header.split(b" ")
    if not newline or len(words) != _HEADER_WORDS or words[0] != _NAME:
        raise CheckpointError("corrupt", "the file does not begin as a checkpoint does")
    if words[1] != b"%d" % VERSION:
        version = words[1][:8].decode("ascii", "replace")
        raise CheckpointError("version", f"it is of version {version}, and not {VERSION}")
    body = data[len(header) + 1 :]
    if words[3] != b"%d" % len(body):
        raise CheckpointError("corrupt", "the file is cut off, or something was added")
    if words[2] != sha256(body).hexdigest().encode():
        raise CheckpointError("corrupt", "the checksum does not agree with the contents")
    try:
        checkpoint = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CheckpointError("corrupt", f"the contents cannot be read: {error}") from error
    if not all(map(_is_total, _figures(checkpoint))):
        raise CheckpointError("corrupt", "a figure is negative or not a number")
    return checkpoint


def _is_total(figure: float) -> bool:
    return math.isfinite(figure) and figure >= 0


def _figures(checkpoint: Checkpoint) -> Iterator[float]:
    """Everything that must be a finite number from 0 up, or no page could be trusted."""
    ledger = checkpoint.ledger
    yield from (
        checkpoint.wall_time,
        checkpoint.monotonic_seconds,
        ledger.started_at,
        ledger.clock_seconds,
        ledger.billed_usd,
        ledger.settled_usd,
        ledger.looked_from,
        *ledger.charged_at.values(),
    )
    for account in _accounts(ledger):
        yield from account.seconds.values()
        yield from (account.usd or {}).values()
    for energy in ledger.energy.values():
        yield energy.joules
    for count in ledger.xids.values():
        yield count.count
    for work in ledger.work.values():
        yield from work.counts.values()
        for series in work.read.values():
            yield from series.values()
    if ledger.gap is not None:
        yield from (seconds for _, seconds in ledger.gap.stretches)


def _accounts(ledger: Ledger) -> Iterator[Account]:
    yield ledger.node
    yield from (gpu.account for gpu in ledger.gpus.values())
    yield from (pod.account for pod in ledger.pods.values())
    yield from ledger.months.values()
    for tenure in ledger.tenures.values():
        yield from tenure.pending.values()
