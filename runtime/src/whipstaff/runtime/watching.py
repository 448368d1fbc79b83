"""A watch: one request whose answer is a line of JSON for every change.

Runs no loop of its own: the one who iterates drives it. Owns the splitting of the stream into
lines, since one object may be longer than any buffer. Answers to apimachinery ``pkg/watch`` and
client-go ``rest/watch``. Leaves out resuming, which needs what was seen so far: see `informer`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple, TypeAlias

import orjson

from whipstaff.runtime import errors, transport

# kube-apiserver sends a bookmark about once a minute; a stream without even that is dead.
SILENCE = 90.0
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class WatchEvent(NamedTuple):
    """A change: ``ADDED``, ``MODIFIED``, ``DELETED`` or ``BOOKMARK``, and the object after it.

    A deleted object comes as it was last, with the resourceVersion of its deletion.
    """

    type: str
    object: dict[str, Any]

    @property
    def ends_initial_events(self) -> bool:
        """Whether this bookmark says that everything which existed at the start has come."""
        if self.type != "BOOKMARK":
            return False
        annotations = self.object.get("metadata", {}).get("annotations") or {}
        return annotations.get(INITIAL_EVENTS_END) == "true"


Batch: TypeAlias = list[WatchEvent]


class Lines:
    """Puts lines together from chunks of any size."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that are complete with this chunk, without line ends."""
        lines = chunk.split(b"\n")
        # Pieces of a long line are joined once, at its end: its length may be megabytes.
        self._rest.append(lines[0])
        if len(lines) == 1:
            return []
        lines[0] = b"".join(self._rest)
        self._rest = [lines.pop()]
        return [line for line in lines if line]


async def batches(
    http: transport.Transport, target: str, identity: Mapping[str, str], *, silence: float = SILENCE
) -> AsyncGenerator[Batch, None]:
    """The events of a watch, as many at a time as have come; ends when the server ends it.

    The first batch is empty and says that the server has taken the watch up.

    Raises:
        errors.ApiError: the watch was refused, or an ERROR event came (`errors.Expired` when the
            resourceVersion is too old, either way).
        errors.Unreachable: no connection, it broke, or nothing came for `silence` seconds.
    """
    async with http.stream(target, identity, silence=silence) as response:
        if response.status != 200:
            raise refusal(await transport.answer(response))
        yield []
        lines = Lines()
        while chunk := await response.content.readany():
            events, problem = _decode_all(lines.feed(chunk))
            if events:
                yield events
            if problem is not None:
                raise problem


def _decode_all(lines: list[bytes]) -> tuple[Batch, errors.WhipstaffError | None]:
    """The events up to the first that is an error, and that error."""
    events: Batch = []
    try:
        events.extend(map(decode, lines))
    except errors.WhipstaffError as error:
        return events, error
    return events, None


def decode(line: bytes) -> WatchEvent:
    """One line of the stream.

    Raises:
        errors.ApiError: it is an ERROR event.
        errors.Unreachable: it isn't JSON, so something between mangles the stream.
    """
    try:
        event = orjson.loads(line)
        kind, thing = event["type"], event["object"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise errors.Unreachable(
            f"a watch sent something else than events: {line[:80]!r}"
        ) from error
    if kind == "ERROR":
        raise errors.from_status(thing.get("code") or 500, thing)
    return WatchEvent(kind, thing)


def refusal(answer: transport.Answer) -> errors.ApiError:
    """The error for an answer that isn't a success."""
    content: Any = answer.body.decode(errors="replace")
    if answer.is_json:
        try:
            content = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            content = "an answer that isn't the JSON that it says it is"
    try:
        retry_after = float(answer.retry_after)
    except ValueError:
        retry_after = None
    return errors.from_status(answer.status, content, retry_after)
