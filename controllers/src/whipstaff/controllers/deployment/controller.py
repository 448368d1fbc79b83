"""The Deployment controller at work: the only module here that reads and writes the cluster.

Runs no loop: `sync` is for the workers of `queue`. It owns the queue and the memory of its own
writes; the copies of Deployments, ReplicaSets and pods are the caller's informers, made with
`DEPLOYMENT_INDEXERS`, `REPLICASET_INDEXERS` and, for pods, those of the ReplicaSet controller.

A key is looked at only when the copies show everything that was written for it before. One sync
reads, asks `reconciler.reconcile` for a plan and carries it out; whatever it writes brings an event
that queues the key again, until there is nothing to be done.

Answers to upstream's ``pkg/controller/deployment/deployment_controller.go``. Leaves out resyncs.
Different: a name that is taken is looked at in the API server and not in the copy; all changes of
a Deployment's status in one sync are one write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from whipstaff.controllers import claiming, own_writes, rivals
from whipstaff.controllers.deployment import arithmetic, reconciler, rollouts, templates
from whipstaff.runtime import (
    client,
    errors,
    events,
    informer,
    logs,
    objects,
    resources,
    selectors,
    store,
    workqueue,
)

Object: TypeAlias = dict[str, Any]

KIND = resources.DEPLOYMENTS.kind
BY_CONTROLLER, BY_NAMESPACE = "controller", "namespace"
DEPLOYMENT_INDEXERS: Mapping[str, store.Indexer] = {
    BY_NAMESPACE: lambda deployment: (objects.namespace(deployment),)
}
REPLICASET_INDEXERS: Mapping[str, store.Indexer] = {BY_CONTROLLER: claiming.controllers_of}
MOST_RETRIES = 15
"""Failures in a row after which a Deployment is left alone until something happens to it."""
RECHECK = 0.5
"""Seconds after which a key is looked at again whose own writes haven't been seen."""

_SELECTS_ALL = "This deployment is selecting all pods. A non-empty selector is required."
_ACTIONS = {"ScalingReplicaSet": "Scaling", "SelectingAll": "Selecting"}

_log = logs.get("deployment")


class AdoptionFailed(errors.WhipstaffError):
    """ReplicaSets that should have been adopted or released were not."""


class DeploymentController:
    """Brings every Deployment's ReplicaSets to what its template and size ask for.

    Args:
        api: writes with it.
        deployments: all Deployments, see `DEPLOYMENT_INDEXERS`.
        replicasets: all ReplicaSets, see `REPLICASET_INDEXERS`.
        pods: all pods, indexed by their controller.
        pod_index: the name of that index.
        recorder: tells the users of a Deployment what was done.
        now: seconds since the epoch.

    Attributes:
        queue: the keys of Deployments to look at.
    """

    def __init__(
        self,
        api: client.Client,
        deployments: informer.Informer,
        replicasets: informer.Informer,
        pods: informer.Informer,
        pod_index: str,
        recorder: events.Recorder,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.queue: workqueue.WorkQueue[str] = workqueue.WorkQueue("deployment")
        self._api = api
        self._deployments = deployments
        self._replicasets = replicasets
        self._pods = pods
        self._pod_index = pod_index
        self._recorder = recorder
        self._now = now
        self._own = own_writes.OwnWrites()
        self._rollouts = rollouts.Rollouts()

    def watch(self) -> None:
        """Have changes queue the keys that they are about."""
        self._deployments.add_handler(_DeploymentHandler(self))
        self._replicasets.add_handler(_ReplicaSetHandler(self))
        self._pods.add_handler(_PodHandler(self))

    async def sync(self, key: str) -> float | None:
        """Bring one Deployment a step further; gives when to look at it again."""
        deployment = self._deployments.get(key)
        if deployment is None:
            self._own.forget(key)
            self._rollouts.forget(key)
            return None
        if rivals.is_probe(deployment):
            return None
        seen = {
            resources.DEPLOYMENTS: self._deployments.resource_version,
            resources.REPLICASETS: self._replicasets.resource_version,
        }
        if not self._own.is_current(key, seen):
            return RECHECK
        try:
            return await self._step(key, deployment)
        except errors.WhipstaffError as error:
            if self.queue.requeues(key) < MOST_RETRIES:
                raise
            _log.error("given up until something changes", key=key, error=str(error))
            return None

    async def _step(self, key: str, deployment: Object) -> float | None:
        try:
            selector = selectors.label_selector(deployment["spec"]["selector"])
        except ValueError as error:
            _log.error("a selector can't be understood", key=key, error=str(error))
            return None
        if selector.empty:
            await self._refuse(key, deployment)
            return None
        if self._own.is_doubted(key) and not await self._is_certain(key, deployment, selector):
            return RECHECK
        mine = await self._claim(key, deployment, selector)
        observed = reconciler.Observed(deployment, mine, self._has_running_pods, self._now())
        plan = reconciler.reconcile(observed)
        self._rollouts.saw(key, deployment, (plan.status or deployment).get("status") or {})
        return await self._carry_out(key, deployment, plan)

    # ---- reading -----------------------------------------------------------------------------

    def resolve(self, child: Object) -> Object | None:
        """The Deployment that is a ReplicaSet's controller; None if none is."""
        owner = objects.owner(child)
        if owner is None or owner["kind"] != KIND:
            return None
        found = self._deployments.get(f"{objects.namespace(child)}/{owner['name']}")
        return found if found is not None and objects.uid(found) == owner["uid"] else None

    def selecting(self, child: Object) -> list[Object]:
        """The Deployments that might adopt a ReplicaSet."""
        found = self._deployments.by_index(BY_NAMESPACE, objects.namespace(child))
        return [each for each in found if _selects(each, child)]

    def of_pod(self, pod: Object) -> Object | None:
        """The Deployment whose ReplicaSet's a pod is; None if it is none's."""
        owner = objects.owner(pod)
        if owner is None or owner["kind"] != resources.REPLICASETS.kind:
            return None
        found = self._replicasets.get(f"{objects.namespace(pod)}/{owner['name']}")
        if found is None or objects.uid(found) != owner["uid"]:
            return None
        return self.resolve(found)

    async def _is_certain(self, key: str, deployment: Object, selector: selectors.Selector) -> bool:
        """Whether the copy of the ReplicaSets shows what became of writes without an answer."""
        found = await self._api.list(
            resources.REPLICASETS, objects.namespace(deployment), label_selector=str(selector)
        )
        owner = claiming.of_controller(deployment, KIND)
        copied = self._replicasets.by_index(BY_CONTROLLER, owner)
        return self._own.compare(
            key,
            (each for each in copied if selector.matches(objects.labels(each))),
            (each for each in found.items if objects.is_owned_by(each, deployment)),
        )

    def _has_running_pods(self, replicaset: Object) -> bool:
        value = claiming.of_controller(replicaset, resources.REPLICASETS.kind)
        return any(
            not objects.is_finished(pod) for pod in self._pods.by_index(self._pod_index, value)
        )

    # ---- claiming ----------------------------------------------------------------------------

    async def _claim(
        self, key: str, deployment: Object, selector: selectors.Selector
    ) -> list[Object]:
        """Adopt and release ReplicaSets; gives those that are the Deployment's then."""
        candidates = [
            *self._replicasets.by_index(BY_CONTROLLER, claiming.of_controller(deployment, KIND)),
            *self._replicasets.by_index(BY_CONTROLLER, objects.namespace(deployment)),
        ]
        claims = claiming.claim(deployment, candidates, selector)
        for child in claims.release:
            await self._patch(key, child, claiming.release_patch(deployment, child))
        if not claims.adopt:
            return claims.owned
        await self._check_still_there(deployment)
        group = resources.DEPLOYMENTS.api_version
        adopted = [
            await self._patch(key, child, claiming.adoption_patch(deployment, child, KIND, group))
            for child in claims.adopt
        ]
        return [*claims.owned, *(child for child in adopted if child is not None)]

    async def _check_still_there(self, deployment: Object) -> None:
        """Ask the API server itself whether a Deployment may still adopt: our copy may be old.

        Raises:
            AdoptionFailed: it is gone, or going.
        """
        name, namespace = objects.name(deployment), objects.namespace(deployment)
        fresh = await self._api.get(resources.DEPLOYMENTS, name, namespace)
        if objects.uid(fresh) != objects.uid(deployment):
            raise AdoptionFailed(
                f"original Deployment {namespace}/{name} is gone: "
                f"got uid {objects.uid(fresh)}, wanted {objects.uid(deployment)}"
            )
        if objects.is_terminating(fresh):
            raise AdoptionFailed(
                f"{namespace}/{name} has just been deleted at "
                f"{fresh['metadata']['deletionTimestamp']}"
            )

    async def _patch(self, key: str, child: Object, patch: Object) -> Object | None:
        """Change whose a ReplicaSet is; None if it is gone, or another one by now."""
        name, namespace = objects.name(child), objects.namespace(child)
        try:
            patched = await self._api.patch(
                resources.REPLICASETS, name, patch, namespace, kind="strategic"
            )
        except (errors.NotFound, errors.Invalid):
            return None
        self._own.wrote(key, resources.REPLICASETS, objects.resource_version(patched))
        return patched

    # ---- writing -----------------------------------------------------------------------------

    async def _carry_out(self, key: str, deployment: Object, plan: reconciler.Plan) -> float | None:
        try:
            return await self._write(key, deployment, plan)
        except errors.WhipstaffError as error:
            self._own.failed(key, error)
            raise

    async def _write(self, key: str, deployment: Object, plan: reconciler.Plan) -> float | None:
        if plan.create is not None:
            made = await self._create(key, deployment, plan.create)
            if made is None:
                return None
            self._tell_scaled(deployment, plan, made)
        for replicaset in plan.update.values():
            written = await self._api.update(resources.REPLICASETS, replicaset)
            self._own.wrote(key, resources.REPLICASETS, objects.resource_version(written))
            self._tell_scaled(deployment, plan, written)
        for replicaset in plan.delete:
            await self._delete(key, replicaset)
        if plan.replace is not None:
            written = await self._api.update(resources.DEPLOYMENTS, plan.replace)
            self._own.wrote(key, resources.DEPLOYMENTS, objects.resource_version(written))
        self._tell(deployment, plan.told)
        if plan.status is not None:
            await self._write_status(key, plan.status)
        return plan.again

    async def _create(self, key: str, deployment: Object, new: Object) -> Object | None:
        """Make the new ReplicaSet; None where there is nothing more to do in this sync.

        Raises:
            errors.WhipstaffError: it can't be made now.
        """
        name = objects.name(new)
        try:
            made = await self._api.create(resources.REPLICASETS, new, objects.namespace(new))
        except errors.AlreadyExists:
            await self._meet(key, deployment, new)
            return None
        except errors.ApiError as error:
            if errors.is_namespace_terminating(error):
                return None
            text = f'Failed to create new replica set "{name}": {error.message}'
            failed = reconciler.after_failed_creation(deployment, text, self._now())
            self._tell(deployment, [reconciler.Told("Warning", "ReplicaSetCreateError", text)])
            if failed["status"] != (deployment.get("status") or {}):
                await self._write_status(key, failed)
            raise
        self._own.wrote(key, resources.REPLICASETS, objects.resource_version(made))
        return made

    async def _meet(self, key: str, deployment: Object, new: Object) -> None:
        """The name is taken: by our own ReplicaSet that the copy doesn't show, or by a stranger."""
        name, namespace = objects.name(new), objects.namespace(new)
        found = await self._api.get(resources.REPLICASETS, name, namespace)
        if objects.is_owned_by(found, deployment) and templates.are_equal(
            found["spec"]["template"], deployment["spec"]["template"]
        ):
            self._own.wrote(key, resources.REPLICASETS, objects.resource_version(found))
            self.queue.add_after(key, RECHECK)
            return
        await self._write_status(key, reconciler.after_collision(deployment))

    async def _delete(self, key: str, replicaset: Object) -> None:
        name, namespace = objects.name(replicaset), objects.namespace(replicaset)
        try:
            await self._api.delete(resources.REPLICASETS, name, namespace)
        except errors.NotFound:
            _log.debug("was gone already", key=key, replicaset=name)

    async def _refuse(self, key: str, deployment: Object) -> None:
        """A Deployment that selects everything is left alone."""
        self._tell(deployment, [reconciler.Told("Warning", "SelectingAll", _SELECTS_ALL)])
        found = deployment.get("status") or {}
        generation = deployment["metadata"].get("generation", 0)
        if found.get("observedGeneration", 0) < generation:
            status = {**found, "observedGeneration": generation}
            await self._write_status(key, {**deployment, "status": status})

    async def _write_status(self, key: str, deployment: Object) -> None:
        try:
            written = await self._api.update(
                resources.DEPLOYMENTS, deployment, subresource="status"
            )
        except errors.NotFound:
            return
        self._own.wrote(key, resources.DEPLOYMENTS, objects.resource_version(written))

    def _tell_scaled(self, deployment: Object, plan: reconciler.Plan, replicaset: Object) -> None:
        told = plan.scaled.get(objects.name(replicaset))
        if told is not None:
            # Named as related, so that two in one sync aren't taken for the same one repeated.
            self._tell(deployment, [told], replicaset)

    def _tell(
        self,
        deployment: Object,
        told: Iterable[reconciler.Told],
        related: Object | None = None,
    ) -> None:
        for each in told:
            action = _ACTIONS.get(each.reason, "Deploying")
            self._recorder.event(deployment, each.type, each.reason, action, each.note, related)


class _DeploymentHandler:
    """Queues Deployments that changed."""

    def __init__(self, controller: DeploymentController) -> None:
        self._queue = controller.queue

    def on_add(self, deployment: Object) -> None:
        self._queue.add(objects.key(deployment))

    def on_update(self, _: Object, new: Object) -> None:
        self._queue.add(objects.key(new))

    def on_delete(self, deployment: Object) -> None:
        self._queue.add(objects.key(deployment))


class _ReplicaSetHandler:
    """Queues the Deployments of ReplicaSets that changed."""

    def __init__(self, controller: DeploymentController) -> None:
        self._controller = controller

    def on_add(self, replicaset: Object) -> None:
        if objects.owner(replicaset) is None and not objects.is_terminating(replicaset):
            self._those_who_want(replicaset)
        self._owner_of(replicaset)

    def on_update(self, old: Object, new: Object) -> None:
        moved = _owner_uid(old) != _owner_uid(new)
        if moved:
            self._owner_of(old)
        self._owner_of(new)
        changed = moved or objects.labels(old) != objects.labels(new)
        if objects.owner(new) is None and changed:
            self._those_who_want(new)

    def on_delete(self, replicaset: Object) -> None:
        self._owner_of(replicaset)

    def _owner_of(self, replicaset: Object) -> None:
        if (found := self._controller.resolve(replicaset)) is not None:
            self._controller.queue.add(objects.key(found))

    def _those_who_want(self, orphan: Object) -> None:
        for deployment in self._controller.selecting(orphan):
            self._controller.queue.add(objects.key(deployment))


class _PodHandler:
    """Queues Deployments of the strategy Recreate when one of their pods is gone."""

    def __init__(self, controller: DeploymentController) -> None:
        self._controller = controller

    def on_delete(self, pod: Object) -> None:
        found = self._controller.of_pod(pod)
        if found is not None and not arithmetic.is_rolling(found):
            self._controller.queue.add(objects.key(found))


def _owner_uid(obj: Object) -> str:
    owner = objects.owner(obj)
    return owner["uid"] if owner is not None else ""


def _selects(deployment: Object, child: Object) -> bool:
    try:
        selector = selectors.label_selector(deployment["spec"]["selector"])
    except ValueError:
        return False
    return not selector.empty and selector.matches(objects.labels(child))
