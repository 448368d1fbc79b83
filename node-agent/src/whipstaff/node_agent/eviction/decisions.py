"""Whether pods must go because something runs out on their node, and which.

`decide` is one round of the kubelet's eviction manager as a pure function: from what was observed,
what pods use and what earlier rounds left (`State`) to the node's pressure conditions, the pods
that use more local storage than their own limits allow, and the threshold that asks for another
pod's eviction. Whoever calls it first tries to win something back without that, then asks `choose`
for the pod. A condition holds for five minutes after it was last seen, so that the scheduler
doesn't send pods back and forth.

Answers to ``synchronize`` in ``pkg/kubelet/eviction/eviction_manager.go`` and to its Admit. Leaves
out annotations on events, and notifications of memory cgroups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from whipstaff.node_agent import admission, statuses
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.node_agent.eviction import ranking as eviction_ranking
from whipstaff.node_agent.eviction import signals as eviction_signals
from whipstaff.runtime import objects, quantities, selectors

Object = objects.Object
Observation = eviction_signals.Observation
Observations = Mapping[str, Observation]
Pod = eviction_ranking.Pod
Threshold = eviction_signals.Threshold

REASON = "Evicted"

_AT_ONCE = 1.0
_MEMORY_TAINT = {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}
_ORDER = ("MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(frozen=True, slots=True)
class Policy:
    """When pods are evicted.

    Attributes:
        thresholds: when something counts as run out.
        hold: seconds for which a condition outlasts what caused it.
        most_grace: seconds that pods get at most when a soft threshold is met.
    """

    thresholds: Sequence[Threshold] = field(default_factory=eviction_signals.parse)
    hold: float = 300.0
    most_grace: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """What one round leaves for the next; times are seconds since the epoch.

    Attributes:
        met: thresholds that were met for long enough.
        since: when each threshold that is met was met first.
        seen: when each condition was seen last.
        observations: what was observed.
    """

    met: Sequence[Threshold] = ()
    since: Mapping[Threshold, float] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)
    observations: Observations = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Eviction:
    """A pod that has to go.

    Attributes:
        verdict: what its status says, and how long its containers have.
        signal: what ran out, for the count of evictions.
    """

    pod: Object
    verdict: statuses.Verdict
    signal: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from one round.

    Attributes:
        state: for the next one.
        conditions: the node's pressure conditions that are true, in order.
        evictions: pods beyond their own limits. With any of these, nothing else is done.
        reclaim: the threshold that asks for more; None while nothing has run out.
        thresholds: all that count, the most urgent one first.
    """

    state: State
    conditions: tuple[str, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    reclaim: Threshold | None = None
    thresholds: tuple[Threshold, ...] = ()


def decide(
    state: State,
    policy: Policy,
    observations: Observations,
    pods: Iterable[Pod],
    now: float,
    *,
    dedicated: bool = False,
) -> Decision:
    """One round.

    Args:
        state: what the round before left.
        policy: when pods are evicted.
        observations: what there is, by signal.
        pods: the active pods and what they use.
        now: seconds since the epoch.
        dedicated: whether images have a file system of their own.
    """
    met = _met(policy.thresholds, observations)
    # Once met, a threshold counts until as much has been won back as was asked for.
    met += [t for t in _met(state.met, observations, reclaimed=True) if t not in met]
    since = {threshold: state.since.get(threshold, now) for threshold in met}
    seen = {**state.seen, **{eviction_signals.CONDITIONS[t.signal]: now for t in met}}
    due = [threshold for threshold in met if now - since[threshold] >= threshold.grace]
    following = State(due, since, seen, observations)
    conditions = tuple(kind for kind in _ORDER if kind in seen and now - seen[kind] < policy.hold)
    evictions = tuple(_beyond_limits(pods, dedicated=dedicated))
    if evictions:
        return Decision(following, conditions, evictions)
    # Nothing is done twice about the same observation.
    fresh = [t for t in due if _is_news(t.signal, observations, state.observations)]
    fresh.sort(key=lambda threshold: eviction_signals.RESOURCES[threshold.signal] != "memory")
    reclaim = fresh[0] if fresh else None
    return Decision(following, conditions, (), reclaim, tuple(fresh))


def satisfied(policy: Policy, observations: Observations) -> bool:
    """Whether nothing lacks any more, and as much was won back as was asked for."""
    return not _met(policy.thresholds, observations, reclaimed=True)


def choose(
    decision: Decision,
    policy: Policy,
    observations: Observations,
    pods: Iterable[Pod],
    *,
    dedicated: bool = False,
) -> Eviction | None:
    """The pod to evict for what a decision wants to win back; None where none can be."""
    threshold = decision.reclaim
    if threshold is None:
        return None
    resource = eviction_signals.RESOURCES[threshold.signal]
    for pod in eviction_ranking.rank(threshold.signal, pods, dedicated=dedicated):
        if cgroup_numbers.is_critical(pod.pod):
            continue
        text = eviction_ranking.message(resource, pod, decision.thresholds, observations)
        grace = _AT_ONCE
        if not threshold.hard:
            own = pod.pod["spec"].get("terminationGracePeriodSeconds")
            grace = policy.most_grace if own is None else min(policy.most_grace, own)
        verdict = statuses.Verdict(REASON, text, disruption=True, grace=grace)
        return Eviction(pod.pod, verdict, threshold.signal)
    return None


def admit(pod: Object, conditions: Sequence[str]) -> admission.Rejection | None:
    """Why a node with these conditions doesn't take a pod; None if it does."""
    if not conditions or cgroup_numbers.is_critical(pod):
        return None
    if tuple(conditions) == ("MemoryPressure",):
        if cgroup_numbers.qos_class(pod) != "BestEffort":
            return None
        tolerations = pod["spec"].get("tolerations") or ()
        if any(selectors.toleration_tolerates(t, _MEMORY_TAINT) for t in tolerations):
            return None
    return admission.Rejection(REASON, f"The node had condition: [{' '.join(conditions)}]. ")


def _met(
    thresholds: Iterable[Threshold], observations: Observations, *, reclaimed: bool = False
) -> list[Threshold]:
    return [
        threshold
        for threshold in thresholds
        if threshold.signal in observations
        and threshold.is_met(observations[threshold.signal], reclaimed=reclaimed)
    ]


def _is_news(signal: str, observations: Observations, before: Observations) -> bool:
    observed, last = observations.get(signal), before.get(signal)
    if observed is None:
        return False
    return last is None or not observed.at or observed.at > last.at


# Limits of pods' own.


def _beyond_limits(pods: Iterable[Pod], *, dedicated: bool) -> Iterable[Eviction]:
    """The pods that use more local storage than their own specs allow."""
    for pod in pods:
        if pod.usage is None or cgroup_numbers.is_critical(pod.pod):
            continue
        found = (
            _beyond_volume(pod.pod, pod.usage)
            or _beyond_pod_limit(pod.pod, pod.usage)
            or _beyond_container_limit(pod.pod, pod.usage, dedicated=dedicated)
        )
        if found is not None:
            signal, text = found
            yield Eviction(pod.pod, statuses.Verdict(REASON, text, grace=_AT_ONCE), signal)


def _beyond_volume(pod: Object, usage: eviction_ranking.PodUsage) -> tuple[str, str] | None:
    for volume in pod["spec"].get("volumes") or ():
        limit = (volume.get("emptyDir") or {}).get("sizeLimit")
        files = usage.volumes.get(volume["name"])
        if limit is None or files is None or quantities.value(limit) <= 0:
            continue
        if (files.used or 0) > quantities.parse(limit):
            shown = quantities.canonical(limit)
            text = f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{shown}". '
            return "emptydirfs.limit", text
    return None


def _beyond_pod_limit(pod: Object, usage: eviction_ranking.PodUsage) -> tuple[str, str] | None:
    limit = cgroup_numbers.limits(pod["spec"]).get(eviction_signals.STORAGE)
    if limit is None or (usage.ephemeral or 0) <= limit:
        return None
    shown = quantities.format_quantity(limit, "BinarySI")
    text = f"Pod ephemeral local storage usage exceeds the total limit of containers {shown}. "
    return "ephemeralpodfs.limit", text


def _beyond_container_limit(
    pod: Object, usage: eviction_ranking.PodUsage, *, dedicated: bool
) -> tuple[str, str] | None:
    limits = {
        definition["name"]: ((definition.get("resources") or {}).get("limits") or {}).get(
            eviction_signals.STORAGE
        )
        for definition in pod["spec"].get("containers") or ()
    }
    for used in usage.containers:
        limit = limits.get(used.name)
        if not limit or not quantities.value(limit):
            continue
        files = (used.logs.used or 0) + (0 if dedicated else used.root.used or 0)
        if files > quantities.parse(limit):
            shown = quantities.canonical(limit)
            text = f'Container {used.name} exceeded its local ephemeral storage limit "{shown}". '
            return "ephemeralcontainerfs.limit", text
    return None
