"""What is read back is what was written, or it is refused."""

from __future__ import annotations

import math
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gpucost.checkpoint import MAX_BYTES, Checkpoint, CheckpointError, decode, encode
from gpucost.gap import holds_of
from gpucost.model import Account, Ledger, State
from histories import World, run, worlds
from stage import Stage, pod

SAMPLE = Path(__file__).parents[1] / "samples/checkpoint-1"
WRITTEN = Checkpoint("node-1", "boot-1", 1_795_377_363.0, 100.0, Ledger(started_at=1.0))


def sealed(body: bytes) -> bytes:
    """A body of any kind under a header that agrees with it."""
    digest = sha256(body).hexdigest().encode()
    return b"gpucost-checkpoint 1 %s %d\n%s" % (digest, len(body), body)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_every_ledger_comes_back_as_it_was(world: World) -> None:
    report = run(world)[-1].report
    devices = tuple(gpu.device for gpu in report.snapshot.gpus)
    written = replace(WRITTEN, ledger=report.ledger, devices=devices, holds=holds_of(report))
    assert decode(encode(written)) == written


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 255))
def test_no_byte_may_differ(place: int, change: int) -> None:
    data = bytearray(encode(WRITTEN))
    data[place % len(data)] ^= change
    with pytest.raises(CheckpointError):
        decode(bytes(data))


@settings(deadline=None)
@given(st.integers(0, 1000), st.binary(max_size=10))
def test_nothing_may_be_missing_or_added(place: int, added: bytes) -> None:
    data = encode(WRITTEN)
    with pytest.raises(CheckpointError):
        decode(data[: place % len(data)] + added[:0])
    with pytest.raises(CheckpointError):
        decode(data + (added or b"\0"))


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(sealed))
@example(b"")
@example(sealed(b"\x91" * 5000))
@example(sealed(msgspec.msgpack.encode({"node": "n"})))
def test_anything_else_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"."):
        decode(data)


@pytest.mark.parametrize("figure", [math.nan, math.inf, -1.0])
def test_figures_that_no_page_could_show_are_refused(figure: float) -> None:
    ledger = Ledger(started_at=1.0, node=Account({State.UNALLOCATED: figure}))
    with pytest.raises(CheckpointError, match="not a number"):
        decode(encode(replace(WRITTEN, ledger=ledger)))


def test_another_version_is_told_apart_from_damage() -> None:
    data = encode(WRITTEN).replace(b"gpucost-checkpoint 1 ", b"gpucost-checkpoint 2 ", 1)
    with pytest.raises(CheckpointError, match="version 2") as refused:
        decode(data)
    assert refused.value.kind == "version"


def test_one_that_is_too_large_is_not_written() -> None:
    with pytest.raises(CheckpointError) as refused:
        encode(replace(WRITTEN, node="n" * MAX_BYTES))
    assert refused.value.kind == "too_large"


def test_what_version_1_wrote_is_still_read() -> None:
    """A file in the repository: when this fails, the format has changed (checkpoint.VERSION)."""
    found = decode(SAMPLE.read_bytes())
    assert found.node == "node-1"
    assert found.ledger.billed_usd == pytest.approx(0.1)
    assert [hold.uid for hold in found.holds] == ["uid-of-jupyter-ada-0"]


def test_the_file_in_the_repository_says_what_is_written_today() -> None:
    """Else a field was added: write the file anew (UPDATE of this test: see `sample`)."""
    assert decode(SAMPLE.read_bytes()) == decode(sample())


def sample() -> bytes:
    """`python -c "..."` with this writes tests/samples/checkpoint-1."""
    stage = Stage()
    stage.hold(shown=pod())
    stage.cycle(times=21)
    return stage.checkpoint()
