"""``/exec``, ``/attach``, ``/portForward`` and ``/run``: a way into containers.

The provider gives a URL that speaks the stream, and the client's connection is joined with it
(`splicing`): this agent understands neither SPDY nor WebSocket and needn't. Its nodes don't declare
that they speak WebSocket, so the API server translates what kubectl says.

Runs no loop. Answers to getExec, getAttach, getPortForward and getRun in
``pkg/kubelet/server/server.go``, to GetExec and its siblings in ``pkg/kubelet/kubelet_pods.go`` and
to the options in ``k8s.io/cri-streaming``. Leaves out the translation of WebSocket v5.
"""

from __future__ import annotations

import dataclasses

from aiohttp import web

from whipstaff.node_agent import containers, pod_worker, provider
from whipstaff.node_agent.server import found_pods
from whipstaff.runtime import objects, serving, splicing

Object = objects.Object

# Nothing limits a command that is run without a stream but the time a request may take at all.
_LONGEST_COMMAND = 4 * 3600.0


class Streams:
    """Serves streams into a process's pods.

    Args:
        pods: them.
        runtime: the provider that runs their containers.
    """

    def __init__(self, pods: found_pods.Pods, runtime: provider.Provider) -> None:
        self._pods = pods
        self._runtime = runtime

    async def exec(self, request: web.Request) -> web.StreamResponse:
        """``/exec/{namespace}/{pod}[/{uid}]/{container}?command=...&input=1&output=1&tty=1``."""
        wanted = _standard_streams(request)
        worker = self._worker(request)
        run = self._running(worker, request, f'container not found ("{_container(request)}")')
        command = tuple(request.query.getall("command", ()))
        stream = dataclasses.replace(wanted, kind="exec", command=command)
        return await self._join(request, worker.load(), run, stream)

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """``/attach/{namespace}/{pod}[/{uid}]/{container}``; its terminal is the container's."""
        wanted = _standard_streams(request)
        worker = self._worker(request)
        missing = f"container {_container(request)} not found in pod {_full_name(worker)}"
        run = self._running(worker, request, missing)
        pod = worker.load()
        found = containers.find(pod["spec"], run.name)
        if found is None:
            raise _error(500, missing)
        stream = dataclasses.replace(wanted, kind="attach", tty=bool(found[1].get("tty")))
        return await self._join(request, pod, run, stream)

    async def port_forward(self, request: web.Request) -> web.StreamResponse:
        """``/portForward/{namespace}/{pod}[/{uid}]``; WebSocket names its ports in the query."""
        stream = provider.StreamRequest("portforward", ports=_ports(request))
        worker = self._worker(request)
        sandbox = worker.life.runtime.sandbox
        if sandbox is None or not sandbox.ready:
            raise _error(500, f'pod not found ("{_full_name(worker)}")')
        return await self._join(request, worker.load(), None, stream)

    async def run(self, request: web.Request) -> web.Response:
        """``POST /run/{namespace}/{pod}[/{uid}]/{container}?cmd=...``: what a command writes."""
        worker = self._worker(request)
        run = self._running(worker, request, f'container not found ("{_container(request)}")')
        command = request.query.get("cmd", "").split(" ")
        try:
            code, output = await self._runtime.exec_sync(
                worker.load(), run, command, _LONGEST_COMMAND
            )
        except provider.ProviderError as error:
            raise _failure(error) from error
        if code:
            text = f"command '{' '.join(command)}' exited with {code}: "
            raise _error(500, text + output.decode(errors="replace"))
        return web.Response(body=output, content_type="application/json")

    async def _join(
        self,
        request: web.Request,
        pod: Object,
        run: provider.RuntimeContainer | None,
        stream: provider.StreamRequest,
    ) -> web.StreamResponse:
        if not splicing.is_upgrade(request):
            raise _error(500, "Upgrade request required")
        try:
            url = await self._runtime.open_stream(pod, run, stream)
        except provider.ProviderError as error:
            raise _failure(error) from error
        return await splicing.splice(request, url, request.app[serving.STOPPING])

    def _worker(self, request: web.Request) -> pod_worker.Worker:
        path = request.match_info
        worker = self._pods.find(path["namespace"], path["pod"], path.get("uid", ""))
        if worker is None:
            raise _error(404, "pod does not exist")
        return worker

    @staticmethod
    def _running(
        worker: pod_worker.Worker, request: web.Request, missing: str
    ) -> provider.RuntimeContainer:
        name = _container(request)
        for run in worker.life.runtime.running():
            if run.name == name:
                return run
        raise _error(500, missing)


def _container(request: web.Request) -> str:
    return request.match_info["container"]


def _full_name(worker: pod_worker.Worker) -> str:
    return f"{worker.name}_{worker.namespace}"


def _standard_streams(request: web.Request) -> provider.StreamRequest:
    """Which of a container's streams are wanted; a terminal has no error stream of its own."""
    asked = {name: request.query.get(name) == "1" for name in ("input", "output", "error", "tty")}
    stderr = asked["error"] and not asked["tty"]
    if not (asked["input"] or asked["output"] or stderr):
        raise _error(400, "you must specify at least 1 of stdin, stdout, stderr")
    return provider.StreamRequest(
        "exec", stdin=asked["input"], stdout=asked["output"], stderr=stderr, tty=asked["tty"]
    )


def _ports(request: web.Request) -> tuple[int, ...]:
    """The ports that a WebSocket is to carry; SPDY names each when it is needed."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return ()
    texts = request.query.getall("port", ())
    if not texts:
        raise _error(400, 'query parameter "port" is required')
    ports = []
    for text in texts:
        if not text:
            raise _error(400, 'query parameter "port" cannot be empty')
        for part in text.split(","):
            if not (part.isascii() and part.isdigit() and int(part) < 65536):
                raise _error(400, f'unable to parse "{text}" as a port: invalid syntax')
            if int(part) < 1:
                raise _error(400, f'port "{text}" must be > 0')
            ports.append(int(part))
    return tuple(ports)


def _failure(error: provider.ProviderError) -> web.HTTPException:
    if isinstance(error, provider.UnsupportedError):
        return _error(501, str(error))
    return _error(500, str(error))


def _error(status: int, text: str) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {
        400: web.HTTPBadRequest,
        404: web.HTTPNotFound,
        500: web.HTTPInternalServerError,
        501: web.HTTPNotImplemented,
    }
    return kinds[status](text=text)
