"""The judge sees what the trials are there to find, and bears what is right."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from e2e.controllers import chaos_witness
from whipstaff.runtime import client, config, objects, resources

Object = dict[str, Any]

NOW = 1_800_000_000.0


class Story:
    """Changes one after the other, told to a witness."""

    def __init__(self) -> None:
        connection = config.Connection("http://127.0.0.1:9", "a test")
        self.witness = chaos_witness.Witness(client.Client(connection), "trial")
        self._versions = itertools.count(1)

    def tell(self, kind: resources.Resource, obj: Object, *, deleted: bool = False) -> None:
        version = next(self._versions)
        self.witness.changes.append(chaos_witness.Change(version, kind, obj, deleted, NOW))

    def deployment(self, replicas: int, *, generation: int = 1, observed: int = 1) -> None:
        rolling = {"maxSurge": 1, "maxUnavailable": 0}
        self.tell(
            resources.DEPLOYMENTS,
            {
                "metadata": {"name": "web", "uid": "web", "generation": generation},
                "spec": {
                    "replicas": replicas,
                    "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
                },
                "status": {"observedGeneration": observed},
            },
        )

    def replicaset(self, name: str, size: int, *, seen: bool = True, available: int = 0) -> None:
        generation = 10 * size + 1
        observed = generation if seen else generation - 10
        counts = {"replicas": available, "availableReplicas": available}
        self.tell(
            resources.REPLICASETS,
            {
                "metadata": {**_owned(name, "Deployment", "web"), "generation": generation},
                "spec": {"replicas": size},
                "status": {"observedGeneration": observed, **counts},
            },
        )

    def pod(self, name: str, owner: str, *, ready: bool = False, deleted: bool = False) -> None:
        since = objects.format_time(NOW - 60)
        conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": since}]
        status = {"phase": "Running", "conditions": conditions} if ready else {}
        pod = {"metadata": _owned(name, "ReplicaSet", owner), "spec": {}, "status": status}
        self.tell(resources.PODS, pod, deleted=deleted)

    def complaints(self) -> list[str]:
        judge = chaos_witness.Judge(self.witness)
        judge.judge()
        return judge.complaints


def _owned(name: str, kind: str, owner: str) -> Object:
    reference = {"kind": kind, "name": owner, "uid": owner, "controller": True}
    return {"name": name, "uid": name, "ownerReferences": [reference]}


@pytest.fixture
def story() -> Story:
    """A Deployment of two, with both of its pods."""
    made = Story()
    made.deployment(2)
    made.replicaset("old", 2)
    for name in ("a", "b"):
        made.pod(name, "old")
        made.pod(name, "old", ready=True)
    made.replicaset("old", 2, available=2)
    return made


def test_a_rollout_that_is_right(story: Story) -> None:
    story.replicaset("new", 1)
    story.pod("c", "new")
    story.pod("c", "new", ready=True)
    story.replicaset("new", 1, available=1)
    story.replicaset("old", 1, available=2)
    story.pod("a", "old", ready=True, deleted=True)
    story.replicaset("new", 2, available=1)
    assert story.complaints() == []


WRONG: dict[str, Callable[[Story], None]] = {
    "a pod too many": lambda story: story.pod("c", "old"),
    "too much surge": lambda story: story.replicaset("new", 2),
    "a pod deleted that was to stay": lambda story: story.pod("a", "old", deleted=True),
    "scaled down too early": lambda story: story.replicaset("old", 1, available=2),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_seen(story: Story, what: str) -> None:
    WRONG[what](story)
    assert story.complaints()


def test_pods_that_users_delete_are_theirs_to_delete(story: Story) -> None:
    story.witness.deleted_by_users.add("a")
    story.pod("a", "old", ready=True, deleted=True)
    assert story.complaints() == []


def test_a_controller_may_go_by_what_it_has_not_seen_changed_yet(story: Story) -> None:
    story.deployment(1, generation=2, observed=1)
    story.replicaset("new", 1)
    assert story.complaints() == []
    story.deployment(1, generation=2, observed=2)
    story.replicaset("third", 1)
    assert story.complaints()


def test_nothing_is_judged_where_changes_were_missed(story: Story) -> None:
    before = len(story.witness.changes)
    story.replicaset("new", 2)
    story.witness.gaps.append((before, before + 1))
    assert story.complaints() == []
