"""What a container leaves to be said of its end: the termination message.

A file of the node is mounted into each container where its definition says
(``/dev/termination-log``); what is in it when the container has ended is its message. With
FallbackToLogsOnError, a container that failed and wrote nothing there is told of by the end of its
log. Runs no loop and owns nothing; the files go with the pod's directory. Answers to makeMounts and
getTerminationMessage in ``pkg/kubelet/kuberuntime/kuberuntime_container.go``. Leaves out the limit
for all containers of a pod together, which is the status's business.
"""

from __future__ import annotations

import os
import pathlib
import secrets
from dataclasses import dataclass

from whipstaff.node_agent.providers.cri import labels
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb

MESSAGE_BYTES = 4096
LOG_BYTES = 2048
LOG_LINES = 80

# More than LOG_LINES lines need for LOG_BYTES of text, as a line of the CRI's has 16 KiB at most.
_LOG_END = 64 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """Where a container's last words are to be found.

    Attributes:
        path: of the file on the node; empty where the container has none.
        log_path: of its log, if that is to be looked at; otherwise empty.
    """

    path: str = ""
    log_path: str = ""


def source(status: pb.ContainerStatus) -> Source:
    """Where the last words of this container are."""
    wanted = absolute(status.annotations.get(labels.MESSAGE_PATH, ""))
    found = [mount.host_path for mount in status.mounts if mount.container_path == wanted]
    falls_back = status.annotations.get(labels.MESSAGE_POLICY) == labels.FALLBACK_TO_LOGS
    return Source(found[0] if wanted and found else "", status.log_path if falls_back else "")


def message(where: Source, exit_code: int, said: str = "") -> str:
    """A container's termination message.

    Args:
        where: its last words.
        exit_code: how it ended.
        said: what the runtime has to say of it.
    """
    text = ""
    if where.path:
        try:
            text = tail(where.path, MESSAGE_BYTES).decode(errors="replace")
        except FileNotFoundError:
            text = ""
        except OSError as error:
            text = f"Error on reading termination log {where.path}: {error.strerror}"
    if not text and where.log_path and exit_code:
        text = _end_of_log(where.log_path)
    return ": ".join(part for part in (said, text) if part)


def make_file(folder: pathlib.Path) -> pathlib.Path:
    """Make the file for one run of a container; any user may write to it.

    Raises:
        OSError: it can't be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    path = folder / secrets.token_hex(4)
    path.touch()
    # Whatever the umask says.
    path.chmod(0o666)
    return path


def absolute(path: str) -> str:
    """A path in a container as it is mounted: from the root."""
    return path if not path or path.startswith("/") else f"/{path}"


def tail(path: str, limit: int) -> bytes:
    """The last bytes of a file.

    Raises:
        OSError: it can't be read.
    """
    # Not waiting for a writer, in case that the container has put a pipe there.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if (size := os.fstat(descriptor).st_size) > limit:
            os.lseek(descriptor, size - limit, os.SEEK_SET)
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def _end_of_log(path: str) -> str:
    try:
        end = tail(path, _LOG_END)
    except OSError as error:
        return f"Error on reading termination message from logs: {error}"
    lines = end.splitlines(keepends=True)[-LOG_LINES:]
    return b"".join(_text(line) for line in lines)[-LOG_BYTES:].decode(errors="replace")


def _text(line: bytes) -> bytes:
    """What was written, of one line of a log: ``TIME STREAM TAG TEXT``."""
    parts = line.split(b" ", 3)
    if len(parts) < 4:
        return b""
    # A line that goes on in the next one (P) ends without a newline of its own.
    return parts[3] if parts[2] != b"P" else parts[3].rstrip(b"\n")
