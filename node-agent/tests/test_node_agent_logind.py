"""logind as it is on the bus: inhibitors, the longest delay, and whose word counts."""

from __future__ import annotations

import asyncio
import pathlib
import shutil

import dbus_fast
import node_agent_logind
import pytest
from node_agent_logind import Machine, daemon, machine

from whipstaff.node_agent import logind, shutdown

pytestmark = pytest.mark.skipif(
    shutil.which("dbus-daemon") is None, reason="dbus-daemon isn't installed"
)


@pytest.fixture(autouse=True)
def bus(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's bus is the test's own."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", node_agent_logind.address(tmp_path))


async def heard(found: logind.Logind) -> bool:
    async with asyncio.timeout(10):
        return await anext(aiter(found.shutdowns()))


async def test_an_inhibitor_is_held_until_it_is_released(tmp_path: pathlib.Path) -> None:
    async with machine(tmp_path) as (made, _):
        found = await logind.Logind.connect()
        lock = await found.inhibit()
        assert made.asked == [
            ["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"]
        ]
        assert not made.let_go()
        found.close()
        assert not made.let_go()
        lock.release()
        assert made.let_go()
        lock.release()


async def test_the_longest_delay_is_raised_by_logind_itself(tmp_path: pathlib.Path) -> None:
    async with machine(tmp_path) as (made, _):
        found = await logind.Logind.connect(made.configuration)
        assert await found.longest_delay() == 5.0
        await found.allow_delay(45)
        assert await found.longest_delay() == 45.0
        assert made.configuration.read_text() == (
            "# Kubelet logind override\n[Login]\nInhibitDelayMaxSec=45\n"
        )
        found.close()


async def test_a_logind_that_keeps_its_delay_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logind, "_FIRST_PAUSE", 0.001)
    async with machine(tmp_path) as (made, _):
        made.reloads = False
        found = await logind.Logind.connect(made.configuration)
        with pytest.raises(shutdown.LogindError, match="to become 45s, current value is 5s"):
            await found.allow_delay(45)
        found.close()


async def test_shutdowns_are_told_in_their_order(tmp_path: pathlib.Path) -> None:
    async with machine(tmp_path) as (made, _):
        found = await logind.Logind.connect()
        await made.signal()
        assert await heard(found) is True
        await made.signal(begins=False)
        assert await heard(found) is False
        found.close()


async def test_a_shutdown_that_somebody_else_announces_is_none(tmp_path: pathlib.Path) -> None:
    async with machine(tmp_path) as (made, connect):
        found = await logind.Logind.connect()
        stranger = await connect()
        await made.signal(stranger)
        directed = dbus_fast.Message.new_signal(
            logind.PATH, logind.INTERFACE, logind.SIGNAL, "b", [True]
        )
        directed.destination = found._bus.unique_name
        await stranger.send(directed)
        # The bus keeps the order of what it has taken.
        await stranger.request_name("org.example.done")
        await made.signal(begins=False)
        assert await heard(found) is False
        stranger.disconnect()
        found.close()


async def test_the_end_of_the_bus_is_the_end_of_the_news(tmp_path: pathlib.Path) -> None:
    async with daemon(tmp_path) as connect:
        bus = await connect()
        Machine(bus, tmp_path)
        await bus.request_name(logind.NAME)
        found = await logind.Logind.connect()
        told = asyncio.create_task(anext(aiter(found.shutdowns()), None))
        await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        assert await told is None
    with pytest.raises(shutdown.LogindError, match=r"Inhibit: "):
        await found.inhibit()


async def test_without_a_bus_or_a_logind_on_it_there_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(shutdown.LogindError, match="no system bus: "):
        await logind.Logind.connect()
    async with daemon(tmp_path):
        found = await logind.Logind.connect()
        with pytest.raises(shutdown.LogindError, match=r"login1 was not provided"):
            await found.longest_delay()
        found.close()
