"""Runtimes that aren't containerd 1.6, or that aren't well: played by a small CRI server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import node_agent_builders as make
import pytest
from grpc import aio
from node_agent_parts import until

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import connection, events, labels, machinery, sandboxes
from whipstaff.node_agent.providers.cri import provider as cri
from whipstaff.node_agent.providers.cri.api import events_pb2, events_pb2_grpc
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services

EXITED = provider.State.EXITED
LABELS = {
    labels.POD_UID: "uid-web",
    labels.POD_NAME: "web",
    labels.POD_NAMESPACE: "shop",
    labels.CONTAINER_NAME: "app",
}


class Runtime(services.RuntimeServiceServicer, events_pb2_grpc.EventsServicer):
    """A runtime with one pod of one container."""

    def __init__(self) -> None:
        self.name, self.version = "cri-o", "1.31.2"
        self.state = pb.CONTAINER_RUNNING
        self.news: asyncio.Queue[Any] = asyncio.Queue()
        self.has_events = True
        self.asked: list[str] = []
        self.requests: list[Any] = []
        self.ready = True
        self.clings = False

    async def Version(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.VersionResponse(runtime_name=self.name, runtime_version=self.version)

    async def Status(self, request: Any, context: Any) -> Any:  # noqa: N802
        conditions = [
            pb.RuntimeCondition(type="RuntimeReady", status=self.ready),
            pb.RuntimeCondition(type="NetworkReady", status=True),
        ]
        features = pb.RuntimeHandlerFeatures(recursive_read_only_mounts=True)
        return pb.StatusResponse(
            status=pb.RuntimeStatus(conditions=conditions),
            runtime_handlers=[pb.RuntimeHandler(name="", features=features)],
            features=pb.RuntimeFeatures(supplemental_groups_policy=True),
        )

    async def RuntimeConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        linux = pb.LinuxRuntimeConfiguration(cgroup_driver=pb.SYSTEMD)
        return pb.RuntimeConfigResponse(linux=linux)

    async def UpdateRuntimeConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        if len(self.requests) == 1:
            await context.abort(grpc.StatusCode.UNKNOWN, "not yet")
        return pb.UpdateRuntimeConfigResponse()

    async def ListPodSandbox(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append("ListPodSandbox")
        metadata = pb.PodSandboxMetadata(name="web", namespace="shop", uid="uid-web")
        stranger = pb.PodSandbox(id="x", metadata=pb.PodSandboxMetadata(name="x"))
        item = pb.PodSandbox(id="s1", metadata=metadata, state=pb.SANDBOX_READY, labels=LABELS)
        return pb.ListPodSandboxResponse(items=[item, stranger])

    async def PodSandboxStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append("PodSandboxStatus")
        return pb.PodSandboxStatusResponse(
            status=pb.PodSandboxStatus(
                id="s1",
                state=pb.SANDBOX_READY,
                network=pb.PodSandboxNetworkStatus(ip="10.0.0.1"),
                labels=LABELS,
            )
        )

    async def ListContainers(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append("ListContainers")
        item = pb.Container(id="c1", pod_sandbox_id="s1", state=self.state, labels=LABELS)
        return pb.ListContainersResponse(containers=[item])

    async def ContainerStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append("ContainerStatus")
        if request.container_id != "c1":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such container")
        return pb.ContainerStatusResponse(
            status=pb.ContainerStatus(
                id="c1", state=self.state, labels=LABELS, exit_code=3 if self.state == 2 else 0
            )
        )

    async def ListContainerStats(self, request: Any, context: Any) -> Any:  # noqa: N802
        stats = pb.ContainerStats(attributes=pb.ContainerAttributes(id="c1"))
        return pb.ListContainerStatsResponse(stats=[stats])

    async def ListPodSandboxStats(self, request: Any, context: Any) -> Any:  # noqa: N802
        await context.abort(grpc.StatusCode.UNKNOWN, "sandbox x is not in ready state")

    async def PodSandboxStats(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.pod_sandbox_id == "x":
            await context.abort(grpc.StatusCode.UNKNOWN, "sandbox x is not in ready state")
        stats = pb.PodSandboxStats(attributes=pb.PodSandboxAttributes(id="s1"))
        return pb.PodSandboxStatsResponse(stats=stats)

    async def StopContainer(self, request: Any, context: Any) -> Any:  # noqa: N802
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such container")

    async def StopPodSandbox(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append("StopPodSandbox")
        return pb.StopPodSandboxResponse()

    async def RemovePodSandbox(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append("RemovePodSandbox")
        if self.clings:
            self.clings = False
            await context.abort(grpc.StatusCode.UNKNOWN, "sandbox is not fully stopped")
        return pb.RemovePodSandboxResponse()

    async def GetContainerEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        if not self.has_events:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")
        while (event := await self.news.get()) is not None:
            yield event

    async def Subscribe(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        while (event := await self.news.get()) is not None:
            yield event


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
async def agent(runtime: Runtime, tmp_path: pathlib.Path) -> AsyncIterator[cri.Provider]:
    server = aio.server()
    services.add_RuntimeServiceServicer_to_server(runtime, server)
    events_pb2_grpc.add_EventsServicer_to_server(runtime, server)
    socket = tmp_path / "runtime.sock"
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    found = cri.Provider(provider.Options(("node-0",), endpoint=f"unix://{socket}"))
    yield found
    await found.close()
    await server.stop(None)


@contextlib.asynccontextmanager
async def following(agent: cri.Provider) -> AsyncIterator[asyncio.Queue[provider.RuntimeEvent]]:
    news: asyncio.Queue[provider.RuntimeEvent] = asyncio.Queue()

    async def follow() -> None:
        async for event in agent.events():
            news.put_nowait(event)

    task = asyncio.create_task(follow())
    try:
        yield news
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_list_asks_only_for_what_is_new(agent: cri.Provider, runtime: Runtime) -> None:
    (first,) = await agent.list()
    assert sorted(runtime.asked) == [
        "ContainerStatus", "ListContainers", "ListPodSandbox", "PodSandboxStatus",
    ]  # fmt: skip
    runtime.asked.clear()
    assert await agent.list() == [first]
    assert sorted(runtime.asked) == ["ListContainers", "ListPodSandbox"]
    runtime.state = pb.CONTAINER_EXITED
    (second,) = await agent.list()
    assert second.containers[0].exit_code == 3


async def test_other_runtimes_have_the_cri_s_events(agent: cri.Provider, runtime: Runtime) -> None:
    await agent.list()
    async with following(agent) as news:
        runtime.state = pb.CONTAINER_EXITED
        for kind in (pb.CONTAINER_STARTED_EVENT, pb.CONTAINER_STOPPED_EVENT):
            event = pb.ContainerEventResponse(container_id="c1", container_event_type=kind)
            runtime.news.put_nowait(event)
        told = (await asyncio.wait_for(news.get(), 5)).container
        assert told is not None
        assert (told.state, told.exit_code) == (EXITED, 3)
        gone = pb.ContainerEventResponse(
            container_id="s1", container_event_type=pb.CONTAINER_STOPPED_EVENT
        )
        runtime.news.put_nowait(gone)
        sandbox = (await asyncio.wait_for(news.get(), 5)).sandbox
        assert sandbox is not None
        assert not sandbox.ready


async def test_a_runtime_without_events_is_looked_at(
    agent: cri.Provider, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_LIST_WITHOUT_EVENTS", 0.05)
    runtime.has_events = False
    await agent.list()
    async with following(agent) as news:
        await asyncio.sleep(0.2)
        assert news.empty()
        runtime.state = pb.CONTAINER_EXITED
        told = (await asyncio.wait_for(news.get(), 5)).container
        assert told is not None
        assert told.state is EXITED


async def test_what_events_do_not_tell_a_list_does(
    agent: cri.Provider, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_FIRST_LIST", 0.05)
    runtime.name = "containerd"
    await agent.list()
    runtime.state = pb.CONTAINER_EXITED
    async with following(agent) as news:
        told = (await asyncio.wait_for(news.get(), 5)).container
        assert told is not None
        assert told.exit_code == 3


async def test_what_somebody_else_s_list_finds_is_told_as_well(
    agent: cri.Provider, runtime: Runtime
) -> None:
    runtime.name = "containerd"
    await agent.list()
    async with following(agent) as news:
        await until(lambda: bool(runtime.requests))
        runtime.state = pb.CONTAINER_EXITED
        await agent.list("uid-web")
        # By now the event is no news any more.
        end = events_pb2.TaskExit(container_id="c1", id="c1", exit_status=3)
        envelope = events_pb2.Envelope(topic="/tasks/exit")
        envelope.event.value = end.SerializeToString()
        runtime.news.put_nowait(envelope)
        told = (await asyncio.wait_for(news.get(), 5)).container
        assert told is not None
        assert told.exit_code == 3


async def test_only_the_end_of_a_container_s_own_process_is_its_end(
    agent: cri.Provider, runtime: Runtime
) -> None:
    runtime.name = "containerd"
    await agent.list()
    async with following(agent) as news:
        for process, code in (("some-command", 1), ("c1", 7)):
            end = events_pb2.TaskExit(container_id="c1", id=process, exit_status=code)
            envelope = events_pb2.Envelope(topic="/tasks/exit")
            envelope.event.value = end.SerializeToString()
            runtime.news.put_nowait(envelope)
        told = (await asyncio.wait_for(news.get(), 5)).container
        assert told is not None
        assert told.exit_code == 7
    (asked,) = runtime.requests
    assert 'topic=="/tasks/exit",namespace==k8s.io' in asked.filters


async def test_events_that_break_off_are_told(agent: cri.Provider, runtime: Runtime) -> None:
    runtime.news.put_nowait(None)
    with pytest.raises(provider.ProviderError, match="ended its events"):
        await anext(agent.events())


async def test_a_container_that_nobody_knows_has_ended_somehow(agent: cri.Provider) -> None:
    run = make.run("app", "running")
    stopped = await agent.stop_container(make.pod(), run, 1)
    assert (stopped.id, stopped.state, stopped.exit_code) == (run.id, EXITED, 137)
    assert stopped.reason == "ContainerStatusUnknown"
    assert stopped.message == "The container could not be located when the pod was terminated"


async def test_a_sandbox_is_stopped_once_before_it_is_removed(
    agent: cri.Provider, runtime: Runtime
) -> None:
    pod, sandbox = make.pod(), dataclasses.replace(make.sandbox(), id="s1")
    await agent.stop_sandbox(pod, sandbox)
    await agent.remove(provider.RuntimePod("uid-web", "shop", "web", (sandbox,)))
    verbs = [verb for verb in runtime.asked if verb.endswith("PodSandbox") and "List" not in verb]
    assert verbs == ["StopPodSandbox", "RemovePodSandbox"]


async def test_a_sandbox_that_may_not_be_stopped_is_stopped_before_it_is_removed(
    agent: cri.Provider, runtime: Runtime
) -> None:
    pod, sandbox = make.pod(), dataclasses.replace(make.sandbox(), id="s1")
    of_pod = provider.RuntimePod("uid-web", "shop", "web", (sandbox,))
    await agent.remove(of_pod)
    assert runtime.asked[-2:] == ["StopPodSandbox", "RemovePodSandbox"]
    await agent.stop_sandbox(pod, sandbox)
    runtime.clings = True
    with pytest.raises(provider.ProviderError, match="not fully stopped"):
        await agent.remove(of_pod)
    await agent.remove(of_pod)
    assert runtime.asked[-2:] == ["StopPodSandbox", "RemovePodSandbox"]


async def test_a_runtime_says_what_it_can(agent: cri.Provider, runtime: Runtime) -> None:
    status = await agent.status("node-0")
    assert (status.version, status.cgroup_driver, status.problems) == (
        "cri-o://1.31.2", "systemd", (),
    )  # fmt: skip
    assert agent.name == "cri-o"
    assert status.features == {"supplementalGroupsPolicy": True}
    (handler,) = status.handlers
    assert handler["features"]["recursiveReadOnlyMounts"]
    ability = await agent._machinery.ability()
    assert ability.image_mounts
    assert "" in ability.recursive_readonly


async def test_the_pod_cidr_is_told_until_it_is_heard(
    agent: cri.Provider, runtime: Runtime
) -> None:
    agent.configure({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"]}})
    for _ in range(3):
        await asyncio.sleep(0.1)
        await agent.status("node-0")
    told = [request.runtime_config.network_config.pod_cidr for request in runtime.requests]
    assert told == ["10.1.0.0/24,fd00::/64"] * 2


async def test_a_runtime_may_be_away_for_a_moment(runtime: Runtime, tmp_path: pathlib.Path) -> None:
    now = 100.0
    socket = tmp_path / "runtime.sock"
    channel = connection.open_channel(f"unix://{socket}")
    found = machinery.Machinery(services.RuntimeServiceStub(channel), lambda: now)
    unchecked = await found.status()
    assert unchecked.problems == ("container runtime status check may not have completed yet",)

    server = aio.server()
    services.add_RuntimeServiceServicer_to_server(runtime, server)
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    async with asyncio.timeout(5):
        while (await found.status()).problems:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await server.stop(None)
    now += 20
    assert (await found.status()).problems == ()
    now += 20
    assert (await found.status()).problems == ("container runtime is down",)
    await channel.close()


async def test_a_sandbox_that_is_going_keeps_nobody_from_being_measured(
    agent: cri.Provider,
) -> None:
    await agent.list()
    assert set(await agent.stats()) == {"c1", "s1"}


async def test_an_endpoint_is_a_socket() -> None:
    for endpoint in ("tcp://1.2.3.4:5", "containerd.sock"):
        with pytest.raises(connection.EndpointError, match="isn't unix:///PATH"):
            connection.open_channel(endpoint)


async def test_what_is_better_finished_is_finished_before_it_is_given_up() -> None:
    done = []

    async def work() -> None:
        await asyncio.sleep(0.1)
        done.append(True)

    task = asyncio.create_task(connection.to_the_end(work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


class Sandboxes:
    """What a runtime has of a pod whose sandbox ended twice; one still holds a container."""

    def __init__(self) -> None:
        self.gone: list[str] = []

    async def ListPodSandbox(self, request: Any, timeout: float) -> Any:  # noqa: N802
        states = (pb.SANDBOX_NOTREADY, pb.SANDBOX_NOTREADY, pb.SANDBOX_READY)
        items = [
            pb.PodSandbox(
                id=f"s{n}", metadata=pb.PodSandboxMetadata(attempt=n), state=state, labels=LABELS
            )
            for n, state in enumerate(states)
        ]
        return pb.ListPodSandboxResponse(items=items)

    async def ListContainers(self, request: Any, timeout: float) -> Any:  # noqa: N802
        item = pb.Container(id="c1", pod_sandbox_id="s1", labels=LABELS)
        return pb.ListContainersResponse(containers=[item])

    async def StopPodSandbox(self, request: Any, timeout: float) -> Any:  # noqa: N802
        self.gone.append(f"{request.pod_sandbox_id} stopped")

    async def RemovePodSandbox(self, request: Any, timeout: float) -> Any:  # noqa: N802
        self.gone.append(f"{request.pod_sandbox_id} removed")

    async def RunPodSandbox(self, request: Any, timeout: float) -> Any:  # noqa: N802
        return pb.RunPodSandboxResponse(pod_sandbox_id="s3")

    async def PodSandboxStatus(self, request: Any, timeout: float) -> Any:  # noqa: N802
        status = pb.PodSandboxStatus(id="s3", state=pb.SANDBOX_READY)
        return pb.PodSandboxStatusResponse(status=status)


async def test_sandboxes_do_not_pile_up_and_give_their_addresses_back() -> None:
    runtime: Any = Sandboxes()
    metadata = pb.PodSandboxMetadata(uid="uid-web", attempt=3)
    await sandboxes.Sandboxes(runtime).ensure(pb.PodSandboxConfig(metadata=metadata), "")
    assert sorted(runtime.gone) == ["s0 removed", "s0 stopped", "s1 stopped", "s2 stopped"]
