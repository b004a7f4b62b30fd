"""The metric names of a PromQL expression, found without a parser of our own.

Good enough for expressions that Prometheus itself has parsed, which the tests see to.
"""

from __future__ import annotations

import re

_WORDS = frozenset(["and", "or", "unless", "atan2", "bool", "offset", "start", "end", "inf", "nan"])
_GROUPINGS = r"\b(?:on|ignoring|by|without|group_left|group_right)\s*\([^)]*\)"
_NAME = r"(?<![\w:.])[a-zA-Z_:][a-zA-Z0-9_:]*(?![\w:]*\s*\()"


def metrics_of(expression: str) -> set[str]:
    """The metric names of an expression. What is called, or grouped by, is none."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'", '""', expression)
    bare = re.sub(r"#[^\n]*", "", bare)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(_GROUPINGS, "", bare)
    bare = re.sub(r"\[[^\]]*\]|\boffset\s+-?\w+|@\s*\w+(?:\(\))?", "", bare)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\b", "", bare)
    return {name for name in re.findall(_NAME, bare) if name.lower() not in _WORDS}
