"""Rotating containers' logs: a log that has grown too large is put aside, and a new one begun.

Every ten seconds the logs of running containers are looked at. One of 10 MiB is renamed to
``0.log.20060102-150405`` and the runtime asked to go on in a new file; older ones are compressed
and of all of them five are kept, the current one included. The files are those that ``kubectl
logs`` and log collectors know from the kubelet.

Runs one loop, file work in threads; owns nothing. Answers to
``pkg/kubelet/logs/container_log_manager.go``.
"""

from __future__ import annotations

import asyncio
import gzip
import pathlib
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from whipstaff.node_agent import provider
from whipstaff.runtime import logs, objects

Object = objects.Object
Running = Callable[[], Iterable[tuple[Object, provider.RuntimeContainer]]]
Reopen = Callable[[], Awaitable[None]]

_COMPRESSED = ".gz"
_TEMPORARY = ".tmp"
_STAMP = "%Y%m%d-%H%M%S"

_log = logs.get("node_agent.log_rotation")


@dataclass(frozen=True, slots=True)
class Policy:
    """When logs are rotated.

    Attributes:
        size: bytes from which on a log is put aside; negative for never.
        files: how many files a container has at most.
        interval: seconds between two looks.
        workers: logs being rotated at a time, at most.
    """

    size: int = 10 << 20
    files: int = 5
    interval: float = 10.0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.files <= 1:
            raise ValueError(f"invalid MaxFiles {self.files}, must be > 1")


class Rotator:
    """Rotates the logs of running containers.

    Args:
        runtime: the provider, which is asked to reopen logs.
        running: the containers that run, with their pods.
        policy: when logs are rotated.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        runtime: provider.Provider,
        running: Running,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._runtime = runtime
        self._running = running
        self._policy = policy or Policy()
        self._clock = clock
        self._turns = asyncio.Semaphore(self._policy.workers)

    async def run(self) -> None:
        """Look every ten seconds, until cancelled."""
        if self._policy.size < 0:
            return
        while True:
            await self.look()
            await asyncio.sleep(self._policy.interval)

    async def look(self) -> None:
        """Rotate every log that has grown too large."""
        found = [(pod, run) for pod, run in self._running() if run.log_path]
        await asyncio.gather(*(self._look_at(pod, run) for pod, run in found))

    async def _look_at(self, pod: Object, run: provider.RuntimeContainer) -> None:
        log = pathlib.Path(run.log_path)
        async with self._turns:
            try:
                size = await asyncio.to_thread(_size, log)
                if size is None:
                    # Somebody has deleted it: without a new one the container's output is lost.
                    await self._runtime.reopen_log(pod, run)
                elif size >= self._policy.size:
                    await self._rotate(pod, run, log)
            except (OSError, provider.ProviderError) as error:
                _log.warning("a log can't be rotated", path=run.log_path, error=str(error))

    async def _rotate(self, pod: Object, run: provider.RuntimeContainer, log: pathlib.Path) -> None:
        await asyncio.to_thread(tidy, log, self._policy.files)
        aside = set_aside(log, self._clock())
        try:
            await self._runtime.reopen_log(pod, run)
        except provider.ProviderError:
            aside.rename(log)  # so that it is tried again
            raise


def tidy(log: pathlib.Path, files: int) -> None:
    """Make room for one more rotated log: delete the oldest ones, compress the others.

    Args:
        log: the current log.
        files: how many there may be in the end, the current one and the next included.

    Raises:
        OSError: a file can't be deleted or written.
    """
    used, unused = sort_out(sorted(log.parent.glob(f"{_escaped(log.name)}.*")))
    for path in unused:
        path.unlink()
    excess = max(len(used) - max(files - 2, 0), 0)
    for path in used[:excess]:
        path.unlink()
    for path in used[excess:]:
        if path.suffix != _COMPRESSED:
            _compress(path)


def delete(log: pathlib.Path) -> None:
    """Delete a container's log, rotated ones included.

    Raises:
        OSError: a file can't be deleted.
    """
    for path in log.parent.glob(f"{_escaped(log.name)}*"):
        path.unlink(missing_ok=True)


def sort_out(paths: Sequence[pathlib.Path]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Rotated logs that count, and leftovers of a rotation that was cut short."""
    names = {path.name for path in paths}
    unused = [
        path for path in paths if path.suffix == _TEMPORARY or path.name + _COMPRESSED in names
    ]
    return [path for path in paths if path not in unused], unused


def set_aside(log: pathlib.Path, now: float) -> pathlib.Path:
    """Rename the current log; returns its new name.

    Raises:
        OSError: it can't be renamed.
    """
    stamp = time.strftime(_STAMP, time.localtime(now))
    return log.rename(log.with_name(f"{log.name}.{stamp}"))


def _compress(path: pathlib.Path) -> None:
    """Compress a log under a temporary name first, so that half a file is never read."""
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        with path.open("rb") as source, gzip.open(temporary, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        temporary.chmod(path.stat().st_mode & 0o7777)
        temporary.rename(path.with_name(path.name + _COMPRESSED))
    finally:
        temporary.unlink(missing_ok=True)
    path.unlink()


def _size(log: pathlib.Path) -> int | None:
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return None


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
