"""Asks the cluster's Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import requests

if TYPE_CHECKING:
    from e2e.kube import Evidence, Kube


class Prometheus:
    """The HTTP API of one Prometheus."""

    def __init__(self, url: str, evidence: Evidence) -> None:
        self._url = url
        self._evidence = evidence

    def vector(
        self, query: str, at: float | None = None
    ) -> dict[tuple[tuple[str, str], ...], float]:
        """Labels, sorted and as pairs, to value. Raises requests.RequestException."""
        answer = requests.get(
            f"{self._url}/api/v1/query",
            params={"query": query} | ({} if at is None else {"time": str(at)}),
            timeout=20,
        )
        answer.raise_for_status()
        result = answer.json()["data"]["result"]
        found = {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in result}
        told = ", ".join(f"{dict(labels)}: {value:g}" for labels, value in found.items())
        self._evidence.add(f"{query} -> {told[:600] or 'nothing'}")
        return found

    def by(self, label: str, query: str, at: float | None = None) -> dict[str, float]:
        """One label's value to value; of a query that leaves only that label distinct."""
        found = self.vector(query, at)
        return {dict(labels).get(label, ""): value for labels, value in found.items()}

    def value(self, query: str, at: float | None = None) -> float | None:
        """The one value of a query that gives one or none. Raises ValueError if it gives more."""
        found = self.vector(query, at)
        if len(found) > 1:
            raise ValueError(f"{query} gives {len(found)} series")
        return next(iter(found.values()), None)


def reach(kube: Kube, evidence: Evidence) -> Prometheus:
    """The Prometheus that the steps installed, once it has scraped every exporter."""
    service = kube.get("-n", "monitoring", "service", "prometheus")
    found = Prometheus(f"http://{service['spec']['clusterIP']}:9090", evidence)
    kube.wait("Prometheus scrapes", lambda: (found.value("sum(up) > 0") or 0) > 0)
    return found
