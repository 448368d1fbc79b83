"""News of a directory's files, from the kernel.

`Watch` is an event that is set when something in a directory was written, made, moved or deleted.
Where the kernel has no watch left to give (they are limited per user), only time wakes who waits.
Owns a file descriptor; runs no loop. Answers to ``fsnotify``, as far as logs need it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from typing import Self

from whipstaff.runtime import logs

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_NEWS = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_ONLYDIR = 0x01000000
_BUFFER = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)
_log = logs.get("node_agent.inotify")


class Watch:
    """Watches one directory; use it as a context manager.

    Args:
        directory: what to watch, not what is below its directories.
        unwatched: seconds between two looks where the kernel can't watch.
    """

    def __init__(self, directory: str, unwatched: float = 0.2) -> None:
        self._directory = directory
        self._unwatched = unwatched
        self._news = asyncio.Event()
        self._descriptor = -1

    def __enter__(self) -> Self:
        descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        path = os.fsencode(self._directory)
        if descriptor < 0 or _libc.inotify_add_watch(descriptor, path, _NEWS | _ONLYDIR) < 0:
            why = os.strerror(ctypes.get_errno())
            _log.info("can't be watched", directory=self._directory, error=why)
            if descriptor >= 0:
                os.close(descriptor)
            return self
        self._descriptor = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    async def wait(self, seconds: float) -> bool:
        """Wait for news, at most so long; whether there are some (there may be, unwatched)."""
        if self._descriptor < 0:
            await asyncio.sleep(min(self._unwatched, seconds))
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        found = self._news.is_set()
        self._news.clear()
        return found

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, _BUFFER)
        self._news.set()
