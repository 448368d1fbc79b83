"""What is to be done for one Deployment now: ReplicaSets to write, and its status.

Pure: `reconcile` takes what was observed and returns a `Plan`; nothing that it is given is changed.
A plan is one step: once ReplicaSets were scaled in one direction, the next step waits for what they
report. All that a step changes of the Deployment's status is one write at its end, and so are all
changes of a ReplicaSet; upstream writes them one by one, and often meets its own conflicts.

Answers to ``syncDeployment`` in upstream's ``pkg/controller/deployment/deployment_controller.go``,
and to ``sync.go``, ``rolling.go``, ``recreate.go`` and ``rollback.go`` beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from whipstaff.controllers.deployment import arithmetic, history, revisions, status, templates
from whipstaff.runtime import events, objects, resources

Object: TypeAlias = dict[str, Any]

SCALING = "ScalingReplicaSet"
ROLLED_BACK = "DeploymentRollback"
NO_REVISION = "DeploymentRollbackRevisionNotFound"
SAME_TEMPLATE = "DeploymentRollbackTemplateUnchanged"


@dataclass(frozen=True, slots=True)
class Observed:
    """What a plan is made from.

    Attributes:
        deployment: as it is.
        replicasets: those that are the Deployment's.
        has_running_pods: whether a ReplicaSet's pods haven't all ended; those on their way out
            haven't. Asked only where the strategy is Recreate.
        now: seconds since the epoch.
    """

    deployment: Object
    replicasets: Sequence[Object]
    has_running_pods: Callable[[Object], bool]
    now: float


@dataclass(frozen=True, slots=True)
class Told:
    """An event about the Deployment."""

    type: events.EventType
    reason: str
    note: str


@dataclass(slots=True)
class Plan:
    """What is to be written, in this order.

    Attributes:
        create: a ReplicaSet to be made.
        update: ReplicaSets as they are to be, by name.
        scaled: what is told when the write of a ReplicaSet, by name, has gone well.
        delete: ReplicaSets to be deleted.
        told: events, whatever becomes of the writes.
        replace: the Deployment with another template, or without the wish for one.
        status: the Deployment with the status and annotations that it is to have; None where it
            has them.
        again: seconds until it is to be looked at again though nothing changes; None for never.
    """

    create: Object | None = None
    update: dict[str, Object] = field(default_factory=dict)
    scaled: dict[str, Told] = field(default_factory=dict)
    delete: list[Object] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    replace: Object | None = None
    status: Object | None = None
    again: float | None = None


def reconcile(observed: Observed) -> Plan:
    """The next step for a Deployment."""
    step = _Step(observed)
    deployment = observed.deployment
    if objects.is_terminating(deployment):
        step.find_new(create=False)
        return step.finish(rollout=False)
    step.note_pause()
    if deployment["spec"].get("paused"):
        return _scale(step)
    if (target := revisions.rollback_target(deployment)) is not None:
        return _roll_back(step, target)
    step.find_new(create=False)
    if _was_scaled(step):
        return _scale(step)
    if arithmetic.is_rolling(deployment):
        return _roll(step)
    return _recreate(step)


def after_collision(deployment: Object) -> Object:
    """The Deployment with a status that makes the next hash another one."""
    found = deployment.get("status") or {}
    return {**deployment, "status": {**found, "collisionCount": found.get("collisionCount", 0) + 1}}


def after_failed_creation(deployment: Object, message: str, now: float) -> Object:
    """The Deployment with a condition that says why there is no new ReplicaSet."""
    found = deployment.get("status") or {}
    if status.has_deadline(deployment):
        said = status.Statement(status.PROGRESSING, "False", status.CREATE_ERROR, message)
        found = status.stated(found, said, now)
    return {**deployment, "status": found}


class _Step:
    """A plan in the making: the Deployment and its ReplicaSets as they will be."""

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.now = observed.now
        self.plan = Plan()
        metadata = dict(observed.deployment["metadata"])
        metadata["annotations"] = dict(objects.annotations(observed.deployment))
        found = observed.deployment.get("status") or {}
        self.deployment: Object = {**observed.deployment, "metadata": metadata, "status": found}
        ordered = sorted(observed.replicasets, key=arithmetic.age_key)
        template = observed.deployment["spec"]["template"]
        self.new = next(
            (each for each in ordered if templates.are_equal(each["spec"]["template"], template)),
            None,
        )
        self.old = [each for each in ordered if each is not self.new]

    @property
    def every(self) -> list[Object]:
        """All ReplicaSets, the newest last."""
        return [*self.old, *([self.new] if self.new else [])]

    def note_pause(self) -> None:
        """Say that progress isn't watched while the Deployment is paused, and is again later."""
        current = status.condition(self.deployment["status"], status.PROGRESSING) or {}
        reason = current.get("reason")
        if not status.has_deadline(self.deployment) or reason == status.TIMED_OUT:
            return
        paused = bool(self.deployment["spec"].get("paused"))
        if paused and reason != status.PAUSED:
            self.state("Unknown", status.PAUSED, "Deployment is paused")
        elif not paused and reason == status.PAUSED:
            self.state("Unknown", status.RESUMED, "Deployment is resumed")

    def state(self, value: str, reason: str, message: str) -> None:
        """Set the condition Progressing."""
        said = status.Statement(status.PROGRESSING, value, reason, message)
        self.deployment["status"] = status.stated(self.deployment["status"], said, self.now)

    def find_new(self, *, create: bool) -> None:
        """Bring the newest ReplicaSet's annotations up to date; make it if it isn't there."""
        number = revisions.highest(self.old) + 1
        if self.new is not None:
            self._take_over(self.new, number)
        elif create:
            self._make(number)

    def _take_over(self, new: Object, number: int) -> None:
        wanted = revisions.of_new(self.deployment, new, number)
        seconds = self.deployment["spec"].get("minReadySeconds", 0)
        if wanted != objects.annotations(new) or new["spec"].get("minReadySeconds", 0) != seconds:
            changed = _with_annotations(new, wanted)
            changed["spec"] = {**new["spec"], "minReadySeconds": seconds}
            self._replace(changed)
        self._set_revision(wanted.get(revisions.REVISION, ""))
        known = status.condition(self.deployment["status"], status.PROGRESSING)
        if status.has_deadline(self.deployment) and known is None:
            text = f'Found new replica set "{objects.name(new)}"'
            self.state("True", status.FOUND, text)

    def _make(self, number: int) -> None:
        new = _new_replicaset(self.deployment)
        size = arithmetic.new_size(self.deployment, [*self.old, new], new)
        new["spec"]["replicas"] = size
        annotations = revisions.of_new(self.deployment, new, number)
        self._note_size(annotations)
        new["metadata"]["annotations"] = annotations
        name = objects.name(new)
        self.new = self.plan.create = new
        if size:
            self.plan.scaled[name] = _scaling(name, 0, size)
        self._set_revision(str(number))
        if status.has_deadline(self.deployment):
            self.state("True", status.CREATED, f'Created new replica set "{name}"')

    def scale(self, replicaset: Object, size: int, *, force: bool = False) -> bool:
        """Scale a ReplicaSet, or (forced) only note the Deployment's size; whether it was scaled.

        What was just made has its size already. What still has pods too many grows when it has
        let them go: it would report pods as available that it deletes. Upstream counts on them.
        """
        has, name = arithmetic.replicas(replicaset), objects.name(replicaset)
        if replicaset is self.plan.create or (has == size and not force):
            return False
        if has < size and arithmetic.counted(replicaset, "replicas") > has:
            return False
        annotations = dict(objects.annotations(replicaset))
        if not self._note_size(annotations) and has == size:
            return False
        changed = _with_annotations(replicaset, annotations)
        changed["spec"] = {**replicaset["spec"], "replicas": size}
        self._replace(changed)
        if has == size:
            return False
        self.plan.scaled[name] = _scaling(name, has, size)
        return True

    def clean_up(self) -> None:
        """Forget the oldest revisions; not one that is scaled in this step."""
        found = history.superfluous(self.deployment, self.old)
        self.plan.delete = [each for each in found if objects.name(each) not in self.plan.update]

    def finish(self, *, rollout: bool) -> Plan:
        """The plan, with the status that follows from it."""
        make = status.rolled_out if rollout else status.calculated
        before = self.observed.deployment
        new = make(self.deployment, self.every, self.new, self.now)
        if rollout:
            self.plan.again = status.next_check(self.deployment, new, self.now)
        self.deployment["status"] = new
        if status.differs(before.get("status") or {}, new) or objects.annotations(
            before
        ) != objects.annotations(self.deployment):
            self.plan.status = self.deployment
        return self.plan

    def _note_size(self, annotations: dict[str, str]) -> bool:
        wanted = arithmetic.replicas(self.deployment)
        maximum = wanted + arithmetic.max_surge(self.deployment)
        return revisions.set_replicas(annotations, wanted, maximum)

    def _set_revision(self, text: str) -> None:
        self.deployment["metadata"]["annotations"][revisions.REVISION] = text

    def _replace(self, changed: Object) -> None:
        name = objects.name(changed)
        self.plan.update[name] = changed
        if self.new is not None and objects.name(self.new) == name:
            self.new = changed
        self.old = [changed if objects.name(each) == name else each for each in self.old]


def _roll(step: _Step) -> Plan:
    """RollingUpdate: the newest grows as far as it may; only then the others shrink."""
    step.find_new(create=True)
    new = _there(step.new)
    wanted = arithmetic.replicas(step.deployment)
    size = wanted
    if arithmetic.replicas(new) < wanted:
        size = arithmetic.new_size(step.deployment, step.every, new)
    if step.scale(new, size):
        return step.finish(rollout=True)
    sizes = arithmetic.old_sizes(step.deployment, step.old, _there(step.new))
    if _scale_all(step, sizes):
        return step.finish(rollout=True)
    return _complete(step)


def _recreate(step: _Step) -> Plan:
    """Recreate: all old pods go, until the last has ended; only then there are new ones."""
    if _scale_all(step, {objects.name(each): 0 for each in arithmetic.active(step.old)}):
        return step.finish(rollout=True)
    # Pods that were made a moment ago may not be seen yet. Who makes them waits for that, and only
    # then says that it knows of the new size; upstream doesn't ask.
    if not all(map(_is_observed, step.old)):
        return step.finish(rollout=True)
    if any(arithmetic.counted(each, "replicas") for each in step.old) or any(
        step.observed.has_running_pods(each) for each in step.old
    ):
        return step.finish(rollout=True)
    step.find_new(create=True)
    step.scale(_there(step.new), arithmetic.replicas(step.deployment))
    return _complete(step)


def _is_observed(replicaset: Object) -> bool:
    """Whether the ReplicaSet's controller has seen its newest specification."""
    seen: int = (replicaset.get("status") or {}).get("observedGeneration", 0)
    newest: int = replicaset["metadata"].get("generation", 0)
    return seen >= newest


def _complete(step: _Step) -> Plan:
    if status.is_complete(step.deployment, step.deployment["status"]):
        step.clean_up()
    return step.finish(rollout=True)


def _scale(step: _Step) -> Plan:
    """Paused, or scaled from outside: sizes change in proportion, and nothing is rolled out."""
    step.find_new(create=False)
    _scale_to_size(step)
    deployment = step.deployment
    if deployment["spec"].get("paused") and revisions.rollback_target(deployment) is None:
        step.clean_up()
    return step.finish(rollout=False)


def _scale_to_size(step: _Step) -> None:
    active = arithmetic.active(step.every)
    if len(active) <= 1:
        newest = step.new or (step.old[-1] if step.old else None)
        if (only := active[0] if active else newest) is not None:
            # Noted too where the size is right already, or it would count as scaled for ever.
            wanted = arithmetic.replicas(step.deployment)
            noted = revisions.count(only, revisions.DESIRED)
            step.scale(only, wanted, force=bool(active) and noted not in (None, wanted))
    elif arithmetic.is_saturated(step.deployment, step.new):
        _scale_all(step, {objects.name(each): 0 for each in arithmetic.active(step.old)})
    elif arithmetic.is_rolling(step.deployment):
        sizes = arithmetic.proportional_sizes(step.deployment, step.every)
        _scale_all(step, sizes, force=True)


def _scale_all(step: _Step, sizes: Mapping[str, int], *, force: bool = False) -> bool:
    by_name = {objects.name(each): each for each in step.every}
    scaled = [step.scale(by_name[name], size, force=force) for name, size in sizes.items()]
    return any(scaled)


def _was_scaled(step: _Step) -> bool:
    """Whether the Deployment was of another size when its ReplicaSets were scaled last.

    Not where several have pods and no proportion is kept: Recreate lets the old ones go anyway.
    Upstream stands still then, until the strategy is another.
    """
    active, wanted = arithmetic.active(step.every), arithmetic.replicas(step.deployment)
    if len(active) > 1 and not arithmetic.is_rolling(step.deployment):
        return False
    known = (revisions.count(each, revisions.DESIRED) for each in active)
    return any(size is not None and size != wanted for size in known)


def _roll_back(step: _Step, target: int) -> Plan:
    """Give the Deployment the template of an earlier revision, and forget the wish for that."""
    step.find_new(create=True)
    number = target or revisions.last(step.every)
    if not number:
        return _give_up(step, Told("Warning", NO_REVISION, "Unable to find last revision."))
    found = _of_revision(step.every, number)
    if found is None:
        text = "Unable to find the revision to rollback to."
        return _give_up(step, Told("Warning", NO_REVISION, text))
    deployment, name = step.observed.deployment, objects.name(step.deployment)
    template = templates.without_hash(found["spec"]["template"])
    if templates.are_equal(template, deployment["spec"]["template"]):
        text = f'The rollback revision contains the same template as current deployment "{name}"'
        return _give_up(step, Told("Warning", SAME_TEMPLATE, text))
    step.plan.replace = _unasked(
        {
            **_with_annotations(deployment, revisions.after_rollback(deployment, found)),
            "spec": {**deployment["spec"], "template": template},
        }
    )
    text = f'Rolled back deployment "{name}" to revision {number}'
    step.plan.told.append(Told("Normal", ROLLED_BACK, text))
    return step.plan


def _give_up(step: _Step, told: Told) -> Plan:
    step.plan.told.append(told)
    step.plan.replace = _unasked(step.observed.deployment)
    return step.plan


def _unasked(deployment: Object) -> Object:
    kept = objects.annotations(deployment).items()
    annotations = {name: text for name, text in kept if name != revisions.ROLLBACK}
    return _with_annotations(deployment, annotations)


def _of_revision(replicasets: Iterable[Object], number: int) -> Object | None:
    return next((each for each in replicasets if revisions.revision(each) == number), None)


def _new_replicaset(deployment: Object) -> Object:
    """The ReplicaSet of a Deployment's template, without a size."""
    spec = deployment["spec"]
    collisions = (deployment.get("status") or {}).get("collisionCount")
    template_hash = templates.compute_hash(spec["template"], collisions)
    template = templates.with_hash(spec["template"], template_hash)
    selector = dict(spec["selector"])
    labels = {**(selector.get("matchLabels") or {}), templates.HASH_LABEL: template_hash}
    selector["matchLabels"] = labels
    made: Object = {
        "apiVersion": resources.REPLICASETS.api_version,
        "kind": resources.REPLICASETS.kind,
        "metadata": {
            "name": templates.replicaset_name(objects.name(deployment), template_hash),
            "namespace": objects.namespace(deployment),
            "labels": dict(template["metadata"]["labels"]),
            "ownerReferences": [objects.owner_reference(deployment)],
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    }
    if spec.get("minReadySeconds"):
        made["spec"]["minReadySeconds"] = spec["minReadySeconds"]
    return made


def _with_annotations(obj: Object, annotations: Mapping[str, str]) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "annotations": dict(annotations)}}


def _scaling(name: str, before: int, after: int) -> Told:
    way = "up" if after > before else "down"
    return Told("Normal", SCALING, f"Scaled {way} replica set {name} from {before} to {after}")


def _there(replicaset: Object | None) -> Object:
    if replicaset is None:
        raise AssertionError("the newest ReplicaSet has been made")
    return replicaset
