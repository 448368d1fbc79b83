"""The end of a twin: its pods are ended as on a drained node, and nothing of it stays.

What a pod of a DaemonSet is told by SIGTERM can be that a newer one follows or that it was the
last; both mean the end of all containers, as those are in the pod's namespaces. So the pods go to
other nodes first, by their own grace periods, while the agent still runs; what is left of
sandboxes is removed after that, then the Node.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time

import grpc
from grpc import aio

from whipstaff.node_agent.cgroups import hierarchies
from whipstaff.node_agent.providers.cri import connection as runtimes
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services
from whipstaff.node_agent.twin import settings
from whipstaff.runtime import client, config, errors, logs, objects, resources

_POLL = 0.2
_CALL = 20.0  # seconds for one sandbox

_log = logs.get("node_agent.twin")


async def drain(name: str, connection: config.Connection, seconds: float) -> None:
    """Have all pods of a node deleted, and wait for that; for so many seconds at most."""
    try:
        async with client.Client(connection, timeout=5) as api, asyncio.timeout(seconds):
            await api.patch(resources.NODES, name, {"spec": {"unschedulable": True}})
            while found := await api.list(resources.PODS, field_selector=f"spec.nodeName={name}"):
                for pod in found:
                    await _delete(api, pod)
                await asyncio.sleep(_POLL)
    except TimeoutError:
        _log.warning("pods are left, and will be ended at once", seconds=seconds)
    except errors.WhipstaffError as error:
        _log.warning("the pods can't be drained", error=str(error))


async def _delete(api: client.Client, pod: objects.Object) -> None:
    if pod["metadata"].get("deletionTimestamp"):
        return
    with contextlib.suppress(errors.NotFound, errors.Conflict):
        name, namespace = objects.name(pod), objects.namespace(pod)
        await api.delete(resources.PODS, name, namespace, uid=objects.uid(pod))


async def remove_sandboxes(twin: settings.Twin, seconds: float = 20) -> None:
    """End and remove every sandbox that is left, so that the network forgets it as well.

    Tried again and again: what the agent was doing to one when it ended may still be under way.
    """
    deadline = time.monotonic() + seconds
    async with runtimes.open_channel(f"unix://{twin.socket}") as channel:
        runtime = services.RuntimeServiceStub(channel)
        while left := await _left(runtime):
            failed = await asyncio.gather(*(_remove_sandbox(runtime, each.id) for each in left))
            if any(failed):
                if time.monotonic() > deadline:
                    _log.error("sandboxes stay behind", errors=sorted(set(filter(None, failed))))
                    return
                await asyncio.sleep(_POLL)


async def _left(runtime: services.RuntimeServiceStub) -> list[pb.PodSandbox]:
    try:
        listed = await runtime.ListPodSandbox(pb.ListPodSandboxRequest(), timeout=_CALL)
    except aio.AioRpcError as error:
        _log.error("the sandboxes aren't known", error=runtimes.describe(error))
        return []
    return list(listed.items)


async def _remove_sandbox(runtime: services.RuntimeServiceStub, sandbox: str) -> str:
    """Why it can't be removed; empty if it is."""
    try:
        stop = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox)
        await runtime.StopPodSandbox(stop, timeout=_CALL)
        remove = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox)
        await runtime.RemovePodSandbox(remove, timeout=_CALL)
    except aio.AioRpcError as error:
        return "" if error.code() is grpc.StatusCode.NOT_FOUND else runtimes.describe(error)
    return ""


async def forget(twin: settings.Twin, connection: config.Connection) -> None:
    """Delete the Node, and what of its pods the API still shows."""
    try:
        async with client.Client(connection, timeout=5) as api:
            selector = f"spec.nodeName={twin.name}"
            for pod in await api.list(resources.PODS, field_selector=selector):
                with contextlib.suppress(errors.NotFound):
                    name, namespace = objects.name(pod), objects.namespace(pod)
                    await api.delete(
                        resources.PODS,
                        name,
                        namespace,
                        uid=objects.uid(pod),
                        grace_period_seconds=0,
                    )
            with contextlib.suppress(errors.NotFound):
                await api.delete(resources.NODES, twin.name)
    except errors.WhipstaffError as error:
        _log.warning("the Node stays behind", node=twin.name, error=str(error))


def remove_groups(twin: settings.Twin, groups: hierarchies.Hierarchy, seconds: float = 10) -> None:
    """Remove the twin's control group, and the one around it when it was the last in that."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            groups.remove(twin.cgroup)
        except OSError as error:
            if time.monotonic() > deadline:
                _log.error("control groups stay behind", group=twin.cgroup, error=str(error))
                return
            time.sleep(_POLL)
        else:
            break
    above, _, _ = twin.cgroup.rpartition("/")
    if not groups.children(above):
        groups.remove(above)


def remove_data(twin: settings.Twin) -> None:
    """Delete what is in the data folder, which may itself be a mount."""
    for entry in twin.data.iterdir():
        try:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        except OSError as error:
            _log.error("a folder stays behind", folder=str(entry), error=str(error))
