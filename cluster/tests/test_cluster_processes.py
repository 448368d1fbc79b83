"""Processes: recognised, ended, described."""

import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from whipstaff.cluster import processes
from whipstaff.runtime import errors

SLEEP = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


@pytest.fixture
def log(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "logs" / "one.log"


@pytest.fixture
def sleeper(log: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[processes.Process]:
    process = processes.Process.start("one", SLEEP, log, owner=tmp_path)
    yield process
    process.stop(0)


def wait_for(log: pathlib.Path, text: str) -> None:
    deadline = time.monotonic() + 5
    while text not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_running_process_is_recognised(sleeper: processes.Process) -> None:
    found = sleeper.identity.process()
    assert found is not None
    assert found.pid == sleeper.pid
    assert sleeper.exit_status is None


def test_another_process_with_the_same_pid_is_not_ours(sleeper: processes.Process) -> None:
    earlier = processes.Identity(sleeper.pid, "another boot/1")
    assert earlier.process() is None
    assert processes.end([earlier], grace=1) == 0
    assert sleeper.exit_status is None


def test_a_process_that_ended_is_gone_even_before_it_is_reaped(sleeper: processes.Process) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while sleeper.identity.process() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert processes.end([sleeper.identity], grace=1) == 0
    assert sleeper.exit_status == -signal.SIGKILL


def test_ending_a_process_waits_until_it_is_gone(sleeper: processes.Process) -> None:
    assert processes.end([sleeper.identity], grace=5) == 1
    assert sleeper.identity.process() is None


def test_a_process_that_ignores_sigterm_is_killed(
    log: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    process = processes.Process.start(
        "deaf", (sys.executable, "-S", "-c", DEAF), log, owner=tmp_path
    )
    wait_for(log, "deaf")
    process.stop(0.1)
    assert process.exit_status == -signal.SIGKILL


def test_a_stranger_that_ignores_sigterm_is_killed(
    log: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    process = processes.Process.start(
        "deaf", (sys.executable, "-S", "-c", DEAF), log, owner=tmp_path
    )
    wait_for(log, "deaf")
    assert processes.end([process.identity], grace=0.1) == 1
    assert process.exit_status == -signal.SIGKILL


def test_processes_are_found_by_their_owner(
    sleeper: processes.Process, tmp_path: pathlib.Path
) -> None:
    assert processes.owned_by(tmp_path) == [sleeper.identity]
    assert processes.owned_by(tmp_path / "other") == []


def test_a_program_that_is_not_there_is_one_clear_line(
    log: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(errors.StartupError, match=r"etcd can't be started: .*No such file"):
        processes.Process.start("etcd", ["/no/such/etcd"], log, owner=tmp_path)


def test_an_error_has_the_end_of_the_log_as_its_note(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "etcd.log"
    log.write_text("".join(f"line {number}\n\n" for number in range(50)))
    error = processes.failure("etcd exited with code 1", log)
    assert str(error) == "etcd exited with code 1"
    assert "line 49" in error.__notes__[0]
    assert "line 30" not in error.__notes__[0]


def test_a_missing_log_is_an_empty_one(tmp_path: pathlib.Path) -> None:
    assert processes.tail(tmp_path / "none.log") == []


def test_how_a_process_ended_is_said_in_words() -> None:
    assert processes.describe_exit(3) == "exited with code 3"
    assert processes.describe_exit(-9) == "was ended by signal 9"
