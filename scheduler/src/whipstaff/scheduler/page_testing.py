"""A headless Chromium, driven by its DevTools protocol: for tests of the page.

Its loop reads what the browser says, for as long as a tab is open. It owns the browser's process
and the folder that it works in, and leaves neither behind.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import pathlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 30.0


def program() -> str | None:
    """The browser; None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Tab:
    """A tab. What goes wrong in it is in `problems`, what it asks for in `requests`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())
        self.problems: list[str] = []
        """Exceptions, failed requests and what the content security policy forbade."""
        self.requests: list[str] = []
        """The URLs that were asked for."""

    async def _read(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            elif event["method"] == "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                text = details.get("exception", {}).get("description") or details["text"]
                self.problems.append(text)
            elif event["method"] == "Log.entryAdded":
                entry = event["params"]["entry"]
                if entry["level"] == "error":
                    self.problems.append(f"{entry['text']} {entry.get('url', '')}")
            elif event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])

    async def call(self, method: str, **parameters: Any) -> Any:
        """Calls a method of the protocol and gives its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        found = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in found, found["error"]
        return found["result"]

    async def open(self, url: str, *, width: int = 1280, height: int = 900) -> None:
        """Goes there, in a window of that size."""
        for domain in ("Runtime", "Log", "Network", "Page"):
            await self.call(f"{domain}.enable")
        await self.size(width, height)
        await self.call("Page.navigate", url=url)

    async def size(self, width: int, height: int) -> None:
        """Makes the window as large."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def prefer(self, scheme: str) -> None:
        """Light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The expression's value, once it is truthy. Fails with what is to be seen otherwise."""
        end = time.monotonic() + PATIENCE
        while not (value := await self.run(expression)):
            text = await self.run("document.body?.innerText")
            assert time.monotonic() < end, f"not in time: {expression}\n{text}\n{self.problems}"
            await asyncio.sleep(0.05)
        return value

    async def press(self, key: str) -> None:
        """Presses a key, such as `ArrowRight`."""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key)

    async def picture(self) -> bytes:
        """A PNG of what is to be seen."""
        found = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(found["data"])

    async def close(self) -> None:
        """Lets go of the tab."""
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await self._socket.close()


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    """A tab of a browser of its own."""
    found = program()
    assert found is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            found,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await _port(pathlib.Path(folder) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                address = await _address(session, port)
                tab = Tab(await session.ws_connect(address, max_msg_size=1 << 26))
                try:
                    yield tab
                finally:
                    await tab.close()
        finally:
            process.terminate()
            await process.wait()


async def _port(file: pathlib.Path) -> int:
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((await asyncio.to_thread(file.read_text)).split()[0])
        assert time.monotonic() < end, "the browser doesn't start"
        await asyncio.sleep(0.05)


async def _address(session: aiohttp.ClientSession, port: int) -> str:
    end = time.monotonic() + PATIENCE
    while True:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
            for target in await response.json():
                if target["type"] == "page":
                    return str(target["webSocketDebuggerUrl"])
        assert time.monotonic() < end, "the browser has no tab"
        await asyncio.sleep(0.05)
