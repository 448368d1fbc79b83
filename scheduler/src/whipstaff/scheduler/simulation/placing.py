"""Where would these pods go? And the same by two configurations.

No loop runs here but that of `attempts`.
"""

from collections.abc import Callable
from typing import Any

from whipstaff.runtime import objects
from whipstaff.scheduler.simulation import attempts, clusters, results, settings

Object = dict[str, Any]


def place(
    cluster: clusters.Cluster,
    manifests: clusters.Manifests = (),
    *,
    config: settings.Config = None,
    pending: bool = False,
    anew: bool = False,
    preempt: bool = True,
    namespace: str | None = None,
    seed: int | str = 0,
    report: attempts.Report = attempts.silent,
) -> results.Placement:
    """Where the pods of manifests would go, which would stay pending, and who would be evicted.

    Args:
        cluster: where.
        manifests: pods and workloads, and what they need besides (Services, claims, and so on).
        config: the scheduler's configuration, or the file of one.
        pending: the pods that wait in the cluster are placed, too, before the others.
        anew: every pod of the cluster that isn't there by nature (as a DaemonSet's is) is taken off
            its node and placed anew first, the oldest one first.
        preempt: whether pods may be evicted for others.
        namespace: of manifests that name none; the cluster's default one, if not given.
        seed: for what chance decides: among equal nodes, and where preemption begins to look. That
            of a scheduler is its profiles' names, joined by commas.
        report: told how many pods of how many are done.

    Raises:
        errors.ConfigurationError: a manifest or the configuration can't be used; names the file,
            the document in it and the field.
    """
    movable = _movable if anew else _none
    scene = clusters.Scene(
        cluster,
        manifests,
        configuration=config,
        seed=seed,
        namespace=namespace,
        preempt=preempt,
        report=report,
        leaving_out=movable,
    )
    new, scene.wanted = scene.wanted, []
    if anew:
        scene.take_off(obj for obj in cluster.objects if obj["kind"] == "Pod" and movable(obj))
    if pending:
        scene.take_off(
            raw for raw in scene.there.waiting.values() if not objects.is_terminating(raw)
        )
    scene.wanted += new
    return play(scene)


def play(scene: clusters.Scene) -> results.Placement:
    """Places what a scene wants."""
    before = results.use_of(scene.there.cluster)
    scene.attempts.place(scene.wanted)
    return results.Placement(
        scene.attempts.outcomes,
        tuple(scene.attempts.evictions),
        before,
        results.use_of(scene.there.cluster),
        tuple(scene.notes),
    )


def compare(
    cluster: clusters.Cluster,
    manifests: clusters.Manifests = (),
    *,
    a: settings.Config,
    b: settings.Config,
    names: tuple[str, str] | None = None,
    report: attempts.Report = attempts.silent,
    **asked: Any,
) -> results.Comparison:
    """The same pods by two configurations, each starting from the cluster as it is.

    `asked` are further arguments of `place`. `names` are what the configurations are called in the
    answer; their files, if none are given.

    Raises:
        errors.ConfigurationError: as `place`.
    """

    def half(offset: int) -> Callable[[int, int], None]:
        return lambda done, total: report(done + offset * total, 2 * total)

    first = place(cluster, manifests, config=a, report=half(0), **asked)
    second = place(cluster, manifests, config=b, report=half(1), **asked)
    balances = (results.balance_of(first.after), results.balance_of(second.after))
    return results.Comparison(
        names or (settings.name_of(a), settings.name_of(b)), (first, second), balances
    )


def _movable(pod: Object) -> bool:
    """Whether a pod is where a scheduler put it."""
    return bool(
        pod["spec"].get("nodeName")
        and not objects.is_finished(pod)
        and not objects.is_terminating(pod)
        and not clusters.is_fixed(pod)
    )


def _none(_pod: Object) -> bool:
    return False
