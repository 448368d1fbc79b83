"""Who may do what on the agent's server: each path is a subresource of a node.

Requests are authorized as the kubelet's are, so that the roles that exist for kubelets work here:
``nodes/log``, ``nodes/metrics``, ``nodes/stats``, ``nodes/pods``, ``nodes/healthz``,
``nodes/configz``, and ``nodes/proxy`` for everything else, which also allows the last three. What
counts is the route that a request was matched with, not how its path is written, so that both can't
be told different things. Streams into pods take the right to create, also by GET, where upstream is
content with the right to get. Pure. Answers to ``pkg/kubelet/server/auth.go``. Leaves out what
isn't served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from aiohttp import web

from whipstaff.runtime import authorization, client

TOKEN_TTL = 120.0
ALLOW_TTL, DENY_TTL = 300.0, 30.0
"""Seconds for which answers of the API server count, as kubelets are configured by default."""

OF_NODE = "/nodes/{node}"
"""Before the paths that are about one node, where a process is several."""

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}
# WebSocket comes as GET, but running a command is no reading.
_INTO_PODS = frozenset({"exec", "attach", "portForward", "run"})
_SUBRESOURCES = {
    "logs": ("log",),
    "metrics": ("metrics",),
    "stats": ("stats",),
    "pods": ("pods", "proxy"),
    "runningpods": ("pods", "proxy"),
    "healthz": ("healthz", "proxy"),
    "livez": ("healthz", "proxy"),
    "readyz": ("healthz", "proxy"),
    "configz": ("configz", "proxy"),
}


def attributes(
    request: web.Request, node_of: Callable[[web.Request], str]
) -> Sequence[authorization.Attributes]:
    """What a request wants to do with the node; one of these must be allowed.

    Args:
        request: matched with its route already.
        node_of: the node that it is about; empty for all of the process.
    """
    first = "".join(route(request).removeprefix(OF_NODE).split("/")[1:2])
    verb = _VERBS.get(request.method, request.method.lower())
    if first in _INTO_PODS:
        verb = "create"
    subresources = _SUBRESOURCES.get(first, ("proxy",))
    name = node_of(request)
    return [
        authorization.ResourceAttributes(verb, "nodes", subresource, name)
        for subresource in subresources
    ]


def route(request: web.Request) -> str:
    """The pattern that a request's path matched; empty where nothing is served."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def forbidden(user: authorization.User, wanted: Sequence[authorization.Attributes]) -> web.Response:
    """The kubelet's answer to who may not."""
    # They differ in the subresource only.
    asked = [cast("authorization.ResourceAttributes", each) for each in wanted]
    subresources = " ".join(each.subresource for each in asked)
    first = asked[0]
    text = (
        f"Forbidden (user={user.name}, verb={first.verb}, resource={first.resource}, "
        f"subresource(s)=[{subresources}])\n"
    )
    return web.Response(status=403, text=text, content_type="text/plain")


def delegated(
    api: client.Client,
) -> tuple[authorization.TokenAuthenticator, authorization.Authorizer]:
    """Have the API server say whose a token is and who may do what."""
    return (
        authorization.DelegatedTokens(api, ttl=TOKEN_TTL),
        authorization.DelegatedAuthorizer(api, allow_ttl=ALLOW_TTL, deny_ttl=DENY_TTL),
    )
