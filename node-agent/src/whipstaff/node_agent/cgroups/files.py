"""Files of control groups: reading, writing, ending and removing, whatever the version.

Blocking, and short. Everything raises `OSError` as the kernel gives it, but for what is gone
already where that is as good. Answers to ``fscommon`` and ``utils.go`` of opencontainers/cgroups.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import signal
import time
from collections.abc import Iterable

_REMOVALS = 8
_KILLINGS = 5
_FIRST_PAUSE = 0.01


def read(folder: pathlib.Path, name: str) -> str:
    """A file's text, without the line's end."""
    return (folder / name).read_text().strip()


def number(folder: pathlib.Path, name: str) -> int | None:
    """A file's number; None for ``max``, or where there is no such file."""
    try:
        text = read(folder, name)
    except FileNotFoundError:
        return None
    return int(text) if text != "max" else None


def table(folder: pathlib.Path, name: str) -> dict[str, int]:
    """A file of lines such as ``inactive_file 4096``; empty where there is no such file."""
    try:
        text = read(folder, name)
    except FileNotFoundError:
        return {}
    return {words[0]: int(words[1]) for words in map(str.split, text.splitlines())}


def write(folder: pathlib.Path, name: str, text: object) -> None:
    """Write a value."""
    (folder / name).write_text(str(text))


def groups(folder: pathlib.Path) -> Iterable[pathlib.Path]:
    """A group and those below it, the innermost first."""
    for path, _, _ in os.walk(folder, topdown=False):
        yield pathlib.Path(path)


def processes(folder: pathlib.Path) -> set[int]:
    """The processes in a group and in those below it."""
    found: set[int] = set()
    for group in groups(folder):
        with contextlib.suppress(FileNotFoundError):
            found.update(map(int, read(group, "cgroup.procs").split()))
    return found


def kill(folders: Iterable[pathlib.Path]) -> None:
    """End all processes in some groups and below them; what is just starting counts, too.

    Raises:
        OSError: one of them can't be ended.
    """
    known = list(folders)
    pause = _FIRST_PAUSE
    for _ in range(_KILLINGS):
        left = {pid for folder in known for pid in processes(folder)}
        # Zero is a process outside of this PID namespace; to kill(2) it is our own group.
        left.discard(0)
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        pause *= 2


def remove(folder: pathlib.Path) -> None:
    """Remove a group and those below it; processes that are ending are waited for.

    Raises:
        OSError: something is in there that doesn't end.
    """
    for group in groups(folder):
        pause = _FIRST_PAUSE
        for attempt in range(_REMOVALS):
            try:
                group.rmdir()
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY or attempt == _REMOVALS - 1:
                    raise
                time.sleep(pause)
                pause = min(pause * 2, 0.5)
            else:
                break


def children(folder: pathlib.Path) -> set[str]:
    """The names of the groups right below one."""
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    except FileNotFoundError:
        return set()
