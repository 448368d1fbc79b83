"""The controllers as a kopf operator: kopf starts and stops them, and leaves no marks.

kopf has the process: start-up, shutdown, signals, liveness, and credentials for whatever else runs
in it. Of all that it offers only what writes nothing is used: ``on.startup``, ``on.login``,
``on.probe`` and ``on.cleanup``; a handler of another kind would put annotations or finalizers on
people's objects. Objects don't come through it, for what each event costs: they are read by
`whipstaff.runtime.informer`. docs/controllers.md has the measurements behind this.

The lease is taken while kopf starts up, so nothing is watched before.

Two ways in: `run`, with flags, and ``kopf run -m whipstaff.controllers``, beside handlers of one's
own, with the defaults of all flags and without our server of metrics (kopf's ``--liveness`` takes
its place for health).
"""

from __future__ import annotations

import asyncio
import datetime
import math
import signal
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import kopf

from whipstaff.controllers import app
from whipstaff.runtime import config, flags, logs

_log = logs.get("controllers")


class Operator:
    """One process's handlers, registered with kopf.

    Args:
        plan: what to run.
        connect: gives the API server's place and our identity, when kopf starts.
        stop: called where the controllers ended by themselves.

    Attributes:
        ended: set when the controllers have ended, by themselves or because kopf said so.
        failure: what ended the controllers before they were told to end.
    """

    def __init__(
        self,
        plan: app.Plan,
        connect: Callable[[], config.Connection],
        stop: Callable[[], object] = bool,
    ) -> None:
        self.ended = asyncio.Event()
        self.failure: Exception | None = None
        self._plan = plan
        self._connect = connect
        self._stop = stop
        self._connection: config.Connection | None = None
        self._session: aiohttp.ClientSession | None = None
        self._working: asyncio.Task[None] | None = None
        self._started: asyncio.Future[app.Controllers] | None = None

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """Have kopf call this operator."""
        kopf.on.startup(registry=registry)(self.start)
        kopf.on.login(registry=registry)(self.login)
        kopf.on.cleanup(registry=registry)(self.end)
        kopf.on.probe(registry=registry, id="leading")(self.probe)

    async def start(self, **_: Any) -> None:
        """Start to work, and give kopf the word once leading.

        Raises:
            kopf.PermanentError: the controllers can't start; `failure` says why.
        """
        self._started = asyncio.get_running_loop().create_future()
        self._working = asyncio.create_task(self._work(self._started))
        leading = asyncio.create_task(_until_leading(self._started))
        try:
            await asyncio.wait({self._working, leading}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._end_work()
            raise
        finally:
            leading.cancel()
        if self.failure is not None:
            raise kopf.PermanentError(str(self.failure)) from self.failure

    async def _work(self, started: asyncio.Future[app.Controllers]) -> None:
        try:
            self._connection = self._connect()
            await app.run(self._plan, self._connection, started.set_result)
        except Exception as error:  # noqa: BLE001 (kopf is ended, and `run` raises it again)
            self.failure = error
            self._stop()
        finally:
            self.ended.set()

    async def login(self, **_: Any) -> kopf.AiohttpSession:
        """Our own credentials and TLS settings, for kopf's requests."""
        assert self._connection is not None
        headers = await self._connection.headers()
        lifetime = self._connection.lifetime
        until = None
        if not math.isinf(lifetime):
            until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=lifetime)
        if self._session is not None:
            await self._session.close()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._connection.tls if self._connection.tls is not None else True
            ),
            headers={**headers, "User-Agent": f"{app.USER_AGENT}/kopf"},
            proxy=self._connection.proxy,
        )
        return kopf.AiohttpSession(
            server=self._connection.server, aiohttp_session=self._session, expiration=until
        )

    async def probe(self, **_: Any) -> str:
        """Whether the controllers are alive; kopf answers ``--liveness`` with it.

        Raises:
            RuntimeError: they aren't.
        """
        if self.failure is not None:
            raise RuntimeError(f"ended: {self.failure}")
        self._parts().check_lease()
        return "leading"

    def _parts(self) -> app.Controllers:
        assert self._started is not None
        return self._started.result()

    async def end(self, **_: Any) -> None:
        """Finish what was begun, write out events, and give the lease back."""
        _log.info("stopping")
        await self._end_work()
        if self._session is not None:
            await self._session.close()

    async def _end_work(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait({self._working})


async def run(plan: app.Plan, connection: config.Connection) -> None:
    """The whole process, until SIGTERM or SIGINT.

    Raises:
        errors.StartupError: the API server is away, rights are missing, others do the same work.
        leases.LeaseLost: somebody else leads.
    """
    registry = kopf.OperatorRegistry()
    operator = Operator(plan, lambda: connection)
    operator.register(registry)
    try:
        await kopf.operator(
            registry=registry,
            settings=_settings(),
            clusterwide=True,
            standalone=True,
            stop_flag=operator.ended,
        )
    except Exception:
        if operator.failure is None:
            raise
    if operator.failure is not None:
        raise operator.failure


def register_defaults() -> None:
    """Have ``kopf run`` call an operator with the defaults of all flags."""
    plan = app.Plan(app.CONTROLLERS, 5, flags.LeaderElection(resource_name=app.LEASE), None)
    operator = Operator(plan, config.load, lambda: signal.raise_signal(signal.SIGTERM))
    operator.register(kopf.get_default_registry())


async def _until_leading(started: asyncio.Future[app.Controllers]) -> None:
    parts = await started
    await parts.leading.wait()


class _Patiently:
    """Seconds between attempts, without an end: kopf gives up where they end."""

    def __iter__(self) -> Iterator[float]:
        yield from (1, 1, 2, 3, 5, 8)
        while True:
            yield 10


def _settings() -> kopf.OperatorSettings:
    """Of a process in which nothing but ours runs: in others they are their owners'."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.networking.error_backoffs = _Patiently()
    settings.process.ultimate_exiting_timeout = None
    return settings
