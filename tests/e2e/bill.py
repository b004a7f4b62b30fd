"""What Prometheus has of a namespace's pods: their GPU-seconds, and their dollars by state."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from e2e.prom import Prometheus

COMES_AND_GOES = {"starting", "terminating"}


@dataclass(frozen=True)
class Bill:
    """By pod, those that have ended too."""

    gpu_seconds: dict[str, float]
    usd_by_state: dict[str, dict[str, float]]

    @property
    def usd(self) -> dict[str, float]:
        """All states together."""
        return {pod: sum(states.values()) for pod, states in self.usd_by_state.items()}

    def states(self, pod: str) -> set[str]:
        """The states that the pod has paid for."""
        return {state for state, usd in self.usd_by_state[pod].items() if usd > 0}

    def most(self, pod: str) -> str:
        """The state that most of its dollars are in."""
        states = self.usd_by_state[pod]
        return max(states, key=lambda state: states[state])

    def ratio(self, pod: str, state: str) -> float:
        """The part of its dollars in a state, of those while it ran."""
        states = self.usd_by_state[pod]
        ran = sum(usd for name, usd in states.items() if name not in COMES_AND_GOES)
        return states[state] / ran


def bill(prometheus: Prometheus, namespace: str) -> Bill:
    """What the pods of a namespace were charged in the last ten minutes."""
    here = f'{{namespace="{namespace}"}}'
    seconds = f"max_over_time(gpucost_pod_gpu_seconds_total{here}[10m])"
    dollars = f"max_over_time(gpucost_pod_cost_usd_total{here}[10m])"
    usd: dict[str, dict[str, float]] = defaultdict(dict)
    for labels, value in prometheus.vector(f"sum by (pod, state) ({dollars})").items():
        found = dict(labels)
        usd[found["pod"]][found["state"]] = value
    return Bill(prometheus.by("pod", f"sum by (pod) ({seconds})"), dict(usd))
