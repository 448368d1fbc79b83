"""How many more of this pod fit, where, and what ends it.

No loop runs here but those over pods and nodes. Copies of the pod are placed until none fits.
Where its filters look at their own node only (`trial.Trial.is_local`), it makes no difference in
which order nodes are filled, so every node that still fits gets a copy at once: as many rounds as
the roomiest node takes pods, and not as many decisions as there are pods. The answer is the same,
as a Hypothesis test holds. Nobody is evicted for a copy.

cluster-capacity (`sigs.k8s.io/cluster-capacity`) answers the same question, pod by pod.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from whipstaff.runtime import errors
from whipstaff.scheduler import diagnosis, framework, offline, pods, profile, trial
from whipstaff.scheduler.plugins import volumebinding
from whipstaff.scheduler.simulation import (
    attempts,
    clusters,
    documents,
    expansion,
    results,
    settings,
)

Object = dict[str, Any]


def fit(
    cluster: clusters.Cluster,
    manifest: clusters.Manifests,
    *,
    limit: int | None = None,
    config: settings.Config = None,
    namespace: str | None = None,
    seed: int | str = 0,
    report: attempts.Report = attempts.silent,
) -> results.Fit:
    """How many more pods like that of `manifest` fit.

    Args:
        cluster: where.
        manifest: one pod, or one workload, whose template counts and not its replicas; with what it
            needs besides.
        limit: how many are enough.
        config: the scheduler's configuration, or the file of one.
        namespace: of a manifest that names none; the cluster's default one, if not given.
        seed: for what chance decides.
        report: told how many pods fit so far, and the limit or 0.

    Raises:
        errors.ConfigurationError: the manifest or the configuration can't be used, or there isn't
            exactly one pod or workload in it.
    """
    found = clusters.read_manifests(manifest, namespace or cluster.namespace)
    workloads = [each for each in found if expansion.is_workload(each.obj)]
    if len(workloads) != 1:
        origin = found[0].origin if found else "the manifest"
        raise errors.ConfigurationError(
            f"{origin}: one pod or workload is needed, found {len(workloads)}"
        )
    others = [each.obj for each in found if not expansion.is_workload(each.obj)]
    scene = clusters.Scene(cluster, others, configuration=config, seed=seed, namespace=namespace)
    pod = _model(scene, workloads[0])
    plugins = scene.settings.choose(pod)
    if plugins is None:
        raise workloads[0].problem(f"spec.schedulerName: no profile is called {pod.scheduler_name}")
    size = len(scene.there.cluster)
    counts = np.zeros(size, np.int64)
    if limit is None and _is_local(scene.there, pod, plugins):
        counts = _fill(scene.there, pod, plugins, report)
    failure = _place(scene.there, pod, plugins, counts, limit, report)
    statuses = {} if failure is None else _node_reasons(scene.there, failure)
    return results.Fit(
        pod.key,
        tuple(scene.there.cluster.names),
        counts,
        int(counts.sum()),
        failure is None,
        {} if failure is None else failure.reasons(),
        "" if failure is None else str(failure),
        statuses,
        results.use_of(scene.there.cluster),
        tuple(scene.notes),
    )


def _model(scene: clusters.Scene, document: documents.Document) -> pods.PodInfo:
    """The pod that the copies are of: without a node, and named for what it is."""
    raw = expansion.template(document.obj)
    metadata = {**raw["metadata"], "name": expansion.name_of(raw), "uid": "simulated"}
    named = {**raw, "metadata": metadata}
    return offline.unplaced({**named, "spec": scene.admit(named, document)})


def _copies(pod: pods.PodInfo, first: int = 0) -> Iterator[pods.PodInfo]:
    for number in itertools.count(first):
        yield dataclasses.replace(pod, uid=f"simulated-{number}")


def _is_local(there: offline.Offline, pod: pods.PodInfo, plugins: profile.Profile) -> bool:
    """Whether a copy on one node makes no difference to the others."""
    if pod.volumes or any(
        not isinstance(plugin, volumebinding.VolumeBinding) for plugin in plugins.reserves
    ):
        return False
    if pod.affinity_terms.held:
        return False  # once it is there, it has a say in where the others may be
    if there.decide(pod, plugins).evaluated < len(there.cluster):
        return False  # confined to some nodes, or refused before any was asked
    return trial.Trial(pod, plugins, there.cluster, there.promises).is_local


def _fill(
    there: offline.Offline, pod: pods.PodInfo, plugins: profile.Profile, report: attempts.Report
) -> framework.Int64s:
    """Puts copies on all nodes that fit, round after round; (nodes,) how many."""
    cluster = there.cluster
    counts = np.zeros(len(cluster), np.int64)
    copies = _copies(pod)
    trying = trial.Trial(pod, plugins, cluster, there.promises)
    rows = np.arange(len(cluster))
    while True:
        filtered = trying.run_with_promises(rows)
        rows = rows[filtered.rejected_by == 0]
        if not len(rows):
            return counts
        placed = [next(copies).on_node(cluster.names[row]) for row in rows.tolist()]
        cluster.put_in(cluster.moved(placed))
        counts[rows] += 1
        report(int(counts.sum()), 0)


def _place(
    there: offline.Offline,
    pod: pods.PodInfo,
    plugins: profile.Profile,
    counts: framework.Int64s,
    limit: int | None,
    report: attempts.Report,
) -> diagnosis.FitError | None:
    """Places copies one by one, and counts them, until none fits; what ends it, or None."""
    placed = int(counts.sum())
    copies = _copies(pod, placed)
    while placed != limit:
        copy = next(copies)
        decided = there.decide(copy, plugins)
        if decided.node is None:
            return decided.failure
        there.cluster.assume(copy, decided.node)
        counts[there.cluster.row_of[decided.node]] += 1
        placed += 1
        report(placed, limit or 0)
    return None


def _node_reasons(there: offline.Offline, failure: diagnosis.FitError) -> dict[str, str]:
    if failure.pre_filter_message:
        return dict.fromkeys(there.cluster.names, failure.pre_filter_message)
    return {name: ", ".join(failure.statuses[name].reasons) for name in there.cluster.names}
