"""Log files on this machine: read from their end or whole, and followed over rotation.

`read` yields what is to be sent of a log. It follows a log for as long as its container runs: when
the file is moved away, what is still written to it is read, then the file that took its name.
Symbolic links aren't followed: whoever can write to the directory of logs could show any file of
the node with one. Runs no loop; each call owns its file. Answers to ReadLogs in
``k8s.io/cri-client/pkg/logs``. Leaves out files that were rotated before, as upstream does.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from whipstaff.node_agent import inotify
from whipstaff.node_agent.server import log_lines

_CHUNK = 128 * 1024
_LONGEST_LINE = 1024 * 1024
# How often a followed log is looked at without news.
_LOOK_AGAIN = 1.0
# What a container wrote last may still be on its way into the file when it is known to have ended.
_SETTLING = 0.2
# How long a new file may stay empty before the one that it replaces counts as complete.
_HANDING_OVER = 1.0


class UnreadableError(Exception):
    """A log that can't be read; the text says why."""


def open_log(path: str) -> int:
    """A file descriptor of a log.

    Raises:
        UnreadableError: there is no such file, or it is no plain file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UnreadableError(f'failed to open log file "{path}": {why}') from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableError(f'failed to open log file "{path}": not a regular file')
    return descriptor


def tail_start(descriptor: int, lines: int) -> int:
    """Where the last so many lines begin; a line without its end isn't counted."""
    position = os.fstat(descriptor).st_size
    left = lines
    while position > 0:
        start = max(position - _CHUNK, 0)
        block = os.pread(descriptor, position - start, start)
        found = block.count(b"\n")
        if found > left:
            at = len(block)
            for _ in range(left + 1):
                at = block.rfind(b"\n", 0, at)
            return start + at + 1
        left -= found
        position = start
    return 0


async def read(
    path: str,
    descriptor: int,
    wanted: log_lines.Options,
    running: Callable[[], bool],
    complain: Callable[[bytes], None],
) -> AsyncGenerator[bytes, None]:
    """What is to be sent of a log, in pieces; empty ones say that it is still followed.

    Args:
        path: where the log is, for when it is rotated.
        descriptor: it, from `open_log`; closed when this ends.
        wanted: what is wanted of it.
        running: whether its container may still write to it.
        complain: told of lines that can't be read.

    Raises:
        UnreadableError: it is no log.
    """
    file = _File(path, descriptor)
    formatter = log_lines.Formatter(wanted, complain)
    try:
        if wanted.tail is not None:
            start = await asyncio.to_thread(tail_start, descriptor, wanted.tail)
            os.lseek(descriptor, start, os.SEEK_SET)
        async for lines in _lines(file, running if wanted.follow else None):
            yield _format(lines, formatter)
            if formatter.enough:
                return
    finally:
        file.close()


def _format(lines: list[bytes], formatter: log_lines.Formatter) -> bytes:
    pieces = []
    for line in lines:
        if formatter.enough:
            break
        pieces.append(formatter.feed(line))
    return b"".join(pieces)


async def _lines(file: _File, running: Callable[[], bool] | None) -> AsyncIterator[list[bytes]]:
    """The lines of a file, as they come; without `running`, those that are there."""
    alive = True
    with contextlib.ExitStack() as stack:
        watch: inotify.Watch | None = None
        while True:
            lines = await asyncio.to_thread(file.lines)
            if lines:
                yield lines
                continue
            if running is None:
                yield file.rest()
                return
            if not alive:
                if not file.advance(math.inf):
                    return
                continue
            if watch is None:
                # What was written before the watch was there has no news.
                watch = stack.enter_context(inotify.Watch(os.path.dirname(file.path)))  # noqa: PTH120
                continue
            alive = running()
            if not alive:
                await asyncio.sleep(_SETTLING)
            elif not file.advance(time.monotonic()):
                yield []
                await watch.wait(_HANDING_OVER if file.is_replaced else _LOOK_AGAIN)


class _File:
    """A log's file, and the one that takes its place."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._successor = -1
        self._replaced_at = 0.0
        self._drained = False
        self._begun = False
        self._partial = b""

    @property
    def is_replaced(self) -> bool:
        """Whether another file has its name."""
        return self._successor >= 0

    def lines(self) -> list[bytes]:
        """The next complete lines; none at the end of the file."""
        while True:
            chunk = os.read(self._descriptor, _CHUNK)
            if not chunk:
                return []
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            if len(self._partial) > _LONGEST_LINE:
                raise UnreadableError(f"a line of {self.path} is too long")
            if lines:
                return self._checked([line + b"\n" for line in lines])

    def rest(self) -> list[bytes]:
        """A last line without an end."""
        lines, self._partial = ([self._partial] if self._partial else []), b""
        return self._checked(lines)

    def _checked(self, lines: list[bytes]) -> list[bytes]:
        if lines and not self._begun:
            self._begun = True
            if not log_lines.is_log(lines[0]):
                shown = lines[0][:100].decode(errors="replace")
                raise UnreadableError(
                    f'failed to get parse function: unsupported log format: "{shown}"'
                )
        return lines

    def advance(self, now: float) -> bool:
        """At the end of the file, go to where there may be more; False where that is nowhere.

        The old file is read once more after the new one has content: from then on nothing is
        written to it.
        """
        size = os.fstat(self._descriptor).st_size
        if size < os.lseek(self._descriptor, 0, os.SEEK_CUR):
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._partial = b""
            return True
        if not self.is_replaced and not self._find_successor(now):
            return False
        if not self._drained:
            handed_over = os.fstat(self._successor).st_size > 0
            self._drained = handed_over or now - self._replaced_at >= _HANDING_OVER
            return self._drained
        os.close(self._descriptor)
        self._descriptor, self._successor = self._successor, -1
        self._drained, self._partial = False, b""
        return True

    def _find_successor(self, now: float) -> bool:
        try:
            if os.path.samestat(os.lstat(self.path), os.fstat(self._descriptor)):
                return False
            self._successor = open_log(self.path)
        except (FileNotFoundError, UnreadableError):
            return False
        self._replaced_at = now
        return True

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in (self._descriptor, self._successor):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._successor = -1
