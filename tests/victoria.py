"""VictoriaMetrics and vmalert as old and as new as people may have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.place import Place
from cluster.programs import VICTORIAMETRICS, build
from cluster.programs import program as built
from programs import program

if TYPE_CHECKING:
    from collections.abc import Callable

AGES = ("oldest", "newest")


def victoria(age: str) -> Callable[[str], str]:
    """The paths of programs: of Debian's package, or of a release that is built if need be."""
    if age == "oldest":
        return program
    programs = Place.of_environment().programs
    build((VICTORIAMETRICS,), programs)
    return lambda name: str(built(VICTORIAMETRICS, name, programs))
