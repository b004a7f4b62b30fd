"""A Prometheus that holds a day of the played fleet, recorded rules, alerts and all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

import render_rules
from played_fleet import MACHINES, START, Played, Store, pages
from played_neighbours import cluster, scrape
from programs import ROOT
from real_prometheus import Prometheus, prometheus
from recorded_rules import Rule, record, rules_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = """\
interval: 4m
budgets:
  - {name: everything, usd_per_month: 45000}
  - {name: research, usd_per_month: 24000, match: {team: research}}
  - {name: notebooks, usd_per_month: 180, match: {namespace: notebooks}}
  - {name: search, usd_per_month: 11500, match: {team: search}}
targets:
  - {namespace: serving, workload: chat, usd_per_request: 0.0008}
api_prices:
  - {namespace: serving, workload: chat, api: openai/gpt-4o-mini, input: 0.15, output: 0.6}
scaling:
  - namespace: serving
    workload: chat
    cluster: demo
    requests_per_replica: 12
    usd_per_request: 0.0015
    usd_per_hour: 21
    min_replicas: 1
    max_replicas: 4
energy: {carbon_grams_per_kwh: 360, pue_ratio: 1.2}
"""

RULE_SECONDS = 240.0
"""Their interval."""


class Day(Struct, frozen=True):
    """A Prometheus and the time range that it holds; `billed_usd` is the truth of the ledgers."""

    prometheus: Prometheus
    start: float
    end: float
    scrape_seconds: float
    billed_usd: float


def rules(settings: str = SETTINGS) -> list[Rule]:
    """The rules of rules/, for settings that have everything."""
    parsed = render_rules.parse_settings(settings)
    texts = render_rules.rendered(parsed, sorted((ROOT / "rules").glob("*.yaml")))
    return rules_of(texts.values())


def scraped(hours: float, scrape_seconds: float) -> tuple[Store, float]:
    """What a scraper has of the first `hours` of the play, and what the ledgers billed."""
    end = START + hours * 3600
    store = Store()
    fleet = [Played(machine, number) for number, machine in enumerate(MACHINES)]
    for node, page in pages(fleet, end, scrape_seconds):
        store.add(node, page.at, {**page.samples, **scrape(page, node)})
    at = START
    while at <= end:
        store.add("cluster", at, cluster(at, START))
        at += scrape_seconds
    return store, sum(played.billed_usd for played in fleet)


@contextmanager
def day(directory: Path, hours: float, scrape_seconds: float) -> Iterator[Day]:
    """The first `hours` of the play, scraped so often and evaluated as the settings say."""
    store, billed = scraped(hours, scrape_seconds)
    end = START + hours * 3600
    with prometheus(directory) as it:
        it.write(store.series)
        # A moment off the full minutes, as Prometheus spreads its groups too; the last at the end.
        record(it, rules(), START + RULE_SECONDS - 1, end, RULE_SECONDS)
        yield Day(it, START, end, scrape_seconds, billed)
