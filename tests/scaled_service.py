"""A service that KEDA and the HPA scale, step by step: for the many days no cluster can wait.

A fluid of requests: they arrive, wait at the gateway, are worked on and finish, or give up. Pods
wait for a node, load, are ready. What the law sees is what Prometheus would have seen a minute
before. KEDA and the HPA do what their sources do (pkg/scaling/executor/scale_scaledobjects.go;
Kubernetes' pkg/controller/podautoscaler: tolerance 10 %, the highest of the stabilization window,
the policies of `behavior`), with the words of the chart's ScaledObject.
"""

from __future__ import annotations

import functools
import math
import re
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from msgspec import Struct

from helm_chart import install
from scaling_law import Law, Seen, formula

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = 15
"""Seconds: of the rules, of KEDA's polling and of the HPA."""
DELAY_STEPS = 4
"""From what is so to what KEDA reads: cycle, scrape, rule, poll."""
MINUTE_STEPS = 4
TOLERANCE = 0.1


class Policy(Struct, frozen=True):
    """How far the HPA may go within a period: a share of what was there, or so many pods."""

    percent: float
    pods: int
    period_seconds: float

    def reach(self, replicas: int, sign: int) -> int:
        """From so many at the period's start, up (1) or down (-1)."""
        if self.pods:
            return replicas + sign * self.pods
        rounded = math.ceil if sign > 0 else math.floor
        return rounded(replicas * (1 + sign * self.percent / 100))


class Keda(Struct, frozen=True):
    """What the ScaledObject says beside its formula. Times in seconds."""

    cooldown_seconds: float
    scale_down_seconds: float
    up: tuple[Policy, ...]
    down: tuple[Policy, ...]
    fallback_replicas: int
    failures: int

    @classmethod
    def of(cls, spec: Any) -> Keda:  # noqa: ANN401 - a ScaledObject's
        """As a ScaledObject's spec has it."""
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        up, down = behavior["scaleUp"], behavior["scaleDown"]
        assert up["stabilizationWindowSeconds"] == 0
        assert up["selectPolicy"] == down["selectPolicy"] == "Max"
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        return cls(
            cooldown_seconds=spec["cooldownPeriod"],
            scale_down_seconds=down["stabilizationWindowSeconds"],
            up=tuple(map(_policy, up["policies"])),
            down=tuple(map(_policy, down["policies"])),
            fallback_replicas=spec["fallback"]["replicas"],
            failures=spec["fallback"]["failureThreshold"],
        )


def _policy(said: Any) -> Policy:  # noqa: ANN401 - an HPA's
    percent = said["type"] == "Percent"
    return Policy(
        percent=said["value"] if percent else 0,
        pods=0 if percent else said["value"],
        period_seconds=said["periodSeconds"],
    )


class Service(Struct, frozen=True):
    """What is scaled. Times in seconds.

    `gateway` is how many requests may wait there, `patience_seconds` how long they do on average.
    """

    law: Law
    keda: Keda
    arrivals: Callable[[float], float]
    seconds_per_request: float = 8.0
    usd_per_hour: Callable[[float], float] = lambda _: 4.0
    node_seconds: float = 120
    loading_seconds: float = 180
    gateway: float = 500
    gateway_tells_arrivals: bool = False
    patience_seconds: float = math.inf
    lost: Callable[[float], bool] = lambda _: False
    """Whether Prometheus can not be asked."""
    silent: Callable[[float], bool] = lambda _: False
    """Whether no engine's page can be read."""


@functools.cache
def chart_target(words: str, profile: str = "realtime") -> tuple[Law, Keda]:
    """A target of the chart with these words: its settings of the law, and what KEDA is told."""
    release = install(f"""
rules: {{method: configMap}}
scaling:
  prometheus: {{serverAddress: "http://prometheus:9090"}}
  targets:
    - {{name: chat, namespace: serving, profile: {profile}, queue: waiting, {words}}}
""")
    [rules] = [each for each in release.objects if each["metadata"]["name"] == "gpucost-rules"]
    said = re.findall(
        r"expr: vector\(([^)]*)\)\s+labels:\s+namespace: serving\s+workload: chat\s+"
        r"record: scaling:gpucost_(\w+):setting",
        rules["data"]["settings.yaml"],
    )
    settings = {name: yaml.safe_load(value) for value, name in said}
    settings.pop("queue")  # that there is one
    return msgspec.convert(settings, Law), Keda.of(release.one("ScaledObject")["spec"])


def chart_service(
    words: str,
    arrivals: Callable[[float], float],
    **more: Any,  # noqa: ANN401 - fields of it
) -> Service:
    """A service that a target of the chart with these words scales."""
    law, keda = chart_target(words)
    return Service(law=law, keda=keda, arrivals=arrivals, **more)


class Moment(Struct, frozen=True):
    """What was so in one step."""

    second: float
    wanted: int
    bound: int
    ready: int
    waiting: float
    running: float
    arrivals: float
    refused: float
    finished: float
    usd_per_hour: float
    replica_usd_per_hour: float | None
    """Of what is bound, else what it was last."""
    need_load: float
    """Load in full replicas, by the concurrency."""
    finished_in_all: float


class Pod(Struct):
    """One replica: seconds since it was made."""

    age: float = 0.0


def run(service: Service, seconds: float) -> list[Moment]:
    """The service's history from an empty start at zero replicas."""
    return _Cluster(service).run(seconds)


def watch(service: Service, seconds: float) -> list[tuple[Moment, Seen]]:
    """The same, each moment with what the law sees of it: `DELAY_STEPS` later."""
    cluster = _Cluster(service)
    history = cluster.run(seconds)
    return list(zip(history, cluster.seen, strict=False))


class _Cluster:
    def __init__(self, service: Service) -> None:
        self._of = service
        self._pods: list[Pod] = [Pod() for _ in range(service.law.min_replicas)]
        self._waiting = 0.0
        self._running = 0.0
        self._history: list[Moment] = []
        self._price: float | None = None
        self._last_active = -math.inf
        self._recommended: deque[tuple[float, int]] = deque()
        self._changes: list[tuple[float, int]] = []
        self.seen: list[Seen] = []
        self._failures = 0
        self._finished, self._arrived, self._loads, self._weighted = [0.0], [0.0], [0.0], [0.0]
        self._rates: deque[float] = deque(maxlen=int(1800 / STEP))
        self._demanded = self._unserved = self._answered = -math.inf

    def run(self, seconds: float) -> list[Moment]:
        for step in range(int(seconds / STEP)):
            self._serve(step * STEP)
            self._scale(step * STEP)
        return self._history

    # --- The service ---------------------------------------------------------------------------

    def _serve(self, second: float) -> None:
        of = self._of
        for pod in self._pods:
            pod.age += STEP
        bound = [pod for pod in self._pods if pod.age >= of.node_seconds]
        ready = sum(pod.age >= of.node_seconds + of.loading_seconds for pod in bound)
        room = (of.law.requests_per_replica or 10.0) * ready
        arrivals = of.arrivals(second)
        waiting, running, finished, refused = self._waiting, self._running, 0.0, 0.0
        for _ in range(STEP):  # second by second
            done = min(running, room) / of.seconds_per_request
            waiting += arrivals
            taken = max(0.0, min(waiting, room - (running - done)))
            running = min(running - done + taken, room)
            waiting -= taken
            refused += max(0.0, waiting - of.gateway)
            waiting = min(waiting, of.gateway) * (1 - 1 / of.patience_seconds)
            finished += done
        if bound:
            self._price = of.usd_per_hour(second)
        # No request is a thousandth.
        self._waiting = waiting if waiting > 1e-3 else 0.0
        self._running = running if running > 1e-3 else 0.0
        self._note(
            Moment(
                second=second, wanted=len(self._pods), bound=len(bound), ready=ready,
                waiting=self._waiting, running=self._running, arrivals=arrivals,
                refused=refused / STEP, finished=finished / STEP,
                usd_per_hour=len(self._pods) * of.usd_per_hour(second),
                replica_usd_per_hour=self._price,
                need_load=(self._waiting + self._running) / (of.law.requests_per_replica or 10.0),
                finished_in_all=self._finished[-1] * STEP + finished,
            )
        )  # fmt: skip

    # --- What Prometheus knows -----------------------------------------------------------------

    def _note(self, moment: Moment) -> None:
        """Sums from the start, so that any window's is a difference."""
        number, load = len(self._history), moment.waiting + moment.running
        for sums, value in (
            (self._finished, moment.finished),
            (self._arrived, moment.arrivals),
            (self._loads, load),
            (self._weighted, load * number),
        ):
            sums.append(sums[-1] + value)
        self._history.append(moment)

    def _look(self) -> Seen:
        end = len(self._history) - DELAY_STEPS
        now = self._history[end - 1]
        demand = now.waiting + now.running > 0
        if demand or now.finished > 0:
            self._demanded = now.second
        if demand and not now.ready:
            self._unserved = now.second
        if now.ready:
            self._answered = now.second
        awake = (
            now.second - self._demanded <= 300
            or now.bound > now.ready
            or (now.second - self._unserved <= 900 and now.second - self._answered > 900)
        )
        return Seen(
            replicas=now.bound,
            ready=now.ready,
            awake=awake,
            requests=self._requests(end),
            offered=self._offered(end),
            replica_usd_per_hour=now.replica_usd_per_hour,
        )

    def _requests(self, end: int) -> float | None:
        """The mean of a minute."""
        now, begin = self._history[end - 1], max(0, end - MINUTE_STEPS)
        if self._of.silent(now.second) and now.ready:
            return None
        return (self._loads[end] - self._loads[begin]) / (end - begin)

    def _offered(self, end: int) -> float:
        """The highest of half an hour."""
        self._rates.append(self._rate(end))
        return max(self._rates)

    def _rate(self, end: int) -> float:
        """Requests a second: arrivals, or what finished and PromQL's deriv of what is there."""
        begin = max(0, end - int(300 / STEP))
        count = end - begin
        if self._of.gateway_tells_arrivals:
            return (self._arrived[end] - self._arrived[begin]) / count
        finished = (self._finished[end] - self._finished[begin]) * STEP / 300
        ready = sum(each.ready for each in self._history[begin:end]) / count
        if ready:
            finished *= max(1.0, self._history[end - 1].ready / ready)
        if count < 2:
            return finished
        middle = (begin + end - 1) / 2
        above = self._weighted[end] - self._weighted[begin]
        above -= middle * (self._loads[end] - self._loads[begin])
        return finished + max(0.0, above / (count * (count * count - 1) / 12) / STEP)

    # --- KEDA and the HPA ----------------------------------------------------------------------

    def _scale(self, second: float) -> None:
        law = self._of.law
        if len(self._history) <= DELAY_STEPS:
            return
        current, keda = len(self._pods), self._of.keda
        seen = self._look()
        self.seen.append(seen)
        value = None if self._of.lost(second) else formula(law, seen)
        if value is None:
            self._failures += 1
            if self._failures <= keda.failures:
                return  # an error, and nothing is changed
            value = max(current, keda.fallback_replicas)
        else:
            self._failures = 0
        if value > 0.5:
            self._last_active = second
        if current == 0:
            if value > 0.5:
                self._to(max(1, law.min_replicas))
            return
        asleep = value <= 0.5 and law.min_replicas == 0
        if asleep and second - self._last_active > keda.cooldown_seconds:
            self._to(0)
            self._recommended.clear()
            return
        self._hpa(second, value, current)

    def _hpa(self, second: float, value: float, current: int) -> None:
        law = self._of.law
        asked = current if abs(value / current - 1) <= TOLERANCE else math.ceil(value)
        asked = max(1, law.min_replicas, min(asked, law.max_replicas))
        self._recommended.append((second, asked))
        while self._recommended[0][0] < second - self._of.keda.scale_down_seconds:
            self._recommended.popleft()
        if asked < current:
            asked = min(current, max(each for _, each in self._recommended))
        if asked != current:
            asked = self._paced(second, asked, current)
            self._changes.append((second, asked - current))
        self._to(asked)

    def _paced(self, second: float, asked: int, current: int) -> int:
        """As far as the policies let it go: of several, the one that goes furthest."""
        sign = 1 if asked > current else -1
        policies = self._of.keda.up if sign > 0 else self._of.keda.down
        reaches = []
        for policy in policies:
            recent = [by for when, by in self._changes if second - when < policy.period_seconds]
            reaches.append(policy.reach(current - sum(recent), sign))
        # What others changed may have gone further already: never back.
        limit = max(current, *reaches) if sign > 0 else min(current, *reaches)
        return min(asked, limit) if sign > 0 else max(asked, limit)

    def _to(self, replicas: int) -> None:
        while len(self._pods) < replicas:
            self._pods.append(Pod())
        self._pods.sort(key=lambda pod: -pod.age)
        del self._pods[replicas:]  # the youngest first, as a ReplicaSet does
