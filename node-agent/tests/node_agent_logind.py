"""A system bus of its own with a logind and a systemd that a test plays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import dbus_fast
from dbus_fast import aio

from whipstaff.node_agent import logind

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


Connect = Callable[[], Awaitable[aio.MessageBus]]


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
async def daemon(folder: pathlib.Path) -> AsyncIterator[Connect]:
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
        yield lambda: aio.MessageBus(address(folder), negotiate_unix_fd=True).connect()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def machine(folder: pathlib.Path) -> AsyncIterator[tuple[Machine, Connect]]:
    """A machine, and what connects to its bus."""
    async with daemon(folder) as connect:
        bus = await connect()
        made = Machine(bus, folder)
        for name in (logind.NAME, "org.freedesktop.systemd1"):
            await bus.request_name(name)
        try:
            yield made, connect
        finally:
            bus.disconnect()
            for descriptor in made.held:
                os.close(descriptor)


def address(folder: pathlib.Path) -> str:
    """Of the bus, for DBUS_SYSTEM_BUS_ADDRESS."""
    return f"unix:path={folder / 'bus'}"
