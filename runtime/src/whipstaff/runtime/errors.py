"""What goes wrong, as types: each says in one line of text what a user should read.

Runs no loop and owns nothing. The command line turns `ConfigurationError` into exit code 2 and any
other `WhipstaffError` into exit code 1, without a traceback, so ``str(error)`` is a whole sentence
that names the file, field, object or server it is about.

Answers to apimachinery ``pkg/api/errors/errors.go``: an answer of the API server that isn't a
success becomes the subclass of `ApiError` for its status code and reason, so that callers write
``except errors.Conflict`` where Go asks ``IsConflict(err)``. Leaves out upstream's constructors of
such answers (a client receives them and makes none) and reasons nobody here acts on.
"""

# ruff: noqa: N818 (the names are the reasons of the API server's own answers)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class WhipstaffError(Exception):
    """Anything whose text is a line fit for a user."""


class ConfigurationError(WhipstaffError):
    """A file, flag or field that can't be used as it is; the text names the file and the field."""


class StartupError(WhipstaffError):
    """What a component needs before it starts isn't there: API server, identity, rights."""


class Unreachable(WhipstaffError):
    """The API server gave no answer: refused, reset, TLS failure, time-out, a dead stream."""


class Untrusted(Unreachable):
    """The server's certificate doesn't prove that it is the API server asked for."""


class ApiError(WhipstaffError):
    """The API server answered, and the answer is no.

    Attributes:
        status: the HTTP status code.
        reason: the machine-readable reason of the ``Status`` object, e.g. ``AlreadyExists``; empty
            where the answer carried none.
        message: the API server's own sentence.
        details: the ``Status`` object's ``details`` (``name``, ``kind``, ``causes``, ...).
        retry_after: seconds that the server asks to wait before the next try; None when it didn't.
    """

    def __init__(
        self,
        status: int,
        reason: str = "",
        message: str = "",
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        self.retry_after = retry_after
        text = " ".join(message.split()) or reason or "no reason given"
        super().__init__(f"{text} (HTTP {status})")


class BadRequest(ApiError):
    """400: the request can't be understood."""


class Unauthorized(ApiError):
    """401: the API server doesn't know who is asking."""


class Forbidden(ApiError):
    """403: it knows, and this user may not (RBAC, or an admission plugin such as quota)."""


class NotFound(ApiError):
    """404: no such object, or no such resource."""


class MethodNotAllowed(ApiError):
    """405: this resource doesn't know the verb."""


class Conflict(ApiError):
    """409: the object changed since it was read, or a precondition doesn't hold."""


class AlreadyExists(ApiError):
    """409 with the reason AlreadyExists: the name is taken."""


class Expired(ApiError):
    """410: the resourceVersion is too old to go on from; list again."""


class Invalid(ApiError):
    """422: the object fails validation; ``details["causes"]`` says where."""


class TooManyRequests(ApiError):
    """429: the API server is shedding load, or an eviction must wait; see `retry_after`."""


class ServerError(ApiError):
    """5xx: the API server failed, or couldn't reach what it needs."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    409: Conflict,
    410: Expired,
    422: Invalid,
    429: TooManyRequests,
}


def is_namespace_terminating(error: WhipstaffError) -> bool:
    """Whether nothing can be created because the namespace is about to go."""
    if not isinstance(error, ApiError):
        return False
    causes = error.details.get("causes") or ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def from_status(status: int, answer: Any, retry_after: float | None = None) -> ApiError:
    """The error for an answer: a decoded ``Status`` object, or whatever else came with the code.

    Args:
        status: the HTTP status code (a watch's ERROR event carries it in the ``code`` field).
        answer: the decoded body; text and anything that isn't a ``Status`` becomes the message.
        retry_after: the ``Retry-After`` header, in seconds.
    """
    if not isinstance(answer, Mapping) or answer.get("kind") != "Status":
        text = answer if isinstance(answer, str) else ""
        return _type_of(status, "")(status, message=text[:1000].strip(), retry_after=retry_after)
    reason = answer.get("reason") or ""
    details = answer.get("details") or {}
    if retry_after is None and details.get("retryAfterSeconds"):
        retry_after = float(details["retryAfterSeconds"])
    message = answer.get("message") or ""
    return _type_of(status, reason)(status, reason, message, details, retry_after)


def _type_of(status: int, reason: str) -> type[ApiError]:
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExists
    if status >= 500:
        return ServerError
    return _BY_STATUS.get(status, ApiError)
