"""Static pods start without the API: its server may be one of them."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import types
from collections.abc import AsyncIterator
from typing import Any

import node_agent_crew as crews
import node_agent_harness as harness
import pytest

from whipstaff.cluster import testing
from whipstaff.node_agent import agent, app, configuration, nodes, timeline
from whipstaff.runtime import client, config, connections, errors, objects, resources

Object = dict[str, Any]

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  containers: [{name: app, image: nginx}]
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_API_PATIENCE", 0.1)


@contextlib.asynccontextmanager
async def started(
    connection: connections.Connection, node_name: str, manifests: pathlib.Path
) -> AsyncIterator[tuple[agent.Agent, crews.Runtime]]:
    (manifests / "web.yaml").write_text(MANIFEST)
    runtime = crews.Runtime()
    template = nodes.Template(capacity=configuration.DEFAULT_CAPACITY, addresses=("127.0.0.1",))
    settings = agent.Settings(template, static_pods=manifests)
    async with client.Client(connection) as api:
        made = agent.Agent(
            api, api, runtime, crews.Events(), (node_name,), settings, timeline.Timeline()
        )
        running = asyncio.create_task(made.run())
        try:
            yield made, runtime
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_they_run_while_the_api_cannot_be_reached(tmp_path: pathlib.Path) -> None:
    nowhere = connections.Connection("http://127.0.0.1:1", "test")
    async with started(nowhere, "node-0", tmp_path) as (made, runtime):

        async def runs() -> bool:
            return any(worker.life.runtime.running() for worker in made.crew)

        await harness.eventually(runs, lambda: f"{runtime.calls}")
        assert not made.taken_over.is_set()
        (tmp_path / "web.yaml").unlink()

        async def gone() -> bool:
            return not len(made.crew)

        await harness.eventually(gone, lambda: f"{runtime.calls}")


@pytest.mark.parametrize("on_host", [False, True])
async def test_only_with_containers_to_look_after_an_agent_starts_without_an_api_server(
    on_host: bool,
) -> None:
    nowhere = connections.Connection("http://127.0.0.1:1", "test")
    plan: Any = app.Plan(("node-0",), configuration.Settings(), ["127.0.0.1"])
    runtime: Any = types.SimpleNamespace(on_host=on_host)
    refused = pytest.raises(errors.StartupError, match="connection refused")
    async with client.Client(nowhere) as api:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app, "_PATIENCE", 0.1)
            patch.setattr(app, "_PATIENCE_ON_MACHINES", 0.1)
            with contextlib.nullcontext() if on_host else refused:
                await app._check(plan, runtime, api)


@pytest.mark.apiserver
async def test_they_are_shown_as_soon_as_there_is_an_api(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path, unused_name: str
) -> None:
    settings = config.load(str(apiserver.kubeconfig))
    async with client.Client(settings) as user:
        try:
            with pytest.MonkeyPatch.context() as patch:
                # As if the server came up later than the agent.
                patch.setattr(agent, "_API_PATIENCE", 0)
                async with started(settings, unused_name, tmp_path) as (made, runtime):
                    found: Object = {}

                    async def shown() -> bool:
                        with contextlib.suppress(errors.NotFound):
                            found.update(
                                await user.get(resources.PODS, f"web-{unused_name}", "default")
                            )
                        return bool(objects.is_true(found, "Ready")) if found else False

                    await harness.eventually(shown, lambda: f"{found} {runtime.calls}")
                    assert made.taken_over.is_set()
                    assert runtime.calls.count("start_container") == 1
        finally:
            for resource, name, namespace in (
                (resources.PODS, f"web-{unused_name}", "default"),
                (resources.NODES, unused_name, None),
                (resources.LEASES, unused_name, "kube-node-lease"),
            ):
                with contextlib.suppress(errors.WhipstaffError):
                    await user.delete(resource, name, namespace, grace_period_seconds=0)


@pytest.fixture
def unused_name(tmp_path: pathlib.Path) -> str:
    return f"node-{abs(hash(tmp_path)) % 10**8}"
