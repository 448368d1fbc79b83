"""What nodes learn of Services and RuntimeClasses, with a node's own rights."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.cluster import testing
from whipstaff.node_agent import runtime_classes
from whipstaff.node_agent.environment import services
from whipstaff.runtime import client, config, errors, resources

Object = dict[str, Any]

pytestmark = pytest.mark.apiserver


@pytest.fixture
async def admin(apiserver: testing.ControlPlane) -> AsyncIterator[client.Client]:
    async with client.Client(config.load(str(apiserver.kubeconfig))) as api:
        yield api


@pytest.fixture
async def node(apiserver: testing.ControlPlane) -> AsyncIterator[client.Client]:
    own = apiserver.issue_kubeconfig("system:node:node-0", ["system:nodes"])
    async with client.Client(config.load(str(own))) as api:
        yield api


@contextlib.asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


async def test_containers_learn_of_the_services_of_their_namespace(
    admin: client.Client, node: client.Client, namespace: str
) -> None:
    found = services.Services(node)
    with pytest.raises(errors.Unreachable):
        await found.wait(0.01)
    async with running(found):
        await found.wait(10)
        master = found.variables("elsewhere", enable_links=False)
        assert master["KUBERNETES_SERVICE_HOST"]
        assert master["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
        for name, more in (("web", {}), ("headless", {"clusterIP": "None"})):
            body = {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **more}}
            made = await admin.create(resources.SERVICES, body, namespace)
            if name == "web":
                address = made["spec"]["clusterIP"]
        await until(lambda: "WEB_SERVICE_HOST" in found.variables(namespace, enable_links=True))
        linked = found.variables(namespace, enable_links=True)
        assert linked["WEB_SERVICE_HOST"] == address
        assert linked.keys() >= master.keys()
        assert not any(name.startswith("HEADLESS") for name in linked)
        assert found.variables(namespace, enable_links=False) == master
        assert found.variables("elsewhere", enable_links=True) == master
        await admin.delete(resources.SERVICES, "web", namespace)
        await until(lambda: found.variables(namespace, enable_links=True) == master)


async def test_a_runtime_class_names_the_handler(admin: client.Client, node: client.Client) -> None:
    name = f"fast-{uuid.uuid4().hex[:6]}"
    classes = runtime_classes.RuntimeClasses(node)
    assert await classes.handler(make.pod()) == "", "the default needs no lookup"
    body = {"metadata": {"name": name}, "handler": "crun"}
    await admin.create(resources.RUNTIMECLASSES, body)
    try:
        async with running(classes):
            assert await classes.handler(make.pod(runtimeClassName=name)) == "crun"
            with pytest.raises(runtime_classes.UnknownError) as caught:
                await classes.handler(make.pod(runtimeClassName="ghost"))
    finally:
        await admin.delete(resources.RUNTIMECLASSES, name)
    assert str(caught.value) == 'runtimeclass.node.k8s.io "ghost" not found'


async def test_a_class_that_cannot_be_looked_up_is_an_error(
    node: client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_classes, "_SECONDS", 0.01)
    classes = runtime_classes.RuntimeClasses(node)
    with pytest.raises(runtime_classes.UnknownError, match="failed to lookup RuntimeClass fast: "):
        await classes.handler(make.pod(runtimeClassName="fast"))
