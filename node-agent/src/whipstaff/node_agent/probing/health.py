"""The gRPC health check: ``grpc.health.v1.Health/Check`` on a connection of its own.

The two messages are one field each, so they are written and read here rather than by generated
code. Runs no loop and owns nothing. Answers to ``pkg/probe/grpc``.
"""

from __future__ import annotations

import asyncio
import time

import grpc
import grpc.aio

from whipstaff.node_agent import texts
from whipstaff.node_agent.probing import web

_METHOD = "/grpc.health.v1.Health/Check"
_SERVING = 1
_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
# The least that is left for the call once there is a connection.
_LEAST = 0.001

_OPTIONS = (
    ("grpc.primary_user_agent", f"kube-probe/{web.VERSION}"),
    # Not the proxy of the agent's environment, and no connection (or the memory of one that
    # failed) of another probe.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
)


class UnhealthyError(Exception):
    """The service isn't healthy, or nobody answered; the text is the kubelet's."""


async def check(host: str, port: int, service: str, timeout: float) -> None:
    """Ask a service for its health.

    Raises:
        UnhealthyError: it isn't healthy.
    """
    address = web.join(host, port)
    ends_at = time.monotonic() + timeout
    async with grpc.aio.insecure_channel(_target(host, port), options=_OPTIONS) as channel:
        try:
            async with asyncio.timeout(timeout):
                await channel.channel_ready()
        except TimeoutError as error:
            raise UnhealthyError(
                f"timeout: failed to connect service {texts.quoted(address)} within "
                f"{texts.duration(timeout)}: context deadline exceeded"
            ) from error
        call = channel.unary_unary(
            _METHOD, request_serializer=_request, response_deserializer=_status
        )
        try:
            status = await call(service, timeout=max(ends_at - time.monotonic(), _LEAST))
        except grpc.aio.AioRpcError as error:
            raise UnhealthyError(_text(error, timeout)) from error
    if status != _SERVING:
        name = _STATUSES[status] if 0 <= status < len(_STATUSES) else str(status)
        raise UnhealthyError(f"service unhealthy (responded with {texts.quoted(name)})")


def _target(host: str, port: int) -> str:
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _text(error: grpc.aio.AioRpcError, timeout: float) -> str:
    match error.code():
        case grpc.StatusCode.UNIMPLEMENTED:
            return (
                "error: this server does not implement the grpc health protocol "
                f"(grpc.health.v1.Health): {error.details()}"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"timeout: health rpc did not complete within {texts.duration(timeout)}"
        case code:
            # As Go writes it: NotFound for NOT_FOUND.
            name = code.name.title().replace("_", "").replace("Cancelled", "Canceled")
            return (
                f"error: health rpc probe failed: rpc error: code = {name} desc = {error.details()}"
            )


def _request(service: str) -> bytes:
    """A HealthCheckRequest: field 1, the service's name."""
    name = service.encode()
    return b"\x0a" + _varint(len(name)) + name if name else b""


def _status(message: bytes) -> int:
    """The number of a HealthCheckResponse's status: field 1; others are skipped."""
    status, at = 0, 0
    while at < len(message):
        key, at = _read_varint(message, at)
        match key & 7:
            case 0:
                value, at = _read_varint(message, at)
                status = value if key >> 3 == 1 else status
            case 1:
                at += 8
            case 2:
                size, at = _read_varint(message, at)
                at += size
            case 5:
                at += 4
            case kind:
                raise ValueError(f"a field of wire type {kind}")
    return status


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number that doesn't end")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at
