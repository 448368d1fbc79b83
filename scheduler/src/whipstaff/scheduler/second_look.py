"""Asking once more, just before a pod is bound, whether its node still has room for it.

No loop runs here: a pure function over the snapshot, which the binder calls through a binding. Most
of the time nothing but pods of our own has come to the node since it was chosen, and each of those
was chosen for with this pod counted; then nothing has to be asked. Otherwise the plugins are asked
whose refusal a node would repeat: the kubelet, too, turns down a pod for which there is no room.
What concerns more than the node (spreading, affinity) isn't asked again, for pods that we have
placed since then would count against the earlier one.

kube-scheduler doesn't look again. The list of plugins is that of its `AdmissionCheck` in
`pkg/scheduler/eventhandlers.go`, and NodeUnschedulable.
"""

import numpy as np

from whipstaff.scheduler import evaluation, framework, pods, profile, snapshot

ASKED = frozenset(
    {
        "NodeUnschedulable",
        "NodeName",
        "TaintToleration",
        "NodeAffinity",
        "NodePorts",
        "NodeResourcesFit",
    }
)
REJECTED_BY = frozenset({"NodeResourcesFit"})
"""What counts as having rejected a pod that was stopped here."""

NODE_GONE = "the node is gone"


def objection(
    placed: pods.PodInfo, plugins: profile.Profile, cluster: snapshot.Snapshot, since: int
) -> str:
    """Why `placed`, which is counted on its node, shouldn't be bound to it; "" if nothing does.

    `since` is the version of the snapshot over which the node was chosen.
    """
    if cluster.is_as_expected(placed.node_name, since):
        return ""
    row = cluster.row_of.get(placed.node_name)
    if row is None:
        return NODE_GONE
    if cluster.get_pod(placed.uid) is not placed:
        return ""  # it is gone, or bound already: the API server knows better what to answer
    itself = cluster.moved([placed])
    cluster.set_aside(itself)
    try:
        return _refusal(placed, plugins, cluster, row)
    except framework.PluginError as error:
        return str(error)
    finally:
        cluster.put_in(itself)


def _refusal(
    pod: pods.PodInfo, plugins: profile.Profile, cluster: snapshot.Snapshot, row: int
) -> str:
    state: framework.CycleState = {}
    skipped = {
        entry.plugin.name
        for entry in plugins.pre_filters
        if entry.plugin.name in ASKED
        and evaluation.ask(
            evaluation.PRE_FILTER,
            entry.plugin.name,
            entry.plugin.pre_filter,
            state,
            pod,
            cluster,
        )
        is framework.SKIP
    }
    rows = np.array([row], np.intp)
    for entry in plugins.filters:
        if entry.name not in ASKED or entry.name in skipped:
            continue
        verdict = evaluation.ask(
            evaluation.FILTER, entry.name, entry.plugin.filter, state, pod, cluster, rows
        )
        if verdict is not None and verdict.codes[0]:
            return ", ".join(verdict.texts[int(verdict.reasons[0])])
    return ""
