"""Keeps processes running, as the first process of a container: starts, restarts, reaps, signals.

One loop: whatever ends is reaped, as nobody else does that in a container. A child that ends by
itself is started again, unless it says that starting it again is no use (exit code 2). SIGTERM and
SIGINT end the loop, not the children: those are ended one by one, by who knows the order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType

from whipstaff.runtime import errors, logs

USELESS = 2  # the exit code for a configuration that can't be used
_PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0)  # seconds before a child is started again
_HEALTHY = 60.0  # seconds after which a child that ends counts as one that worked
_POLL = 0.2

_log = logs.get("node_agent.twin")


@dataclass(slots=True)
class Child:
    """A process that is to run.

    Attributes:
        name: for the log.
        command: what is run.
    """

    name: str
    command: Sequence[str]
    pid: int = 0
    _started: float = 0.0
    _failures: int = 0
    _due: float = field(default=0.0)

    def start(self) -> None:
        """Start it."""
        process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        process.returncode = 0  # it is reaped here, not by the object
        self.pid, self._started = process.pid, time.monotonic()

    def ended(self, status: int) -> None:
        """It has ended, with the status that ``waitpid`` gives.

        Raises:
            errors.ConfigurationError: starting it again is no use.
        """
        code = os.waitstatus_to_exitcode(status)
        self.pid = 0
        if code == USELESS:
            raise errors.ConfigurationError(f"{self.name} can't work with what it was told")
        now = time.monotonic()
        self._failures = 0 if now - self._started > _HEALTHY else self._failures + 1
        pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._due = now + pause
        _log.warning("process ended", process=self.name, code=code, restart_in=pause)

    @property
    def is_due(self) -> bool:
        """Whether it is to be started now."""
        return not self.pid and time.monotonic() >= self._due


class Supervisor:
    """The children, in the order in which they were started."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._told = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._told = True

    @property
    def told(self) -> bool:
        """Whether this process was told to end."""
        return self._told

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a process that is to run until it is stopped."""
        child = Child(name, command)
        child.start()
        self._children.append(child)
        return child

    def run(self, until: Callable[[], bool]) -> None:
        """Keep all children running until something holds, or this process was told to end.

        Raises:
            errors.ConfigurationError: a child can't work with what it was told.
        """
        while not self._told and not until():
            self._reap()
            for child in self._children:
                if child.is_due:
                    child.start()
            time.sleep(_POLL)

    def stop(self, child: Child, seconds: float) -> None:
        """End a child: SIGTERM, and SIGKILL when it takes longer than so many seconds."""
        self._children.remove(child)
        deadline = time.monotonic() + seconds
        if child.pid:
            os.kill(child.pid, signal.SIGTERM)
        while child.pid:
            if time.monotonic() > deadline:
                os.kill(child.pid, signal.SIGKILL)
            self._reap(also=child)
            time.sleep(_POLL / 10)

    def _reap(self, also: Child | None = None) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if also is not None and also.pid == pid:
                also.pid = 0
            for child in self._children:
                if child.pid == pid:
                    child.ended(status)
