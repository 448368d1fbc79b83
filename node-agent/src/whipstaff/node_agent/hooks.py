"""Lifecycle hooks: what a container's owner wants done after its start and before its end.

A hook is a command, a GET or a pause; any answer to a GET will do, whatever its status. The API's
``tcpSocket`` was never built and fails as it does in the kubelet. Runs no loop; owns the commands
that outlast their grace period. Answers to HandlerRunner in ``pkg/kubelet/lifecycle/handlers.go``
and executePreStopHook in ``pkg/kubelet/kuberuntime``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from whipstaff.node_agent import containers, provider, texts
from whipstaff.node_agent.probing import ports, web
from whipstaff.runtime import events, logs, objects

Object = objects.Object
Report = Callable[[events.EventType, str, str], None]

# How long a hook may go on while its container is being stopped. It needs no more than the
# kubelet's smallest grace period: with the container, its processes end.
_AFTERLIFE = 10.0

_log = logs.get("node_agent.hooks")
_late: set[asyncio.Task[None]] = set()


class HookFailedError(Exception):
    """A hook failed; the text is the kubelet's, and may tell what isn't for everybody's eyes."""


async def run(
    handler: Object,
    pod: Object,
    run: provider.RuntimeContainer,
    runtime: provider.Provider,
    pod_ip: str,
    timeout: float | None,
    report: Report | None = None,
) -> None:
    """Run a hook to its end, or until its time is up: then it is left alone, which is no failure.

    Args:
        handler: the hook as the container's definition has it.
        pod: the pod.
        run: the run of the container.
        runtime: runs commands.
        pod_ip: the pod's address; empty where it has none.
        timeout: seconds to wait for it; None for as long as it takes.
        report: called with type, reason and note of an event about the pod.

    Raises:
        HookFailedError: it failed.
    """
    hook = _Hook(pod, run, runtime, pod_ip, report)
    if timeout is None:
        await hook.run(handler)
        return
    task = asyncio.create_task(hook.run(handler))
    try:
        await asyncio.wait([task], timeout=timeout)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if task.done():
        task.result()
    elif "exec" in handler:
        # To end the command is the container's end's business: it may use the last two seconds.
        _let_go(task)
    else:
        task.cancel()


def _let_go(task: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()
    timer = loop.call_later(_AFTERLIFE, task.cancel)

    def ended(task: asyncio.Task[None]) -> None:
        timer.cancel()
        _late.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("a preStop hook ended with its container", error=str(error))

    _late.add(task)
    task.add_done_callback(ended)


class _Hook:
    """What a hook of one run needs to be run."""

    def __init__(
        self,
        pod: Object,
        run: provider.RuntimeContainer,
        runtime: provider.Provider,
        pod_ip: str,
        report: Report | None,
    ) -> None:
        self._pod = pod
        self._run = run
        self._runtime = runtime
        self._pod_ip = pod_ip
        self._report = report
        self._where = (
            f"for Container {texts.quoted(run.name)} in Pod {texts.quoted(texts.pod(pod))}"
        )

    async def run(self, handler: Object) -> None:
        if "exec" in handler:
            await self._command(handler["exec"].get("command") or ())
        elif "httpGet" in handler:
            path = handler["httpGet"].get("path") or ""
            await self._http(f"HTTP lifecycle hook ({path})", self._get(handler["httpGet"]))
        elif "sleep" in handler:
            await asyncio.sleep(handler["sleep"].get("seconds") or 0)
        else:
            raise HookFailedError(f"Cannot run handler: invalid handler: {sorted(handler)}")

    async def _command(self, command: Sequence[str]) -> None:
        title = f"Exec lifecycle hook ({texts.names(command)}) {self._where} failed - error:"
        try:
            code, output = await self._runtime.exec_sync(self._pod, self._run, command, 0)
        except provider.ProviderError as error:
            raise HookFailedError(f'{title} {error}, message: ""') from error
        if code:
            text = output.decode(errors="replace")
            raise HookFailedError(
                f"{title} command '{' '.join(command)}' exited with {code}: {text}, "
                f"message: {texts.quoted(text)}"
            )

    async def _http(self, title: str, request: Awaitable[None]) -> None:
        try:
            await request
        except (ports.PortError, web.RequestError, _NoAddressError) as error:
            raise HookFailedError(f"{title} {self._where} failed - error: {error}") from error

    async def _get(self, action: Object) -> None:
        found = containers.find(self._pod["spec"], self._run.name)
        if not action.get("host") and not self._pod_ip:
            raise _NoAddressError("failed to find networking container")
        asked = web.request(action, found[1] if found else {}, self._pod_ip, "lifecycle")
        try:
            await self._ask(asked)
        except web.RequestError as error:
            if not str(error).endswith(web.NOT_TLS):
                raise
            await self._ask_without_tls(asked)

    async def _ask(self, asked: web.Request) -> None:
        try:
            await web.get(asked, None)
        except web.BodyError:
            # An answer that broke off is an answer.
            return

    async def _ask_without_tls(self, asked: web.Request) -> None:
        """Ask once more by HTTP, as the first kubelets took ``https`` hooks."""
        headers = tuple(header for header in asked.headers if header[0] != "Authorization")
        url = asked.url.replace("https://", "http://", 1)
        await self._ask(web.Request(url, headers))
        if self._report is not None:
            address = url.removeprefix("http://").split("/", 1)[0]
            note = (
                f"request to HTTPS lifecycle hook {address} got HTTP response, "
                "retry with HTTP succeeded"
            )
            self._report("Warning", "LifecycleHTTPFallback", note)


class _NoAddressError(Exception):
    """A pod without an address can't be asked."""
