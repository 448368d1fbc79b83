"""Container logs are shown as kubectl asks for them, and followed until their container ends."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable

import aiohttp
import node_agent_builders as builders
import node_agent_parts
import pytest

from whipstaff.node_agent import provider
from whipstaff.node_agent.server import container_logs, log_files, log_lines

NOW = 1_800_000_000.0
LINES = (
    b"2026-01-02T03:04:05.1Z stdout F one\n"
    b"2026-01-02T03:04:06.123456789Z stderr F two\n"
    b"2026-01-02T03:04:07Z stdout P thr\n"
    b"2026-01-02T03:04:07.5Z stdout F ee\n"
    b"2026-01-02T03:04:08+01:00 stdout F four\n"
)


def shown(lines: bytes, **wanted: object) -> bytes:
    formatter = log_lines.Formatter(log_lines.Options(**wanted), lambda _: None)  # type: ignore[arg-type]
    pieces = []
    for text in lines.split(b"\n")[:-1]:
        if formatter.enough:
            break
        pieces.append(formatter.feed(text + b"\n"))
    return b"".join(pieces)


# Lines.


def test_parts_of_a_line_are_put_together() -> None:
    assert shown(LINES) == b"one\ntwo\nthree\nfour\n"


def test_timestamps_have_nine_digits_and_stand_before_whole_lines() -> None:
    assert shown(LINES, timestamps=True) == (
        b"2026-01-02T03:04:05.100000000Z one\n"
        b"2026-01-02T03:04:06.123456789Z two\n"
        b"2026-01-02T03:04:07.000000000Z three\n"
        b"2026-01-02T03:04:08.000000000+01:00 four\n"
    )


def test_one_stream_is_shown_alone() -> None:
    assert shown(LINES, stream="Stderr") == b"two\n"
    assert shown(LINES, stream="Stdout") == b"one\nthree\nfour\n"


def test_lines_before_a_time_are_left_out() -> None:
    since = log_lines.nanoseconds("2026-01-02T03:04:06.123456789Z")
    assert shown(LINES, since=since) == b"two\nthree\n"
    assert shown(LINES, since=since + 1) == b"three\n"


def test_a_limit_of_bytes_cuts_a_line() -> None:
    assert shown(LINES, limit=6) == b"one\ntw"
    assert shown(LINES, limit=6, stream="Stderr") == b"two\n"
    assert shown(LINES, limit=31, timestamps=True) == b"2026-01-02T03:04:05.100000000Z "


def test_carriage_returns_and_spaces_belong_to_the_text() -> None:
    assert shown(b"2026-01-02T03:04:05Z stdout F  50%\r 100% \n") == b" 50%\r 100% \n"


def test_an_empty_line_is_one() -> None:
    line = b"2026-01-02T03:04:05Z stdout F \n"
    assert shown(line * 2, timestamps=True).count(b"05.000000000Z \n") == 2


def test_what_is_no_line_is_told_of_and_left_out() -> None:
    complaints: list[bytes] = []
    formatter = log_lines.Formatter(log_lines.Options(), complaints.append)
    assert formatter.feed(b"nonsense\n") == b""
    assert complaints == [b"nonsense\n"]


# Options.


def test_options_are_those_of_kubectl() -> None:
    query = {
        "follow": "true", "previous": "false", "timestamps": "1", "tailLines": "10",
        "limitBytes": "100", "sinceSeconds": "60", "container": "app", "pretty": "",
    }  # fmt: skip
    assert log_lines.options(query, NOW) == log_lines.Options(
        follow=True, timestamps=True, tail=10, limit=100, since=int((NOW - 60) * 1e9)
    )
    assert log_lines.options({}, NOW) == log_lines.Options()
    assert log_lines.options({"tail": "5"}, NOW).tail == 5
    assert log_lines.options({"tail": "all", "tailLines": "7"}, NOW).tail is None
    assert log_lines.options({"sinceTime": "2026-01-02T03:04:05+01:00"}, NOW).since == (
        log_lines.nanoseconds("2026-01-02T02:04:05Z")
    )
    assert log_lines.options({"stream": "Stderr"}, NOW).stream == "Stderr"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"tailLines": "ten"}, 400),
        ({"sinceTime": "yesterday"}, 400),
        ({"sinceTime": "2026-13-02T03:04:05Z"}, 400),
        ({"limitBytes": "1.5"}, 400),
        ({"tailLines": "-1"}, 422),
        ({"limitBytes": "0"}, 422),
        ({"sinceSeconds": "0"}, 422),
        ({"sinceSeconds": "1", "sinceTime": "2026-01-02T03:04:05Z"}, 422),
        ({"stream": "stdin"}, 422),
        ({"stream": "Stdout", "tailLines": "1"}, 422),
    ],
)
def test_options_that_cannot_be_are_refused(query: dict[str, str], status: int) -> None:
    with pytest.raises(log_lines.InvalidOptionsError) as refused:
        log_lines.options(query, NOW)
    assert refused.value.status == status


# Which run.


def test_the_running_container_is_meant_and_else_the_last_that_ended() -> None:
    def run_of(state: object, last: object = None, *, previous: bool = False) -> str:
        status = {"name": "app", "containerID": "test://now", "state": state}
        if last is not None:
            status["lastState"] = last
        return container_logs.run_with_log(
            "web", {"containerStatuses": [status]}, "app", previous=previous
        )

    ended = {"terminated": {"containerID": "test://before"}}
    assert run_of({"running": {}}) == "test://now"
    assert run_of({"running": {}}, ended, previous=True) == "test://before"
    assert run_of({"terminated": {"containerID": "test://now"}}) == "test://now"
    assert run_of({"terminated": {}}, ended) == "test://before"
    assert run_of({"waiting": {"reason": "CrashLoopBackOff"}}, ended) == "test://before"
    for state, last, previous, why in (
        ({"running": {}}, None, True, 'previous terminated container "app" in pod "web" not found'),
        ({"terminated": {}}, None, False, 'container "app" in pod "web" is terminated'),
        (
            {"waiting": {"reason": "ErrImagePull"}}, None, False,
            'container "app" in pod "web" is waiting to start: image can\'t be pulled',
        ),
        (
            {"waiting": {"reason": "ImagePullBackOff"}}, None, False,
            'container "app" in pod "web" is waiting to start: trying and failing to pull image',
        ),
        (
            {"waiting": {"reason": "PodInitializing"}}, None, False,
            'container "app" in pod "web" is waiting to start: PodInitializing',
        ),
        ({}, None, False, 'container "app" in pod "web" is waiting to start - no logs yet'),
    ):  # fmt: skip
        with pytest.raises(container_logs.NoLogError) as refused:
            run_of(state, last, previous=previous)
        assert str(refused.value) == why
    with pytest.raises(container_logs.NoLogError, match="is not available"):
        container_logs.run_with_log("web", {}, "app", previous=False)


# Files.


def line(text: str) -> bytes:
    return f"2026-01-02T03:04:05Z stdout F {text}\n".encode()


async def read(
    path: pathlib.Path, running: Callable[[], bool] = lambda: False, **wanted: object
) -> bytes:
    descriptor = log_files.open_log(str(path))
    options = log_lines.Options(**wanted)  # type: ignore[arg-type]
    pieces = log_files.read(str(path), descriptor, options, running, lambda _: None)
    return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("lines", [0, 1, 3, 50_000])
async def test_the_last_lines_of_a_long_log_are_found(tmp_path: pathlib.Path, lines: int) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(b"".join(line(f"line {i}") for i in range(20_000)))
    found = (await read(log, tail=lines)).splitlines()
    assert found == [f"line {i}".encode() for i in range(max(20_000 - lines, 0), 20_000)]


async def test_a_log_is_read_to_its_last_unfinished_line(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(line("one") + b"2026-01-02T03:04:05Z stdout F two")
    assert await read(log) == b"one\ntwo"
    log.write_bytes(b"")
    assert await read(log) == b""
    log.write_bytes(b'{"log": "docker"}\n')
    with pytest.raises(log_files.UnreadableError, match="unsupported log format"):
        await read(log)


class Follower:
    """Follows a log in the background."""

    def __init__(self, log: pathlib.Path, **wanted: object) -> None:
        self.received = b""
        self.running = True
        descriptor = log_files.open_log(str(log))
        options = log_lines.Options(follow=True, **wanted)  # type: ignore[arg-type]
        self._pieces = log_files.read(
            str(log), descriptor, options, lambda: self.running, lambda _: None
        )
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for piece in self._pieces:
            self.received += piece

    async def wait_for(self, text: bytes) -> None:
        await node_agent_parts.until(lambda: self.received.endswith(text))


async def test_a_log_is_followed_until_its_container_ends(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(line("one"))
    follower = Follower(log)
    await follower.wait_for(b"one\n")
    with log.open("ab", buffering=0) as file:
        for i in range(20):
            file.write(line(f"next {i}"))
            await follower.wait_for(f"next {i}\n".encode())
        file.write(line("half")[:-3])
        await asyncio.sleep(0.05)
        file.write(line("half")[-3:])
        await follower.wait_for(b"half\n")
        follower.running = False
        file.write(line("last"))
    await asyncio.wait_for(follower.task, 5)
    assert follower.received.endswith(b"half\nlast\n")


async def test_following_goes_on_over_rotation_and_loses_nothing(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(b"")
    follower = Follower(log)
    expected = b""
    file = log.open("ab", buffering=0)
    for turn in range(5):
        for i in range(50):
            file.write(line(f"{turn}/{i}"))
            expected += f"{turn}/{i}\n".encode()
        log.rename(tmp_path / f"0.log.{turn}")
        # Until the runtime has opened the new file, it writes to the old one.
        await asyncio.sleep(0.05)
        successor = log.open("ab", buffering=0)
        file.write(line(f"{turn}/end"))
        expected += f"{turn}/end\n".encode()
        await asyncio.sleep(0.05)
        file.close()
        file = successor
    file.write(line("last"))
    file.close()
    await follower.wait_for(b"last\n")
    follower.running = False
    await asyncio.wait_for(follower.task, 5)
    assert follower.received == expected + b"last\n"


async def test_a_container_that_ends_right_after_rotation_is_read_to_the_end(
    tmp_path: pathlib.Path,
) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(line("one"))
    follower = Follower(log)
    await follower.wait_for(b"one\n")
    log.rename(tmp_path / "0.log.1")
    log.write_bytes(line("two"))
    follower.running = False
    await asyncio.wait_for(follower.task, 5)
    assert follower.received == b"one\ntwo\n"


async def test_following_ends_with_the_bytes_that_were_asked_for(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(line("one"))
    follower = Follower(log, limit=6)
    await follower.wait_for(b"one\n")
    with log.open("ab") as file:
        file.write(line("two"))
    await asyncio.wait_for(follower.task, 5)
    assert follower.received == b"one\ntw"


async def test_following_from_the_last_line_on_shows_that_and_what_comes(
    tmp_path: pathlib.Path,
) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(line("one") + line("two"))
    follower = Follower(log, tail=1)
    await follower.wait_for(b"two\n")
    with log.open("ab") as file:
        file.write(line("three"))
    await follower.wait_for(b"three\n")
    follower.running = False
    await asyncio.wait_for(follower.task, 5)
    assert follower.received == b"two\nthree\n"


def test_links_and_devices_are_no_logs(tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(line("secret"))
    (tmp_path / "link.log").symlink_to(secret)
    os.mkfifo(tmp_path / "fifo.log")
    for name in ("link.log", "fifo.log", "missing.log", "."):
        with pytest.raises(log_files.UnreadableError, match="failed to open log file"):
            log_files.open_log(str(tmp_path / name))


# Requests.


@pytest.fixture
def log(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "0.log"
    path.write_bytes(LINES)
    return path


def with_log(log: pathlib.Path) -> node_agent_parts.Parts:
    parts = node_agent_parts.Parts()
    status = {"name": "app", "containerID": "test://app-0", "state": {"running": {}}}
    parts.add(
        builders.pod(),
        builders.run(log_path=str(log)),
        status={"containerStatuses": [status]},
    )
    return parts


async def test_logs_are_served(log: pathlib.Path) -> None:
    async with node_agent_parts.served(with_log(log)) as (session, _):
        async with session.get("/containerLogs/shop/web/app") as answer:
            assert answer.status == 200
            assert answer.content_type == "text/plain"
            assert await answer.text() == "one\ntwo\nthree\nfour\n"
        async with session.get("/containerLogs/shop/web/app?tailLines=1") as answer:
            assert await answer.text() == "four\n"


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("shop/web/app?tailLines=x", 400, '{"message": "Unable to decode query."}'),
        ("shop/web/app?limitBytes=0", 422, '{"message": "Invalid request."}'),
        ("shop/none/app", 404, 'pod "none" does not exist'),
        ("other/web/app", 404, 'pod "web" does not exist'),
        ("shop/web/none", 404, 'container "none" not found in pod "web"'),
        (
            "shop/web/app?previous=true", 400,
            'previous terminated container "app" in pod "web" not found',
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_shown_is_refused_as_by_a_kubelet(
    log: pathlib.Path, path: str, status: int, text: str
) -> None:
    async with (
        node_agent_parts.served(with_log(log)) as (session, _),
        session.get(f"/containerLogs/{path}") as answer,
    ):
        assert (answer.status, await answer.text()) == (status, text)


async def test_a_provider_without_files_says_so(tmp_path: pathlib.Path) -> None:
    parts = with_log(pathlib.Path())
    (worker,) = parts.crew
    runtime = worker.life.runtime
    worker.life.runtime = dataclasses.replace(runtime, containers=(builders.run(),))
    async with node_agent_parts.served(parts) as (session, _):
        async with session.get("/containerLogs/shop/web/app") as answer:
            assert answer.status == 501
            assert await answer.text() == "the provider test keeps no logs of containers"
        worker.life.runtime = dataclasses.replace(runtime, containers=())
        async with session.get("/containerLogs/shop/web/app") as answer:
            assert answer.status == 400
            assert await answer.text() == "unable to retrieve container logs for test://app-0"
        lost = builders.run(log_path=str(tmp_path / "lost.log"))
        worker.life.runtime = dataclasses.replace(runtime, containers=(lost,))
        async with session.get("/containerLogs/shop/web/app") as answer:
            assert answer.status == 400
            assert "no such file or directory" in await answer.text()


async def test_a_log_that_is_being_rotated_is_waited_for(log: pathlib.Path) -> None:
    log.rename(log.with_name("0.log.20260102-030405"))  # noqa: ASYNC240 (a moment)
    async with node_agent_parts.served(with_log(log)) as (session, _):
        asked = asyncio.create_task(_text(session, "/containerLogs/shop/web/app"))
        await asyncio.sleep(0.1)
        assert not asked.done()
        log.write_bytes(line("new"))  # noqa: ASYNC240 (a moment)
        assert await asked == "new\n"


async def _text(session: aiohttp.ClientSession, path: str) -> str:
    async with session.get(path) as answer:
        return await answer.text()


async def test_followed_logs_arrive_at_once_and_end_with_the_container(log: pathlib.Path) -> None:
    parts = with_log(log)
    (worker,) = parts.crew
    os.truncate(log, 0)
    async with (
        node_agent_parts.served(parts) as (session, _),
        # The head is answered before anything is logged.
        session.get("/containerLogs/shop/web/app?follow=true") as answer,
    ):
        assert answer.status == 200
        for text in ("one", "two"):
            with log.open("ab") as file:
                file.write(line(text))
            async with asyncio.timeout(2):
                assert await answer.content.readline() == f"{text}\n".encode()
        run = worker.life.runtime.containers[0]
        ended = dataclasses.replace(run, state=provider.State.EXITED)
        worker.life.runtime = worker.life.runtime.with_container(ended)
        async with asyncio.timeout(3):
            assert await answer.content.read() == b""


async def test_a_client_that_leaves_is_not_followed_for(log: pathlib.Path) -> None:
    parts = with_log(log)
    async with node_agent_parts.served(parts) as (session, _):
        async with session.get("/containerLogs/shop/web/app?follow=true") as answer:
            await answer.content.readline()
        before = {path for path in open_files() if path == str(log)}
        await node_agent_parts.until(lambda: str(log) not in open_files())
    assert before == {str(log)}


async def test_followed_logs_do_not_keep_the_server_from_stopping(log: pathlib.Path) -> None:
    async with (
        node_agent_parts.served(with_log(log)) as (session, server),
        session.get("/containerLogs/shop/web/app?follow=true") as answer,
    ):
        await answer.content.readexactly(len("one\ntwo\nthree\nfour\n"))
        stopped_at = time.monotonic()
        await server.stop()
        assert time.monotonic() - stopped_at < 2
        assert await answer.content.read() == b""


def open_files() -> list[str]:
    found = []
    for each in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(each.readlink()))
    return found
