"""Which series of a page make a figure, as people write them: selectors, sums and units. Pure.

    name{label="a", other!="b", third=~"c|d"} * 0.001 + other_name

Matchers are Prometheus's (`=`, `!=`, `=~`, `!~`, whole values; an absent label is empty). What is
written without a unit is in the figure's own: requests, tokens, seconds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CHARS = 1000

_NAME = re.compile(r"[ \t]*([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*")
_MATCHER = re.compile(
    r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*(=~|!~|!=|=)[ \t]*"((?:[^"\\]|\\["\\])*)"[ \t]*'
)
_SCALE = re.compile(r"\*[ \t]*([0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)[ \t]*")
_ESCAPED = re.compile(r'\\(["\\])')


class Matcher(Struct, frozen=True):
    """A condition on one label; `pattern` must match the whole of its value, or must not."""

    label: str
    pattern: re.Pattern[str]
    wanted: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether a series with these labels satisfies it."""
        return (self.pattern.fullmatch(labels.get(self.label, "")) is not None) is self.wanted


class Term(Struct, frozen=True):
    """Series of one name that satisfy every matcher, times `scale`."""

    name: str
    matchers: tuple[Matcher, ...] = ()
    scale: float = 1.0

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Whether a series of this name is one of them."""
        return all(matcher.holds(labels) for matcher in self.matchers)


Terms = tuple[Term, ...]
"""Terms to be added up."""


def parse_series(text: str) -> Terms:
    """The terms of a written figure. Raises ValueError, which says where it cannot be read."""
    if len(text) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS} characters")
    terms: list[Term] = []
    position = 0
    while True:
        term, position = _term(text, position)
        terms.append(term)
        if position == len(text):
            return tuple(terms)
        if text[position] != "+":
            raise _unreadable(text, position, "`+` or the end")
        position += 1


def _term(text: str, position: int) -> tuple[Term, int]:
    named = _NAME.match(text, position)
    if named is None:
        raise _unreadable(text, position, "a metric's name")
    position = named.end()
    matchers: tuple[Matcher, ...] = ()
    if text.startswith("{", position):
        matchers, position = _matchers(text, position + 1)
    scale = _SCALE.match(text, position)
    if scale is None:
        return Term(named[1], matchers), position
    return Term(named[1], matchers, float(scale[1])), scale.end()


def _matchers(text: str, position: int) -> tuple[tuple[Matcher, ...], int]:
    matchers: list[Matcher] = []
    while not text.startswith("}", position):
        found = _MATCHER.match(text, position)
        if found is None:
            raise _unreadable(text, position, 'a matcher like label="value"')
        matchers.append(_matcher(found[1], found[2], _ESCAPED.sub(r"\1", found[3])))
        position = found.end()
        if text.startswith(",", position):
            position += 1
        elif not text.startswith("}", position):
            raise _unreadable(text, position, "`,` or `}`")
    position += 1
    return tuple(matchers), position + len(text[position:]) - len(text[position:].lstrip(" \t"))


def _matcher(label: str, operator: str, value: str) -> Matcher:
    try:
        pattern = re.compile(value if operator.endswith("~") else re.escape(value))
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from error
    return Matcher(label, pattern, wanted=not operator.startswith("!"))


def _unreadable(text: str, position: int, wanted: str) -> ValueError:
    return ValueError(f"expected {wanted} at character {position + 1} of `{text[:100]}`")
