"""Quantities of Kubernetes, as its documentation defines them."""

from __future__ import annotations

import pytest

from gpucost.sources.quantity import amount_of


@pytest.mark.parametrize(
    ("quantity", "amount"),
    [
        ("0", 0), ("132", 132), (7, 7), ("1.5", 1.5), ("+2", 2), (".5Gi", 1 << 29), ("5.", 5),
        ("80Gi", 80 << 30), ("81920Mi", 80 << 30), ("1Ki", 1024), ("3k", 3000), ("2M", 2e6),
        ("12e6", 12e6), ("1E3", 1000), ("1E", 1e18), ("1Ei", 1 << 60), ("250m", 0.25),
        ("", None), ("Gi", None), ("-1", None), ("1 Gi", None), ("1gi", None), ("inf", None),
        ("1e999", None), ("1Gib", None), ("\u0661", None),
    ],
)  # fmt: skip
def test_quantities_are_read_as_kubernetes_writes_them(
    quantity: str | int, amount: float | None
) -> None:
    assert amount_of(quantity) == amount
