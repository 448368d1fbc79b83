"""systemd-logind, through the system's D-Bus: who wants to shut the machine down, and who waits.

logind asks before it shuts a machine down, and waits for those who hold an inhibitor of its kind
"delay", up to a longest time of its own configuration. `Logind` holds the connection; it takes
inhibitors, raises the longest time where it is too short, and tells of shutdowns.

Runs no loop; owns the connection. Answers to ``pkg/kubelet/nodeshutdown/systemd``. Signals count
only if they come from logind itself: on the system's bus everybody may send one.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import AsyncIterator
from typing import Any, Self

import dbus_fast
from dbus_fast import aio

from whipstaff.node_agent import shutdown
from whipstaff.runtime import logs

NAME, PATH, INTERFACE = (
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
)
SIGNAL = "PrepareForShutdown"
CONFIGURATION = pathlib.Path("/etc/systemd/logind.conf.d/99-kubelet.conf")

_BUS = "org.freedesktop.DBus"
_PATIENCE = 25.0
_LOOKS = 5
_FIRST_PAUSE = 0.1
_HANGUP = 1

_log = logs.get("node_agent.logind")


class Lock:
    """An inhibitor: while it is held, a shutdown waits."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let the shutdown go on."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Logind:
    """A connection to logind.

    Args:
        bus: the system's bus, connected.
        configuration: the file that the longest delay is written to.
    """

    def __init__(self, bus: aio.MessageBus, configuration: pathlib.Path = CONFIGURATION) -> None:
        self._bus = bus
        self._configuration = configuration
        self._signals: asyncio.Queue[dbus_fast.Message | None] = asyncio.Queue()
        bus.add_message_handler(self._take)

    @classmethod
    async def connect(cls, configuration: pathlib.Path = CONFIGURATION) -> Self:
        """Find logind on the system's bus, and have it tell of shutdowns from now on.

        Raises:
            shutdown.LogindError: there is no bus, or no logind on it.
        """
        made = aio.MessageBus(bus_type=dbus_fast.BusType.SYSTEM, negotiate_unix_fd=True)
        try:
            async with asyncio.timeout(_PATIENCE):
                bus = await made.connect()
        except (OSError, EOFError, dbus_fast.AuthError, dbus_fast.InvalidAddressError) as error:
            raise shutdown.LogindError(f"no system bus: {str(error) or 'no answer'}") from error
        found = cls(bus, configuration)
        try:
            rule = f"type='signal',sender='{NAME}',interface='{INTERFACE}',member='{SIGNAL}'"
            await found._call(_BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", "s", rule)
        except shutdown.LogindError:
            found.close()
            raise
        return found

    def close(self) -> None:
        """Hang up; inhibitors stay."""
        self._bus.disconnect()

    async def longest_delay(self) -> float:
        """For how many seconds logind lets a shutdown wait.

        Raises:
            shutdown.LogindError: it doesn't say.
        """
        properties = "org.freedesktop.DBus.Properties"
        name = "InhibitDelayMaxUSec"
        reply = await self._call(NAME, PATH, properties, "Get", "ss", INTERFACE, name)
        return int(reply.body[0].value) / 1_000_000

    async def allow_delay(self, seconds: float) -> None:
        """Have logind let a shutdown wait for so long: write its configuration, and wait for it.

        Raises:
            shutdown.LogindError: it doesn't.
        """
        try:
            await asyncio.to_thread(self._configure, seconds)
        except OSError as error:
            raise shutdown.LogindError(f"unable to override inhibit delay: {error}") from error
        systemd = "org.freedesktop.systemd1"
        unit = "systemd-logind.service"
        await self._call(
            systemd,
            "/org/freedesktop/systemd1",
            f"{systemd}.Manager",
            "KillUnit",
            "ssi",
            unit,
            "all",
            _HANGUP,
        )
        pause = _FIRST_PAUSE
        for _ in range(_LOOKS):
            current = await self.longest_delay()
            if current >= seconds:
                return
            await asyncio.sleep(pause)
            pause *= 2
        raise shutdown.LogindError(
            f"timed out waiting for logind's InhibitDelayMaxSec to become {seconds:g}s, "
            f"current value is {current:g}s"
        )

    async def inhibit(self) -> Lock:
        """Have shutdowns wait.

        Raises:
            shutdown.LogindError: logind doesn't let us.
        """
        why = "Kubelet needs time to handle node shutdown"
        reply = await self._call(
            NAME, PATH, INTERFACE, "Inhibit", "ssss", "shutdown", "kubelet", why, "delay"
        )
        descriptor = reply.unix_fds[reply.body[0]]
        # A hook or a mount helper that outlives us would hold the shutdown up.
        os.set_inheritable(descriptor, False)
        return Lock(descriptor)

    async def shutdowns(self) -> AsyncIterator[bool]:
        """Tell of shutdowns: True when one begins, False when it was called off.

        Ends with the connection.

        Raises:
            shutdown.LogindError: the bus can't be asked who sent a signal.
        """
        hangup = asyncio.create_task(self._wait_for_hangup())
        try:
            while (message := await self._signals.get()) is not None:
                if message.signature != "b":
                    _log.error("a shutdown signal isn't as expected", signature=message.signature)
                elif message.sender != await self._owner():
                    _log.warning("a shutdown signal isn't logind's", sender=message.sender)
                else:
                    yield bool(message.body[0])
        finally:
            hangup.cancel()

    async def _owner(self) -> str:
        call = (_BUS, "/org/freedesktop/DBus", _BUS, "GetNameOwner", "s", NAME)
        return str((await self._call(*call)).body[0])

    async def _wait_for_hangup(self) -> None:
        try:
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001 (whatever broke the connection, it is broken)
            _log.warning("the system bus hung up", error=str(error))
        self._signals.put_nowait(None)

    def _take(self, message: dbus_fast.Message) -> None:
        if (
            message.message_type is dbus_fast.MessageType.SIGNAL
            and message.member == SIGNAL
            and message.interface == INTERFACE
            and message.path == PATH
        ):
            self._signals.put_nowait(message)

    async def _call(
        self, name: str, path: str, interface: str, member: str, signature: str, *body: Any
    ) -> dbus_fast.Message:
        if not self._bus.connected:
            raise shutdown.LogindError(f"{interface}.{member}: not connected to the bus")
        message = dbus_fast.Message(
            destination=name,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            async with asyncio.timeout(_PATIENCE):
                reply = await self._bus.call(message)
        except (OSError, EOFError, dbus_fast.DBusError) as error:
            raise shutdown.LogindError(
                f"{interface}.{member}: {str(error) or 'no answer'}"
            ) from error
        if reply is None or reply.message_type is dbus_fast.MessageType.ERROR:
            text = reply.body[0] if reply is not None and reply.body else "no answer"
            raise shutdown.LogindError(f"{interface}.{member}: {text}")
        return reply

    def _configure(self, seconds: float) -> None:
        self._configuration.parent.mkdir(parents=True, exist_ok=True)
        self._configuration.write_text(
            f"# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={seconds:.0f}\n",
            encoding="utf-8",
        )
