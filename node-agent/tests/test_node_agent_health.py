"""The agent's health on a port of its own, for everybody on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import aiohttp
import node_agent_parts
import pytest

from whipstaff.node_agent import app, configuration, server


async def ask(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def test_it_is_told_to_everybody_and_nothing_else_is() -> None:
    parts = node_agent_parts.Parts()
    async with server.make_health(parts, bind_address="127.0.0.1", port=0) as made:
        assert made.url.startswith("http://127.0.0.1:")
        for path in ("/healthz", "/livez", "/readyz"):
            assert await ask(made.url + path) == (200, "ok")
        for path in ("/metrics", "/pods", "/configz", "/logs/", "/healthz/ping", "/"):
            status, text = await ask(made.url + path)
            assert status == 401
            assert "kubelet" not in text


async def test_an_agent_that_takes_care_of_nothing_any_more_is_not_well() -> None:
    def complain() -> None:
        raise RuntimeError("nobody works on the pod shop/web")

    sources = server.Sources(check_loop=complain)
    made = server.make_health(
        node_agent_parts.Parts(), bind_address="127.0.0.1", port=0, sources=sources
    )
    async with made:
        status, text = await ask(f"{made.url}/healthz")
        assert status == 500
        assert "[-]syncloop failed: reason withheld" in text
        assert "shop/web" not in text


async def test_it_waits_for_its_port_without_disturbing_the_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "_HEALTH_AGAIN", 0.05)
    parts: Any = node_agent_parts.Parts()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = configuration.Settings(healthz_port=port)
        plan = app.Plan(("node-0",), settings, ["127.0.0.1"])
        serving = asyncio.create_task(app._serve_health(plan, parts, server.Sources()))
        await asyncio.sleep(0.2)
        assert not serving.done()
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                assert await ask(f"http://127.0.0.1:{port}/healthz") == (200, "ok")
                break
            await asyncio.sleep(0.05)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
