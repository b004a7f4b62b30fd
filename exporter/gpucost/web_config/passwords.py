"""Users and passwords against bcrypt hashes, which are slow by design."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_PASSWORD_BYTES = 72
"""bcrypt reads no more; Go's compares on the first 72 bytes, Python's refuses longer ones."""


class Passwords:
    """Checks users and passwords; remembers verdicts, for bcrypt is slow by design.

    A verdict is kept under a keyed hash of user, bcrypt hash and password, so that memory holds
    no password, and a changed bcrypt hash is a new question. One check runs at a time, and the
    oldest verdict goes first: a flood of wrong passwords costs one core at most, and those who
    ask often with the right one do not notice it.
    """

    MAX_VERDICTS = 256

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._verdicts: OrderedDict[bytes, bool] = OrderedDict()
        self._lock = threading.Lock()
        self._one_check = threading.Lock()
        self.checks = 0
        """How often bcrypt was run."""

    def right(self, users: Mapping[str, str], user: str, password: str) -> bool:
        """Whether `password` is that of `user`; as slow for a user who does not exist."""
        stand_in = next(iter(users.values()))
        password_hash = users.get(user, stand_in)
        question = self._fingerprint(user, password_hash, password)
        verdict = self._known(question)
        if verdict is None:
            with self._one_check:
                verdict = self._known(question)  # perhaps found while waiting for our turn
                if verdict is None:
                    verdict = _matches(password, password_hash) and user in users
                    self._remember(question, verdict)
        return verdict

    @property
    def remembered(self) -> int:
        """How many verdicts are kept."""
        return len(self._verdicts)

    def _known(self, question: bytes) -> bool | None:
        with self._lock:
            verdict = self._verdicts.get(question)
            if verdict is not None:
                self._verdicts.move_to_end(question)
            return verdict

    def _remember(self, question: bytes, verdict: bool) -> None:  # noqa: FBT001 - it is one bit
        with self._lock:
            self.checks += 1
            self._verdicts[question] = verdict
            if len(self._verdicts) > self.MAX_VERDICTS:
                self._verdicts.popitem(last=False)

    def _fingerprint(self, *words: str) -> bytes:
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for word in words:
            data = word.encode("utf-8", "surrogatepass")
            mac.update(len(data).to_bytes(8) + data)
        return mac.digest()


def _matches(password: str, password_hash: str) -> bool:
    import bcrypt  # noqa: PLC0415 - a native library that few need

    data = password.encode("utf-8", "surrogatepass")[:_MAX_PASSWORD_BYTES]
    try:
        return bcrypt.checkpw(data, password_hash.encode())
    except ValueError:  # a NUL in the password, or a salt that the pattern lets through
        return False
