"""Prometheus text is read strictly, and label values survive whatever they hold."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.sources.base import SourceError
from gpucost.sources.promtext import parse_rows

_ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        ('X_A{a="1",b="2"} 3', {"a": "1", "b": "2"}, 3.0),
        ('X_A{a="1", b="2"} 3', {"a": "1", "b": "2"}, 3.0),
        ('X_A{a="1",b="2",} 3', {"a": "1", "b": "2"}, 3.0),
        ('X_A { a = "1" , b = "2" , }  3', {"a": "1", "b": "2"}, 3.0),
        ('X_A{a="}{,\\"# "} 3', {"a": '}{,"# '}, 3.0),
        ('X_A{a="C:\\temp"} 3', {"a": "C:\\temp"}, 3.0),
        ("X_A{} 3", {}, 3.0),
        ("X_A 3", {}, 3.0),
        ("X_A\t3", {}, 3.0),
        ("X_A 3 1700000000123", {}, 3.0),
        ("X_A 3 1700000000.123", {}, 3.0),
        ("X_A 3 1.700000000123e9", {}, 3.0),
        ('X_A{a="1"} 3 # {trace_id="} 7 #"} 0.5', {"a": "1"}, 3.0),
        ('X_A{a="1"} 3 1.5 # {} 0.5 1700000000.1', {"a": "1"}, 3.0),
        ('X_A{a="1"} 3 # {b="2"} 1', {"a": "1"}, 3.0),
        ("X_A 3 -1", {}, 3.0),
        ("X_A -1.5e-3", {}, -0.0015),
        ("X_A +Inf", {}, float("inf")),
        ("  X_A 3  ", {}, 3.0),
        ("X_A 3\r", {}, 3.0),
    ],
)
def test_every_way_of_writing_a_sample_is_understood(
    line: str, labels: dict[str, str], value: float
) -> None:
    [row] = parse_rows(f"{line}\n".encode(), "X_")
    assert (row.labels, row.values) == (labels, [("X_A", value)])


@pytest.mark.parametrize(
    "line",
    [
        "<html>",
        "404 page not found",
        "X_A",
        "X_A{} ",
        "X_A{a=1} 3",
        'X_A{a="1} 3',
        'X_A{a="1" b="2"} 3',
        'X_A{,a="1"} 3',
        'X_A{a="1",,b="2"} 3',
        'X_A{a="1",a="2"} 3',
        'X_A{a="1"} 0x10',
        'X_A{a="1"} 1_000',
        'X_A{a="1"} 3 4 5',
        'X_A{a="1"} 3 # {b="2"}',
        'X_A{a="1"} 3 # note',
        'X_A{a="1"} 3# {b="2"} 1',
        'X_A{a="1"} # {b="2"} 1',
        'X_A{a="1"} 3 1x',
        'X_A{a="1"}',
        "go_goroutines",
    ],
)
def test_a_malformed_line_refuses_the_page_by_its_number(line: str) -> None:
    with pytest.raises(SourceError, match=r"^Line 3 is not Prometheus text") as caught:
        parse_rows(f"# TYPE X_B gauge\nX_B 1\n{line}\nX_B 2\n".encode(), "X_")
    assert caught.value.kind == "malformed"


@pytest.mark.parametrize(
    "line",
    [
        b"X " + b"1" * 200_000 + b" x",
        b"X 1 " + b"1" * 200_000 + b"x",
        b"X 1 # {} " + b"1" * 200_000 + b"x",
        b"X 1" + b" " * 200_000 + b"x",
        b"X" + b" " * 200_000 + b"x",
        b"X{" + b'"a"' * 200_000,
        b'X{a="' + b'\\"' * 200_000,
        b"X 1" + b" # {" * 200_000,
    ],
)
def test_a_hostile_line_costs_no_more_than_its_length(line: bytes) -> None:
    """Pages come from pods too. Tried again at every digit, these would take minutes."""
    began = time.monotonic()
    with pytest.raises(SourceError):
        parse_rows(line, "X")
    assert time.monotonic() - began < 10


def test_a_malformed_line_is_quoted_in_part_only() -> None:
    with pytest.raises(SourceError) as caught:
        parse_rows(b"?" * 1000, "X_")
    assert len(str(caught.value)) < 100


def test_label_bytes_that_are_not_utf_8_refuse_the_page() -> None:
    with pytest.raises(SourceError, match="Line 1"):
        parse_rows(b'X_A{a="\xff"} 1\n', "X_")


def test_comments_blank_lines_and_other_metrics_are_passed_over() -> None:
    page = b"\n# a remark\n\n#\nX_A 1\n# HELP X_A no sample {\ngo_threads 7\n \n"
    [row] = parse_rows(page, "X_")
    assert row.values == [("X_A", 1.0)]


def test_samples_with_one_label_set_are_one_row() -> None:
    page = b'X_A{a="1"} 1\nX_A{a="2"} 2\nX_B{a="1"} 3\n'
    assert [(row.labels["a"], row.values) for row in parse_rows(page, "X_")] == [
        ("1", [("X_A", 1.0), ("X_B", 3.0)]),
        ("2", [("X_A", 2.0)]),
    ]


@given(value=_ANY_TEXT)
def test_any_unicode_in_a_label_value_survives(value: str) -> None:
    [row] = parse_rows(f'X_A{{a="{escape(value)}",b="end"}} 1\n'.encode(), "X_")
    assert row.labels == {"a": value, "b": "end"}


@given(page=st.binary())
def test_arbitrary_bytes_are_read_or_refused(page: bytes) -> None:
    try:
        parse_rows(page, "X_")
    except SourceError as error:
        assert error.kind == "malformed"  # noqa: PT017 - not raising is as good
