"""What would draining these nodes do: who goes where, who can't, and what holds it up.

No loop runs here but those over nodes and pods. All nodes are cordoned first, then drained one
after the other. Pods are evicted as PodDisruptionBudgets allow; their successors are placed, which
gives the budgets room for the next wave. A node whose drain would fail before anything is evicted,
for a pod that `kubectl drain` wants an option for, is left as it is, as there.

Answers to `k8s.io/kubectl/pkg/drain` (filters.go and drain.go). Left out: time-outs and grace
periods, the pod selector, and `--disable-eviction`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from whipstaff.runtime import errors, objects
from whipstaff.scheduler import pods
from whipstaff.scheduler.simulation import attempts, clusters, results, settings

Object = dict[str, Any]

DAEMON_SET = "DaemonSet-managed Pods (use --ignore-daemonsets to ignore)"
DAEMON_SET_IGNORED = "ignoring DaemonSet-managed Pods"
STATIC = "static pods can't be evicted"
LOCAL_STORAGE = "Pods with local storage (use --delete-emptydir-data to override)"
LEAVING = "is on its way out already"
UNMANAGED = "Pods that declare no controller (use --force to override)"

_CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def drain(
    cluster: clusters.Cluster,
    nodes: Sequence[str],
    *,
    force: bool = False,
    delete_emptydir_data: bool = False,
    ignore_daemonsets: bool = True,
    config: settings.Config = None,
    preempt: bool = True,
    seed: int | str = 0,
    report: attempts.Report = attempts.silent,
) -> results.Drain:
    """What draining `nodes` would do.

    Args:
        cluster: where.
        nodes: their names, in the order in which they are drained.
        force: pods without a controller may go. Nobody creates them anew.
        delete_emptydir_data: pods with emptyDir volumes may go.
        ignore_daemonsets: pods of DaemonSets stay, and don't make the drain fail.
        config: the scheduler's configuration, or the file of one.
        preempt: whether pods may be evicted elsewhere to make room.
        seed: for what chance decides.
        report: told how many nodes of how many are done.

    Raises:
        errors.ConfigurationError: there is no such node, or the configuration can't be used.
    """
    scene = clusters.Scene(cluster, configuration=config, seed=seed, preempt=preempt)
    there = scene.there
    names = list(dict.fromkeys(nodes))
    if missing := [name for name in names if there.cluster.node(name) is None]:
        raise errors.ConfigurationError(f"there is no node {', '.join(missing)}")
    before = results.use_of(there.cluster)
    for name in names:
        there.put(_cordoned(there.cluster.node(name) or {}))
    refusals: list[results.Refusal] = []
    for index, name in enumerate(names):
        report(index, len(names))
        going, staying = _split(
            there.cluster.pods_on(name), force, delete_emptydir_data, ignore_daemonsets
        )
        refusals += staying
        if not any(refusal.fatal for refusal in staying):
            refusals += _evict(scene, name, going)
    report(len(names), len(names))
    placement = results.Placement(
        scene.attempts.outcomes,
        tuple(each for each in scene.attempts.evictions if each.preemptor),
        before,
        results.use_of(there.cluster),
        tuple(scene.notes),
    )
    evictions = tuple(each for each in scene.attempts.evictions if not each.preemptor)
    return results.Drain(tuple(names), evictions, placement, tuple(refusals))


def _split(
    there: Iterable[pods.PodInfo], force: bool, emptydir: bool, ignore_daemonsets: bool
) -> tuple[list[pods.PodInfo], list[results.Refusal]]:
    """Who is evicted from a node, and who isn't and why. Source: `makeFilters`."""
    going: list[pods.PodInfo] = []
    staying: list[results.Refusal] = []
    for pod in sorted(there, key=lambda pod: pod.key):
        owner = objects.owner(pod.raw)
        reason, fatal = "", True
        if owner is not None and owner["kind"] == "DaemonSet":
            fatal = not ignore_daemonsets
            reason = DAEMON_SET if fatal else DAEMON_SET_IGNORED
        elif clusters.MIRROR in objects.annotations(pod.raw):
            reason, fatal = STATIC, False
        elif pod.is_terminating:
            reason, fatal = LEAVING, False
        elif not emptydir and _has_local_storage(pod.raw):
            reason = LOCAL_STORAGE
        elif owner is None and not force:
            reason = UNMANAGED
        if reason:
            staying.append(results.Refusal(pod.key, pod.node_name, reason, fatal))
        else:
            going.append(pod)
    return going, staying


def _has_local_storage(raw: Object) -> bool:
    return any("emptyDir" in volume for volume in raw["spec"].get("volumes") or ())


def _evict(
    scene: clusters.Scene, node_name: str, going: list[pods.PodInfo]
) -> list[results.Refusal]:
    """Evicts pods in waves, as budgets allow; who can't go at all."""
    wave = 0
    while going:
        wave += 1
        blocked: list[tuple[pods.PodInfo, str]] = []
        successors: list[attempts.Wanted] = []
        for pod in going:
            if scene.there.cluster.get_pod(pod.uid) is None:
                continue  # evicted meanwhile, to make room for another
            objection = scene.budgets.objection(pod)
            if objection:
                blocked.append((pod, objection))
                continue
            successor = scene.attempts.evict(pod, overriding=False, wave=wave)
            if successor is not None:
                successors.append(successor)
        scene.attempts.place(successors)
        if len(blocked) == len(going):
            return [
                results.Refusal(pod.key, node_name, objection, fatal=True)
                for pod, objection in blocked
            ]
        going = [pod for pod, _ in blocked]
    return []


def _cordoned(node: Object) -> Object:
    spec = node.get("spec") or {}
    taints = [each for each in spec.get("taints") or () if each["key"] != _CORDON["key"]]
    return {**node, "spec": {**spec, "unschedulable": True, "taints": [*taints, _CORDON]}}
