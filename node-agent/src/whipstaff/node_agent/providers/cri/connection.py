"""The connection to the container runtime, and what its failures mean.

One HTTP/2 connection over a Unix socket carries everything: the CRI's two services and containerd's
events. It comes back by itself when the runtime was restarted. Errors of calls become
`provider.ProviderError` with the runtime's own text, as the kubelet shows it. Answers to
``k8s.io/cri-client`` (``remote_runtime.go``, ``utils.go``). Leaves out TCP endpoints and tracing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import grpc
from grpc import aio

from whipstaff.node_agent import provider

T = TypeVar("T")

DEFAULT_ENDPOINT = "unix:///run/containerd/containerd.sock"
# Seconds for a call that isn't known to take longer; the kubelet's --runtime-request-timeout.
TIMEOUT = 120.0
# What an agent that was killed has left half-done is being undone: so often, with such pauses, a
# call is made again.
TRIES = 20
PAUSE = 0.2

_UNSETTLED = ("is in starting state", "is already in removing state")
# Seconds that a call may go on after its task was cancelled.
_PATIENCE = 5.0

# cri-client's maxMsgSize: lists of a full node don't fit into gRPC's 4 MiB.
_MESSAGE_BYTES = 16 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    # A runtime that was restarted is back in a second or two; gRPC's own wait grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class EndpointError(provider.ProviderError):
    """The endpoint isn't one that can be connected to."""


def open_channel(endpoint: str) -> aio.Channel:
    """A channel to ``unix:///PATH`` (or just a path); it connects when it is used.

    Raises:
        EndpointError: the endpoint is something else.
    """
    path = endpoint.removeprefix("unix://")
    if not path.startswith("/"):
        raise EndpointError(f'the container runtime endpoint "{endpoint}" isn\'t unix:///PATH')
    return aio.insecure_channel(f"unix://{path}", options=_OPTIONS)


@contextlib.contextmanager
def failing(what: str, reason: str = "") -> Iterator[None]:
    """Turn a call's failure into a `ProviderError` that says what was tried.

    Args:
        what: put before the runtime's text, with ``: ``; empty for the text alone.
        reason: the error's.
    """
    try:
        yield
    except aio.AioRpcError as error:
        text = describe(error)
        raise provider.ProviderError(f"{what}: {text}" if what else text, reason) from error


def describe(error: aio.AioRpcError) -> str:
    """A failure as Go's gRPC words it, so that texts compare with the kubelet's."""
    code = _GO_CODES.get(error.code(), error.code().name)
    return f"rpc error: code = {code} desc = {error.details() or ''}"


def is_code(error: BaseException, *codes: grpc.StatusCode) -> bool:
    """Whether a call failed with one of these codes."""
    return isinstance(error, aio.AioRpcError) and error.code() in codes


def is_reserved(error: aio.AioRpcError) -> bool:
    """Whether a name is taken by something that was made, or half-made, before.

    No runtime has a code of its own for that: containerd says "name NAME is reserved for ID", CRI-O
    "name is reserved".
    """
    return "is reserved" in (error.details() or "")


def is_unsettled(error: aio.AioRpcError) -> bool:
    """Whether what a call is about is in the middle of something."""
    return any(phrase in (error.details() or "") for phrase in _UNSETTLED)


async def unless_gone(call: Awaitable[T]) -> T | None:
    """A call's answer; None where what it is about isn't there."""
    try:
        return await call
    except aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return None


async def when_settled(call: Callable[[], Awaitable[T]]) -> T | None:
    """As `unless_gone`, made again while what it is about is in the middle of something.

    That is so for a moment after an agent was killed: its calls are being undone.
    """
    for _ in range(TRIES):
        try:
            return await unless_gone(call())
        except aio.AioRpcError as error:
            if not is_unsettled(error):
                raise
            await asyncio.sleep(PAUSE)
    return await unless_gone(call())


async def to_the_end(work: Awaitable[T]) -> T:
    """Do something that is better finished than broken off, even if its task is cancelled.

    The cancellation comes through when it is done, or after a few seconds.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # Nobody asks any more how it ended.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait({task}, timeout=_PATIENCE)
        finally:
            task.cancel()
        raise


_GO_CODES = {
    grpc.StatusCode.CANCELLED: "Canceled",
    grpc.StatusCode.UNKNOWN: "Unknown",
    grpc.StatusCode.INVALID_ARGUMENT: "InvalidArgument",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DeadlineExceeded",
    grpc.StatusCode.NOT_FOUND: "NotFound",
    grpc.StatusCode.ALREADY_EXISTS: "AlreadyExists",
    grpc.StatusCode.PERMISSION_DENIED: "PermissionDenied",
    grpc.StatusCode.UNAUTHENTICATED: "Unauthenticated",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "ResourceExhausted",
    grpc.StatusCode.FAILED_PRECONDITION: "FailedPrecondition",
    grpc.StatusCode.ABORTED: "Aborted",
    grpc.StatusCode.OUT_OF_RANGE: "OutOfRange",
    grpc.StatusCode.UNIMPLEMENTED: "Unimplemented",
    grpc.StatusCode.INTERNAL: "Internal",
    grpc.StatusCode.UNAVAILABLE: "Unavailable",
    grpc.StatusCode.DATA_LOSS: "DataLoss",
}
