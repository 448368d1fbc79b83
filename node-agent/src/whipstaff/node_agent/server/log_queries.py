"""What is asked of a node's logs: ``/logs/?query=kubelet&tailLines=100``, read and checked.

Pure. Answers to ``pkg/kubelet/kubelet_server_journal.go``; unlike there, times mean the same
whatever the machine's time zone is, and a pattern is checked by journalctl only.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import multidict

MOST_LINES = 100_000
_LONGEST_NAME = 256
_MOST_SERVICES = 4
_UNSAFE = re.compile(r"[^a-zA-Z\-_.:0-9@]")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_NUMBER = re.compile(r"[+-]?\d{1,18}")


class MalformedError(Exception):
    """A query that can't be read; the text says why."""


class RefusedError(Exception):
    """A query that can be read, but not answered; the text says why."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for.

    Attributes:
        services: whose logs.
        files: which file, relative to the directory of logs.
        since, until: seconds since the epoch.
        lines: only the last so many.
        boot: 0 for the current one, -1 for the one before it, and so on.
        pattern: only lines with this.
    """

    services: Sequence[str] = ()
    files: Sequence[str] = ()
    since: int | None = None
    until: int | None = None
    lines: int | None = None
    boot: int | None = None
    pattern: str = ""

    @property
    def has_options(self) -> bool:
        """Whether something is asked for that only a journal can do."""
        given = (self.since, self.until, self.lines, self.boot)
        return bool(self.pattern) or any(each is not None for each in given)


def parse(asked: multidict.MultiMapping[str]) -> Query | None:
    """What is asked for; None where nothing is, and a plain file is meant.

    Raises:
        MalformedError: a value can't be read.
    """
    complaints: list[str] = []
    given = asked.getall("query", [])
    # A slash tells a file from a service.
    files = [each for each in given if "/" in each or "\\" in each]
    services = [each for each in given if each not in files and each.strip()]
    if given and not files and not services:
        complaints.append(f"query: Invalid value: {_quoted(given)}: may not be empty")
    query = Query(
        services=services,
        files=files,
        since=_time(asked, "sinceTime", complaints),
        until=_time(asked, "untilTime", complaints),
        lines=_number(asked, "tailLines", complaints),
        boot=_number(asked, "boot", complaints),
        pattern=asked.get("pattern", ""),
    )
    if complaints:
        raise MalformedError(_together(complaints))
    return query if files or services or query.has_options else None


def check(query: Query) -> None:
    """See that a query can be answered.

    Raises:
        RefusedError: it can't.
    """
    complaints = [*_wrong_services(query.services), *_wrong_targets(query)]
    if query.since is not None and query.until is not None and query.since > query.until:
        complaints.append("untilTime: Invalid value: must be after `sinceTime`")
    if query.boot is not None and query.boot > 0:
        complaints.append(f"boot: Invalid value: {query.boot}: must be less than 1")
    if query.lines is not None and not 0 <= query.lines <= MOST_LINES:
        complaints.append(
            f"tailLines: Invalid value: {query.lines}: "
            f"must be between 0 and {MOST_LINES}, inclusive"
        )
    if "\0" in query.pattern:
        complaints.append("pattern: Invalid value: contains a NUL")
    if complaints:
        raise RefusedError(_together(complaints))


def journal_arguments(query: Query, services: Iterable[str]) -> list[str]:
    """What journalctl is told: nothing of it can be taken for another option."""
    arguments = ["--utc", "--no-pager", "--output=short-precise"]
    if query.since is not None:
        arguments.append(f"--since=@{query.since}")
    if query.until is not None:
        arguments.append(f"--until=@{query.until}")
    if query.lines is not None:
        arguments.append(f"--lines={query.lines}")
    arguments += [f"--unit={service}" for service in services]
    if query.pattern:
        arguments.append(f"--grep={query.pattern}")
    if query.boot is not None:
        arguments.append(f"--boot={query.boot}")
    return arguments


def files_of(service: str) -> Sequence[str]:
    """Where a service may log to that doesn't log to the journal, the likeliest first."""
    return (service, f"{service}.log", f"{service}/{service}.log")


def _wrong_services(services: Sequence[str]) -> Iterable[str]:
    for service in services:
        if len(service) > _LONGEST_NAME:
            why = f"length must be less than {_LONGEST_NAME}"
            yield f"query: Invalid value: {_quoted(service)}: {why}"
        elif _UNSAFE.search(service):
            why = "input contains unsupported characters"
            yield f"query: Invalid value: {_quoted(service)}: {why}"
    if len(services) > _MOST_SERVICES:
        most = f"must have at most {_MOST_SERVICES} items"
        yield f"query: Too many: {len(services)}: {most}"


def _wrong_targets(query: Query) -> Iterable[str]:
    files = _quoted(query.files)
    if not query.files and not query.services:
        yield "query: Required value: cannot be empty with options"
    elif query.files and query.services:
        yield f"query: Invalid value: {files}: cannot specify a file and service"
    elif len(query.files) > 1:
        yield f"query: Invalid value: {files}: cannot specify more than one file"
    elif query.files and query.has_options:
        yield f"query: Invalid value: {files}: cannot specify file with options"


def _time(asked: multidict.MultiMapping[str], name: str, complaints: list[str]) -> int | None:
    text = asked.get(name, "")
    if not text:
        return None
    if _TIME.fullmatch(text) is not None:
        with contextlib.suppress(ValueError, OverflowError):
            return int(datetime.datetime.fromisoformat(text).timestamp())
    complaints.append(f"{name}: Invalid value: {_quoted(text)}: invalid time format")
    return None


def _number(asked: multidict.MultiMapping[str], name: str, complaints: list[str]) -> int | None:
    text = asked.get(name, "")
    if not text:
        return None
    if _NUMBER.fullmatch(text) is None:
        complaints.append(f"{name}: Invalid value: {_quoted(text)}: not a number")
        return None
    return int(text)


def _quoted(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "[" + ", ".join(_quoted(each) for each in value) + "]"


def _together(complaints: Sequence[str]) -> str:
    return complaints[0] if len(complaints) == 1 else f"[{', '.join(complaints)}]"
