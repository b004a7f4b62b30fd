"""The Grafana boards as code: `python -m dashboards.build` writes dashboards/*.json."""
