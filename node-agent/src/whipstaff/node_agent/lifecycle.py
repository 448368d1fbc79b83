"""The life of a pod on a node: sync, terminating, terminated. What to report and do, and when.

A pod is first brought up and kept up (SYNC), until it ends by itself, is deleted, or the node says
that it has failed. Then its containers are stopped (TERMINATING), and nothing starts any more. Once
nothing runs, its last status is made (TERMINATED) and, if it was deleted, the API may forget it.
There is no way back, and `decide` is the only place that moves a pod along: a pure function from
the pod's object and what the node remembers of it to a `Decision`. Two promises are kept here: a
terminal phase isn't reported while a container may run, and a pod isn't `finished` before its
terminal phase is part of the status.

Answers to ``pkg/kubelet/pod_workers.go``, to SyncPod, SyncTerminatingPod and SyncTerminatedPod in
``pkg/kubelet/kubelet.go`` and to ``pkg/kubelet/active_deadline.go``. Leaves out static pods.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from whipstaff.node_agent import (
    conditions,
    container_statuses,
    containers,
    provider,
    statuses,
    steps,
    texts,
)
from whipstaff.runtime import objects

Object = objects.Object

MINIMUM_GRACE = 1.0


class Stage(enum.IntEnum):
    """How far a pod has come; it only ever grows."""

    SYNC = 0
    TERMINATING = 1
    TERMINATED = 2


@dataclass(slots=True)
class Life:
    """What the node remembers of a pod besides its object.

    Attributes:
        stage: how far it has come.
        runtime: what runs, as far as is known.
        errors: why starts were put off, by container; `steps.SANDBOX` for the sandbox.
        backoffs: how long restarts wait, by container.
        verdict: the node's word that it has failed.
        grace: seconds for stopping its containers; only ever shrinks.
        orphaned: the API has forgotten the pod already, so there is nothing to report.
        status: the status last made, where the API may not have it yet.
        removed: the run of each container that was removed last; late news of it is no news.
    """

    runtime: provider.RuntimePod
    stage: Stage = Stage.SYNC
    errors: dict[str, container_statuses.StartError] = field(default_factory=dict)
    backoffs: dict[str, containers.Backoff] = field(default_factory=dict)
    verdict: statuses.Verdict | None = None
    grace: float | None = None
    orphaned: bool = False
    status: Object | None = None
    removed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StopPod:
    """Stop every container within the grace period, sidecars last, and the sandboxes."""

    grace: float


Operation = steps.Operation | StopPod


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from what is known.

    Attributes:
        stage: how far the pod has come with this.
        status: what to report now.
        operations: what to do, in order, before deciding again.
        wake_at: when to decide again without news, in seconds since the epoch.
        verdict: the node's word that it has failed; new if the pod had none before.
        grace: seconds for stopping its containers; None while it isn't to be stopped.
    """

    stage: Stage
    status: Object
    operations: Sequence[Operation] = ()
    wake_at: float | None = None
    verdict: statuses.Verdict | None = None
    grace: float | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be done but to report, and to delete what was deleted."""
        return self.stage is Stage.TERMINATED


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for all pods of a node: the provider's name, the node's addresses."""

    type: str
    host_ips: Sequence[str] = ()


def decide(pod: Object, life: Life, context: Context, now: float) -> Decision:
    """What to report and to do for a pod now."""
    api = pod.get("status") or {}
    old = life.status or api
    verdict = life.verdict or _past_deadline(pod, old, life.stage, now)
    observed = statuses.Observation(
        life.runtime, context.type, context.host_ips, life.errors, verdict
    )
    stage = life.stage
    if stage is Stage.SYNC:
        if not (life.orphaned or objects.is_terminating(pod) or conditions.is_terminal(api)):
            decision = _sync(pod, life, observed, old, now)
            if decision is not None:
                return decision
        stage = Stage.TERMINATING
    grace = effective_grace(pod, least_grace(life.grace, verdict))
    if stage is Stage.TERMINATING and _may_run(life.runtime):
        status = statuses.generate(pod, observed, old, now)
        held = statuses.hold_back(status, old)
        return Decision(stage, held, (StopPod(grace),), None, verdict, grace)
    status = statuses.generate(pod, observed, old, now, terminal=True)
    status = statuses.finish(pod, status, observed, now)
    return Decision(Stage.TERMINATED, status, (), None, verdict, grace)


def least_grace(current: float | None, verdict: statuses.Verdict | None) -> float | None:
    """The seconds that the node itself gives a pod to stop; None for no word about it."""
    told = verdict.grace if verdict is not None else None
    if current is None or told is None:
        return told if current is None else current
    return min(current, told)


def effective_grace(pod: Object, current: float | None) -> float:
    """Seconds for stopping a pod: what the API says if less than what was said before."""
    asked = pod["metadata"].get("deletionGracePeriodSeconds")
    if asked is None:
        asked = current
    if asked is None:
        asked = pod["spec"].get("terminationGracePeriodSeconds", 30)
    return max(float(asked if current is None else min(asked, current)), MINIMUM_GRACE)


def _sync(
    pod: Object, life: Life, observed: statuses.Observation, old: Object, now: float
) -> Decision | None:
    """Keep a pod running; None when it has come to its end."""
    status = statuses.generate(pod, observed, old, now)
    if conditions.is_terminal(status):
        return None
    retries = {name: error.retry_at for name, error in life.errors.items()}
    if objects.is_true({"status": status}, conditions.RESTARTING):
        step = steps.Step(tuple(steps.reset(pod["spec"], life.runtime)))
    else:
        waits = steps.Waits(life.backoffs, retries, _attempts(pod["spec"], status))
        step = steps.next_step(pod, life.runtime, waits, now)
    wake_at = step.wake_at
    deadline = _deadline(pod, status)
    if deadline is not None:
        wake_at = min(deadline, wake_at or deadline)
    return Decision(Stage.SYNC, status, step.operations, wake_at)


def _attempts(spec: Object, status: Object) -> dict[str, int]:
    """How often each container has started, where no run is left that would say so."""
    if not containers.may_restart_all(spec):
        return {}
    lists = (status.get("initContainerStatuses"), status.get("containerStatuses"))
    return {one["name"]: one["restartCount"] for found in lists for one in found or ()}


def _may_run(runtime: provider.RuntimePod) -> bool:
    return bool(runtime.running()) or any(sandbox.ready for sandbox in runtime.sandboxes)


def _deadline(pod: Object, status: Object) -> float | None:
    seconds = pod["spec"].get("activeDeadlineSeconds")
    started = texts.seconds(status.get("startTime"))
    return started + seconds if seconds is not None and started else None


def _past_deadline(
    pod: Object, status: Object, stage: Stage, now: float
) -> statuses.Verdict | None:
    deadline = _deadline(pod, status)
    if stage is not Stage.SYNC or deadline is None or now < deadline:
        return None
    if conditions.is_terminal(status):
        return None
    return statuses.Verdict(
        "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
    )
