"""What the laws of the ledger are judged by: pages read back, and how hard hypothesis tries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, settings
from prometheus_client.parser import text_string_to_metric_families

from gpucost.catalog import FAMILIES
from gpucost.pages import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.model import Account, Report

law = settings(
    max_examples=100,
    deadline=None,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
law_of_pages = settings(law, max_examples=20)  # a page takes long to encode and to parse

SERIES_OF_SOURCES = frozenset({"gpucost_gpu_energy_joules_total", "gpucost_gpu_xid_events_total"})
"""Counters that their source keeps: they restart with it."""

Series = tuple[str, tuple[tuple[str, str], ...]]


def dollars(account: Account) -> float:
    return math.fsum((account.usd or {}).values())


def close(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9)


def page(report: Report, *, reveal: bool = False) -> dict[Series, float]:
    """Every sample of an encoded page, by name and labels; a series may be there only once."""
    text = encode(report, reveal=reveal).decode()
    samples: dict[Series, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, f"twice on one page: {key}"
            samples[key] = sample.value
    return samples


def counters(samples: Mapping[Series, float]) -> dict[Series, float]:
    return {key: value for key, value in samples.items() if FAMILIES[key[0]].type == "counter"}
