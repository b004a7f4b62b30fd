"""The one door to NVML: every optional call goes through it, and every error meets its reaction.

The rule of this file: what a device cannot do is remembered, by unit and call, until NVML is
initialised anew or the GPU is re-partitioned, so that it is not asked again every cycle.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from gpucost.sources.nvml_errors import (
    FUNCTION_NOT_FOUND,
    REACTIONS,
    SPECIAL,
    GpuFault,
    Reaction,
    Restart,
    StaleHandle,
    init_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DENIED_RETRY_SECONDS = 300.0
MAX_RETRY_SECONDS = 60.0
FIRST_RETRY_SECONDS = 5.0
ATTEMPTS = 3

OTHER_ARGUMENTS = {"nvmlDeviceGetMemoryInfo_v2": "nvmlDeviceGetMemoryInfo"}
"""Calls that pynvml makes by an argument of another, named here as the driver names them."""

# pynvml's structures wrap each access to a field in Python code (to decode text): ten times the
# cost of the field itself, for numbers that need none of it.
field = object.__getattribute__


class Silence(Struct, frozen=True):
    """Why a call is not made on a unit, and until when (monotonic seconds)."""

    reaction: Reaction
    code: int
    until: float
    misses: int = 1


class Unit:
    """What calls are made on: a GPU, a MIG instance of one, or the library itself."""

    __slots__ = ("handle", "label", "silent")

    is_gpu = False
    is_mig = False

    def __init__(self, handle: Any, label: str) -> None:  # noqa: ANN401 - an untyped ctypes pointer
        self.handle = handle
        self.label = label
        self.silent: dict[str, Silence] = {}


class NvmlCalls:
    """Makes NVML calls and reacts to their errors by `REACTIONS`."""

    def __init__(self, library: Any, clock: Callable[[], float]) -> None:  # noqa: ANN401 - untyped
        self.library = library
        self.restarted = False
        """Whether NVML was initialised anew in this very read: then it is the GPU's fault."""
        self.enumerated = False
        """Whether MIG was enumerated just now for a stale handle: then handles are not at fault."""
        self.version = 0
        """Grows whenever any unit's silences change."""
        self._functions: dict[str, Callable[..., Any]] = {}
        self._clock = clock
        self._nvml_error = library.NVMLError
        # A mismatch is no NVMLError. A text that is not UTF-8 will not become so.
        self.failures: tuple[type[Exception], ...] = (
            library.NVMLError,
            library.NVMLLibraryMismatchError,
            UnicodeDecodeError,
        )
        """What a function of the library raises; `ask` lets none of them out."""

    def ask(self, unit: Unit, name: str, *args: Any) -> Any:  # noqa: ANN401 - as pynvml answers
        """Call the function `name`; None where it gives nothing.

        Raises Restart, StaleHandle, GpuFault or SourceError where more than the value is gone.
        """
        if name in unit.silent:
            return self._ask_again(unit, name, args)
        function = self._functions.get(name) or self.find(name)
        try:
            return function(*args)
        except self.failures as error:
            return self._react(unit, name, args, error)

    def first(self, unit: Unit, alternatives: Iterable[tuple[str, tuple[Any, ...]]]) -> Any:  # noqa: ANN401
        """The answer of the first call that gives one; each is made on the unit's handle."""
        for name, args in alternatives:
            answer = self.ask(unit, name, unit.handle, *args)
            if answer is not None:
                return answer
        return None

    def failed(self, unit: Unit, name: str) -> bool:
        """Whether a call that gave nothing failed in a way that may pass."""
        silence = unit.silent.get(name)
        return silence is not None and silence.reaction in (Reaction.LATER, Reaction.DENIED)

    def forget(self, unit: Unit) -> None:
        """Ask everything again: what the unit can tell has changed."""
        unit.silent.clear()
        self.version += 1

    def find(self, name: str) -> Callable[..., Any]:
        """The function of that name; one that this pynvml lacks fails as one the driver lacks.

        For who calls it hundreds of times a cycle, and asks again by `ask` where it fails.
        """
        function = self._functions.get(name)
        if function is None:
            function = getattr(self.library, OTHER_ARGUMENTS.get(name, name), None)
            if function is None:
                function = self._not_found
            self._functions[name] = function
        return function

    def _not_found(self, *_args: object) -> None:
        raise self.library.NVMLError(FUNCTION_NOT_FOUND)

    def _ask_again(self, unit: Unit, name: str, args: tuple[Any, ...]) -> Any:  # noqa: ANN401
        """Call a function that failed before, if its time has come."""
        silence = unit.silent[name]
        if self._clock() < silence.until:
            return None
        del unit.silent[name]
        self.version += 1
        try:
            return self.find(name)(*args)
        except self.failures as error:
            return self._react(unit, name, args, error, silence.misses)

    def _react(
        self,
        unit: Unit,
        name: str,
        args: tuple[Any, ...],
        error: Exception,
        misses: int = 0,
    ) -> Any:  # noqa: ANN401
        code = self._code(error)
        reaction = SPECIAL.get((name, code)) or REACTIONS.get(code, Reaction.LATER)
        match reaction:
            case Reaction.EMPTY:
                return None
            case Reaction.ABSENT:
                return self._silence(unit, name, Silence(reaction, code, math.inf))
            case Reaction.DENIED:
                until = self._clock() + DENIED_RETRY_SECONDS
                return self._silence(unit, name, Silence(reaction, code, until))
            case Reaction.AGAIN:
                return self._again(unit, name, args, misses)
            case Reaction.STALE if unit.is_mig and not self.enumerated:
                raise StaleHandle
            case Reaction.LOST | Reaction.RESET if unit.is_gpu or unit.is_mig:
                raise GpuFault("lost" if reaction is Reaction.LOST else "reset_required")
            case Reaction.RESTART if self.restarted and (unit.is_gpu or unit.is_mig):
                raise GpuFault("lost")
            case Reaction.RESTART:
                raise Restart(code)
            case Reaction.DOWN | Reaction.MISMATCH:
                raise init_error(code)
            case _:
                return self._miss(unit, name, code, misses)

    def _again(self, unit: Unit, name: str, args: tuple[Any, ...], misses: int) -> Any:  # noqa: ANN401
        for _ in range(ATTEMPTS):
            try:
                return self.find(name)(*args)
            except self.failures as error:
                code = self._code(error)
                if REACTIONS.get(code) is not Reaction.AGAIN:
                    return self._react(unit, name, args, error, misses)
        return self._miss(unit, name, code, misses)

    def _miss(self, unit: Unit, name: str, code: int, misses: int) -> None:
        """The first failure is asked again next cycle, later ones more and more slowly."""
        pause = FIRST_RETRY_SECONDS * (2 ** min(misses, 10) - 1)
        until = self._clock() + min(pause, MAX_RETRY_SECONDS)
        self._silence(unit, name, Silence(Reaction.LATER, code, until, misses + 1))

    def _silence(self, unit: Unit, name: str, silence: Silence) -> None:
        unit.silent[name] = silence
        self.version += 1

    def _code(self, error: Exception) -> int:
        if isinstance(error, self._nvml_error):
            return int(error.value)
        return FUNCTION_NOT_FOUND
