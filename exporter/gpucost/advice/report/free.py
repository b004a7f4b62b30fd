"""Finders of GPUs that their holders can give back: idle, never ready, failing, on their way out.

Pure. What could be given back is what rules/advice.yaml records and the Fleet board shows; here is
what to do about it. Only what takes a longer look is reckoned here: use that follows the clock,
what was never ready, slow starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.advice.report import patches
from gpucost.advice.report.evidence import dollars, given_back, of_workload
from gpucost.advice.report.facts import Action, Claim
from gpucost.advice.report.office import closed_hours, opening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.advice.report.facts import Facts, Key, Line, Query

SCALED_TO_ZERO = ("Deployment", "StatefulSet", "InferenceService", "ReplicaSet", "LeaderWorkerSet")
"""Kinds whose replicas can be taken to none and back."""

NEVER_USED = 0.005
"""Of the running dollars that were used: below it nobody has used it."""

LONG_HOURS = 2
"""Of hours in which it only started, from which it is never ready: loading a model is not that."""

MIN_STARTING = 0.1
"""Of its dollars, from which starting is worth a look."""


def _about(facts: Facts, line: Line, states: str) -> tuple[Query, ...]:
    return (dollars(facts, of_workload(line.key), states),)


def _name(key: Key) -> str:
    return f"{key.namespace}/{key.workload}" if key.workload else key.namespace


def idle(facts: Facts) -> Iterator[Action]:
    """Idle for more than an hour: free it, close it out of hours, or let it sleep."""
    for line in facts.lines:
        key, claim = line.key, line.given_back("free_idle")
        if not key.namespace or line.idle_is_wanted or not claim.ratio:
            continue
        quiet = f"{line.quiet_hours} of the {line.held_hours} hours"
        why = f"No work in {quiet} in which it held GPUs."
        if not line.quiet_hours:
            why = "It had pauses of more than an hour without any work."
        evidence = (*_about(facts, line, "idle"), given_back(facts, key, "free_idle"))
        if line.usd.get("used", 0.0) <= NEVER_USED * line.running_usd:
            yield Action(
                kind="free_idle",
                group="free",
                place=key.place,
                title=f"Free {_name(key)}: it holds GPUs and uses none",
                do=patches.words_of_free(key),
                why=why,
                claims=(claim,),
                evidence=evidence,
                confidence="high",
                risk="low",
                risk_words="What it holds in GPU memory is lost; nobody has used it in this time.",
                patch=patches.replicas(key, 0),
            )
            continue
        closed = closed_hours(line.week)
        if closed is not None:
            hours = opening(closed)
            shut = sum(usd for usd, shut in zip(line.week.idle_usd, closed, strict=True) if shut)
            yield Action(
                kind="office_hours",
                group="free",
                place=key.place,
                title=f"Close {_name(key)} out of hours: its use follows the clock",
                do=f"Run it {hours.words} ({facts.zone}) and at no other time: officeHours of a"
                " scaling target, or a KEDA cron trigger.",
                why=f"In {sum(closed)} of the week's 168 hours it held GPUs and did next to"
                " nothing, week after week.",
                claims=(Claim(key, "idle", min(1.0, shut / line.usd["idle"])),),
                evidence=evidence,
                confidence="high",
                risk="low",
                risk_words="Whoever comes out of hours waits or finds it closed.",
                patch=patches.cron(key, hours, facts.zone),
            )
        if key.workload_kind in SCALED_TO_ZERO:
            profile = _profile(facts, key)
            yield Action(
                kind="scale_to_zero",
                group="free",
                place=key.place,
                title=f"Let {_name(key)} sleep when nobody asks",
                do="Scale it to zero with KEDA: a scaling target with minReplicas: 0 and the"
                f" profile `{profile}` (docs/scaling.md).",
                why=f"{why} The first hour of a pause is not counted: more than waking takes.",
                claims=(claim,),
                evidence=evidence,
                confidence="medium",
                risk="medium",
                risk_words="The first request after a pause waits for a cold start.",
                patch=patches.scaling_target(key, profile),
            )
        elif closed is None:
            yield Action(
                kind="end_when_done",
                group="free",
                place=key.place,
                title=f"End {_name(key)} when its work is done",
                do="Let it end, or cull it when it is idle (a notebook's culler, a job's"
                " activeDeadlineSeconds), and start it again when it is needed.",
                why=why,
                claims=(claim,),
                evidence=evidence,
                confidence="medium",
                risk="medium",
                risk_words="State that is only in memory is lost.",
            )


def _profile(facts: Facts, key: Key) -> str:
    """KEDA's profile (docs/scaling.md): realtime where requests are counted, else batch."""
    mine = (key.cluster, key.namespace, key.workload)
    served = any((it.cluster, it.namespace, it.workload) == mine for it in facts.services)
    return "realtime" if served else "batch"


def not_ready(facts: Facts) -> Iterator[Action]:
    """Held by pods that crash, never become ready, take long to, or do not go."""
    for line in facts.lines:
        key, name = line.key, _name(line.key)
        failing, starting = line.usd.get("failing", 0.0), line.usd.get("starting", 0.0)
        never = failing + starting > 0 and not line.usd.get("used")
        if never and not line.running_usd and (failing or line.held_hours >= LONG_HOURS):
            yield Action(
                kind="never_ready",
                group="free",
                place=key.place,
                title=f"Free {name}: it holds GPUs and has never become ready",
                do=f"{patches.words_of_free(key)} Then look at its events and logs: kubectl"
                " describe, kubectl logs --previous.",
                why="It was never ready in this time.",
                claims=(Claim(key, "failing", 1.0), Claim(key, "starting", 1.0)),
                evidence=_about(facts, line, "failing|starting"),
                confidence="high",
                risk="low",
                risk_words="Nothing runs there.",
                patch=patches.replicas(key, 0),
            )
            continue
        if failing:
            yield Action(
                kind="failing",
                group="free",
                place=key.place,
                title=f"Mend {name}: its pods hold GPUs and crash",
                do="Look at why (kubectl describe, kubectl logs --previous), and stop it until it"
                " is mended.",
                why="Crash loops and image pulls that fail hold GPUs.",
                claims=(line.given_back("failing"),),
                evidence=_about(facts, line, "failing"),
                confidence="high",
                risk="low",
                risk_words="Nothing runs there.",
            )
        if starting > MIN_STARTING * line.total_usd:
            yield Action(
                kind="slow_start",
                group="free",
                place=key.place,
                title=f"Start {name} faster",
                do="Keep the image and the model on the node or in a local cache; load weights in"
                " parallel.",
                why=f"{starting / line.total_usd:.0%} of its dollars go into starting.",
                claims=(Claim(key, "starting", 0.5),),
                evidence=_about(facts, line, "starting"),
                confidence="low",
                risk="low",
                risk_words="None that is known.",
            )
        if line.usd.get("terminating"):
            yield Action(
                kind="terminating",
                group="free",
                place=key.place,
                title=f"Let go of {name}: deleted pods still hold GPUs",
                do="Look for a finalizer, a long grace period or a process stuck in the driver.",
                why="Pods that are being deleted hold GPUs.",
                claims=(line.given_back("terminating"),),
                evidence=_about(facts, line, "terminating"),
                confidence="medium",
                risk="low",
                risk_words="A shorter grace period may cut off work that is being saved.",
            )
