"""kubectl's flows with Deployments, against `whipstaff controllers` as a process of its own.

What upstream's ``test/cmd/apps.sh`` asks of the controllers' speed is asked here, too. All stock
controllers but the two that ours replace run beside them; no kubelet does, so pods become ready
only where a test says so.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import controllers_cluster as clusters
import pytest

from whipstaff.cluster import binaries, testing
from whipstaff.runtime import objects, resources

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]

STOCK = "--controllers=*,-deployment-controller,-replicaset-controller"
SOON = "--horizontal-pod-autoscaler-sync-period=1s"
COMMAND = [sys.executable, "-m", "whipstaff.runtime.commands", "controllers"]
R1, R2 = "registry.k8s.io/nginx:test-cmd", "registry.k8s.io/nginx:1.7.9"
PERL = "registry.k8s.io/perl"
CAUSE = "kubernetes.io/change-cause"


def kubectls() -> list[str]:
    """The one on this machine and, where it was built, the control plane's own."""
    found = [
        shutil.which("kubectl"),
        str(binaries.cache_folder(binaries.KUBERNETES_VERSION) / "kubectl"),
    ]
    return [path for path in found if path is not None and os.access(path, os.X_OK)]


@pytest.fixture(scope="module")
def controlled(
    apiserver: testing.ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[testing.ControlPlane]:
    """A control plane whose Deployments and ReplicaSets are in our process's hands."""
    log = tmp_path_factory.mktemp("controllers") / "log"
    with testing.ControlPlane() as plane:
        plane.start_controller_manager(STOCK, SOON)
        arguments = [f"--kubeconfig={plane.kubeconfig}", "--leader-elect=false", "--secure-port=0"]
        with log.open("wb") as file, _started([*COMMAND, *arguments], file) as process:
            _wait_for(log, "msg=working", process)
            yield plane
            assert process.poll() is None, log.read_text()


@contextlib.contextmanager
def _started(command: list[str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def _wait_for(log: pathlib.Path, text: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + clusters.WAIT
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


class Cluster(clusters.Cluster):
    """A namespace, and kubectl in it."""

    path = ""

    async def run(self, *arguments: str, data: str = "", code: int = 0) -> str:
        """What kubectl says, on both of its outputs; it has to end with this code."""
        process = await asyncio.create_subprocess_exec(
            *(self.path, "--kubeconfig", str(self.plane.kubeconfig), "-n", self.namespace),
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        async with asyncio.timeout(clusters.WAIT):
            said, _ = await process.communicate(data.encode())
        assert process.returncode == code, said.decode()
        return said.decode()

    async def fails(self, *arguments: str) -> str:
        return await self.run(*arguments, code=1)

    async def apply(self, body: Object) -> str:
        return await self.run("apply", "-f", "-", data=json.dumps(body))

    async def images(self, name: str = "nginx") -> list[str]:
        containers = (await self.get(name))["spec"]["template"]["spec"]["containers"]
        return [container["image"] for container in containers]

    async def described_newest(self, name: str = "nginx") -> Object:
        """The ReplicaSet that kubectl takes for the newest one."""
        said = await self.run("describe", "deployment", name)
        [line] = [line for line in said.splitlines() if line.startswith("NewReplicaSet:")]
        return json.loads(await self.run("get", "rs", line.split()[1], "-o", "json"))


@pytest.fixture(params=kubectls())
async def cluster(
    request: pytest.FixtureRequest, controlled: testing.ControlPlane
) -> AsyncIterator[Cluster]:
    namespace = f"test-{uuid.uuid4().hex[:10]}"
    controlled.create_namespace(namespace)
    async with clusters.connected(controlled, namespace) as made:
        cluster = Cluster(controlled, made.api, namespace)
        cluster.path = request.param
        yield cluster


def nginx(image: str, replicas: int = 3, **metadata: Any) -> Object:
    """A Deployment as in upstream's test data."""
    labels = {"name": "nginx-undo"}
    container = {"name": "nginx", "image": image, "ports": [{"containerPort": 80}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "nginx", "labels": labels, **metadata},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def with_perl(image: str) -> Object:
    body = nginx(image)
    body["spec"]["template"]["spec"]["containers"].append({"name": "perl", "image": PERL})
    return body


# Going back.


async def test_undo_goes_back_as_fast_as_kubectl_asks(cluster: Cluster) -> None:
    undo = ("rollout", "undo", "deployment", "nginx")
    await cluster.run("create", "-f", "-", data=json.dumps(nginx(R1)))
    said = await cluster.run(*undo, "--to-revision=1")
    assert "skipped rollback (current template already matches revision 1)" in said
    await cluster.apply(nginx(R2))
    assert R1 in await cluster.run(*undo, "--dry-run=client")
    await cluster.run(*undo, "--dry-run=server")
    assert await cluster.images() == [R2]
    await cluster.run(*undo, "--to-revision=1")
    await asyncio.sleep(1)
    assert await cluster.images() == [R1]
    await cluster.fails(*undo, "--to-revision=1000000")
    assert await cluster.images() == [R1]
    await cluster.run(*undo)
    await asyncio.sleep(1)
    assert await cluster.images() == [R2]
    await cluster.run("rollout", "pause", "deployment", "nginx")
    assert "cannot rollback a paused deployment" in await cluster.fails(*undo)
    await cluster.fails("rollout", "restart", "deployment", "nginx")
    await cluster.run("rollout", "resume", "deployment", "nginx")
    await cluster.run(*undo)
    newest = await cluster.described_newest()
    assert objects.annotations(newest)[clusters.HISTORY] == "1,3"
    await cluster.fails("rollout", "status", "deployment/nginx", "--revision=3")
    await cluster.run("rollout", "restart", "deployment/nginx")
    await asyncio.sleep(1)
    newest = await cluster.described_newest()
    assert objects.annotations(newest) == clusters.sized(3, 4, 6)
    managed = await cluster.run(
        *("get", "deployment", "nginx", "--show-managed-fields"),
        "-o=jsonpath={.metadata.managedFields[*].manager}",
    )
    assert "kubectl-rollout" in managed.split()
    second = nginx(R1)
    second["metadata"]["name"] = "nginx2"
    await cluster.run("create", "-f", "-", data=json.dumps(second))
    await cluster.run("delete", "deployment", "nginx2", "nginx", "--timeout=20s")


async def test_a_revision_is_there_when_kubectl_asks_for_it_at_once(cluster: Cluster) -> None:
    await cluster.run("create", "-f", "-", data=json.dumps(nginx("0")))
    for number in range(1, 6):
        await cluster.run("set", "image", "deployment/nginx", f"nginx={number}")
        newest = await cluster.described_newest()
        assert clusters.image(newest) == str(number)
        assert objects.annotations(newest)[clusters.REVISION] == str(number + 1)


async def test_history_shows_revisions_causes_and_templates(cluster: Cluster) -> None:
    body = with_perl(R1)
    body["metadata"]["annotations"] = {CAUSE: "made"}
    await cluster.run("create", "-f", "-", data=json.dumps(body))
    history = ("rollout", "history", "deployment", "nginx")
    await cluster.is_revision("1", R1, "nginx")
    body = with_perl(R2)
    body["metadata"]["annotations"] = {CAUSE: "edited"}
    await cluster.run("replace", "-f", "-", data=json.dumps(body))
    said = await cluster.run(*history)
    lines = [line.split() for line in said.splitlines() if line]
    assert lines == [
        ["deployment.apps/nginx"],
        ["REVISION", "CHANGE-CAUSE"],
        ["1", "made"],
        ["2", "edited"],
    ]
    for number, image in ((1, R1), (2, R2)):
        said = await cluster.run(*history, f"--revision={number}")
        assert f"deployment.apps/nginx with revision #{number}" in said
        assert "Pod Template:" in said
        assert image in said
        assert PERL in said


# Following a rollout.


async def test_status_follows_a_rollout_to_its_end(cluster: Cluster) -> None:
    await cluster.apply(nginx(R1))
    await cluster.completes("nginx")
    for change in (
        ("set", "image", "deployment/nginx", f"nginx={R2}"),
        ("rollout", "restart", "deployment/nginx"),
    ):
        await cluster.run(*change)
        following = asyncio.create_task(
            cluster.run("rollout", "status", "deployment/nginx", "--timeout=30s")
        )
        await asyncio.sleep(0.5)
        assert not following.done()
        await cluster.completes("nginx")
        said = await following
        assert 'Waiting for deployment "nginx" rollout to finish' in said
        assert said.endswith('deployment "nginx" successfully rolled out\n')
    newest = await cluster.newest("nginx")
    template = newest["spec"]["template"]["metadata"]
    assert list(template["annotations"]) == ["kubectl.kubernetes.io/restartedAt"]
    assert objects.annotations(newest) == clusters.sized(3, 4, 3)


async def test_status_says_when_a_rollout_is_too_late(cluster: Cluster) -> None:
    body = nginx(R1)
    body["spec"]["progressDeadlineSeconds"] = 1
    await cluster.apply(body)
    said = await cluster.fails("rollout", "status", "deployment/nginx", "--timeout=30s")
    assert said.endswith('error: deployment "nginx" exceeded its progress deadline\n')


async def test_pausing_gathers_changes_for_one_rollout(cluster: Cluster) -> None:
    await cluster.apply(with_perl(R1))
    await cluster.completes("nginx")
    await cluster.run("rollout", "pause", "deployment/nginx")
    await cluster.fails("rollout", "pause", "deployment/nginx")
    await cluster.run("set", "image", "deployment/nginx", f"nginx={R2}")
    await cluster.run("set", "resources", "deployment/nginx", "--limits=cpu=200m,memory=1024Mi")
    await cluster.run("set", "env", "deployment/nginx", "env=prod")
    await cluster.observed(await cluster.get("nginx"))
    assert len(await cluster.replicasets("nginx")) == 1
    await cluster.run("rollout", "resume", "deployment/nginx")
    await cluster.completes("nginx")
    replicasets = await cluster.replicasets("nginx")
    assert [objects.annotations(each)[clusters.REVISION] for each in replicasets] == ["1", "2"]


# Changing.


async def test_images_are_set_one_by_one_and_all_together(cluster: Cluster) -> None:
    await cluster.apply(with_perl(R1))
    setting = ("set", "image", "deployment", "nginx")
    await cluster.run(*setting, f"nginx={R2}", "--dry-run=server")
    assert await cluster.images() == [R1, PERL]
    await cluster.run(*setting, f"nginx={R2}")
    assert await cluster.images() == [R2, PERL]
    await cluster.fails(*setting, "redis=redis")
    await cluster.run("set", "image", "deployments", "--all", f"nginx={R1}")
    assert await cluster.images() == [R1, PERL]
    for _ in range(2):
        await cluster.run(*setting, f"*={R1}")
        assert await cluster.images() == [R1, R1]
    await cluster.completes("nginx")
    newest = await cluster.newest("nginx")
    assert objects.annotations(newest) == clusters.sized(3, 4, 4)


async def test_scaling_and_autoscaling_reach_the_pods(cluster: Cluster) -> None:
    await cluster.apply(nginx(R1, replicas=1))
    await cluster.completes("nginx")
    scaling = ("scale", "deployment", "nginx")
    await cluster.run(*scaling, "--replicas=4", "--current-replicas=1")
    await cluster.fails(*scaling, "--replicas=5", "--current-replicas=1")
    await cluster.completes("nginx")
    await cluster.run(*scaling, "--replicas=1")
    await cluster.completes("nginx")
    await cluster.run("autoscale", "deployment", "nginx", "--min=2", "--max=3")
    await cluster.becomes(
        lambda found: found["spec"]["replicas"] == 2, "the autoscaler scales", "nginx"
    )
    await cluster.completes("nginx")
    newest = await cluster.newest("nginx")
    assert newest["spec"]["replicas"] == 2
    assert objects.annotations(newest) == clusters.sized(2, 3, 1)


# Seeing.


async def test_a_deployment_is_shown_as_it_is_and_bears_no_marks(cluster: Cluster) -> None:
    said = await cluster.run("create", "deployment", "nginx", f"--image={R1}", "--replicas=2")
    assert said == "deployment.apps/nginx created\n"
    await cluster.fails("wait", "--for=condition=Available", "deployment/nginx", "--timeout=1s")
    said = await cluster.run("get", "deployment", "nginx", "--no-headers")
    assert said.split()[:4] == ["nginx", "0/2", "2", "0"]
    made = await cluster.get("nginx")
    await cluster.completes("nginx")
    await cluster.run("wait", "--for=condition=Available", "deployment/nginx", "--timeout=20s")
    said = await cluster.run("get", "deployment", "nginx", "--no-headers")
    assert said.split()[:4] == ["nginx", "2/2", "2", "2"]
    only = await cluster.newest("nginx")
    said = await cluster.run("describe", "deployment", "nginx")
    assert "2 desired | 2 updated | 2 total | 2 available | 0 unavailable" in said
    assert f"NewReplicaSet:   {objects.name(only)} (2/2 replicas created)" in said
    assert "OldReplicaSets:  <none>" in said
    assert f"Scaled up replica set {objects.name(only)} from 0 to 2" in said
    await cluster.stays_as_it_is()
    found = await cluster.get("nginx")
    assert set(found["metadata"]) == set(made["metadata"])
    assert "finalizers" not in found["metadata"]
    assert objects.annotations(found) == {clusters.REVISION: "1"}
    assert found["metadata"]["generation"] == 1
    assert objects.annotations(only) == clusters.sized(2, 3, 1)


async def test_applying_on_the_server_never_conflicts_with_the_controllers(
    cluster: Cluster,
) -> None:
    apply = ("apply", "--server-side", "-f", "-")
    await cluster.run(*apply, data=json.dumps(nginx(R1)))
    await cluster.completes("nginx")
    await cluster.run(*apply, data=json.dumps(nginx(R2, replicas=4)))
    await cluster.completes("nginx")
    before = objects.resource_version(await cluster.get("nginx"))
    await cluster.run(*apply, data=json.dumps(nginx(R2, replicas=4)))
    assert objects.resource_version(await cluster.get("nginx")) == before
    for each in await cluster.replicasets("nginx"):
        assert set(objects.annotations(each)) == {
            *(clusters.DESIRED, clusters.MAXIMUM, clusters.REVISION),
        }


async def test_what_kubectl_applied_last_is_not_the_replicasets(cluster: Cluster) -> None:
    await cluster.apply(nginx(R1))
    await cluster.apply(nginx(R2))
    newest = await cluster.is_revision("2", R2, "nginx")
    assert objects.annotations(newest) == clusters.sized(3, 4, 2)


# Deleting.


@pytest.mark.parametrize("cascade", ["background", "foreground"])
async def test_replicasets_and_pods_go_with_their_deployment(
    cluster: Cluster, cascade: str
) -> None:
    await cluster.apply(nginx(R1))
    await cluster.completes("nginx")
    await cluster.run("delete", "deployment", "nginx", f"--cascade={cascade}", "--timeout=30s")

    async def are_gone() -> bool:
        return await cluster.versions() == {}

    await clusters.eventually(are_gone, lambda: "everything is gone")


async def test_a_replicaset_that_somebody_deletes_is_made_again(cluster: Cluster) -> None:
    await cluster.apply(nginx(R1))
    await cluster.completes("nginx")
    before = await cluster.newest("nginx")
    await cluster.run("delete", "rs", objects.name(before), "--timeout=20s")

    async def are_new() -> bool:
        newest = await cluster.find_newest("nginx")
        return newest is not None and {objects.uid(newest)} == {
            clusters.owner_uid(pod) for pod in await cluster.pods()
        }

    await clusters.eventually(are_new, lambda: "all pods are the new ReplicaSet's")
    await cluster.completes("nginx")
    after = await cluster.newest("nginx")
    assert objects.uid(after) != objects.uid(before)
    assert objects.name(after) == objects.name(before)
    assert "collisionCount" not in (await cluster.get("nginx"))["status"]


async def test_what_is_orphaned_is_taken_up_by_the_next_deployment_of_its_template(
    cluster: Cluster,
) -> None:
    await cluster.apply(nginx(R1))
    await cluster.completes("nginx")
    before = await cluster.newest("nginx")
    pods = {objects.uid(pod) for pod in await cluster.pods()}
    await cluster.run("delete", "deployment", "nginx", "--cascade=orphan", "--timeout=30s")
    left = await cluster.replicaset(objects.name(before))
    assert objects.owner(left) is None
    assert left["spec"] == before["spec"]
    await cluster.apply(nginx(R1))
    await cluster.completes("nginx")
    [after] = await cluster.replicasets("nginx")
    assert objects.uid(after) == objects.uid(before)
    assert {objects.uid(pod) for pod in await cluster.pods()} == pods


async def test_the_whole_namespace_goes(cluster: Cluster) -> None:
    await cluster.apply(nginx(R1))
    await cluster.completes("nginx")
    await cluster.run("delete", "namespace", cluster.namespace, "--timeout=50s")
    listed = await cluster.api.list(resources.REPLICASETS, cluster.namespace)
    assert listed.items == []
