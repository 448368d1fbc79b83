"""ConfigMaps and Secrets reach a node's pods, by the node's own rights, and nobody else's do."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from whipstaff.cluster import testing
from whipstaff.node_agent import references
from whipstaff.runtime import client, config, resources

Object = dict[str, Any]

pytestmark = pytest.mark.apiserver


class Bench:
    """A node with its own identity, an administrator, and the pods that were told of changes."""

    def __init__(self, admin: client.Client, node: client.Client, name: str, space: str) -> None:
        self.admin = admin
        self.node_name = name
        self.namespace = space
        self.changed: list[str] = []
        self.news = asyncio.Event()
        self.references = references.References(node, self.note)

    def note(self, uid: str) -> None:
        self.changed.append(uid)
        self.news.set()

    async def write(self, name: str, value: str, **more: Any) -> None:
        body = {"metadata": {"name": name}, "data": {"key": value}, **more}
        await self.admin.create(resources.CONFIGMAPS, body, self.namespace)

    async def rewrite(self, name: str, value: str) -> None:
        await self.admin.patch(resources.CONFIGMAPS, name, {"data": {"key": value}}, self.namespace)

    async def pod(self, *names: str) -> str:
        """A pod on the node that refers to ConfigMaps; gives its UID."""
        sources = [{"configMapRef": {"name": name, "optional": True}} for name in names]
        body = {
            "metadata": {"name": f"pod-{uuid.uuid4().hex[:6]}"},
            "spec": {
                "nodeName": self.node_name,
                "automountServiceAccountToken": False,
                "containers": [{"name": "app", "image": "nginx", "envFrom": sources}],
            },
        }
        made = await self.admin.create(resources.PODS, body, self.namespace)
        uid: str = made["metadata"]["uid"]
        return uid

    async def value(self, uid: str, name: str) -> str | None:
        found = await self.references.get(uid, "ConfigMap", self.namespace, name)
        return None if found is None else found["data"]["key"]

    async def told(self, uid: str) -> None:
        """Wait until a pod has been told of a change."""
        async with asyncio.timeout(10):
            while uid not in self.changed:
                await self.news.wait()
                self.news.clear()


@pytest.fixture
async def bench(apiserver: testing.ControlPlane, namespace: str) -> AsyncIterator[Bench]:
    name = f"node-{uuid.uuid4().hex[:6]}"
    own = apiserver.issue_kubeconfig(f"system:node:{name}", ["system:nodes"])
    async with (
        client.Client(config.load(str(apiserver.kubeconfig))) as admin,
        client.Client(config.load(str(own))) as node,
    ):
        body = {"metadata": {"name": "default"}}
        await admin.create(resources.SERVICEACCOUNTS, body, namespace)
        made = Bench(admin, node, name, namespace)
        yield made
        await made.references.close()


async def test_a_pod_reads_what_it_refers_to_and_is_told_of_changes(bench: Bench) -> None:
    await bench.write("settings", "one")
    uid = await bench.pod("settings")
    assert await bench.value(uid, "settings") == "one"
    assert bench.changed == [], "who waits for the first state needn't be told of it"
    await bench.rewrite("settings", "two")
    await bench.told(uid)
    assert await bench.value(uid, "settings") == "two"
    bench.changed.clear()
    await bench.admin.delete(resources.CONFIGMAPS, "settings", bench.namespace)
    await bench.told(uid)
    assert await bench.value(uid, "settings") is None


async def test_a_pod_is_told_when_what_it_misses_comes(bench: Bench) -> None:
    uid = await bench.pod("late")
    assert await bench.value(uid, "late") is None
    await bench.write("late", "here")
    await bench.told(uid)
    assert await bench.value(uid, "late") == "here"


async def test_what_no_pod_of_the_node_refers_to_stays_unread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "FIRST_STATE_SECONDS", 0.5)
    body = {"metadata": {"name": "crown-jewels"}, "stringData": {"key": "gold"}}
    await bench.admin.create(resources.SECRETS, body, bench.namespace)
    uid = await bench.pod("settings")
    with pytest.raises(references.UnreadableError) as caught:
        await bench.references.get(uid, "Secret", bench.namespace, "crown-jewels")
    assert str(caught.value).startswith("failed to sync secret cache: ")
    assert "crown-jewels" in str(caught.value)
    assert "forbidden" in str(caught.value)


async def test_pods_share_one_watch_until_the_last_is_forgotten(bench: Bench) -> None:
    await bench.write("shared", "one")
    first, second = await bench.pod("shared"), await bench.pod("shared")
    both = await asyncio.gather(bench.value(first, "shared"), bench.value(second, "shared"))
    assert both == ["one", "one"]
    assert len(bench.references) == 1
    bench.references.forget(first)
    await bench.rewrite("shared", "two")
    await bench.told(second)
    assert first not in bench.changed
    bench.references.forget(second)
    assert len(bench.references) == 0


async def test_an_immutable_object_is_not_watched(bench: Bench) -> None:
    await bench.write("fixed", "stone", immutable=True)
    uid = await bench.pod("fixed")
    assert await bench.value(uid, "fixed") == "stone"
    await asyncio.sleep(0.05)
    watches = [t for t in asyncio.all_tasks() if t.get_name() == "informer configmaps"]
    assert watches == []
    assert await bench.value(uid, "fixed") == "stone"


async def test_a_name_that_cannot_be_refers_to_nothing(bench: Bench) -> None:
    assert await bench.references.get("uid", "ConfigMap", bench.namespace, "../kube-system") is None
    assert await bench.references.get("uid", "Secret", bench.namespace, "") is None
    assert len(bench.references) == 0


@pytest.mark.parametrize("settled", [0.0, 1.0])
async def test_what_was_read_stays_known_while_the_server_is_away(
    own_apiserver: testing.ControlPlane, settled: float
) -> None:
    plane = own_apiserver
    plane.create_namespace("shop")
    async with client.Client(config.load(str(plane.kubeconfig))) as api:
        body = {"metadata": {"name": "settings"}, "data": {"key": "one"}}
        await api.create(resources.CONFIGMAPS, body, "shop")
        kept = references.References(api, lambda _: None)
        assert await kept.get("uid", "ConfigMap", "shop", "settings") is not None
        await asyncio.sleep(settled)
        await asyncio.to_thread(plane.stop)
        started = time.monotonic()
        assert await kept.get("uid", "ConfigMap", "shop", "settings") is not None
        assert time.monotonic() - started < 5
        await kept.close()
