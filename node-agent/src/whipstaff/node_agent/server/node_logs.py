"""``/logs/``: the files in the machine's directory of logs, and its journal where that is wanted.

Files are sent whole or by range, directories as a list of links. With `Settings.query`, a service
is asked for by name (``/logs/?query=kubelet``): from the journal, and if that doesn't know it, from
a file of its name. Runs no loop; each request owns its files and its journalctl, which gets half a
minute. Answers to ``InstallSystemLogHandler`` in ``pkg/kubelet/server/server.go`` and to
``pkg/kubelet/kubelet_server_journal.go``. Unlike there, links don't lead out of the directory
(`confined`), and nothing is sent that a browser would run.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import stat
import subprocess
import urllib.parse
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass

from aiohttp import web

from whipstaff.node_agent.server import confined, log_queries
from whipstaff.runtime import logs

_CHUNK = 128 * 1024
_PATIENCE = 30.0
# Of these and nothing less a text is made, says https://mimesniff.spec.whatwg.org.
_BINARY = frozenset(range(32)) - frozenset(b"\t\n\f\r\x1b")
_SNIFFED = 512
_FORBIDDEN = "403 Forbidden"

_log = logs.get("node_agent.server")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is shown of the node's own logs.

    Attributes:
        folder: where its log files are.
        enabled: whether they are shown at all.
        query: whether its journal may be asked, too.
        journal: the program to ask.
    """

    folder: str = "/var/log"
    enabled: bool = True
    query: bool = False
    journal: str = "journalctl"


class _RefusedError(Exception):
    """What isn't shown; the text says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class NodeLogs:
    """Answers requests for a node's logs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """What is asked for."""
        if not self._settings.enabled:
            return web.Response(status=405, text="logs endpoint is disabled.\n")
        try:
            query = self._query(request)
            if query is None:
                return await self._show(request, request.match_info["path"])
            if query.services:
                return await self._of_services(request, query)
            return await self._show(request, query.files[0])
        except _RefusedError as refused:
            return web.Response(status=refused.status, text=f"{refused}\n")

    def _query(self, request: web.Request) -> log_queries.Query | None:
        """What is asked for, if it isn't a path.

        Raises:
            _RefusedError: it can't be answered.
        """
        if not self._settings.query:
            return None
        try:
            query = log_queries.parse(request.query)
            if query is not None:
                log_queries.check(query)
        except log_queries.MalformedError as error:
            raise _RefusedError(400, str(error)) from error
        except log_queries.RefusedError as error:
            raise _RefusedError(406, str(error)) from error
        if query is not None and request.match_info["path"]:
            raise _RefusedError(406, "path not allowed in query mode")
        return query

    # Files.

    async def _show(self, request: web.Request, path: str) -> web.StreamResponse:
        place = await self._place(path)
        try:
            mode = os.fstat(place).st_mode
            if stat.S_ISDIR(mode):
                return await _directory(place, path)
            if not stat.S_ISREG(mode):
                raise _RefusedError(403, _FORBIDDEN)
            descriptor = await asyncio.to_thread(confined.open_file, place)
        except OSError as error:
            _log.info("a log can't be read", path=path, error=error.strerror)
            raise _RefusedError(403, _FORBIDDEN) from error
        finally:
            os.close(place)
        try:
            return await _file(request, descriptor)
        finally:
            os.close(descriptor)

    async def _place(self, path: str) -> int:
        """A descriptor of what a path leads to.

        Raises:
            _RefusedError: there is nothing, or nothing that is shown.
        """
        if ".." in path.split("/"):
            raise _RefusedError(400, "invalid URL path")
        try:
            return await asyncio.to_thread(confined.locate, self._settings.folder, path)
        except PermissionError as error:
            _log.info("a log isn't shown", path=path, error=error.strerror)
            raise _RefusedError(403, _FORBIDDEN) from error
        except (OSError, ValueError) as error:
            raise _RefusedError(404, "404 page not found") from error

    # Services.

    async def _of_services(
        self, request: web.Request, query: log_queries.Query
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain;charset=UTF-8"})
        response.enable_compression()
        await response.prepare(request)
        try:
            async with asyncio.timeout(_PATIENCE):
                async for piece in self._pieces(query):
                    await response.write(piece)
        except TimeoutError:
            await response.write(b"\nthe logs took too long\n")
        await response.write_eof()
        return response

    async def _pieces(self, query: log_queries.Query) -> AsyncGenerator[bytes, None]:
        known = await self._known_units()
        native = [each for each in query.services if known & {each, f"{each}.service"}]
        others = [each for each in query.services if each not in native]
        if native:
            arguments = log_queries.journal_arguments(query, native)
            async with contextlib.aclosing(self._journal(arguments)) as pieces:
                async for piece in pieces:
                    yield piece
        if others and query.has_options:
            yield (
                f"\noptions present and query resolved to log files for [{' '.join(others)}]\n"
                "try without specifying options\n"
            ).encode()
            return
        for service in others:
            async with contextlib.aclosing(self._file_of(service)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _known_units(self) -> frozenset[str]:
        """The units that have logged to the journal; none where there is no journal."""
        try:
            async with contextlib.aclosing(self._journal(["--field", "_SYSTEMD_UNIT"])) as pieces:
                found = b"".join([piece async for piece in pieces])
        except OSError as error:
            _log.debug("there is no journal", error=str(error))
            return frozenset()
        return frozenset(found.decode(errors="replace").splitlines())

    async def _journal(self, arguments: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """What journalctl writes, complaints among it.

        Raises:
            OSError: it can't be started.
        """
        process = await asyncio.create_subprocess_exec(
            self._settings.journal, *arguments,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            while piece := await process.stdout.read(_CHUNK):
                yield piece
            await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _file_of(self, service: str) -> AsyncGenerator[bytes, None]:
        """The log of a service that keeps it in a file."""
        try:
            descriptor = await asyncio.to_thread(
                _first, self._settings.folder, log_queries.files_of(service)
            )
        except FileNotFoundError:
            yield f"\nlog not found for {service}\n".encode()
            return
        except OSError as error:
            yield f"\nerror getting log for {service}: {error.strerror}\n".encode()
            return
        try:
            while piece := await asyncio.to_thread(os.read, descriptor, _CHUNK):
                yield piece
        finally:
            os.close(descriptor)


def _first(folder: str, paths: Iterable[str]) -> int:
    """A descriptor of the first of several plain files that there is.

    Raises:
        FileNotFoundError: there is none.
        OSError: it can't be read, or leads out of the directory.
    """
    for path in paths:
        try:
            place = confined.locate(folder, path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            if stat.S_ISREG(os.fstat(place).st_mode):
                return confined.open_file(place)
        finally:
            os.close(place)
    raise FileNotFoundError


async def _directory(place: int, path: str) -> web.Response:
    """A list of links, at an address below which they are right.

    Raises:
        OSError: it can't be read.
    """
    if path and not path.endswith("/"):
        name = urllib.parse.quote(path.rpartition("/")[2])
        return web.Response(status=301, headers={"Location": f"{name}/"})
    lines = ["<!doctype html>", '<meta name="viewport" content="width=device-width">', "<pre>"]
    for name in await asyncio.to_thread(confined.names_in, place):
        # A name with a colon isn't to be read as a scheme.
        address = urllib.parse.quote(os.fsencode(name))
        address = f"./{address}" if ":" in name.partition("/")[0] else address
        shown = os.fsencode(name).decode(errors="replace")
        lines.append(f'<a href="{html.escape(address)}">{html.escape(shown)}</a>')
    text = "\n".join([*lines, "</pre>", ""])
    return web.Response(text=text, content_type="text/html", charset="utf-8")


async def _file(request: web.Request, descriptor: int) -> web.StreamResponse:
    """A file, as long as it is now."""
    known = os.fstat(descriptor)
    head = await asyncio.to_thread(os.pread, descriptor, _SNIFFED, 0)
    response = web.StreamResponse()
    response.content_type = "application/octet-stream"
    if _BINARY.isdisjoint(head):
        response.headers["Content-Type"] = "text/plain; charset=utf-8"
    response.headers["Accept-Ranges"] = "bytes"
    response.last_modified = known.st_mtime
    start, end = 0, known.st_size
    try:
        wanted = request.http_range
    except ValueError:
        wanted = slice(known.st_size, None)
    if wanted.start is not None:
        start, end, _ = wanted.indices(known.st_size)
        if start >= end:
            headers = {"Content-Range": f"bytes */{known.st_size}"}
            return web.Response(status=416, headers=headers)
        response.set_status(206)
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{known.st_size}"
    response.content_length = end - start
    await response.prepare(request)
    while start < end:
        piece = await asyncio.to_thread(os.pread, descriptor, min(_CHUNK, end - start), start)
        if not piece:
            # It was shortened meanwhile: what was promised can't be kept.
            raise ConnectionResetError("a log became shorter while it was sent")
        await response.write(piece)
        start += len(piece)
    await response.write_eof()
    return response
