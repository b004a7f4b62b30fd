"""Quantities as Kubernetes writes them: `80Gi`, `12e6`, `250m`. Pure."""

from __future__ import annotations

import re

Quantity = str | int | float
"""As JSON has it: a string, unless someone wrote a bare number."""

_SUFFIXES = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_QUANTITY = re.compile(
    r"\+?(?P<number>(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,2})?)"
    rf"(?P<suffix>{'|'.join(_SUFFIXES)})"
)
"""What a quantity is that is not negative
(https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/)."""


def amount_of(quantity: Quantity) -> float | None:
    """A quantity of Kubernetes as a number; None where it is not one, or is negative."""
    found = _QUANTITY.fullmatch(str(quantity))
    return None if found is None else float(found["number"]) * _SUFFIXES[found["suffix"]]
