"""Processes of one cluster: started with a log each, recognised later, ended for certain.

A pid alone may have gone to a stranger by the time it is used, so a process is known by its pid and
its birth. Every process that is started carries the name of its owner in its environment, so that
one whose record was lost is found all the same. Everything here is about single processes; who is
restarted when is the supervisor's business.
"""

import contextlib
import os
import pathlib
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import psutil

from whipstaff.cluster import files
from whipstaff.runtime import errors

OWNER = "WHIPSTAFF_CLUSTER"  # in the environment of every process: the data directory
_POLL = 0.02
_KILLED = 10.0  # seconds after which a killed process that is still there is an error


def _birth(process: psutil.Process) -> str:
    """A text that no later process with the same pid has.

    Linux counts in ticks since the boot, and the boot has an id: both stay true when the wall clock
    is set, which moves psutil's creation times.
    """
    proc = pathlib.Path("/proc")
    if not (proc / "self" / "stat").exists():
        return f"{process.create_time():.2f}"
    try:
        stat = (proc / str(process.pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(process.pid) from None
    # The second field, the command in parentheses, may hold spaces; the 22nd is the start time.
    ticks = stat.rpartition(")")[2].split()[19]
    boot = (proc / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
    return f"{boot}/{ticks}"


def _is_over(process: psutil.Process) -> bool:
    """Whether a process is dead and merely not reaped.

    Not yet when only its first thread is: the others hold its ports until they have ended as well.
    """
    if process.status() != psutil.STATUS_ZOMBIE:
        return False
    tasks = pathlib.Path("/proc", str(process.pid), "task")
    try:
        return len(list(tasks.iterdir())) <= 1
    except OSError:
        return True


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that can be told from a later one with the same pid."""

    pid: int
    birth: str

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """The identity of a process; raises psutil.NoSuchProcess when there is none."""
        return cls(pid, _birth(psutil.Process(pid)))

    def process(self) -> psutil.Process | None:
        """The process, or None when it has ended or its pid belongs to another one."""
        try:
            found = psutil.Process(self.pid)
            if _birth(found) != self.birth or _is_over(found):
                return None
        except psutil.NoSuchProcess:
            return None
        return found


class Process:
    """A process that this one started."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: pathlib.Path) -> None:
        self.name = name
        self.log = log
        # Not reaped before `exit_status` looks, so it can be identified even if it ended at once.
        self.identity = Identity.of(popen.pid)
        self._popen = popen

    @classmethod
    def start(
        cls,
        name: str,
        argv: Sequence[str],
        log: pathlib.Path,
        *,
        owner: pathlib.Path,
        environ: Mapping[str, str] | None = None,
    ) -> "Process":
        """Start ``argv`` in a session of its own, its output appended to ``log``.

        Raises:
            StartupError: the program can't be run.
        """
        files.private_folder(log.parent)
        variables = {**os.environ, **(environ or {}), OWNER: str(owner)}
        with log.open("ab") as output:
            try:
                popen = _popen(argv, output, variables)
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
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace)
        self._popen.kill()
        self._popen.wait()


def _popen(
    argv: Sequence[str], output: IO[bytes], environ: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # Ctrl-C in the terminal is for the command that shows progress, not for the cluster.
        start_new_session=True,
        env=dict(environ),
    )


def end(identities: Collection[Identity], grace: float) -> int:
    """End processes that may be nobody's children, and wait until all are gone.

    Args:
        identities: those to end; some may have ended already.
        grace: seconds that they have after SIGTERM; then they are killed.

    Returns:
        How many were running.

    Raises:
        StartupError: one is still there after being killed.
    """
    running = [identity for identity in identities if identity.process() is not None]
    for send, patience in ((psutil.Process.terminate, grace), (psutil.Process.kill, _KILLED)):
        for identity in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                if (process := identity.process()) is not None:
                    send(process)
        if _gone(running, patience):
            return len(running)
    pids = ", ".join(str(found.pid) for found in running if found.process() is not None)
    raise errors.StartupError(f"these processes don't end, even when killed: {pids}")


def owned_by(owner: pathlib.Path, *, but: str | None = None) -> list[Identity]:
    """The running processes that were started for ``owner``, by their environment.

    Args:
        owner: the data directory.
        but: leave out those whose name begins so.
    """
    us = psutil.Process()
    ourselves = {us.pid, *(parent.pid for parent in us.parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in ourselves or process.environ().get(OWNER) != str(owner):
                continue
            if but is None or not process.name().startswith(but):
                found.append(Identity.of(process.pid))
    return [identity for identity in found if identity.process() is not None]


def _gone(identities: Collection[Identity], grace: float) -> bool:
    deadline = time.monotonic() + grace
    while any(identity.process() is not None for identity in identities):
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


def failure(message: str, log: pathlib.Path) -> errors.StartupError:
    """An error of one clear line, with the end of the log that says more as its note."""
    if not log.exists():
        return errors.StartupError(message)
    lines = tail(log)
    if not lines:
        return errors.StartupError(f"{message}; its log {log} is empty")
    return explained(message, f"the end of {log}:", lines)


def explained(message: str, heading: str, lines: Sequence[str]) -> errors.StartupError:
    """An error of one clear line, with ``lines`` under ``heading`` as its note."""
    error = errors.StartupError(message)
    error.add_note("\n    ".join([heading, *lines]))
    return error


def describe_exit(status: int) -> str:
    """How a process ended, in words."""
    return f"was ended by signal {-status}" if status < 0 else f"exited with code {status}"
