"""logind as it is on the bus: inhibitors, the longest delay, and whose word counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
from collections.abc import AsyncIterator, Callable
from typing import Any

import dbus_fast
import pytest
from dbus_fast import aio

from whipstaff.node_agent import logind

pytestmark = pytest.mark.skipif(
    shutil.which("dbus-daemon") is None, reason="dbus-daemon isn't installed"
)

CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class Machine:
    """A bus with a logind and a systemd that a test plays."""

    def __init__(self, bus: aio.MessageBus, folder: pathlib.Path) -> None:
        self._bus = bus
        self.configuration = folder / "logind.conf.d" / "99-kubelet.conf"
        self.delay_us = 5_000_000
        self.reloads = True
        self.asked: list[list[Any]] = []
        self.held: list[int] = []
        self._given: list[int] = []
        bus.add_message_handler(self._answer)

    def _answer(self, message: dbus_fast.Message) -> dbus_fast.Message | None:
        if message.message_type is not dbus_fast.MessageType.METHOD_CALL:
            return None
        reply = dbus_fast.Message.new_method_return
        match message.member:
            case "Get":
                return reply(message, "v", [dbus_fast.Variant("t", self.delay_us)])
            case "Inhibit":
                self.asked.append(message.body)
                ours, theirs = os.pipe()
                self.held.append(ours)
                self._given.append(theirs)
                return reply(message, "h", [0], [theirs])
            case "KillUnit" if message.body == ["systemd-logind.service", "all", 1]:
                if self.reloads:
                    text = self.configuration.read_text()
                    self.delay_us = int(text.rpartition("=")[2]) * 1_000_000
                return reply(message, "", [])
        return None

    async def signal(self, bus: aio.MessageBus | None = None, *, begins: bool = True) -> None:
        """Tell of a shutdown, as logind or as somebody else."""
        await (bus or self._bus).send(
            dbus_fast.Message.new_signal(
                logind.PATH, logind.INTERFACE, logind.SIGNAL, "b", [begins]
            )
        )

    def let_go(self) -> bool:
        """Whether the last inhibitor isn't held any more."""
        while self._given:
            os.close(self._given.pop())
        os.set_blocking(self.held[-1], False)
        try:
            return os.read(self.held[-1], 1) == b""
        except BlockingIOError:
            return False


@contextlib.asynccontextmanager
async def daemon(folder: pathlib.Path) -> AsyncIterator[Callable[[], Any]]:
    """A bus; returns what connects to it."""
    socket = folder / "bus"
    (folder / "bus.conf").write_text(CONFIGURATION.format(socket=socket))
    process = await asyncio.create_subprocess_exec(
        "dbus-daemon",
        f"--config-file={folder / 'bus.conf'}",
        "--nofork",
        "--nopidfile",
        "--print-address",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        # It says its address when it listens.
        async with asyncio.timeout(10):
            assert await process.stdout.readline()
        yield lambda: aio.MessageBus(f"unix:path={socket}", negotiate_unix_fd=True).connect()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def machine(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Machine, Callable[[], Any]]]:
    """A machine, and what connects to its bus."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")
    async with daemon(tmp_path) as connect:
        bus = await connect()
        made = Machine(bus, tmp_path)
        for name in (logind.NAME, "org.freedesktop.systemd1"):
            await bus.request_name(name)
        try:
            yield made, connect
        finally:
            bus.disconnect()
            for descriptor in made.held:
                os.close(descriptor)


async def heard(found: logind.Logind) -> bool:
    async with asyncio.timeout(10):
        return await anext(aiter(found.shutdowns()))


async def test_an_inhibitor_is_held_until_it_is_released(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, monkeypatch) as (made, _):
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


async def test_the_longest_delay_is_raised_by_logind_itself(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, monkeypatch) as (made, _):
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
    async with machine(tmp_path, monkeypatch) as (made, _):
        made.reloads = False
        found = await logind.Logind.connect(made.configuration)
        with pytest.raises(logind.LogindError, match="to become 45s, current value is 5s"):
            await found.allow_delay(45)
        found.close()


async def test_shutdowns_are_told_in_their_order(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, monkeypatch) as (made, _):
        found = await logind.Logind.connect()
        await made.signal()
        assert await heard(found) is True
        await made.signal(begins=False)
        assert await heard(found) is False
        found.close()


async def test_a_shutdown_that_somebody_else_announces_is_none(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, monkeypatch) as (made, connect):
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


async def test_the_end_of_the_bus_is_the_end_of_the_news(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")
    async with daemon(tmp_path) as connect:
        bus = await connect()
        Machine(bus, tmp_path)
        await bus.request_name(logind.NAME)
        found = await logind.Logind.connect()
        told = asyncio.create_task(anext(aiter(found.shutdowns()), None))
        await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        assert await told is None
    with pytest.raises(logind.LogindError, match=r"Inhibit: "):
        await found.inhibit()


async def test_without_a_bus_or_a_logind_on_it_there_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")
    with pytest.raises(logind.LogindError, match="no system bus: "):
        await logind.Logind.connect()
    async with daemon(tmp_path):
        found = await logind.Logind.connect()
        with pytest.raises(logind.LogindError, match=r"login1 was not provided"):
            await found.longest_delay()
        found.close()
