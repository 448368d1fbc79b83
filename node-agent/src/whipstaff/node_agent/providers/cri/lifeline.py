"""Lets calls that are under way come to their end when the agent is killed.

A runtime breaks off what it does for a client whose connection ends: a container that it was just
starting is killed and counts as failed, and containerd 1.6 forgets about the shim of a sandbox that
it was just making. The kubelet lives with that. Here a small process shares the connection's
socket: when the agent has gone, it keeps it open for half a minute, in which nobody asks anything
any more and the runtime finishes what it was asked before. The next agent finds the results.

Runs no loop; owns that process, of which there is one at a time. A connection that is closed in
good order is closed for all who share it, so an agent that stops by itself isn't held up.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import stat
import subprocess

from whipstaff.runtime import logs

# Reads until the agent has gone, and lives on for a while. A shell: there is nothing smaller.
_HOLD = "read _; exec sleep {seconds}"
_SECONDS = 30

_log = logs.get("node_agent.providers.cri.lifeline")


class Lifeline:
    """Shares this process's connections to a Unix socket.

    Args:
        endpoint: ``unix:///PATH``, or just the path.
        seconds: for how long they stay open without this process.
    """

    def __init__(self, endpoint: str, seconds: float = _SECONDS) -> None:
        self._path = endpoint.removeprefix("unix://")
        self._command: tuple[str, ...] = ("sh", "-c", _HOLD.format(seconds=seconds))
        if shutil.which("sh") is None:
            self._command = ()
            _log.info("calls won't outlive the agent: there is no shell here")
        self._held: frozenset[int] = frozenset()
        self._holder: subprocess.Popen[bytes] | None = None

    def hold(self) -> None:
        """Share the connections that there are now, in the place of those that there were."""
        if not self._command:
            return
        with contextlib.ExitStack() as stack:
            found = {}
            for connection in _connections(self._path):
                stack.callback(os.close, connection)
                found[os.fstat(connection).st_ino] = connection
            if not found.keys() - self._held:
                return
            self.close()
            try:
                self._holder = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=tuple(found.values()),
                    start_new_session=True,
                )
            except OSError as error:
                _log.warning("calls won't outlive the agent", error=str(error))
                return
            self._held = frozenset(found)

    def close(self) -> None:
        """Share nothing any more."""
        holder, self._holder, self._held = self._holder, None, frozenset()
        if holder is not None:
            holder.kill()
            holder.communicate()


def _connections(path: str) -> list[int]:
    """New descriptors of this process's connections to a Unix socket; the caller closes them."""
    found = []
    for entry in pathlib.Path("/proc/self/fd").iterdir():
        try:
            copy = os.dup(int(entry.name))
        except OSError:
            # Closed since it was listed.
            continue
        if _leads_to(copy, path):
            found.append(copy)
        else:
            os.close(copy)
    return found


def _leads_to(descriptor: int, path: str) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    borrowed = socket.socket(fileno=descriptor)
    try:
        return borrowed.family is socket.AF_UNIX and borrowed.getpeername() == path
    except OSError:
        return False
    finally:
        borrowed.detach()
