"""An HTTP extender on the loopback interface, for tests.

Its loop is aiohttp's: it answers each verb as the test says, and notes what it was asked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from whipstaff.scheduler import extender_settings

Object = dict[str, Any]


class Server:
    """An extender: answers what it is told to answer, and notes what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, Object]] = []
        self.answers: dict[str, Callable[[Object], Any]] = {}

    async def handle(self, request: web.Request) -> web.Response:
        """Answers one call."""
        body = await request.json()
        verb = request.match_info["verb"]
        self.asked.append((verb, body))
        answer = self.answers[verb](body)
        if asyncio.iscoroutine(answer):
            answer = await answer
        return answer if isinstance(answer, web.Response) else web.json_response(answer)

    def verbs(self) -> list[str]:
        """What it was asked, in order."""
        return [verb for verb, _ in self.asked]

    def settings(self, **more: Any) -> extender_settings.ExtenderSettings:
        """What a scheduler is told: it filters and knows the nodes, unless `more` differs."""
        return extender_settings.ExtenderSettings(
            self.url, **{"node_cache_capable": True, "filter_verb": "filter", **more}
        )


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """The extender, at work."""
    made = Server()
    application = web.Application()
    application.router.add_post("/ext/{verb}", made.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/ext/"
    yield made
    await runner.cleanup()
