"""Static pods: files become pods, and pods become visible in the API."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import pathlib
import textwrap
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import yaml

from whipstaff.cluster import testing
from whipstaff.node_agent.static_pods import defaults as pod_defaults
from whipstaff.node_agent.static_pods import manifests as static_manifests
from whipstaff.node_agent.static_pods import pods as static_pods
from whipstaff.runtime import client, config, errors, objects, resources

Object = dict[str, Any]

MANIFEST = textwrap.dedent("""\
    apiVersion: v1
    kind: Pod
    metadata:
      name: web
      annotations: {since: 2026-01-02}
    spec:
      containers:
      - name: app
        image: nginx
        ports: [{containerPort: 80}]
        livenessProbe: {httpGet: {port: 80}}
        resources: {limits: {cpu: 100m}}
      volumes: [{name: scratch}]
    """)


def manifest(**spec: Any) -> Object:
    document: Object = yaml.safe_load(MANIFEST.replace("2026-01-02", "'2026-01-02'"))
    document["spec"] |= spec
    return document


def parse(document: Object | str) -> Object:
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    return static_manifests.parse(text.encode(), "/etc/m/web.yaml", "Node-0")


# Manifests.


def test_a_manifest_becomes_a_pod_of_the_node() -> None:
    pod = parse(MANIFEST)
    metadata, spec = pod["metadata"], pod["spec"]
    assert (metadata["name"], metadata["namespace"]) == ("web-node-0", "default")
    assert spec["nodeName"] == "Node-0"
    assert len(metadata["uid"]) == 32
    assert metadata["annotations"] == {
        "since": "2026-01-02",
        "kubernetes.io/config.hash": metadata["uid"],
        "kubernetes.io/config.source": "file",
    }
    assert spec["tolerations"] == [{"operator": "Exists", "effect": "NoExecute"}]
    assert pod["status"] == {"phase": "Pending"}


def test_what_it_leaves_out_is_as_the_api_has_it() -> None:
    spec = parse(MANIFEST)["spec"]
    app = spec["containers"][0]
    assert (spec["restartPolicy"], spec["dnsPolicy"]) == ("Always", "ClusterFirst")
    assert spec["terminationGracePeriodSeconds"] == 30
    assert spec["enableServiceLinks"] is True
    assert spec["volumes"] == [{"name": "scratch", "emptyDir": {}}]
    assert app["imagePullPolicy"] == "Always"
    assert app["terminationMessagePath"] == "/dev/termination-log"
    assert app["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert app["resources"]["requests"] == {"cpu": "100m"}
    assert app["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }


def test_another_content_file_or_node_is_another_pod() -> None:
    same = parse(MANIFEST)["metadata"]["uid"]
    assert parse(MANIFEST)["metadata"]["uid"] == same
    assert parse(manifest(hostNetwork=True))["metadata"]["uid"] != same
    for source, node in (("/etc/m/other.yaml", "Node-0"), ("/etc/m/web.yaml", "node-1")):
        found = static_manifests.parse(MANIFEST.encode(), source, node)
        assert found["metadata"]["uid"] != same
    own = manifest()
    own["metadata"]["uid"] = "mine"
    assert parse(own)["metadata"]["annotations"]["kubernetes.io/config.hash"] == "mine"


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("{", "couldn't parse as pod("),
        ("[]", "couldn't parse as pod(not a v1 Pod), please check config file"),
        ("{apiVersion: v1, kind: Secret}", "couldn't parse as pod(not a v1 Pod)"),
        (manifest(containers="app"), "spec.containers is not a list of objects"),
        (manifest(containers=[]), "invalid pod: [spec.containers: Required value]"),
        (manifest(containers=[{"name": "a"}]), "[spec.containers[0].image: Required value]"),
        (
            manifest(containers=[{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]),
            '[spec.containers[1].name: Duplicate value: "a"]',
        ),
        (
            manifest(containers=[{"name": "../up", "image": "i"}]),
            '[spec.containers[0].name: Invalid value: "../up"]',
        ),
        (
            manifest(serviceAccountName="robot"),
            "static pods may not reference serviceaccounts",
        ),
        (
            manifest(volumes=[{"name": "v", "secret": {"secretName": "s"}}]),
            "static pods may not reference secrets (via secret volumes)",
        ),
        (
            manifest(
                volumes=[{"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}}]
            ),
            "static pods may not reference serviceaccounts (via projected volumes)",
        ),
        (
            manifest(
                containers=[
                    {"name": "a", "image": "i", "envFrom": [{"configMapRef": {"name": "c"}}]}
                ]
            ),
            "static pods may not reference configmaps",
        ),
        (manifest(imagePullSecrets=[{"name": "s"}]), "static pods may not reference secrets"),
        (
            manifest(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]),
            "static pods may not reference persistentvolumeclaims",
        ),
    ],
)
def test_what_cannot_run_is_refused(document: Object | str, why: str) -> None:
    with pytest.raises(static_manifests.ManifestError) as caught:
        parse(document)
    assert str(caught.value).startswith("/etc/m/web.yaml: ")
    assert why in str(caught.value)


@pytest.mark.parametrize("uid", ["../../etc", "a/b", ".", "x" * 64])
def test_a_uid_that_is_a_path_is_refused(uid: str) -> None:
    document = manifest()
    document["metadata"]["uid"] = uid
    with pytest.raises(static_manifests.ManifestError, match=r"metadata\.uid: Invalid value"):
        parse(document)


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("registry:5000/nginx", "Always"),
        ("registry:5000/nginx:1", "IfNotPresent"),
        (f"nginx@sha256:{'a' * 64}", "IfNotPresent"),
    ],
)
def test_the_tag_decides_about_pulls(image: str, policy: str) -> None:
    pod = {"spec": {"containers": [{"name": "a", "image": image}]}}
    pod_defaults.apply(pod)
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_the_nodes_network_makes_ports_the_nodes() -> None:
    app = parse(manifest(hostNetwork=True))["spec"]["containers"][0]
    assert app["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]


def test_a_pods_own_limits_default_its_requests() -> None:
    limits = {"cpu": "1", "memory": "1Gi"}
    assert parse(manifest(resources={"limits": limits}))["spec"]["resources"]["requests"] == {
        "cpu": "100m",
        "memory": "1Gi",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"containers": [{"name": "app", "image": "nginx", "ports": 80}]},
        {"containers": [{"name": "app", "image": "nginx", "env": ["FOO"]}]},
        {"containers": [{"name": "app", "image": "nginx", "resources": {"limits": ["1"]}}]},
        {"volumes": [{"name": "data", "projected": "all"}]},
    ],
)
def test_whatever_stands_where_something_else_should_is_no_manifest(change: Object) -> None:
    with pytest.raises(static_manifests.ManifestError, match="couldn't parse as pod"):
        parse(manifest(**change))


@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_labels_and_annotations_are_texts(field: str) -> None:
    for wrong in ({"a": 1}, {1: "a"}, ["a"], "a"):
        document = manifest()
        document["metadata"][field] = wrong
        with pytest.raises(static_manifests.ManifestError):
            parse(document)


def test_a_directory_is_read_file_by_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "b.yaml").write_text(MANIFEST)
    (tmp_path / "a.yaml").write_text("{")
    (tmp_path / ".hidden.yaml").write_text(MANIFEST)
    (tmp_path / "dir").mkdir()
    found = static_manifests.read(tmp_path, "n")
    assert [*found.pods] == [str(tmp_path / "b.yaml")]
    assert [*found.problems] == [str(tmp_path / "a.yaml")]
    assert static_manifests.read(tmp_path / "b.yaml", "n").pods == found.pods
    assert static_manifests.read(tmp_path / "none", "n").pods == {}


# What is running.


class Crew:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.uids: list[str] = []
        self.news = asyncio.Event()

    def note(self, what: str, pod: Object) -> None:
        self.told.append(f"{what} {objects.name(pod)}")
        self.uids.append(objects.uid(pod))
        self.news.set()

    def on_add(self, pod: Object) -> None:
        self.note("add", pod)

    def on_update(self, old: Object, new: Object) -> None:
        assert objects.uid(old) == objects.uid(new)
        self.note("update", new)

    def on_delete(self, pod: Object) -> None:
        self.note("delete", pod)

    def take(self) -> list[str]:
        told, self.told = self.told, []
        return told


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


def statics(place: pathlib.Path, crew: Crew, api: Any = None, node: Any = None) -> Any:
    return static_pods.StaticPods(
        place, "node-0", lambda: node, api, crew, lambda uid: crew.told.append(f"mirrored {uid}")
    )


async def test_a_directory_that_cannot_be_read_for_once_stops_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = Crew()
    kept = statics(tmp_path, crew)
    (tmp_path / "web.yaml").write_text(MANIFEST)
    await kept.scan()

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(static_manifests, "read", refuse)
    await kept.scan()
    assert crew.take() == ["add web-node-0"]


async def test_files_that_come_change_and_go_are_pods_that_do(tmp_path: pathlib.Path) -> None:
    crew = Crew()
    kept = statics(tmp_path, crew)
    path = tmp_path / "web.yaml"
    path.write_text(MANIFEST)
    await kept.scan()
    await kept.scan()
    assert crew.take() == ["add web-node-0"]
    first = crew.uids[-1]
    path.write_text(yaml.safe_dump(manifest(hostNetwork=True)))
    await kept.scan()
    await kept.scan()
    assert crew.take() == ["delete web-node-0"], "two pods of one name don't run at once"
    kept.gone("another")
    assert crew.take() == []
    kept.gone(first)
    assert crew.take() == ["add web-node-0"]
    assert crew.uids[-1] != first
    path.unlink()
    await kept.scan()
    assert crew.take() == ["delete web-node-0"]
    path.write_text(MANIFEST)
    await kept.scan()
    assert crew.take() == []
    kept.gone(crew.uids[-1])
    assert crew.take() == ["add web-node-0"]
    assert crew.uids[-1] == first


async def test_a_pod_that_names_itself_is_changed_in_place(tmp_path: pathlib.Path) -> None:
    crew = Crew()
    kept = statics(tmp_path, crew)
    document = manifest()
    document["metadata"]["uid"] = "mine"
    (tmp_path / "web.yaml").write_text(yaml.safe_dump(document))
    await kept.scan()
    document["spec"]["containers"][0]["image"] = "nginx:2"
    (tmp_path / "web.yaml").write_text(yaml.safe_dump(document))
    await kept.scan()
    assert crew.take() == ["add web-node-0", "update web-node-0"]


async def test_a_half_written_file_stops_nothing_at_once(tmp_path: pathlib.Path) -> None:
    crew = Crew()
    kept = statics(tmp_path, crew)
    (tmp_path / "web.yaml").write_text(MANIFEST)
    await kept.scan()
    (tmp_path / "web.yaml").write_text("{")
    await kept.scan(thorough=False)
    assert crew.take() == ["add web-node-0"]
    await kept.scan()
    assert crew.take() == ["delete web-node-0"]


async def test_a_new_file_is_noticed_soon(tmp_path: pathlib.Path) -> None:
    crew = Crew()
    kept = statics(tmp_path / "late", crew)
    task = asyncio.create_task(kept.run())
    try:
        await asyncio.sleep(0.05)
        (tmp_path / "late").mkdir()
        (tmp_path / "late/web.yaml").write_text(MANIFEST)
        async with asyncio.timeout(5):
            await crew.news.wait()
        await asyncio.sleep(0.2)
        (tmp_path / "late/web.yaml").unlink()
        await until(lambda: crew.told == ["add web-node-0", "delete web-node-0"])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# Mirrors.


def test_mirrors_are_planned() -> None:
    pod = static_manifests.parse(MANIFEST.encode(), "f", "n")
    other = static_manifests.parse(yaml.safe_dump(manifest(hostIPC=True)).encode(), "f", "n")
    key = objects.key(pod)
    node = {"metadata": {"name": "n", "uid": "node-uid"}}
    mirror = static_pods.mirror_body(pod, node)
    assert static_pods.is_mirror(mirror)
    assert not static_pods.is_mirror(pod)
    plan = static_pods.plan
    assert plan({key: pod}, {}) == [static_pods.CreateMirror(pod)]
    assert plan({key: pod}, {key: mirror}) == []
    assert plan({}, {key: mirror}) == [static_pods.DeleteMirror(mirror)]
    assert plan({key: other}, {key: mirror}) == [static_pods.DeleteMirror(mirror)]
    assert plan({key: pod}, {}, {key}) == [], "one that leaves gets no new mirror"
    assert plan({key: pod}, {key: mirror}, {key}) == [], "and keeps the one that it has"
    ending = mirror | {"metadata": mirror["metadata"] | {"deletionTimestamp": "now"}}
    assert plan({key: pod}, {key: ending}) == [static_pods.DeleteMirror(ending)]


class Cluster:
    """A node in a real API server, with its static pods running by their loops."""

    def __init__(self, admin: client.Client, api: client.Client, node: Object) -> None:
        self.admin, self.api, self.node = admin, api, node
        self.crew = Crew()
        self.name = f"web-{objects.name(node)}"

    async def mirror(self) -> Object | None:
        with contextlib.suppress(errors.NotFound):
            return await self.admin.get(resources.PODS, self.name, "default")
        return None

    async def mirror_with(self, condition: Callable[[Object | None], bool]) -> Object | None:
        for _ in range(200):
            found = await self.mirror()
            if condition(found):
                return found
            await asyncio.sleep(0.05)
        raise AssertionError("the mirror never was like that")


@pytest.fixture
async def cluster(apiserver: testing.ControlPlane) -> AsyncIterator[Cluster]:
    name = f"node-{uuid.uuid4().hex[:6]}"
    own = apiserver.issue_kubeconfig(f"system:node:{name}", ["system:nodes"])
    async with (
        client.Client(config.load(str(apiserver.kubeconfig))) as admin,
        client.Client(config.load(str(own))) as api,
    ):
        node = await admin.create(resources.NODES, {"metadata": {"name": name}})
        yield Cluster(admin, api, node)
        await admin.delete(resources.NODES, name)
        made = Cluster(admin, api, node)
        if await made.mirror() is not None:
            await admin.delete(resources.PODS, made.name, "default", grace_period_seconds=0)


@pytest.mark.apiserver
async def test_the_api_shows_static_pods_while_there_are_some(
    cluster: Cluster, tmp_path: pathlib.Path
) -> None:
    crew, path = cluster.crew, tmp_path / "web.yaml"
    path.write_text(MANIFEST)
    kept = static_pods.StaticPods(
        tmp_path,
        objects.name(cluster.node),
        lambda: cluster.node,
        cluster.api,
        crew,
        lambda uid: crew.told.append(f"mirrored {uid}"),
    )
    await kept.scan()
    uid = crew.uids[-1]
    task = asyncio.create_task(kept.run())
    try:
        mirror = await cluster.mirror_with(lambda found: found is not None)
        assert mirror is not None
        assert objects.owner(mirror) == {
            "apiVersion": "v1",
            "kind": "Node",
            "name": objects.name(cluster.node),
            "uid": objects.uid(cluster.node),
            "controller": True,
        }
        assert objects.annotations(mirror)["kubernetes.io/config.mirror"] == uid
        await until(lambda: kept.mirror_of(uid) is not None)
        assert crew.told[-1] == f"mirrored {uid}"

        await cluster.admin.delete(resources.PODS, cluster.name, "default")
        ending = await cluster.mirror()
        assert ending is not None
        kept.mirror_seen(ending)
        again = await cluster.mirror_with(
            lambda found: found is not None and objects.uid(found) != objects.uid(mirror)
        )
        assert again is not None
        kept.mirror_gone(ending)
        assert crew.told.count(f"mirrored {uid}") == 2, "the new one knows nothing yet"

        path.unlink()
        await until(lambda: crew.told[-1] == f"delete {cluster.name}")
        assert kept.mirror_of(uid) is not None, "it shows the pod until that is gone"
        kept.gone(uid)
        await cluster.mirror_with(lambda found: found is None)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
