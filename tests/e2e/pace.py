"""How often things happen on this ground, in seconds, and what follows for comparisons."""

CYCLE_SECONDS = 5
"""The exporter's own pace, as shipped."""

SCRAPE_SECONDS = 2

EDGE_SECONDS = CYCLE_SECONDS + SCRAPE_SECONDS + 1.0
"""A holder is seen at the first reading after it came and charged to the first after it went;
Prometheus has that a scrape later, and a second goes by in starting what is asked."""
