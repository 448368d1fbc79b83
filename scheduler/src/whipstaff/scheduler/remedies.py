"""What would have to change for a pod to fit: the nodes that lack the least, and what they lack.

No loop runs here. Filters stop at the first plugin that says no to a node; here every filter is
asked about every node, so that all that a node lacks is told together. The nodes that lack the
least come first. For most plugins that ship it can be said what is missing ("500m more cpu", "a
toleration of dedicated=gpu:NoSchedule"); for others the reason that they give has to do.

Nothing is changed, and pods that others might be evicted for don't count: that is preemption's.

Answers to nothing upstream.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from whipstaff.runtime import quantities, selectors
from whipstaff.scheduler import (
    affinityterms,
    evaluation,
    framework,
    nominator,
    pods,
    profile,
    requests,
    snapshot,
    trial,
)
from whipstaff.scheduler.plugins import (
    interpodaffinity,
    nodeaffinity,
    nodeports,
    noderesourcesfit,
    podtopologyspread,
)

_HOPELESS = 10.0
"""What counts for a lack that only another node could make good, such as more CPU than it has."""


@dataclasses.dataclass(frozen=True, slots=True)
class Remedy:
    """What one node lacks; with an empty `node`, what no node could make good.

    `changes` complete the sentence "the node needs ...", one for each thing that is missing, all of
    which are needed.
    """

    node: str
    changes: tuple[str, ...]


def nearest(
    pod: pods.PodInfo,
    plugins: profile.Profile,
    cluster: snapshot.Snapshot,
    promises: nominator.Nominator,
    *,
    limit: int = 3,
    names: Collection[str] = (),
) -> list[Remedy]:
    """The `limit` nodes that lack the least for a pod that isn't counted; or those of `names`.

    A node that lacks nothing isn't named unless it is kept for others.

    Raises:
        framework.PluginError: a plugin failed.
    """
    state: framework.CycleState = {}
    pre = evaluation.pre_filter(
        (entry.plugin.name, _pre_filter(entry.plugin, state, pod, cluster))
        for entry in plugins.pre_filters
    )
    if pre.rejection is not None:
        return [Remedy("", pre.rejection.reasons)]
    rows = _rows(cluster, pre.names, names)
    if not len(rows):
        return []
    verdicts = {
        entry.name: _ask(entry, state, pod, cluster, rows)
        for entry in plugins.filters
        if entry.name not in pre.skipped
    }
    lacks = np.zeros(len(rows))
    for name, verdict in verdicts.items():
        if verdict is not None:
            lacks += _weigh(plugins.plugins[name], verdict, pod, cluster, rows)
    kept = _kept_for_others(pod, cluster, promises, rows)
    lacks[(lacks == 0) & kept] = 0.5
    order = np.argsort(lacks, kind="stable")
    chosen = [int(place) for place in order if lacks[place] > 0][: len(rows) if names else limit]
    return [
        Remedy(
            cluster.names[int(rows[place])],
            tuple(_changes(place, rows, verdicts, plugins, state, pod, cluster, promises)),
        )
        for place in chosen
    ]


def _rows(
    cluster: snapshot.Snapshot, only: frozenset[str] | None, names: Collection[str]
) -> evaluation.Indices:
    wanted = set(cluster.row_of if only is None else only)
    if names:
        wanted &= set(names)
    found = (cluster.row_of[name] for name in wanted if name in cluster.row_of)
    return np.array(sorted(found), np.intp)


def _pre_filter(
    plugin: framework.PreFilterPlugin,
    state: framework.CycleState,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
) -> evaluation.PreFilterAnswer:
    arguments = (state, pod, cluster)
    return evaluation.ask(evaluation.PRE_FILTER, plugin.name, plugin.pre_filter, *arguments)


def _ask(
    entry: profile.Filter,
    state: framework.CycleState,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    rows: evaluation.Indices,
) -> framework.Verdict | None:
    arguments = (state, pod, cluster, rows)
    return evaluation.ask(evaluation.FILTER, entry.name, entry.plugin.filter, *arguments)


def _weigh(
    plugin: framework.Plugin,
    verdict: framework.Verdict,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    rows: evaluation.Indices,
) -> np.typing.NDArray[np.float64]:
    """(rows,): how far each node is from what a plugin asks for; 0 where it has all of it."""
    rejected: np.typing.NDArray[np.float64] = (verdict.codes != 0).astype(np.float64)
    if not isinstance(plugin, noderesourcesfit.NodeResourcesFit):
        return rejected
    for name, amount in plugin.demands(pod.requests.asked):
        column = cluster.column_of(name)
        if column is None:
            rejected += _HOPELESS
            continue
        allocatable = cluster.allocatable[rows, column]
        missing = np.maximum(amount - (allocatable - cluster.requested[rows, column]), 0)
        rejected += missing / amount + np.where(allocatable < amount, _HOPELESS, 0)
    return rejected


def _kept_for_others(
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    promises: nominator.Nominator,
    rows: evaluation.Indices,
) -> framework.Mask:
    kept = {
        cluster.row_of[name]
        for name, waiting in promises.items()
        if name in cluster.row_of and any(trial.yields_to(pod, other) for other in waiting)
    }
    return np.isin(rows, list(kept)) if kept else np.zeros(len(rows), np.bool_)


def _changes(
    place: int,
    rows: evaluation.Indices,
    verdicts: Mapping[str, framework.Verdict | None],
    plugins: profile.Profile,
    state: framework.CycleState,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    promises: nominator.Nominator,
) -> Iterator[str]:
    """What the node at a place lacks, plugin by plugin."""
    row, fits = int(rows[place]), True
    for name, verdict in verdicts.items():
        if verdict is None or not verdict.codes[place]:
            continue
        fits = False
        teller = _TELLERS.get(name)
        told: Sequence[str] = ()
        if teller is not None:
            told = teller(plugins.plugins[name], state, pod, cluster, row)
        yield from told or verdict.texts[int(verdict.reasons[place])]
    if fits:
        waiting = promises.pods_on(cluster.names[row])
        others = ", ".join(other.key for other in waiting if trial.yields_to(pod, other))
        yield f"another place for {others}, which it is kept for"


# What each plugin misses on a node: (plugin, state, pod, snapshot, row) to texts.


def _tell_unschedulable(*_: Any) -> list[str]:
    return ["to be uncordoned, or a toleration of node.kubernetes.io/unschedulable:NoSchedule"]


def _tell_name(_: Any, __: Any, pod: pods.PodInfo, *___: Any) -> list[str]:
    return [f"another spec.nodeName than {pod.node_name}"]


def _tell_taints(
    _: Any, __: Any, pod: pods.PodInfo, cluster: snapshot.Snapshot, row: int
) -> list[str]:
    taints = (cluster.node_at(row).get("spec") or {}).get("taints") or ()
    return [
        f"a toleration of {_taint(taint)}"
        for taint in taints
        if taint.get("effect") in {"NoSchedule", "NoExecute"}
        and not any(selectors.toleration_tolerates(each, taint) for each in pod.tolerations)
    ]


def _taint(taint: Mapping[str, Any]) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def _tell_node_affinity(
    plugin: framework.Plugin, _: Any, pod: pods.PodInfo, cluster: snapshot.Snapshot, row: int
) -> list[str]:
    assert isinstance(plugin, nodeaffinity.NodeAffinity)
    labels = cluster.node_at(row)["metadata"].get("labels") or {}
    name = cluster.names[row]
    required, added = plugin.required(pod)
    told = [_label(each, labels) for each in required.labels if not each.matches(labels)]
    for selector in (required.selector, added):
        if selector is not None and not selector.matches(labels, {"metadata.name": name}):
            told += _nearest_term(selector, labels, name)
    return told


def _nearest_term(
    selector: selectors.NodeSelector, labels: Mapping[str, str], name: str
) -> list[str]:
    """What is missing for the alternative that misses the least."""
    missing = []
    for term in selector.terms:
        lacks = [_label(each, labels) for each in term.expressions if not each.matches(labels)]
        for field in term.fields:
            if (name == field.values[0]) is not (field.operator == "In"):
                word = "is" if field.operator == "In" else "isn't"
                lacks.append(f"a node whose name {word} {field.values[0]}")
        if lacks:
            missing.append(lacks)
    return min(missing, key=len, default=[])


def _label(requirement: selectors.Requirement, labels: Mapping[str, str]) -> str:
    found = labels.get(requirement.key)
    now = "it has no such label" if found is None else f"it has {requirement.key}={found}"
    return f"the label {requirement} ({now})"


def _tell_ports(
    _: Any, __: Any, pod: pods.PodInfo, cluster: snapshot.Snapshot, row: int
) -> list[str]:
    told = []
    for wanted in pod.host_ports:
        holders = [
            other.key
            for other in cluster.pods_on(cluster.names[row])
            if any(nodeports.conflict(wanted, held) for held in other.host_ports)
        ]
        if holders:
            port = f"{wanted.port}/{wanted.protocol}"
            told.append(f"host port {port} (taken by {', '.join(holders)})")
    return told


def _tell_resources(
    plugin: framework.Plugin, _: Any, pod: pods.PodInfo, cluster: snapshot.Snapshot, row: int
) -> list[str]:
    assert isinstance(plugin, noderesourcesfit.NodeResourcesFit)
    told = []
    if cluster.pod_counts[row] >= cluster.allowed_pods[row]:
        told.append(f"room for one pod more (it takes {cluster.allowed_pods[row]})")
    for name, amount in plugin.demands(pod.requests.asked):
        column = cluster.column_of(name)
        allocatable = 0 if column is None else int(cluster.allocatable[row, column])
        used = 0 if column is None else int(cluster.requested[row, column])
        free = allocatable - used
        if free >= amount:
            continue
        asked, has = amount_text(name, amount), amount_text(name, allocatable)
        if allocatable < amount:
            told.append(f"more {name} than it has at all ({asked} wanted, the node has {has})")
        else:
            lack, left = amount_text(name, amount - free), amount_text(name, free)
            told.append(f"{lack} more {name} ({asked} wanted, {left} of {has} free)")
    return told


def amount_text(resource: str, amount: int) -> str:
    """An amount as the snapshot counts it, as a quantity: CPU in thousandths, others in units."""
    if resource == requests.CPU:
        return quantities.format_quantity(f"{amount}m")
    if resource in {requests.MEMORY, requests.EPHEMERAL_STORAGE} or resource.startswith(
        "hugepages"
    ):
        return bytes_text(amount)
    return str(amount)


def bytes_text(amount: int) -> str:
    """Bytes in a unit that people read: exact where that is short, otherwise rounded."""
    exact = quantities.format_quantity(amount, "BinarySI")
    if len(exact) <= 6:
        return exact
    for power, unit in ((40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")):
        if abs(amount) >= 1 << power:
            return f"{amount / (1 << power):.1f}{unit}"
    return exact


def _tell_spread(
    plugin: framework.Plugin,
    state: framework.CycleState,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    row: int,
) -> list[str]:
    assert isinstance(plugin, podtopologyspread.PodTopologySpread)
    found: podtopologyspread.Filtering = state[plugin.name]
    labels = cluster.node_at(row)["metadata"].get("labels") or {}
    told = []
    for constraint, spread in zip(found.constraints, found.spreads, strict=True):
        code = int(spread.codes[row])
        if not code:
            told.append(f"a label {constraint.key}, over which the pods are spread")
        elif podtopologyspread.is_full(constraint, spread, pod)[code]:
            domain = f"{constraint.key}={labels.get(constraint.key)}"
            there, counts = int(spread.counts[code]), spread.counts[spread.present]
            fewest, skew = int(counts.min(initial=there)), constraint.max_skew
            told.append(
                f"fewer pods with {constraint.selector} in {domain} (there are {there}, "
                f"elsewhere {fewest}; maxSkew is {skew})"
            )
    return told


def _tell_pod_affinity(
    plugin: framework.Plugin,
    state: framework.CycleState,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    row: int,
) -> list[str]:
    assert isinstance(plugin, interpodaffinity.InterPodAffinity)
    found: interpodaffinity.Filtering = state[plugin.name]
    told = []
    unmet = interpodaffinity.unmet(found, pod, cluster, np.array([row]))[0]
    for term in pod.affinity_terms.attracts if unmet else ():
        tally = found.wanted[term.key]
        if tally.counts[tally.codes[row]] <= 0:
            told.append(f"a pod with {term.selector} in {_domain(term.key, cluster, row)}")
    for term in pod.affinity_terms.repels:
        tally = found.unwanted[term.key]
        if tally.counts[tally.codes[row]] > 0:
            domain = _domain(term.key, cluster, row)
            told.append(f"no pod with {term.selector} in {domain}")
    averse = found.averse.items()
    keys = [key for key, tally in averse if tally.counts[tally.codes[row]] > 0]
    if keys:
        holders = _averse_pods(pod, cluster, row, keys)
        domains = ", ".join(_domain(key, cluster, row) for key in keys)
        told.append(f"{holders or 'a pod'} gone, whose anti-affinity keeps it out of {domains}")
    return told


def _domain(key: str, cluster: snapshot.Snapshot, row: int) -> str:
    value = (cluster.node_at(row)["metadata"].get("labels") or {}).get(key)
    return f"{key}={value}" if value is not None else f"a domain of {key} (it has no such label)"


def _averse_pods(
    pod: pods.PodInfo, cluster: snapshot.Snapshot, row: int, keys: Sequence[str]
) -> str:
    """Some of the pods on the node's domains that don't want `pod` near them."""
    labels = cluster.namespaces.labels(pod.namespace)

    def repels(term: affinityterms.Term) -> bool:
        return term.key in keys and term.means(pod.namespace, pod.labels, labels)

    here = cluster.node_at(row)["metadata"].get("labels") or {}
    found = []
    for other in cluster.all_pods():
        for term in other.affinity_terms.repels:
            node = cluster.node(other.node_name)
            if node is None or not repels(term):
                continue
            there = node["metadata"].get("labels") or {}
            if there.get(term.key) == here.get(term.key):
                found.append(other.key)
                break
        if len(found) > 3:
            return f"{', '.join(found[:3])} and others"
    return ", ".join(found)


_TELLERS: dict[str, Callable[..., list[str]]] = {
    "NodeUnschedulable": _tell_unschedulable,
    "NodeName": _tell_name,
    "TaintToleration": _tell_taints,
    "NodeAffinity": _tell_node_affinity,
    "NodePorts": _tell_ports,
    "NodeResourcesFit": _tell_resources,
    "PodTopologySpread": _tell_spread,
    "InterPodAffinity": _tell_pod_affinity,
}
