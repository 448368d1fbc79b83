"""The node's own logs at ``/logs/``: what is shown of files and of the journal, and what isn't."""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
from collections.abc import AsyncIterator

import aiohttp
import multidict
import node_agent_parts
import pytest
import yarl

from whipstaff.node_agent import server
from whipstaff.node_agent.server import confined, log_queries, node_logs

JOURNAL = """#!/bin/sh
if [ "$1" = --field ]; then printf 'kubelet.service\\ncontainerd.service\\n'; exit; fi
echo "journalctl $*"
[ -z "$SLOW" ] || exec sleep 60
"""


class Asker:
    """Asks a node for its logs."""

    def __init__(self, session: aiohttp.ClientSession, folder: pathlib.Path) -> None:
        self.session = session
        self.folder = folder

    async def ask(self, path: str, **headers: str) -> tuple[int, str]:
        url = yarl.URL(path, encoded=True)
        async with self.session.get(url, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    found = tmp_path / "log"
    (found / "pods" / "web").mkdir(parents=True)
    (found / "syslog").write_text("one\ntwo\n")
    (found / "pods" / "web" / "0.log").write_text("hello\n")
    (tmp_path / "shadow").write_text("secret\n")
    return found


@pytest.fixture
async def files(folder: pathlib.Path) -> AsyncIterator[Asker]:
    sources = server.Sources(logs=server.LogSettings(str(folder)))
    async with node_agent_parts.served(node_agent_parts.Parts(), sources) as (session, _):
        yield Asker(session, folder)


@pytest.fixture
async def journal(folder: pathlib.Path, tmp_path: pathlib.Path) -> AsyncIterator[Asker]:
    program = tmp_path / "journalctl"
    program.write_text(JOURNAL)
    program.chmod(0o755)
    sources = server.Sources(logs=server.LogSettings(str(folder), True, True, str(program)))
    async with node_agent_parts.served(node_agent_parts.Parts(), sources) as (session, _):
        yield Asker(session, folder)


# Files.


async def test_files_are_sent_and_directories_listed(files: Asker) -> None:
    (files.folder / "a b<.log").touch()
    status, text = await files.ask("/logs/")
    assert status == 200
    assert '<a href="pods/">pods/</a>\n<a href="syslog">syslog</a>\n' in text
    assert '<a href="a%20b%3C.log">a b&lt;.log</a>\n' in text
    assert await files.ask("/logs/syslog") == (200, "one\ntwo\n")
    assert await files.ask("/logs/pods/web/0.log") == (200, "hello\n")
    assert (await files.ask("/logs/nothing"))[0] == 404
    assert (await files.ask("/logs/syslog/further"))[0] == 404


async def test_a_directory_is_listed_where_its_links_are_right(files: Asker) -> None:
    async with files.session.get("/logs/pods/web") as answer:
        assert answer.url.path == "/logs/pods/web/"
        assert '<a href="0.log">' in await answer.text()


async def test_a_part_of_a_file_can_be_asked_for(files: Asker) -> None:
    assert await files.ask("/logs/syslog", Range="bytes=4-") == (206, "two\n")
    assert await files.ask("/logs/syslog", Range="bytes=-4") == (206, "two\n")
    assert await files.ask("/logs/syslog", Range="bytes=0-2") == (206, "one")
    assert (await files.ask("/logs/syslog", Range="bytes=8-"))[0] == 416
    (files.folder / "empty").touch()
    assert await files.ask("/logs/empty") == (200, "")


async def test_a_browser_runs_nothing_of_what_is_sent(files: Asker) -> None:
    (files.folder / "index.html").write_text("<script>alert(1)</script>")
    (files.folder / "wtmp").write_bytes(b"\0\1\2")
    for path, kind in (("index.html", "text/plain"), ("wtmp", "application/octet-stream")):
        async with files.session.get(f"/logs/{path}") as answer:
            assert answer.content_type == kind
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "../shadow", "..%2fshadow", "%2e%2e/shadow", "%2e%2e%2fshadow", "pods/../../shadow",
        "pods/..%2f..%2fshadow", "/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "syslog%00",
        "..", "pods/%2e%2e/%2e%2e/", "./../shadow", "..\\shadow",
    ],
)  # fmt: skip
async def test_no_path_leads_out_of_the_directory(files: Asker, path: str) -> None:
    url = yarl.URL(str(files.session._base_url))
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET /logs/{path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read(-1)
    writer.close()
    assert answer.split()[1] in {b"400", b"404"}
    assert b"secret" not in answer
    assert b"root:" not in answer


async def test_links_lead_on_inside_and_not_outside(files: Asker) -> None:
    (files.folder / "containers").mkdir()
    inside = {
        "relative": "syslog",
        "containers/up": "../pods/web/0.log",
        "containers/absolute": str(files.folder / "pods/web/0.log"),
        "folder": "pods/web",
    }
    outside = {
        "shadow": "../shadow",
        "absolute": "/etc/passwd",
        "parent": "..",
        "root": "/",
        "containers/far": "../../shadow",
        "through": str(files.folder / "pods/../../shadow"),
        "similar": f"{files.folder}-other/x",
        "magic": "/proc/self/environ",
        "second": "shadow",
    }
    for name, target in {**inside, **outside}.items():
        (files.folder / name).symlink_to(target)
    assert await files.ask("/logs/relative") == (200, "one\ntwo\n")
    assert await files.ask("/logs/containers/up") == (200, "hello\n")
    assert await files.ask("/logs/containers/absolute") == (200, "hello\n")
    assert await files.ask("/logs/folder/0.log") == (200, "hello\n")
    for name in outside:
        assert await files.ask(f"/logs/{name}") == (403, "403 Forbidden\n"), name
    assert (await files.ask("/logs/root/etc/passwd"))[0] == 403
    assert (await files.ask("/logs/parent/shadow"))[0] == 403
    (files.folder / "loop").symlink_to("loop")
    assert (await files.ask("/logs/loop"))[0] == 404


async def test_only_plain_files_are_read(files: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(files.folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        # The path of a socket may have no more than 107 characters.
        monkeypatch.chdir(files.folder)
        listening.bind("socket")
        for name in ("pipe", "socket"):
            assert (await files.ask(f"/logs/{name}"))[0] == 403
    if os.geteuid() == 0:
        os.mknod(files.folder / "zero", 0o20666, os.makedev(1, 5))
        assert (await files.ask("/logs/zero"))[0] == 403


async def test_without_leave_to_query_a_query_is_no_matter(files: Asker) -> None:
    status, text = await files.ask("/logs/?query=kubelet")
    assert status == 200
    assert ">syslog</a>" in text


async def test_logs_can_be_turned_off_and_are_not_there_where_the_node_is_no_machine() -> None:
    parts = node_agent_parts.Parts()
    sources = server.Sources(logs=server.LogSettings(enabled=False))
    async with (
        node_agent_parts.served(parts, sources) as (session, _),
        session.get("/logs/") as answer,
    ):
        assert (answer.status, await answer.text()) == (405, "logs endpoint is disabled.\n")
    async with (
        node_agent_parts.served(parts) as (session, _),
        session.get("/logs/") as answer,
    ):
        assert answer.status == 404


def test_nothing_stays_open(folder: pathlib.Path) -> None:
    (folder / "link").symlink_to(str(folder / "pods/web/0.log"))
    (folder / "out").symlink_to("/etc")
    before = _descriptors()
    os.close(confined.locate(str(folder), "link"))
    for path in ("out/passwd", "pods/none", "pods/../.."):
        with pytest.raises(OSError, match=r"escapes|No such"):
            confined.locate(str(folder), path)
    assert _descriptors() == before


def _descriptors() -> set[str]:
    return {each.name for each in pathlib.Path("/proc/self/fd").iterdir()}


# The journal.


async def test_a_service_is_asked_for_in_the_journal(journal: Asker) -> None:
    path = "/logs/?query=kubelet&query=containerd&tailLines=3&boot=-1&pattern=a%20b"
    path += "&sinceTime=1970-01-01T01:00:10%2b01:00&untilTime=1970-01-01T00:00:20.5Z"
    told = "--since=@10 --until=@20 --lines=3 --unit=kubelet --unit=containerd --grep=a b --boot=-1"
    answer = f"journalctl --utc --no-pager --output=short-precise {told}\n"
    assert await journal.ask(path) == (200, answer)


async def test_a_service_that_the_journal_does_not_know_may_have_a_file(journal: Asker) -> None:
    (journal.folder / "nginx").mkdir()
    (journal.folder / "nginx" / "nginx.log").write_text("GET /\n")
    (journal.folder / "evil.log").symlink_to("../shadow")
    assert await journal.ask("/logs/?query=nginx") == (200, "GET /\n")
    assert await journal.ask("/logs/?query=nobody") == (200, "\nlog not found for nobody\n")
    status, text = await journal.ask("/logs/?query=nginx&tailLines=3")
    assert "try without specifying options" in text
    for name in ("evil", ".."):
        status, text = await journal.ask(f"/logs/?query={name}")
        assert (status, "secret" in text) == (200, False)


async def test_a_file_may_be_asked_for_by_query(journal: Asker) -> None:
    assert await journal.ask("/logs/?query=/syslog") == (200, "one\ntwo\n")
    assert (await journal.ask("/logs/?query=/../shadow"))[0] == 400
    assert (await journal.ask("/logs/?query=/none"))[0] == 404
    assert await journal.ask("/logs/pods/web/0.log") == (200, "hello\n")


async def test_a_machine_without_a_journal_has_files_still(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    sources = server.Sources(logs=server.LogSettings(str(folder), True, True, str(tmp_path / "no")))
    async with node_agent_parts.served(node_agent_parts.Parts(), sources) as (session, _):
        asker = Asker(session, folder)
        assert await asker.ask("/logs/?query=syslog") == (200, "one\ntwo\n")


async def test_a_journal_that_takes_too_long_is_left(
    journal: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW", "1")
    monkeypatch.setattr(node_logs, "_PATIENCE", 0.5)
    status, text = await journal.ask("/logs/?query=kubelet")
    assert status == 200
    assert text.startswith("journalctl --utc")
    assert text.endswith("\nthe logs took too long\n")
    assert _children() == []


def _children() -> list[str]:
    return pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("query=", 400), ("query", 400), ("query=%20", 400),
        ("query=kubelet&tailLines=many", 400), ("query=kubelet&boot=last", 400),
        ("query=kubelet&sinceTime=yesterday", 400), ("query=kubelet&sinceTime=2026-01-01", 400),
        ("query=kubelet&sinceTime=2026-13-01T00:00:00Z", 400),
        ("tailLines=3", 406), ("query=kubelet&query=/syslog", 406), ("query=/a&query=/b", 406),
        ("query=/syslog&tailLines=3", 406), ("query=kubelet&boot=1", 406),
        ("query=kubelet&tailLines=-1", 406), ("query=kubelet&tailLines=100001", 406),
        ("query=kubelet%20-D%20etc", 406), ("query=kubelet%3bid", 406), ("query=$(id)", 406),
        ("query=a&query=b&query=c&query=d&query=e", 406), ("query=" + "a" * 257, 406),
        ("query=kubelet&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z", 406),
        ("query=kubelet&pattern=a%00b", 406),
    ],
)  # fmt: skip
async def test_a_query_that_makes_no_sense_is_refused(
    journal: Asker, query: str, status: int
) -> None:
    found, text = await journal.ask(f"/logs/?{query}")
    assert found == status, text
    assert "journalctl" not in text


def test_nothing_asked_for_becomes_an_option() -> None:
    asked = multidict.MultiDict({"query": "-D.etc", "pattern": "--directory=/etc"})
    query = log_queries.parse(asked)
    assert query is not None
    log_queries.check(query)
    arguments = log_queries.journal_arguments(query, query.services)
    assert arguments[-2:] == ["--unit=-D.etc", "--grep=--directory=/etc"]
