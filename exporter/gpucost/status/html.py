"""HTML that cannot be forgotten to be escaped: text is escaped unless it is `Html` already."""

from __future__ import annotations

import html
import re

MAX_TEXT = 2000
"""Longer text is cut: a label or a message, not a book."""

_VOID = frozenset({"br", "link", "meta"})

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""What HTML forbids in text (https://html.spec.whatwg.org/#text-content), lone surrogates, and
the carriage return."""


class Html(str):
    """Finished HTML. Made by `el` and `escape` only."""

    __slots__ = ()


Content = str | Html | None


def escape(text: str) -> Html:
    """Make any text safe between tags and in quoted attributes."""
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 1] + "…"
    return Html(html.escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)))


def join(*parts: Content) -> Html:
    """Put parts one after the other, escaping those that are plain text."""
    return Html("".join(p if isinstance(p, Html) else escape(p) for p in parts if p is not None))


def el(tag: str, *content: Content, **attributes: str | None) -> Html:
    """Make an element.

    Attributes are escaped; one that is None is left out; `class_` and `aria_label` stand for
    `class` and `aria-label`.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{join(*content)}</{tag}>")
