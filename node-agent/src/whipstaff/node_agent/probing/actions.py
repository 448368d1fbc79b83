"""Doing what a probe says, once: a command, a GET, a connection, a health check.

Runs no loop and owns nothing. Answers to ``pkg/kubelet/prober/prober.go`` and ``pkg/probe``. Leaves
out the lingering of closed sockets that upstream sets to be rid of TIME-WAIT: on Linux it would
have ``close`` wait, and here that is the event loop.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass

from whipstaff.node_agent import provider, texts
from whipstaff.node_agent.environment import expansion
from whipstaff.node_agent.probing import health, ports, web
from whipstaff.runtime import objects

Object = objects.Object

_MOST_TRIES = 3
_OUTPUT_LIMIT = 10 * 1024


class Result(enum.Enum):
    """What a probe found."""

    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a probe found, and what its event says."""

    result: Result
    text: str = ""


class ProbeError(Exception):
    """The probe itself failed, so that it says nothing about the container.

    Attributes:
        state: how the kubelet's event calls the result: ``unknown`` or ``failure``.
    """

    def __init__(self, text: str, state: str = "unknown") -> None:
        super().__init__(text)
        self.state = state


@dataclass(frozen=True, slots=True)
class Target:
    """What is probed.

    Attributes:
        pod: the pod.
        run: the run of the container.
        definition: the container.
        pod_ip: the pod's address; empty where it has none.
    """

    pod: Object
    run: provider.RuntimeContainer
    definition: Object
    pod_ip: str


async def act(runtime: provider.Provider, probe: Object, target: Target) -> Outcome:
    """Do what a probe says; one that fails itself is tried again, up to three times.

    Args:
        runtime: runs commands.
        probe: the probe as the container's definition has it.
        target: what is probed.

    Raises:
        ProbeError: it failed every time.
    """
    for tries in range(1, _MOST_TRIES + 1):
        try:
            return await _act_once(runtime, probe, target)
        except ProbeError:
            if tries == _MOST_TRIES:
                raise
    raise AssertionError("unreachable")


async def _act_once(runtime: provider.Provider, probe: Object, target: Target) -> Outcome:
    timeout = float(probe.get("timeoutSeconds") or 1)
    try:
        if "exec" in probe:
            return await _command(runtime, probe["exec"], target, timeout)
        if "httpGet" in probe:
            return await _get(probe["httpGet"], target, timeout)
        if "tcpSocket" in probe:
            return await _connect(probe["tcpSocket"], target, timeout)
        if "grpc" in probe:
            return await _check(probe["grpc"], target, timeout)
    except ports.PortError as error:
        raise ProbeError(str(error)) from error
    name = target.definition["name"]
    raise ProbeError(f"missing probe handler for {texts.pod(target.pod)}:{name}")


async def _command(
    runtime: provider.Provider, action: Object, target: Target, timeout: float
) -> Outcome:
    static = {e["name"]: e.get("value") or "" for e in target.definition.get("env") or ()}
    command = [expansion.expand(word, static) for word in action.get("command") or ()]
    try:
        code, output = await runtime.exec_sync(target.pod, target.run, command, timeout)
    except provider.CommandTimeoutError as error:
        return Outcome(Result.FAILURE, str(error))
    except provider.ProviderError as error:
        raise ProbeError(str(error)) from error
    text = output[:_OUTPUT_LIMIT].decode(errors="replace")
    return Outcome(Result.FAILURE if code else Result.SUCCESS, text)


async def _get(action: Object, target: Target, timeout: float) -> Outcome:
    pod_ip = target.pod_ip if action.get("host") else _address(target)
    asked = web.request(action, target.definition, pod_ip, "probe")
    try:
        answer = await web.get(asked, timeout)
    except web.RequestError as error:
        return Outcome(Result.FAILURE, str(error))
    except web.BodyError as error:
        raise ProbeError(str(error), "failure") from error
    if not 200 <= answer.status < 400:
        # Without the body, which may say what isn't for everybody who may read events.
        return Outcome(Result.FAILURE, f"HTTP probe failed with statuscode: {answer.status}")
    body = answer.body.decode(errors="replace")
    if answer.status >= 300:
        return Outcome(Result.WARNING, f"Probe terminated redirects, Response body: {body}")
    return Outcome(Result.SUCCESS, body)


async def _connect(action: Object, target: Target, timeout: float) -> Outcome:
    port = ports.resolve(action.get("port"), target.definition)
    host = action.get("host") or _address(target)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
    except TimeoutError:
        return Outcome(Result.FAILURE, f"dial tcp {web.join(host, port)}: i/o timeout")
    except OSError as error:
        return Outcome(Result.FAILURE, web.dial_text(error, host, port))
    except UnicodeError:
        return Outcome(Result.FAILURE, f"dial tcp: lookup {host}: no such host")
    transport.close()
    return Outcome(Result.SUCCESS)


async def _check(action: Object, target: Target, timeout: float) -> Outcome:
    port = ports.resolve(action.get("port"), target.definition)
    try:
        await health.check(_address(target), port, action.get("service") or "", timeout)
    except health.UnhealthyError as error:
        return Outcome(Result.FAILURE, str(error))
    return Outcome(Result.SUCCESS, "service healthy")


def _address(target: Target) -> str:
    if not target.pod_ip:
        # An empty host would be the node itself.
        raise ProbeError("the pod has no IP")
    return target.pod_ip
