"""Processes of one cluster: started with a log each, recognised later, ended for certain.

A pid alone may have gone to a stranger by the time it is used, so a process is known by its pid and
the time it was created. Everything here is about one process at a time; who is restarted when is
the supervisor's business.
"""

import os
import pathlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import psutil

from whipstaff.cluster import files
from whipstaff.runtime import errors

_POLL = 0.02
_CLOCK_TICK = 0.05  # seconds by which two readings of a creation time may differ


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that can be told from a later one with the same pid."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """The identity of a running process; raises psutil.NoSuchProcess when it has gone."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The process, or None when it has ended or its pid belongs to another one."""
        try:
            found = psutil.Process(self.pid)
            if abs(found.create_time() - self.created) > _CLOCK_TICK:
                return None
            return None if found.status() == psutil.STATUS_ZOMBIE else found
        except psutil.NoSuchProcess:
            return None


class Process:
    """A process that this one started."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: pathlib.Path) -> None:
        self.name = name
        self.log = log
        self.identity = Identity(popen.pid, psutil.Process(popen.pid).create_time())
        self._popen = popen

    @classmethod
    def start(
        cls,
        name: str,
        argv: Sequence[str],
        log: pathlib.Path,
        environ: Mapping[str, str] | None = None,
    ) -> "Process":
        """Start ``argv`` in a session of its own, its output appended to ``log``.

        Raises:
            StartupError: the program can't be run.
        """
        files.private_folder(log.parent)
        with log.open("ab") as output:
            try:
                popen = _popen(argv, output, environ)
            except OSError as error:
                raise errors.StartupError(f"{name} can't be started: {error}") from None
        return cls(name, popen, log)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; the exit code, or the negated signal that ended it."""
        return self._popen.poll()

    def stop(self, grace: float) -> None:
        """SIGTERM, up to ``grace`` seconds to leave, then SIGKILL; returns when it is gone."""
        if grace > 0:
            self._popen.terminate()
            try:
                self._popen.wait(grace)
            except subprocess.TimeoutExpired:
                pass
            else:
                return
        self._popen.kill()
        self._popen.wait()


def _popen(
    argv: Sequence[str], output: IO[bytes], environ: Mapping[str, str] | None
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # Ctrl-C in the terminal is for the command that shows progress, not for the cluster.
        start_new_session=True,
        env=None if environ is None else {**os.environ, **environ},
    )


def end(identity: Identity, grace: float) -> None:
    """End a process that may be nobody's child, and wait until it is gone."""
    process = identity.process()
    if process is None:
        return
    try:
        process.terminate()
        if _gone(identity, grace):
            return
        process.kill()
    except psutil.NoSuchProcess:
        return
    if not _gone(identity, grace=10):
        raise errors.StartupError(f"process {identity.pid} doesn't end, even when killed")


def _gone(identity: Identity, grace: float) -> bool:
    deadline = time.monotonic() + grace
    while identity.process() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def tail(log: pathlib.Path, lines: int = 10, *, limit: int = 64 * 1024) -> list[str]:
    """The last non-empty ``lines`` of a log file; nothing when there is no file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]


def describe_exit(status: int) -> str:
    """How a process ended, in words."""
    return f"was ended by signal {-status}" if status < 0 else f"exited with code {status}"
