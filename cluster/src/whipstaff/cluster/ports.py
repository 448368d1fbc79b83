"""Free TCP ports on loopback.

A local cluster takes the ports that its users know (6443 and so on) and the next free ones when
those are taken. Tests take theirs from below the kernel's ephemeral range, so that no outgoing
connection takes one between the look and the use.
"""

import contextlib
import fcntl
import pathlib
import random
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import orjson
import psutil

from whipstaff.runtime import errors

LOOPBACK = "127.0.0.1"
_RESERVED = 120.0  # seconds
_SCRATCH = range(20_000, 32_000)  # Linux hands out 32768 and above to outgoing connections


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on ``port`` now."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # As Go's listeners do: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def pick(preferred: int, taken: Collection[int] = (), *, attempts: int = 1000) -> int:
    """The first free port at or above ``preferred`` that isn't in ``taken``.

    Raises:
        StartupError: none of ``attempts`` ports in a row is free.
    """
    last = min(preferred + attempts, 65_536)
    for port in range(preferred, last):
        if port not in taken and is_free(port):
            return port
    raise errors.StartupError(f"no free port on {LOOPBACK} from {preferred} to {last - 1}")


def reserve(
    file: pathlib.Path,
    owner: str,
    preferred: Mapping[str, int],
    now: float,
    lives: Callable[[str], bool],
) -> dict[str, int]:
    """Pick a port for each name, none of them another owner's.

    Two clusters that start at the same time see the same free ports, and so does one that starts
    while a component of another is being restarted. So what was picked is written down.

    Args:
        file: the ledger, shared by all owners.
        owner: for whom they are; what was reserved for it before is given up.
        preferred: the usual port by name.
        now: seconds since the epoch; a reservation lasts two minutes by itself ...
        lives: ... and for as long as this says that its owner is in use.

    Raises:
        StartupError: there aren't that many free ports.
    """
    with _ledger(file, owner, now, lives) as entries:
        taken = {port for entry in entries for port in entry["ports"]}
        picked: dict[str, int] = {}
        for name, port in preferred.items():
            picked[name] = pick(port, taken | set(picked.values()))
        entries.append({"owner": owner, "until": now + _RESERVED, "ports": list(picked.values())})
    return picked


def release(file: pathlib.Path, owner: str) -> None:
    """Give up what was reserved for ``owner``."""
    with _ledger(file, owner, 0, lambda _: True):
        pass


@contextlib.contextmanager
def _ledger(
    file: pathlib.Path, owner: str, now: float, lives: Callable[[str], bool]
) -> Iterator[list[dict[str, Any]]]:
    """The reservations of others that still hold, to be changed while nobody else does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        ledger.seek(0)
        entries = [
            entry
            for entry in orjson.loads(ledger.read() or b"[]")
            if entry["owner"] != owner and (entry["until"] > now or lives(entry["owner"]))
        ]
        yield entries
        ledger.truncate(0)
        ledger.write(orjson.dumps(entries))


def scratch(count: int, rng: random.Random | None = None) -> list[int]:
    """``count`` different free ports that nothing else is likely to ask for.

    Raises:
        StartupError: there are not that many.
    """
    candidates = (rng or random.Random()).sample(_SCRATCH, len(_SCRATCH))
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            return found
        if is_free(port):
            found.append(port)
    raise errors.StartupError(f"no {count} free ports on {LOOPBACK}")


def holder(port: int, host: str = LOOPBACK) -> str | None:
    """Who listens on ``port``, as the end of a sentence (" by nginx, pid 42"); None: nobody.

    Empty where somebody does and it can't be told who: another user's process.
    """
    if is_free(port, host):
        return None
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return f" by {process.name()}, pid {process.pid}"
    return ""
