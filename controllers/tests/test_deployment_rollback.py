"""Going back to an earlier revision by annotation."""

import copy
from typing import Any

import pytest

from whipstaff.controllers.deployment import reconciler, revisions, templates
from whipstaff.runtime import objects

Object = dict[str, Any]

APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
CAUSE = "kubernetes.io/change-cause"
E2E_REVISION = 3546343826724305832


def template(image: str) -> Object:
    container = {"name": "main", "image": image}
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}


def deployment(target: str | None, image: str = "c", **spec: Any) -> Object:
    annotations = {revisions.REVISION: "3", APPLIED: "{}", CAUSE: "edit", "late": "gone"}
    if target is not None:
        annotations[revisions.ROLLBACK] = target
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "default",
            "uid": "mine",
            "resourceVersion": "77",
            "annotations": annotations,
        },
        "spec": {
            "replicas": 3,
            "strategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(image),
            **spec,
        },
        "status": {"replicas": 3},
    }


def replicaset(image: str, revision: int | str, **annotations: str) -> Object:
    found = {revisions.REVISION: str(revision), revisions.DESIRED: "3", **annotations}
    return {
        "metadata": {
            "name": image,
            "namespace": "default",
            "uid": image,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": found,
        },
        "spec": {"replicas": 0, "template": templates.with_hash(template(image), "hash")},
        "status": {},
    }


def three() -> list[Object]:
    return [
        replicaset("a", 1, **{CAUSE: "create"}),
        replicaset("b", 2, **{revisions.HISTORY: "0"}),
        replicaset("c", 3),
    ]


def reconcile(made: Object, every: list[Object]) -> reconciler.Plan:
    before = copy.deepcopy((made, every))
    plan = reconciler.reconcile(reconciler.Observed(made, every, lambda _: False, 0.0))
    assert (made, every) == before
    return plan


def image_of(plan: reconciler.Plan) -> str:
    assert plan.replace is not None
    return str(plan.replace["spec"]["template"]["spec"]["containers"][0]["image"])


def told(plan: reconciler.Plan) -> list[tuple[str, str, str]]:
    return [(each.type, each.reason, each.note) for each in plan.told]


@pytest.mark.parametrize(("target", "image", "revision"), [("1", "a", 1), ("2", "b", 2)])
def test_the_deployment_gets_the_template_of_the_revision(
    target: str, image: str, revision: int
) -> None:
    plan = reconcile(deployment(target), three())
    assert image_of(plan) == image
    note = f'Rolled back deployment "web" to revision {revision}'
    assert told(plan) == [("Normal", "DeploymentRollback", note)]


def test_revision_0_is_the_one_before_the_highest() -> None:
    plan = reconcile(deployment("0"), three())
    assert image_of(plan) == "b"
    assert told(plan)[0][2] == 'Rolled back deployment "web" to revision 2'


def test_a_revision_is_as_large_as_an_int64() -> None:
    every = [replicaset("old", E2E_REVISION), replicaset("c", E2E_REVISION + 1)]
    assert image_of(reconcile(deployment(str(E2E_REVISION)), every)) == "old"
    assert image_of(reconcile(deployment("0"), every)) == "old"


def test_the_template_comes_without_its_hash_and_the_rest_stays() -> None:
    made = deployment("1")
    plan = reconcile(made, three())
    assert plan.replace is not None
    assert plan.replace["spec"] == {**made["spec"], "template": template("a")}
    assert plan.replace["status"] == made["status"]
    assert objects.resource_version(plan.replace) == "77"


def test_the_annotations_of_that_time_come_back_and_the_wish_is_gone() -> None:
    plan = reconcile(deployment("1"), three())
    assert plan.replace is not None
    assert objects.annotations(plan.replace) == {
        revisions.REVISION: "3",
        APPLIED: "{}",
        CAUSE: "create",
    }


def test_nothing_is_scaled_in_that_step() -> None:
    plan = reconcile(deployment("1"), three())
    assert (plan.create, plan.scaled, plan.delete) == (None, {}, [])
    assert [each["spec"]["replicas"] for each in plan.update.values()] == [0]


@pytest.mark.parametrize(
    ("target", "every", "reason", "note"),
    [
        (
            "7",
            three(),
            "DeploymentRollbackRevisionNotFound",
            "Unable to find the revision to rollback to.",
        ),
        (
            "-1",
            three(),
            "DeploymentRollbackRevisionNotFound",
            "Unable to find the revision to rollback to.",
        ),
        (
            "0",
            [replicaset("c", 3)],
            "DeploymentRollbackRevisionNotFound",
            "Unable to find last revision.",
        ),
        (
            "3",
            three(),
            "DeploymentRollbackTemplateUnchanged",
            'The rollback revision contains the same template as current deployment "web"',
        ),
    ],
    ids=["no such revision", "none can be negative", "no revision before", "the same template"],
)
def test_who_can_not_go_back_is_told_so_and_the_wish_is_gone(
    target: str, every: list[Object], reason: str, note: str
) -> None:
    made = deployment(target)
    plan = reconcile(made, every)
    assert told(plan) == [("Warning", reason, note)]
    assert plan.replace is not None
    assert plan.replace["spec"] == made["spec"]
    kept = dict(made["metadata"]["annotations"])
    del kept[revisions.ROLLBACK]
    assert objects.annotations(plan.replace) == kept


def test_the_newest_is_made_first_so_that_its_revision_is_not_lost() -> None:
    made = deployment("1", "d")
    plan = reconcile(made, three())
    assert plan.create is not None
    assert objects.annotations(plan.create)[revisions.REVISION] == "4"
    assert image_of(plan) == "a"
    assert image_of(reconcile(deployment("0", "d"), three())) == "c"


def test_a_template_that_was_gone_back_to_by_hand_counts_as_the_newest_revision() -> None:
    plan = reconcile(deployment("0", "a"), three())
    assert objects.annotations(plan.update["a"])[revisions.REVISION] == "4"
    assert image_of(plan) == "c"


@pytest.mark.parametrize("target", [None, "", "last", "1.0"])
def test_what_is_no_number_is_no_wish(target: str | None) -> None:
    plan = reconcile(deployment(target), three())
    assert plan.replace is None
    assert plan.told == []


def test_a_paused_deployment_goes_back_when_it_is_resumed() -> None:
    assert reconcile(deployment("1", paused=True), three()).replace is None
    assert image_of(reconcile(deployment("1", paused=False), three())) == "a"


def test_revisions_that_can_not_be_read_are_passed_over() -> None:
    every = [replicaset("odd", "x"), *three()]
    assert image_of(reconcile(deployment("2"), every)) == "b"
    assert image_of(reconcile(deployment("0"), every)) == "b"
