"""Exporter: whether the figures can be believed."""

from __future__ import annotations

from dashboards.build.board import Board, Variable, link
from dashboards.build.panels import (
    FROM_NOW,
    GREEN,
    NONE_IS_GOOD,
    NUMBER,
    ORANGE,
    RATIO,
    RED,
    SECONDS,
    USD,
    Query,
    Row,
    chart,
    named_values,
    stat,
    timeline,
)
from dashboards.build.promql import CLUSTER, UNKNOWN, foremost, hourly, usd
from dashboards.build.tables import Column, Label, table

ON = f'{CLUSTER}, node=~"$node"'
UP = named_values(((1, "up", GREEN), (0, "down", RED)))

BOARD = Board(
    uid="gpucost-exporter",
    title="GPU cost / Exporter",
    description="Whether the figures can be believed: sources that answer, problems a person can mend,"
    " GPUs without a price, the age of prices, and whether the ledger adds up.",
    alerts='alertname=~"Gpucost.*"',
    variables=(
        Variable("node", "Node", f"gpucost_build_info{{{CLUSTER}}}", "Nodes with an exporter."),
    ),
    rows=(
        Row(
            "",
            (
                stat(
                    "Exporters",
                    "Nodes whose exporter answers.",
                    f"count(count by (node) (gpucost_build_info{{{ON}}}))",
                    NUMBER,
                ),
                stat(
                    "Sources down",
                    "Sources (NVML, DCGM, kubelet, ...) whose last read failed.",
                    f"count(max by (node, source) (gpucost_source_up{{{ON}}}) == 0) or vector(0)",
                    NUMBER,
                    thresholds=NONE_IS_GOOD,
                ),
                stat(
                    "Problems",
                    "Things that a person can mend, listed below.",
                    f"sum(max by (node, source, kind) (gpucost_problems{{{ON}}})) or vector(0)",
                    NUMBER,
                    thresholds=((None, GREEN), (1, ORANGE)),
                ),
                stat(
                    "GPUs without a price",
                    "Their GPU-seconds are counted, their dollars are not.",
                    f"sum(max by (node) (gpucost_unpriced_gpus{{{ON}}}))",
                    NUMBER,
                    thresholds=NONE_IS_GOOD,
                ),
                stat(
                    "Ledger imbalance",
                    "The bill less what holders and nodes were charged, the largest of any node: 0"
                    " within the error of floats, or the ledger is wrong.",
                    usd(f"max(abs(gpucost_ledger_imbalance_usd{{{ON}}}))"),
                    USD,
                    decimals=6,
                    thresholds=((None, GREEN), (0.01, RED)),
                ),
                stat(
                    "Not known",
                    "Share of the present spend whose holder or activity is not known.",
                    f"(sum(fleet:gpucost_cost_usd:rate5m{{{CLUSTER}, {UNKNOWN}}}) or vector(0))"
                    f" / sum(fleet:gpucost_cost_usd:rate5m{{{CLUSTER}}})",
                    RATIO,
                    decimals=1,
                    thresholds=((None, GREEN), (0.05, ORANGE), (0.2, RED)),
                ),
            ),
        ),
        Row(
            "Sources",
            (
                timeline(
                    "Sources",
                    "Whether the last read of a source worked. Those that failed most in the time"
                    " range, thirty at most.",
                    (
                        Query(
                            foremost(
                                30,
                                "node, source",
                                f"min by (node, source) (gpucost_source_up{{{ON}}})",
                                "1 - min by (node, source)"
                                f" (avg_over_time(gpucost_source_up{{{ON}}}[$__range] @ end()))",
                            ),
                            "{{node}} {{source}}",
                        ),
                    ),
                    ((1, "up", GREEN), (0, "down", RED)),
                    width=12,
                ),
                chart(
                    "Duration of reads",
                    "Of each source; the slowest node.",
                    (
                        Query(
                            f"max by (source) (gpucost_source_duration_seconds{{{ON}}})",
                            "{{source}}",
                        ),
                    ),
                    SECONDS,
                    width=12,
                ),
                table(
                    "Problems to mend",
                    "What a person can mend. The status page of the node's exporter and its log say"
                    " what to do.",
                    (
                        Label("node", "Node", link("gpucost-node", node="${__data.fields.Node}")),
                        Label("source", "Source"),
                        Label("kind", "Problem"),
                    ),
                    (
                        Column(
                            "Count",
                            f"max by (node, source, kind) (gpucost_problems{{{ON}}}) > 0",
                            NUMBER,
                        ),
                    ),
                    width=12,
                    height=8,
                    may_be_empty="no problems",
                ),
                table(
                    "Sources, node by node",
                    "When each source was last read with success.",
                    (Label("node", "Node"), Label("source", "Source")),
                    (
                        Column(
                            "State",
                            f"min by (node, source) (gpucost_source_up{{{ON}}})",
                            "none",
                            mappings=(UP,),
                            width=90,
                        ),
                        Column(
                            "Last success",
                            "1000 * max by (node, source)"
                            f" (gpucost_source_last_success_timestamp_seconds{{{ON}}})",
                            FROM_NOW,
                        ),
                        Column(
                            "Read takes",
                            f"max by (node, source) (gpucost_source_duration_seconds{{{ON}}})",
                            SECONDS,
                            decimals=3,
                        ),
                    ),
                    width=12,
                    height=8,
                ),
            ),
        ),
        Row(
            "Ledger and prices",
            (
                chart(
                    "Ledger imbalance, by node",
                    "The ten nodes where it is largest. Beyond a cent the ledger is wrong: please"
                    " report it.",
                    (
                        Query(
                            usd(
                                foremost(
                                    10,
                                    "node",
                                    f"max by (node) (gpucost_ledger_imbalance_usd{{{ON}}})",
                                    f"max by (node) (abs(gpucost_ledger_imbalance_usd{{{ON}}} @ end()))",
                                )
                            ),
                            "{{node}}",
                        ),
                    ),
                    USD,
                    width=8,
                    decimals=3,
                    minimum=None,
                    soft=(-0.01, 0.01),
                ),
                chart(
                    "Spend of unknown holder or activity, per hour",
                    "Unattributed: the holder is not known. Unmeasured: held, without an activity"
                    " signal.",
                    (
                        Query(
                            hourly(
                                f"sum by (state) (fleet:gpucost_cost_usd:rate5m{{{CLUSTER}, {UNKNOWN}}})"
                            ),
                            "{{state}}",
                        ),
                    ),
                    USD,
                    width=8,
                    style="stack",
                    may_be_empty="all is known",
                ),
                chart(
                    "GPUs without a price, by node",
                    "Give them one in the price table. The twenty nodes that have most.",
                    (
                        Query(
                            foremost(
                                20,
                                "node",
                                f"max by (node) (gpucost_unpriced_gpus{{{ON}}}) > 0",
                                f"max by (node) (gpucost_unpriced_gpus{{{ON}}} @ end())",
                            ),
                            "{{node}}",
                        ),
                    ),
                    NUMBER,
                    width=8,
                    style="steps",
                    may_be_empty="every GPU has a price",
                ),
                table(
                    "Exporters",
                    "Version, since when the ledger counts, whether the settings on disk are in force,"
                    " and the age of the prices.",
                    (Label("node", "Node"), Label("version", "Version")),
                    (
                        Column(
                            "Ledger since",
                            "1000 * max by (node, version) (gpucost_build_info"
                            f"{{{ON}}} * on (cluster, node) group_left ()"
                            " max by (cluster, node) (gpucost_ledger_start_timestamp_seconds))",
                            FROM_NOW,
                        ),
                        Column(
                            "Settings read",
                            "1000 * max by (node, version) (gpucost_build_info"
                            f"{{{ON}}} * on (cluster, node) group_left ()"
                            " max by (cluster, node) (gpucost_config_last_reload_success_timestamp_seconds))",
                            FROM_NOW,
                        ),
                        Column(
                            "Settings",
                            "max by (node, version) (gpucost_build_info"
                            f"{{{ON}}} * on (cluster, node) group_left ()"
                            " max by (cluster, node) (gpucost_config_last_reload_successful))",
                            "none",
                            mappings=(named_values(((1, "in force", GREEN), (0, "refused", RED))),),
                        ),
                        Column(
                            "Prices of",
                            "1000 * max by (node, version) (gpucost_build_info"
                            f"{{{ON}}} * on (cluster, node) group_left ()"
                            " min by (cluster, node) (gpucost_price_table_timestamp_seconds))",
                            FROM_NOW,
                        ),
                    ),
                    height=8,
                ),
            ),
        ),
        Row(
            "Scraping",
            (
                chart(
                    "Targets that answer",
                    "Of the job that scrapes gpucost. Fewer than there are nodes: an exporter is down,"
                    " or not scraped.",
                    (
                        Query(f'sum(up{{job=~".*gpucost.*", {CLUSTER}}})', "up"),
                        Query(f'count(up{{job=~".*gpucost.*", {CLUSTER}}})', "targets"),
                    ),
                    NUMBER,
                    width=8,
                    style="steps",
                ),
                chart(
                    "Scrape duration",
                    "The slowest exporter.",
                    (
                        Query(
                            f'max(scrape_duration_seconds{{job=~".*gpucost.*", {CLUSTER}}})',
                            "slowest",
                        ),
                    ),
                    SECONDS,
                    width=8,
                ),
                chart(
                    "Series of a scrape",
                    "Of the largest exporter.",
                    (
                        Query(
                            f'max(scrape_samples_scraped{{job=~".*gpucost.*", {CLUSTER}}})',
                            "largest",
                        ),
                    ),
                    NUMBER,
                    width=8,
                ),
            ),
        ),
    ),
)
