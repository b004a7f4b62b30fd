"""Sources are read under a deadline: what hangs is not waited for, and not called again."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from gpucost.reader import Direct, Found, Outcome, Paced, Reader
from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG = 60.0
"""More than any answer here takes, on the slowest machine."""
SHORT = 0.05


class Source:
    """A source whose reads can be held up."""

    def __init__(self) -> None:
        self.calls = 0
        self.open = threading.Event()
        self.open.set()

    def read(self) -> int:
        self.calls += 1
        call = self.calls
        assert self.open.wait(LONG)
        return call


@pytest.fixture
def source() -> Iterator[Source]:
    found = Source()
    yield found
    found.open.set()


def asked(reader: Reader[int] | Direct[int] | Paced[int]) -> Outcome[int]:
    reader.ask()
    return reader.answer()


def fails(error: Exception) -> Callable[[], int]:
    def read() -> int:
        raise error

    return read


# --- Reader -------------------------------------------------------------------------------------


def test_an_answer_in_time_is_the_value_and_how_long_it_took(source: Source) -> None:
    reader = Reader("nvml", source.read, LONG)
    outcome = asked(reader)
    assert (outcome.value, outcome.error, outcome.fresh) == (1, None, True)
    assert 0 <= outcome.seconds < LONG
    assert asked(reader).value == 2
    assert reader.close(LONG)


def test_reads_happen_on_a_thread_of_their_own(source: Source) -> None:
    names: list[str] = []

    def read() -> int:
        names.append(threading.current_thread().name)
        return source.read()

    reader = Reader("nvml", read, LONG)
    asked(reader)
    asked(reader)
    assert names == ["source-nvml", "source-nvml"]
    assert reader.close(LONG)


def test_the_deadline_counts_from_the_asking(source: Source) -> None:
    source.open.clear()
    reader = Reader("nvml", source.read, 1.0)
    reader.ask()
    time.sleep(1.1)
    began = time.monotonic()
    assert reader.answer().error is not None
    # It does not wait again for what it has waited for already: several are asked at once.
    assert time.monotonic() - began < 1.0
    source.open.set()
    assert reader.close(LONG)


def test_a_read_that_hangs_is_a_timeout_and_is_not_called_again(source: Source) -> None:
    source.open.clear()
    reader = Reader("nvml", source.read, SHORT)
    for _ in range(3):
        outcome = asked(reader)
        assert outcome.value is None
        assert outcome.error is not None
        assert outcome.error.kind == "timeout"
        assert "nvml has not answered for" in str(outcome.error)
        assert outcome.error.remedy
    assert outcome.seconds >= SHORT
    assert source.calls == 1
    assert not reader.close(SHORT)
    source.open.set()
    assert reader.close(LONG)


def test_a_late_answer_is_taken_with_the_next_asking_and_then_it_is_read_anew(
    source: Source,
) -> None:
    source.open.clear()
    reader = Reader("nvml", source.read, SHORT)
    assert asked(reader).error is not None
    source.open.set()
    found: list[int] = []
    deadline = time.monotonic() + LONG
    while len(found) < 2 and time.monotonic() < deadline:
        if (value := asked(reader).value) is not None:
            found.append(value)
    assert found == [1, 2]
    assert reader.close(LONG)


def test_an_error_of_the_source_is_its_own() -> None:
    reader = Reader("dcgm", fails(SourceError("malformed", "what", "do")), LONG)
    outcome = asked(reader)
    assert outcome.value is None
    assert outcome.error is not None
    assert (outcome.error.kind, str(outcome.error), outcome.error.remedy) == (
        "malformed",
        "what",
        "do",
    )
    assert reader.close(LONG)


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), RecursionError("deep")])
def test_any_other_error_is_a_bug_that_is_told_and_stops_nothing(error: Exception) -> None:
    reader = Reader("dcgm", fails(error), LONG)
    for _ in range(2):
        outcome = asked(reader)
        assert outcome.error is not None
        assert outcome.error.kind == "internal"
        assert type(error).__name__ in str(outcome.error)
        assert "report" in outcome.error.remedy
    assert reader.close(LONG)


def test_nobody_is_answered_who_did_not_ask(source: Source) -> None:
    reader = Reader("nvml", source.read, LONG)
    with pytest.raises(RuntimeError, match="nvml was not asked"):
        reader.answer()
    assert reader.close(LONG)


def test_a_closed_reader_has_no_thread(source: Source) -> None:
    reader = Reader("closing", source.read, LONG)
    asked(reader)
    assert reader.close(LONG)
    assert reader.close(LONG)
    assert "source-closing" not in {thread.name for thread in threading.enumerate()}


# --- Direct -------------------------------------------------------------------------------------


def test_a_direct_source_is_read_once_when_it_is_asked(source: Source) -> None:
    direct = Direct("kubernetes", source.read)
    direct.ask()
    assert source.calls == 1
    assert direct.answer() is direct.outcome
    assert direct.answer().value == 1
    assert source.calls == 1
    assert direct.close()


def test_a_direct_source_that_was_not_asked_has_no_answer(source: Source) -> None:
    with pytest.raises(RuntimeError, match="not asked"):
        Direct("kubernetes", source.read).answer()


def test_errors_of_a_direct_source_are_outcomes_too() -> None:
    outcome = asked(Direct("kubernetes", fails(SourceError("starting", "soon"))))
    assert outcome.error is not None
    assert outcome.error.kind == "starting"
    outcome = asked(Direct("kubernetes", fails(KeyError("x"))))
    assert outcome.error is not None
    assert outcome.error.kind == "internal"


# --- Paced --------------------------------------------------------------------------------------


class Token:
    """Something that is another object when it changes."""

    now: object = ()

    def __call__(self) -> object:
        return self.now


def paced(source: Source, token: Token, *, settle: float, interval: float) -> Paced[int]:
    direct = Direct("kubelet", source.read)
    return Paced(direct, token, settle_seconds=settle, interval_seconds=interval)


def test_what_has_not_changed_is_not_asked_again(source: Source) -> None:
    token = Token()
    reader = paced(source, token, settle=0.0, interval=LONG)
    first = asked(reader)
    assert (first.value, first.fresh) == (1, True)
    for _ in range(3):
        again = asked(reader)
        assert (again.value, again.fresh) == (1, False)
    assert source.calls == 1


def test_a_change_is_read_and_read_again_until_it_has_settled(source: Source) -> None:
    token = Token()
    reader = paced(source, token, settle=LONG, interval=LONG)
    token.now = object()
    for call in range(1, 5):
        assert asked(reader).value == call


def test_a_change_is_seen_without_settling(source: Source) -> None:
    token = Token()
    reader = paced(source, token, settle=1e-9, interval=LONG)
    asked(reader)
    token.now = object()
    reader.ask()
    assert source.calls in (1, 2)  # within the same tick or a later one


def test_it_is_read_at_its_interval_anyway(source: Source) -> None:
    reader = paced(source, Token(), settle=0.0, interval=0.0)
    assert [asked(reader).value for _ in range(3)] == [1, 2, 3]


def test_after_an_error_it_is_asked_again() -> None:
    answers: list[int | SourceError] = [SourceError("unreachable", "no"), 7, 8]

    def read() -> int:
        answer = answers.pop(0)
        if isinstance(answer, SourceError):
            raise answer
        return answer

    direct = Direct("kubelet", read)
    reader = Paced(direct, Token(), settle_seconds=0.0, interval_seconds=LONG)
    assert asked(reader).error is not None
    assert [asked(reader).value for _ in range(3)] == [7, 7, 7]
    assert reader.close()


# --- Found --------------------------------------------------------------------------------------


def test_a_source_that_is_not_there_answers_nothing_and_is_not_asked(source: Source) -> None:
    there = False
    found: Found[int] = Found(Direct("dcgm", source.read), lambda: there)
    found.ask()
    assert found.answer() == Outcome(None, None, 0.0)
    assert source.calls == 0
    there = True
    found.ask()
    assert found.answer().value == 1
    assert found.close()
