"""Service account tokens of pods: asked for once, and again before they end.

A token is bound to its pod, so it ends with the pod. A new one is asked for when four fifths of its
time are over, or after a day; if that fails, the old one is given out for as long as it is good.
Runs no loop and owns the tokens, in memory only. Answers to ``pkg/kubelet/token/token_manager.go``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from whipstaff.node_agent import patience
from whipstaff.runtime import client, errors, logs, objects, resources

Object = objects.Object

_DAY = 24 * 3600.0
_JITTER = 10.0
# The share of its time that is left when a token is replaced.
_REST = 0.2
_PAUSE = 30.0

_log = logs.get("node_agent.tokens")

_Key = tuple[str, str, str, int]


class TokenError(errors.WhipstaffError):
    """There is no token to be had; the text is upstream's."""


@dataclass(slots=True)
class _Token:
    """A token; times are seconds since the epoch.

    Attributes:
        renew_at: when another one is to be asked for.
    """

    text: str
    expires_at: float
    renew_at: float


class Tokens:
    """The tokens of a node's pods.

    Args:
        api: the client, which must be the node's: the API server gives a node tokens for those
            service accounts only that pods on it run as.
        clock: seconds since the epoch.
    """

    def __init__(self, api: client.Client, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._tokens: dict[str, dict[_Key, _Token]] = {}

    async def get(self, pod: Object, audience: str = "", seconds: int | None = None) -> str:
        """A token that is good for a while.

        Args:
            pod: the pod that it is bound to.
            audience: who it is for; empty for the API server.
            seconds: how long it is to be good for; None leaves that to the API server.

        Raises:
            TokenError: there is none to be had.
        """
        metadata = pod["metadata"]
        account = pod["spec"].get("serviceAccountName") or ""
        key = (metadata["namespace"], account, audience, seconds or 0)
        known = self._tokens.get(metadata["uid"], {}).get(key)
        now = self._clock()
        if known is not None and now < min(known.renew_at, known.expires_at):
            return known.text
        try:
            fresh = await self._request(pod, account, audience, seconds)
        except (errors.WhipstaffError, ValueError) as error:
            if known is None:
                raise TokenError(f"failed to fetch token: {_text(error)}") from error
            known.renew_at = now + _PAUSE
            if now >= known.expires_at:
                raise TokenError(f"token expired and refresh failed: {_text(error)}") from error
            _log.warning("a token couldn't be renewed yet", pod=objects.key(pod), error=str(error))
            return known.text
        self._tokens.setdefault(metadata["uid"], {})[key] = fresh
        return fresh.text

    def refresh_at(self, uid: str) -> float | None:
        """When the first of a pod's tokens is to be renewed; None where it has none."""
        return min((t.renew_at for t in self._tokens.get(uid, {}).values()), default=None)

    def forget(self, uid: str) -> None:
        """A pod is gone."""
        self._tokens.pop(uid, None)

    async def _request(
        self, pod: Object, account: str, audience: str, seconds: int | None
    ) -> _Token:
        metadata = pod["metadata"]
        reference = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        spec: Object = {"audiences": [audience] if audience else [], "boundObjectRef": reference}
        if seconds is not None:
            spec["expirationSeconds"] = seconds
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {},
            "spec": spec,
        }
        answer = await patience.allowed(
            lambda: self._api.create(
                resources.SERVICEACCOUNTS,
                body,
                metadata["namespace"],
                name=account,
                subresource="token",
            )
        )
        status = answer["status"]
        expires_at = objects.parse_time(status["expirationTimestamp"])
        lasts = float((answer.get("spec") or {}).get("expirationSeconds") or seconds or 3600)
        renew_at = min(expires_at - lasts + _DAY, expires_at - lasts * _REST)
        return _Token(status["token"], expires_at, renew_at - random.uniform(0, _JITTER))


def _text(error: Exception) -> str:
    """What the API server said, without the status code, as upstream shows it."""
    return error.message if isinstance(error, errors.ApiError) and error.message else str(error)
