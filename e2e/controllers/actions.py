"""What users do to Deployments and ReplicaSets: drawn by a seed, done alike on any cluster.

`plan` draws a sequence that depends on its seed alone. A `Step` names an object and says what is
done to it; where it is about pods or ReplicaSets, which have other names on every cluster, it says
which ones by rank. `DEEDS` does it. What the API server refuses is an answer like any other.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from whipstaff.runtime import client, errors, objects, resources

Object: TypeAlias = dict[str, Any]

REVISION = "deployment.kubernetes.io/revision"
ROLLBACK = "deprecated.deployment.rollback.to"
HASH = "pod-template-hash"
COST = "controller.kubernetes.io/pod-deletion-cost"
QUOTA = "limit"
_NOT_TAKEN_BACK = (
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    ROLLBACK,
    "kubectl.kubernetes.io/last-applied-configuration",
)
_BOUNDS = (0, 1, 2, 3, "0%", "25%", "30%", "50%", "100%")


class Cluster(Protocol):
    """What doing something needs of a side."""

    api: client.Client

    def list(self, kind: resources.Resource, namespace: str) -> list[Object]: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a user does.

    Attributes:
        deed: which of `DEEDS`.
        name: of the Deployment or ReplicaSet that it is about; its pods are labelled ``app=name``.
        given: what else the deed needs to know.
        taken: pods that the user takes away, which nobody can be blamed for.
        judged: whether the bounds of a rolling update are to be kept during it: not where the user
            makes, unmakes or swaps the ReplicaSets themselves.
    """

    deed: str
    name: str
    given: Object = field(default_factory=dict)
    taken: int = 0
    judged: bool = True

    def __str__(self) -> str:
        return f"{self.deed} {self.name} {json.dumps(self.given, sort_keys=True)}"


async def perform(cluster: Cluster, namespace: str, step: Step) -> str:
    """Do it; gives "done" or how the API server refused."""
    try:
        await DEEDS[step.deed](cluster, namespace, step)
    except errors.ApiError as error:
        return type(error).__name__
    return "done"


# ---- doing -----------------------------------------------------------------------------------


async def _create(cluster: Cluster, namespace: str, step: Step) -> None:
    await cluster.api.create(_kind(step), step.given["body"], namespace)


async def _patch(cluster: Cluster, namespace: str, step: Step) -> None:
    await cluster.api.patch(
        _kind(step), step.name, step.given["patch"], namespace, kind="strategic"
    )


async def _undo(cluster: Cluster, namespace: str, step: Step) -> None:
    """As ``kubectl rollout undo`` to the revision before: template and annotations of it."""
    found = _replicasets(cluster, namespace, step.name)
    if len(found) < 2:
        return
    target = found[-2]
    template = target["spec"]["template"]
    labels = {k: v for k, v in objects.labels(template).items() if k != HASH}
    deployment = await cluster.api.get(resources.DEPLOYMENTS, step.name, namespace)
    kept = {k: v for k, v in objects.annotations(deployment).items() if k in _NOT_TAKEN_BACK}
    back = {k: v for k, v in objects.annotations(target).items() if k not in _NOT_TAKEN_BACK}
    new = {**template, "metadata": {**template["metadata"], "labels": labels}}
    operations = [
        {"op": "replace", "path": "/spec/template", "value": new},
        {"op": "replace", "path": "/metadata/annotations", "value": {**kept, **back}},
    ]
    await cluster.api.patch(resources.DEPLOYMENTS, step.name, operations, namespace, kind="json")


async def _delete(cluster: Cluster, namespace: str, step: Step) -> None:
    policy = step.given["policy"]
    await cluster.api.delete(_kind(step), step.name, namespace, propagation_policy=policy)


async def _kill(cluster: Cluster, namespace: str, step: Step) -> None:
    for pod in _pods(cluster, namespace, step)[: step.given["count"]]:
        await cluster.api.delete(resources.PODS, objects.name(pod), namespace)


async def _price(cluster: Cluster, namespace: str, step: Step) -> None:
    for pod, cost in zip(_pods(cluster, namespace, step), step.given["costs"], strict=False):
        patch = {"metadata": {"annotations": {COST: cost}}}
        await cluster.api.patch(resources.PODS, objects.name(pod), patch, namespace)


async def _stray(cluster: Cluster, namespace: str, step: Step) -> None:
    """Take pods out of their ReplicaSet by a label."""
    for pod in _pods(cluster, namespace, step)[: step.given["count"]]:
        patch = {"metadata": {"labels": {"app": f"{step.name}-stray"}}}
        await cluster.api.patch(resources.PODS, objects.name(pod), patch, namespace)


async def _return(cluster: Cluster, namespace: str, step: Step) -> None:
    """Give strayed pods their label back."""
    for pod in cluster.list(resources.PODS, namespace):
        if objects.labels(pod).get("app") == f"{step.name}-stray":
            patch = {"metadata": {"labels": {"app": step.name}}}
            await cluster.api.patch(resources.PODS, objects.name(pod), patch, namespace)


async def _resize(cluster: Cluster, namespace: str, step: Step) -> None:
    """Scale a Deployment's ReplicaSet behind its back."""
    if (target := _ranked(cluster, namespace, step)) is not None:
        patch = {"spec": {"replicas": step.given["replicas"]}}
        await cluster.api.patch(resources.REPLICASETS, objects.name(target), patch, namespace)


async def _remove(cluster: Cluster, namespace: str, step: Step) -> None:
    """Delete one of a Deployment's ReplicaSets."""
    if (target := _ranked(cluster, namespace, step)) is not None:
        policy = step.given["policy"]
        await cluster.api.delete(
            resources.REPLICASETS, objects.name(target), namespace, propagation_policy=policy
        )


async def _let_go(cluster: Cluster, namespace: str, step: Step) -> None:
    """Take one of a Deployment's ReplicaSets out of it by a label."""
    if (target := _ranked(cluster, namespace, step)) is not None:
        patch = {"metadata": {"labels": {"app": f"{step.name}-stray"}}}
        await cluster.api.patch(resources.REPLICASETS, objects.name(target), patch, namespace)


async def _take_back(cluster: Cluster, namespace: str, step: Step) -> None:
    for found in cluster.list(resources.REPLICASETS, namespace):
        if objects.labels(found).get("app") == f"{step.name}-stray":
            patch = {"metadata": {"labels": {"app": step.name}}}
            await cluster.api.patch(resources.REPLICASETS, objects.name(found), patch, namespace)


async def _limit(cluster: Cluster, namespace: str, step: Step) -> None:
    """Allow no more pods than there are, and some."""
    pods = [
        each for each in cluster.list(resources.PODS, namespace) if not objects.is_finished(each)
    ]
    hard = {"pods": str(len(pods) + step.given["more"])}
    body: Object = {"metadata": {"name": QUOTA}, "spec": {"hard": hard}}
    await cluster.api.create(resources.RESOURCEQUOTAS, body, namespace)


async def _lift(cluster: Cluster, namespace: str, step: Step) -> None:
    del step
    await cluster.api.delete(resources.RESOURCEQUOTAS, QUOTA, namespace)


DEEDS: dict[str, Callable[[Cluster, str, Step], Awaitable[None]]] = {
    "create": _create,
    "patch": _patch,
    "undo": _undo,
    "delete": _delete,
    "kill": _kill,
    "price": _price,
    "stray": _stray,
    "return": _return,
    "resize": _resize,
    "remove": _remove,
    "let-go": _let_go,
    "take-back": _take_back,
    "limit": _limit,
    "lift": _lift,
}


def _kind(step: Step) -> resources.Resource:
    is_bare = step.name.startswith("bare")
    return resources.REPLICASETS if is_bare else resources.DEPLOYMENTS


def _replicasets(cluster: Cluster, namespace: str, name: str) -> list[Object]:
    """Those of a Deployment, the newest revision last."""
    found = [
        each
        for each in cluster.list(resources.REPLICASETS, namespace)
        if (owner := objects.owner(each)) is not None and owner["name"] == name
    ]
    return sorted(found, key=lambda each: int(objects.annotations(each).get(REVISION, "0")))


def _ranked(cluster: Cluster, namespace: str, step: Step) -> Object | None:
    found = _replicasets(cluster, namespace, step.name)
    rank = step.given["rank"]
    return found[-1 - rank] if rank < len(found) else None


def _pods(cluster: Cluster, namespace: str, step: Step) -> list[Object]:
    """The pods that serve or should, those of the newest revision first, the dearest first."""
    revisions = {
        objects.uid(each): int(objects.annotations(each).get(REVISION, "0"))
        for each in cluster.list(resources.REPLICASETS, namespace)
    }
    found = [
        pod
        for pod in cluster.list(resources.PODS, namespace)
        if objects.labels(pod).get("app") == step.name
        and not objects.is_finished(pod)
        and not objects.is_terminating(pod)
    ]

    def rank(pod: Object) -> tuple[Any, ...]:
        owner = objects.owner(pod)
        cost = int(objects.annotations(pod).get(COST, "0"))
        age = pod["metadata"]["creationTimestamp"], objects.name(pod)
        return -revisions.get(owner["uid"] if owner else "", 0), -cost, *age

    return sorted(found, key=rank)


# ---- drawing ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Known:
    """What is known of a Deployment or ReplicaSet without looking.

    While it is paused, either its template is `edited` or it is `asked` to go back. After both it
    would turn around when it is resumed, and how far it had come by then depends on haste.
    """

    name: str
    body: Object
    replicas: int
    paused: bool = False
    there: bool = True
    orphans: bool = False
    strays: bool = False
    let_go: bool = False
    stuck: bool = False
    priced: bool = False
    edited: bool = False
    asked: bool = False

    @property
    def bare(self) -> bool:
        return self.name.startswith("bare")


class _Author:
    """Draws one step after the other."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._known: list[_Known] = []
        self._limited: _Known | None = None
        self._images = 0

    def next(self) -> Step:
        there = [each for each in self._known if each.there]
        if not there:
            return self._make()
        if self._limited is not None:
            return self._under_limit(self._limited)
        if len(self._known) < 3 and self._chance.random() < 0.15:
            return self._make()
        gone = [each for each in self._known if not each.there]
        if gone and self._chance.random() < 0.4:
            return self._make_again(self._chance.choice(gone))
        target = self._chance.choice(there)
        if (step := self._follow_up(target)) is not None:
            return step
        draws = _BARE if target.bare else _DEPLOYMENT
        names = list(draws)
        drawn = self._chance.choices(names, [draws[name] for name in names])[0]
        draw: Callable[[_Known], Step] = getattr(self, f"_{drawn}")
        return draw(target)

    def _follow_up(self, known: _Known) -> Step | None:
        """What is worth doing after what was done, now and then."""
        if self._chance.random() < 0.5:
            return None
        if known.let_go:
            return self._let_go(known)
        if known.priced and known.replicas > 1:
            known.priced = False
            return self._scale(known, self._chance.randint(1, known.replicas - 1))
        if known.stuck:
            known.stuck = False
            return self._scale(known)
        return None

    # ---- making and unmaking -----------------------------------------------------------------

    def _make(self) -> Step:
        bare = self._chance.random() < 0.2
        name = f"{'bare' if bare else 'web'}-{len(self._known)}"
        replicas = self._chance.randint(0, 6)
        spec: Object = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": self._template(name),
            "minReadySeconds": self._chance.choice((0, 0, 0, 1)),
        }
        if not bare:
            spec |= self._rollout()
        metadata: Object = {
            "name": name,
            "labels": {"app": name, "tier": self._word()},
            "annotations": {"note": self._word()},
        }
        known = _Known(name, {"metadata": metadata, "spec": spec}, replicas)
        self._known.append(known)
        return Step("create", name, {"body": copy.deepcopy(known.body)})

    def _make_again(self, known: _Known) -> Step:
        """Under the same name, over what may be left of it."""
        body = copy.deepcopy(known.body)
        if self._chance.random() < 0.5:
            body["spec"]["template"] = self._template(known.name)
        elif not known.bare and self._chance.random() < 0.3:
            body["spec"]["selector"]["matchLabels"]["color"] = "blue"
            body["spec"]["template"]["metadata"]["labels"]["color"] = "blue"
        known.body, known.there, known.paused = body, True, False
        known.edited = known.asked = known.stuck = known.priced = False
        return Step("create", known.name, {"body": copy.deepcopy(body)}, judged=False)

    def _template(self, name: str) -> Object:
        labels = {"app": name, "color": self._chance.choice(("blue", "green"))}
        return {
            "metadata": {"labels": labels},
            "spec": {
                "containers": [{"name": "main", "image": self._image()}],
                "automountServiceAccountToken": False,
            },
        }

    def _rollout(self) -> Object:
        found: Object = {}
        if self._chance.random() < 0.5:
            found["revisionHistoryLimit"] = self._chance.randint(0, 3)
        if self._chance.random() < 0.5:
            found["progressDeadlineSeconds"] = self._chance.randint(3, 5)
        found["strategy"] = self._strategy()
        return found

    def _strategy(self) -> Object:
        if self._chance.random() < 0.2:
            return {"type": "Recreate", "rollingUpdate": None}
        surge, missing = self._chance.choice(_BOUNDS), self._chance.choice(_BOUNDS)
        if surge in (0, "0%") and missing in (0, "0%"):
            surge = 1
        bounds = {"maxSurge": surge, "maxUnavailable": missing}
        return {"type": "RollingUpdate", "rollingUpdate": bounds}

    def _delete(self, known: _Known) -> Step:
        policy = self._chance.choice(("Orphan", "Orphan", "Background", "Foreground"))
        known.there, known.orphans = False, policy == "Orphan"
        return Step("delete", known.name, {"policy": policy}, judged=False)

    # ---- changing ----------------------------------------------------------------------------

    def _scale(self, known: _Known, replicas: int | None = None) -> Step:
        known.replicas = self._chance.randint(0, 9) if replicas is None else replicas
        known.body["spec"]["replicas"] = known.replicas
        return self._changed(known, {"spec": {"replicas": known.replicas}})

    def _roll(self, known: _Known) -> Step:
        if known.asked:
            return self._scale(known)
        known.edited = known.paused
        container: Object = {"name": "main"}
        template: Object = {"spec": {"containers": [container]}}
        what = self._chance.random()
        if what < 0.6:
            container["image"] = self._image()
            known.stuck = container["image"].startswith("bad:")
        elif what < 0.75:
            container["env"] = [{"name": "WORD", "value": self._word()}]
        elif what < 0.85:
            template = {"metadata": {"labels": {"track": self._word()}}}
        else:
            template = {"metadata": {"annotations": {"restartedAt": self._word()}}}
        return self._changed(known, {"spec": {"template": template}})

    def _roll_and_scale(self, known: _Known) -> Step:
        if known.asked:
            return self._scale(known)
        patch = self._roll(known).given["patch"]
        known.replicas = self._chance.randint(0, 8)
        patch["spec"]["replicas"] = known.replicas
        return self._changed(known, patch)

    def _configure(self, known: _Known) -> Step:
        what = self._chance.randrange(4)
        spec: Object
        if what == 0:
            spec = {"strategy": self._strategy()}
        elif what == 1:
            spec = {"minReadySeconds": self._chance.randint(0, 1)}
        elif what == 2:
            spec = {"revisionHistoryLimit": self._chance.choice((None, 0, 1, 2))}
        else:
            spec = {"progressDeadlineSeconds": self._chance.choice((None, 3, 600))}
        return self._changed(known, {"spec": spec}, judged=False)

    def _annotate(self, known: _Known) -> Step:
        value = self._chance.choice((self._word(), self._word(), None))
        name = self._chance.choice(("note", "owner", "kubernetes.io/change-cause"))
        return self._changed(known, {"metadata": {"annotations": {name: value}}})

    def _label(self, known: _Known) -> Step:
        value = self._chance.choice((self._word(), None))
        return self._changed(known, {"metadata": {"labels": {"tier": value}}})

    def _pause(self, known: _Known) -> Step:
        known.paused = not known.paused
        known.stuck = known.stuck or known.paused
        known.edited = known.asked = False
        return self._changed(known, {"spec": {"paused": known.paused}})

    def _roll_back(self, known: _Known) -> Step:
        if known.edited:
            return self._annotate(known)
        known.asked = known.paused
        revision = str(self._chance.choice((0, 0, 1, 2, 3, 7)))
        return self._changed(known, {"metadata": {"annotations": {ROLLBACK: revision}}})

    def _undo(self, known: _Known) -> Step:
        if known.asked:
            return self._scale(known)
        known.edited = known.paused
        return Step("undo", known.name)

    # ---- pods --------------------------------------------------------------------------------

    def _kill(self, known: _Known) -> Step:
        count = self._chance.randint(1, 3)
        return Step("kill", known.name, {"count": count}, taken=count)

    def _price(self, known: _Known) -> Step:
        known.priced = True
        # Not 0, which is what a pod without a price costs.
        costs = [self._chance.choice(("-3", "-1", "1", "2", "7")) for _ in range(4)]
        return Step("price", known.name, {"costs": costs[: self._chance.randint(1, 4)]})

    def _stray(self, known: _Known) -> Step:
        if known.strays:
            known.strays = False
            return Step("return", known.name)
        known.strays = True
        count = self._chance.randint(1, 2)
        return Step("stray", known.name, {"count": count}, taken=count)

    # ---- ReplicaSets behind their Deployment's back ------------------------------------------

    def _resize(self, known: _Known) -> Step:
        given = {"rank": self._chance.randint(0, 1), "replicas": self._chance.randint(0, 6)}
        return Step("resize", known.name, given, judged=False)

    def _remove(self, known: _Known) -> Step:
        policy = self._chance.choice(("Background", "Orphan", "Foreground"))
        given = {"rank": self._chance.randint(0, 1), "policy": policy}
        return Step("remove", known.name, given, judged=False)

    def _let_go(self, known: _Known) -> Step:
        if known.let_go:
            known.let_go = False
            return Step("take-back", known.name, judged=False)
        known.let_go = True
        return Step("let-go", known.name, {"rank": self._chance.randint(0, 1)}, judged=False)

    # ---- a quota -----------------------------------------------------------------------------

    def _limit(self, known: _Known) -> Step:
        self._limited = known
        return Step("limit", known.name, {"more": self._chance.randint(0, 2)})

    def _under_limit(self, known: _Known) -> Step:
        """Whoever comes first gets what is left: so only one asks for more, and only once."""
        if self._chance.random() < 0.5:
            self._limited = None
            return Step("lift", known.name)
        known.replicas = min(known.replicas + self._chance.randint(1, 4), 10)
        known.body["spec"]["replicas"] = known.replicas
        return self._changed(known, {"spec": {"replicas": known.replicas}})

    # ---- small things ------------------------------------------------------------------------

    def _changed(self, known: _Known, patch: Object, *, judged: bool = True) -> Step:
        return Step("patch", known.name, {"patch": patch}, judged=judged)

    def _image(self) -> str:
        self._images += 1
        kind = self._chance.choices(("good", "bad", "flaky-1", "flaky-2"), (7, 2, 1, 1))[0]
        return f"{kind}:{self._chance.randint(1, 5)}"

    def _word(self) -> str:
        return self._chance.choice(("ash", "birch", "cedar", "elm", "fir", "oak", "yew"))


_DEPLOYMENT = {
    "scale": 6,
    "roll": 10,
    "roll_and_scale": 2,
    "configure": 6,
    "annotate": 2,
    "label": 1,
    "pause": 4,
    "roll_back": 3,
    "undo": 2,
    "kill": 3,
    "price": 3,
    "stray": 2,
    "resize": 2,
    "remove": 2,
    "let_go": 3,
    "limit": 2,
    "delete": 3,
}
_BARE = {
    "scale": 5,
    "roll": 1,
    "annotate": 1,
    "label": 1,
    "kill": 3,
    "price": 3,
    "stray": 3,
    "limit": 1,
    "delete": 2,
}


def plan(seed: int, count: int) -> list[Step]:
    """A sequence of steps, always the same for a seed; a longer one begins like a shorter one."""
    author = _Author(seed)
    return [author.next() for _ in range(count)]
