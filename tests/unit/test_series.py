"""Series as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.series import parse_series


def test_a_name_alone_takes_every_series_of_it() -> None:
    [term] = parse_series("requests_total")
    assert (term.name, term.scale) == ("requests_total", 1.0)
    assert term.takes({})
    assert term.takes({"any": "thing"})


@pytest.mark.parametrize(
    ("matcher", "taken", "not_taken"),
    [
        ('code="200"', {"code": "200"}, {"code": "2000"}),
        ('code!="200"', {}, {"code": "200"}),
        ('code=~"2.."', {"code": "204"}, {"code": "2044"}),
        ('code!~"4..|5.."', {"code": "200"}, {"code": "503"}),
        ('code=""', {}, {"code": "200"}),
        ('path="a\\"b"', {"path": 'a"b'}, {"path": "ab"}),
    ],
)
def test_matchers_mean_what_they_mean_in_prometheus(
    matcher: str, taken: dict[str, str], not_taken: dict[str, str]
) -> None:
    [term] = parse_series(f"name{{{matcher}}}")
    assert term.takes(taken)
    assert not term.takes(not_taken)


def test_terms_are_added_up_each_with_its_unit() -> None:
    terms = parse_series('a{x="1", y=~"2|3",} * 1e-6 + b *0.001+ c:d')
    assert [(term.name, term.scale) for term in terms] == [("a", 1e-6), ("b", 0.001), ("c:d", 1.0)]
    assert terms[0].takes({"x": "1", "y": "3"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1a",
        "a{",
        "a{b}",
        'a{b="c"',
        'a{b="c" d="e"}',
        'a{b=~"("}',
        "a *",
        "a + ",
        "a b",
        "a" * 1001,
    ],
)
def test_what_cannot_be_read_says_where(text: str) -> None:
    with pytest.raises(ValueError, match=r"character|regular expression"):
        parse_series(text)


@given(st.text(max_size=60) | st.text('ab{}="~!,+* 1.e-\\', max_size=60))
def test_any_text_is_terms_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_series(text)
