"""Lines of container logs, as the CRI has them: what of them a request asks for.

A line is ``TIMESTAMP stdout|stderr P|F TEXT``; one of several parts (``P``) has its end in a later
line. Pure. Answers to ``k8s.io/cri-client/pkg/logs`` and to ValidatePodLogOptions in
``pkg/apis/core/validation``. Leaves out Docker's JSON lines.
"""

from __future__ import annotations

import calendar
import datetime
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

_LINE = re.compile(
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) "
    rb"(stdout|stderr) ([^ ]*) (.*)",
    re.DOTALL,
)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)")
_FALSE = frozenset({"0", "false"})
_SECOND = 1_000_000_000

Stream = Literal["All", "Stdout", "Stderr"]


class InvalidOptionsError(ValueError):
    """The options of a request can't be; `status` is the HTTP status that says so."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Options:
    """Which part of a log is wanted, as in PodLogOptions. None where it isn't limited.

    Attributes:
        since: nanoseconds since the epoch.
    """

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    since: int | None = None
    tail: int | None = None
    limit: int | None = None
    stream: Stream = "All"


def options(query: Mapping[str, str], now: float) -> Options:
    """What the query of a request asks for.

    Raises:
        InvalidOptionsError: what it asks for can't be.
    """
    given = {key: value for key, value in query.items() if value != ""}
    tail = given.get("tail", given.get("tailLines"))
    if tail == "all":
        tail = None
    try:
        numbers = {
            "tailLines": None if tail is None else int(tail),
            "limitBytes": int(given["limitBytes"]) if "limitBytes" in given else None,
            "sinceSeconds": int(given["sinceSeconds"]) if "sinceSeconds" in given else None,
        }
        since_time = nanoseconds(given["sinceTime"]) if "sinceTime" in given else None
        flags = {
            name: _flag(query[name])
            for name in ("follow", "previous", "timestamps")
            if name in query
        }
    except ValueError as error:
        raise InvalidOptionsError(400, '{"message": "Unable to decode query."}') from error
    stream = given.get("stream", "All")
    seconds = numbers["sinceSeconds"]
    if not _valid(numbers, since_time, stream):
        raise InvalidOptionsError(422, '{"message": "Invalid request."}')
    return Options(
        since=since_time if seconds is None else int((now - seconds) * _SECOND),
        tail=numbers["tailLines"],
        limit=numbers["limitBytes"],
        stream=stream,  # type: ignore[arg-type]
        **flags,
    )


def _valid(numbers: Mapping[str, int | None], since_time: int | None, stream: str) -> bool:
    tail, limit, seconds = numbers["tailLines"], numbers["limitBytes"], numbers["sinceSeconds"]
    return (
        (tail is None or tail >= 0)
        and (limit is None or limit >= 1)
        and (seconds is None or (seconds >= 1 and since_time is None))
        and stream in {"All", "Stdout", "Stderr"}
        and (stream == "All" or tail is None)
    )


def _flag(text: str) -> bool:
    return text.lower() not in _FALSE


def nanoseconds(text: str) -> int:
    """A point in time (RFC 3339) in nanoseconds since the epoch.

    Raises:
        ValueError: it is none.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time")
    return _nanoseconds(found[1].upper(), found[2] or "", found[3].upper())


def _nanoseconds(seconds: str, fraction: str, zone: str) -> int:
    return _whole(seconds, zone) * _SECOND + int(fraction.ljust(9, "0"))


# Neighbouring lines are of the same second.
@functools.lru_cache(maxsize=64)
def _whole(seconds: str, zone: str) -> int:
    whole = calendar.timegm(datetime.datetime.fromisoformat(seconds).timetuple())
    if zone != "Z":
        sign = -1 if zone[0] == "-" else 1
        whole -= sign * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60)
    return whole


class Formatter:
    """Turns a log's lines into what is to be sent, until it has `enough`.

    Args:
        wanted: what is wanted of them.
        complain: told of lines that can't be read, which are left out.
    """

    def __init__(self, wanted: Options, complain: Callable[[bytes], None]) -> None:
        self._wanted = wanted
        self._complain = complain
        self._remaining = wanted.limit
        self._lines_left = wanted.tail if not wanted.follow else None
        self._at_start = True
        self._stream = None if wanted.stream == "All" else wanted.stream.lower().encode()
        self.enough = self._lines_left == 0

    def feed(self, line: bytes) -> bytes:
        """What is to be sent of one line, which ends as in the file."""
        found = _LINE.match(line)
        if found is None:
            self._complain(line)
            return b""
        seconds, fraction, zone, stream, tags, text = found.groups()
        if tags.split(b":", 1)[0] == b"P" and text.endswith(b"\n"):
            text = text[:-1]
        result = b""
        if self._is_wanted(seconds, fraction, zone, stream):
            if self._wanted.timestamps and self._at_start:
                digits = (fraction or b"").ljust(9, b"0")
                result = b"%b.%b%b " % (seconds, digits, zone)
            result = self._cut(result + text)
        self._at_start = not text or text.endswith(b"\n")
        if self._lines_left is not None:
            self._lines_left -= 1
            self.enough = self.enough or self._lines_left <= 0
        return result

    def _is_wanted(
        self, seconds: bytes, fraction: bytes | None, zone: bytes, stream: bytes
    ) -> bool:
        since = self._wanted.since
        if since is not None:
            at = _nanoseconds(seconds.decode(), (fraction or b"").decode(), zone.decode())
            if at < since:
                return False
        return self._stream is None or self._stream == stream

    def _cut(self, data: bytes) -> bytes:
        if self._remaining is None:
            return data
        data = data[: self._remaining]
        self._remaining -= len(data)
        self.enough = self.enough or self._remaining <= 0
        return data


def is_log(line: bytes) -> bool:
    """Whether a file that begins with this line is a log."""
    return _LINE.match(line) is not None
