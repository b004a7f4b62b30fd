"""What the connections of one server have in common."""

from __future__ import annotations

import gzip
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpucost.web_config import Passwords

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpucost.answers import Pages
    from gpucost.web_config import Guard

_GZIP_LEVEL = 1
"""A page is compressed once and sent to one or two scrapers: time weighs more than size."""


class Compressed:
    """The latest pages, compressed at most once each: known by identity, not by content."""

    KEPT = 4
    """Both formats of /metrics, the status page, and one to spare while a Report is replaced."""

    def __init__(self) -> None:
        self._pages: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self.runs = 0

    def of(self, page: bytes) -> bytes:
        """Return `page` in gzip."""
        with self._lock:
            # The page itself is kept beside its id: an id is only unique among the living.
            found = self._pages.get(id(page))
            if found is None:
                self.runs += 1
                found = (page, gzip.compress(page, _GZIP_LEVEL, mtime=0))
                self._pages[id(page)] = found
                if len(self._pages) > self.KEPT:
                    self._pages.popitem(last=False)
            return found[1]


@dataclass
class Common:
    """What there is to be seen and by whom, and how long a client is waited for.

    `guard` gives the web config in force. Once `closing` is set, no further request is read.
    """

    pages: Pages
    guard: Callable[[], Guard]
    timeout_seconds: float
    idle_seconds: float
    passwords: Passwords = field(default_factory=Passwords)
    compressed: Compressed = field(default_factory=Compressed)
    closing: bool = False
