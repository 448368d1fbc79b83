"""Variables out of files that containers wrote: the values of ``fileKeyRef``.

The format is a strict subset of a shell's: ``NAME='value'``, over several lines if it must be.
The file lies in a volume that other containers write to, so its path is walked link by link with
the volume as its root: nothing outside can be read. Runs no loop and owns nothing. Answers to
``pkg/kubelet/util/env`` and to github.com/cyphar/filepath-securejoin.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import stat
from collections.abc import Iterator

from whipstaff.runtime import errors

_BLANK = " \t"
# As Linux: links followed on one path at most.
_MOST_LINKS = 255
# As upstream's scanner, more than this in a line is an error; here it bounds the whole file.
_LARGEST_FILE = 1 << 20


class MalformedError(errors.WhipstaffError):
    """The file isn't made of variables."""


def read(root: pathlib.Path, path: str, key: str) -> str:
    """The value of a variable in a file; "" where it has none. Blocks.

    Args:
        root: the volume's directory.
        path: of the file below it.
        key: the variable.

    Raises:
        OSError: the file can't be read.
        MalformedError: it isn't such a file.
    """
    with _opened(root, path) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise MalformedError(f"{path} is not a regular file")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise MalformedError(f"{path} is larger than {_LARGEST_FILE} bytes")
    return value(content.decode(errors="replace"), key)


def value(content: str, key: str) -> str:
    """The value of a variable in a file's text; "" where it has none. Pure.

    Raises:
        MalformedError: a line before it isn't an assignment.
    """
    lines = collections.deque(content.split("\n"))
    number = 0
    while lines:
        number += 1
        line = lines.popleft().removesuffix("\r").lstrip(_BLANK)
        if not line or line.startswith("#"):
            continue
        name, rest = _assignment(line, number)
        if rest[:1] in {" ", "\t"}:
            # As in a shell, an empty value and then a command.
            if name == key:
                return ""
            continue
        if not rest.startswith("'"):
            raise _malformed(f"at line {number}: value must be enclosed in single quotes")
        found, last = _quoted(rest[1:], lines, number)
        number = last
        if name == key:
            return found
    return ""


def _assignment(line: str, number: int) -> tuple[str, str]:
    name, equals, rest = line.partition("=")
    if not equals:
        raise _malformed(f"at line {number}: missing '='")
    bare = name.rstrip(_BLANK)
    if not bare:
        raise _malformed(f"at line {number}: empty variable name")
    if bare != name:
        raise _malformed(f"at line {number}: whitespace before '=' is not allowed")
    return name, rest


def _quoted(rest: str, lines: collections.deque[str], first: int) -> tuple[str, int]:
    """A value up to its closing quote, and the number of the line that this is in."""
    parts = []
    number = first
    while "'" not in rest:
        parts.append(rest)
        if not lines:
            raise _malformed(f"starting at line {first}: unclosed single quote")
        number += 1
        rest = lines.popleft().removesuffix("\r")
    last, _, after = rest.partition("'")
    after = after.lstrip(_BLANK)
    if after and not after.startswith("#"):
        raise _malformed(f"at line {number}: unexpected content after closing quote")
    return "\n".join([*parts, last]), number


def _malformed(text: str) -> MalformedError:
    return MalformedError(f"invalid environment variable format {text}")


@contextlib.contextmanager
def _opened(root: pathlib.Path, path: str) -> Iterator[int]:
    """A descriptor of a file below a directory, whatever links there are on the way."""
    walk = _Walk(root)
    try:
        found = walk.to(path)
        # Opening a device or a pipe that was put here may do things by itself.
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(f"not a regular file: {path}")
        opened = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield opened
        finally:
            os.close(opened)
    finally:
        walk.close()


class _Walk:
    """Goes down a path, one name after another, and never above where it began."""

    def __init__(self, root: pathlib.Path) -> None:
        self._descriptors = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]

    def to(self, path: str) -> int:
        names = collections.deque(path.split("/"))
        links = 0
        while names:
            name = names.popleft()
            if name in {"", "."}:
                continue
            if name == "..":
                self._up(1)
                continue
            target = self._link(name)
            if target is None:
                self._down(name, os.O_PATH)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(f"too many levels of symbolic links: {path}")
            if target.startswith("/"):
                self._up(len(self._descriptors))
            names.extendleft(reversed(target.split("/")))
        return self._descriptors[-1]

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def _link(self, name: str) -> str | None:
        try:
            return os.readlink(name, dir_fd=self._descriptors[-1])
        except FileNotFoundError:
            raise
        except OSError:
            return None

    def _down(self, name: str, flags: int) -> None:
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptors.append(os.open(name, flags, dir_fd=self._descriptors[-1]))

    def _up(self, levels: int) -> None:
        for _ in range(min(levels, len(self._descriptors) - 1)):
            os.close(self._descriptors.pop())
