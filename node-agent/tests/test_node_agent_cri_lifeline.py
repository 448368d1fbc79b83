"""Connections that outlive the process that made them, for a while."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from whipstaff.node_agent.providers.cri import lifeline

CLIENT = """
import socket, sys, time
from whipstaff.node_agent.providers.cri import lifeline
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
line = lifeline.Lifeline("unix://" + sys.argv[1], 1)
line.hold()
connection.send(b"held")
if sys.argv[2] == "stop":
    connection.shutdown(socket.SHUT_RDWR)
    line.close()
    sys.exit()
time.sleep(60)
"""


@pytest.fixture
def listener(tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(tmp_path / "runtime.sock"))
        made.listen()
        made.settimeout(20)
        yield made


def client(listener: socket.socket, then: str) -> subprocess.Popen[bytes]:
    path = listener.getsockname()
    return subprocess.Popen([sys.executable, "-c", CLIENT, path, then])


def accept(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.settimeout(20)
    assert connection.recv(10) == b"held"
    return connection


def test_a_killed_process_leaves_its_connection_open_for_a_while(listener: socket.socket) -> None:
    with client(listener, "wait") as process, contextlib.closing(accept(listener)) as connection:
        process.kill()
        process.wait()
        killed_at = time.monotonic()
        assert connection.recv(10) == b""
        assert time.monotonic() - killed_at > 0.7


def test_a_connection_that_is_closed_in_good_order_is_closed(listener: socket.socket) -> None:
    began = time.monotonic()
    with client(listener, "stop") as process, contextlib.closing(accept(listener)) as connection:
        assert connection.recv(10) == b""
        assert process.wait() == 0
    assert time.monotonic() - began < 20


def test_only_new_connections_to_the_very_socket_are_shared(
    listener: socket.socket, tmp_path: pathlib.Path
) -> None:
    path = str(tmp_path / "runtime.sock")
    line, other = lifeline.Lifeline(path, 0), lifeline.Lifeline(f"{path}.other", 0)
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(path)
        other.hold()
        assert other._holder is None
        line.hold()
        holder = line._holder
        assert holder is not None
        line.hold()
        assert line._holder is holder
        second.connect(path)
        line.hold()
        assert line._holder is not holder
        assert holder.returncode is not None
        line.close()
        assert line._holder is None
        # Both are as they were for this process.
        first.send(b"a")
        second.send(b"b")
    other.close()
