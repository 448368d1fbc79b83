"""``/containerLogs``: which run's log a request means, and the way of the log to the client.

Runs no loop. Answers to getContainerLogs in ``pkg/kubelet/server/server.go`` and to
validateContainerLogStatus and GetKubeletContainerLogs in ``pkg/kubelet/kubelet_pods.go``, whose
texts and status codes these are. A log that can't be opened is refused, where upstream answers 200
with the error as the log. Leaves out logs of providers that keep no files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from aiohttp import web

from whipstaff.node_agent import containers, pod_worker, provider
from whipstaff.node_agent.server import found_pods, log_files, log_lines
from whipstaff.runtime import logs, objects, serving

Object = objects.Object

_WAITING = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}
# While a log is rotated its file is missing, for less than this together.
_PAUSES = (0.01, 0.04, 0.1, 0.25)

_log = logs.get("node_agent.server")


class NoLogError(Exception):
    """There is no log of this container; the text says why."""


def run_with_log(pod_name: str, status: Object, name: str, *, previous: bool) -> str:
    """The ID of the run whose log is meant, with the runtime's name before it.

    Without `previous` that is the running one, or else the one that ended last.

    Raises:
        NoLogError: there is none.
    """
    found = _status_of(status, name)
    if found is None:
        raise NoLogError(f'container "{name}" in pod "{pod_name}" is not available')
    state = found.get("state") or {}
    last: str = ((found.get("lastState") or {}).get("terminated") or {}).get("containerID", "")
    if previous:
        if not last:
            raise NoLogError(
                f'previous terminated container "{name}" in pod "{pod_name}" not found'
            )
        return last
    if state.get("running") is not None:
        running: str = found.get("containerID", "")
        return running
    terminated = state.get("terminated")
    if terminated is not None or (found.get("lastState") or {}).get("terminated") is not None:
        ended: str = (terminated or {}).get("containerID") or last
        if not ended:
            raise NoLogError(f'container "{name}" in pod "{pod_name}" is terminated')
        return ended
    waiting = state.get("waiting")
    if waiting is None:
        raise NoLogError(
            f'container "{name}" in pod "{pod_name}" is waiting to start - no logs yet'
        )
    why = _WAITING.get(waiting.get("reason", ""), waiting.get("reason", ""))
    raise NoLogError(f'container "{name}" in pod "{pod_name}" is waiting to start: {why}')


def _status_of(status: Object, name: str) -> Object | None:
    for field in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        for each in status.get(field) or ():
            if each["name"] == name:
                found: Object = each
                return found
    return None


class ContainerLogs:
    """Serves the logs of a process's pods.

    Args:
        pods: them.
        runtime: the provider, for its name.
    """

    def __init__(self, pods: found_pods.Pods, runtime: provider.Provider) -> None:
        self._pods = pods
        self._runtime = runtime

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """``GET /containerLogs/{namespace}/{pod}/{container}``."""
        try:
            wanted = log_lines.options(request.query, time.time())
        except log_lines.InvalidOptionsError as error:
            return _refusal(error.status, str(error))
        pod_name, name = request.match_info["pod"], request.match_info["container"]
        worker = self._pods.find(request.match_info["namespace"], pod_name)
        if worker is None:
            return _refusal(404, f'pod "{pod_name}" does not exist')
        pod = worker.load()
        if containers.find(pod["spec"], name) is None:
            return _refusal(404, f'container "{name}" not found in pod "{pod_name}"')
        status = worker.life.status or pod.get("status") or {}
        try:
            full_id = run_with_log(pod_name, status, name, previous=wanted.previous)
            run = self._run(worker, full_id)
            descriptor = await _open(run)
        except provider.UnsupportedError as error:
            return _refusal(501, str(error))
        except (NoLogError, log_files.UnreadableError) as error:
            return _refusal(400, str(error))
        return await _send(request, worker, run, descriptor, wanted)

    def _run(self, worker: pod_worker.Worker, full_id: str) -> provider.RuntimeContainer:
        wanted = full_id.partition("://")[2]
        for run in worker.life.runtime.containers:
            if run.id == wanted:
                if not run.log_path:
                    raise provider.UnsupportedError(
                        f"the provider {self._runtime.name} keeps no logs of containers"
                    )
                return run
        raise NoLogError(f"unable to retrieve container logs for {full_id}")


async def _open(run: provider.RuntimeContainer) -> int:
    """A run's log, which has no file for a moment when it is rotated.

    Raises:
        log_files.UnreadableError: it can't be opened.
    """
    for pause in _PAUSES if run.state is provider.State.RUNNING else ():
        if await asyncio.to_thread(os.path.lexists, run.log_path):
            break
        await asyncio.sleep(pause)
    return log_files.open_log(run.log_path)


async def _send(
    request: web.Request,
    worker: pod_worker.Worker,
    run: provider.RuntimeContainer,
    descriptor: int,
    wanted: log_lines.Options,
) -> web.StreamResponse:
    stopping = request.app[serving.STOPPING]

    def running() -> bool:
        if stopping.is_set():
            return False
        latest = next((r for r in worker.life.runtime.containers if r.id == run.id), None)
        return latest is not None and latest.state is not provider.State.EXITED

    def complain(line: bytes) -> None:
        _log.info("a line of a log can't be read", path=run.log_path, line=repr(line[:200]))

    pieces = log_files.read(run.log_path, descriptor, wanted, running, complain)
    async with contextlib.aclosing(pieces):
        try:
            # A file that is no log is refused while that can still be said.
            first = await anext(pieces, b"")
        except log_files.UnreadableError as error:
            return _refusal(400, str(error))
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            if first:
                await response.write(first)
            async for piece in pieces:
                if request.transport is None or request.transport.is_closing():
                    break
                if piece:
                    await response.write(piece)
    return response


def _refusal(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/plain")
