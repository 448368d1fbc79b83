"""The supervisor of one cluster: starts its components, restarts those that die, stops them all.

``whipstaff up`` leaves it behind as a process of its own: ``python -m whipstaff.cluster.supervisor
--data-dir D``. One task a component: wait for what it needs, start it, wait until it serves, wait
until it ends, and again, with a growing pause. It owns ``state.json`` and holds ``supervisor.lock``
for as long as it lives. SIGTERM ends everything in reverse order. A component that dies before it
ever served isn't tried again: that is a mistake that somebody must read about.

Left out: health checks after the start (a component that hangs is shown by ``whipstaff status``)
and turning over log files while they grow.
"""

import asyncio
import contextlib
import datetime
import fcntl
import functools
import importlib
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
from collections.abc import Awaitable, Callable, Iterator, Sequence

import click

from whipstaff.cluster import (
    certificates,
    components,
    files,
    layout,
    nodes,
    plan,
    ports,
    probes,
    processes,
    state,
)
from whipstaff.runtime import errors, logs

_POLL = 0.1  # seconds between looks at a process
_SERVE = 120.0  # seconds that a component may take to serve the first time
_BACKOFF_FIRST, _BACKOFF_LAST = 0.5, 30.0
_STEADY = 60.0  # after so many seconds of running, the next pause is the first again

_log = logs.get("supervisor")


def pause(last: float, ran: float) -> float:
    """How long to wait before a restart, after ``ran`` seconds and a pause of ``last`` (or 0)."""
    if last == 0 or ran >= _STEADY:
        return _BACKOFF_FIRST
    return min(last * 2, _BACKOFF_LAST)


class Supervisor:
    """Runs ``table`` from `run` until it is cancelled or `stop` is called.

    Args:
        prepare: called when the apiserver serves; what waits for `components.BOOTSTRAP` starts
            when it is done.
    """

    def __init__(
        self,
        place: layout.Layout,
        table: Sequence[components.Component],
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        self._place = place
        self._table = table
        self._prepare = prepare
        self._serves = {component.name: asyncio.Event() for component in table}
        self._serves[components.BOOTSTRAP] = asyncio.Event()
        self._processes: dict[str, processes.Process] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._stopping = asyncio.Event()
        self.state = state.State(
            processes.Identity.of(os.getpid()),
            [
                state.Component(
                    component.name,
                    component.port,
                    str(place.log(component.name)),
                    address=component.address,
                    node=component.node,
                )
                for component in table
            ],
        )

    def stop(self) -> None:
        """Let `run` end everything and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Run the components until `stop`."""
        self.state.save(self._place)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._look)
        tasks = [
            asyncio.create_task(self._keep(component, record), name=component.name)
            for component, record in zip(self._table, self.state.components, strict=True)
        ]
        tasks.append(asyncio.create_task(self._bootstrap()))
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await _first_failure_or(stopped, tasks)
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)
            await self._end_all()
            self._place.state.unlink()

    def _look(self) -> None:
        """A child has ended: see which."""
        for name, process in self._processes.items():
            if process.exit_status is not None:
                self._ended[name].set()

    async def _bootstrap(self) -> None:
        await self._serves["kube-apiserver"].wait()
        await self._prepare()
        self._serves[components.BOOTSTRAP].set()

    async def _keep(self, component: components.Component, record: state.Component) -> None:
        """Keep one component running."""
        for name in component.after:
            await self._serves[name].wait()
        last_pause = 0.0
        while True:
            begun = time.monotonic()
            why = await self._life(component, record)
            if not self._serves[component.name].is_set():
                self._note(record, state.FAILED, why)
                _log.error("never served", **self._told(record))
                return
            last_pause = pause(last_pause, time.monotonic() - begun)
            record.restarts += 1
            self._note(record, state.RESTARTING, why)
            _log.warning("restarting", after=f"{last_pause:g} s", **self._told(record))
            await asyncio.sleep(last_pause)

    async def _life(self, component: components.Component, record: state.Component) -> str:
        """Start the component and see it through to its end: why it ended."""
        # Whoever has the port would answer our question whether the component serves.
        # On a node's own address nobody can: there, that is nobody else's.
        if component.port and not component.node:
            holder = await asyncio.to_thread(ports.holder, component.port, component.host)
            if holder is not None:
                return f"can't listen: port {component.port} is taken{holder}"
        try:
            process = processes.Process.start(
                component.name,
                component.argv,
                self._place.log(component.name),
                owner=self._place.root,
                environ=component.environ,
            )
        except errors.StartupError as error:
            return str(error)
        self._ended[component.name] = asyncio.Event()
        self._processes[component.name] = process
        record.process, record.since = process.identity, time.time()
        self._note(record, state.STARTING)
        why = await self._come_up(component, process)
        if why is None:
            self._note(record, state.RUNNING)
            self._serves[component.name].set()
            _log.info("serves", component=component.name, pid=process.pid, port=component.port)
            await self._ended[component.name].wait()
        if (status := process.exit_status) is not None:
            why = processes.describe_exit(status)
        else:
            await asyncio.to_thread(process.stop, component.grace)
        del self._processes[component.name]
        record.process = None
        return why or "ended"

    async def _come_up(
        self, component: components.Component, process: processes.Process
    ) -> str | None:
        """Wait until it serves (None), or say why it doesn't.

        One that has served before is given all the time that it takes: a kube-apiserver that comes
        back under load would only begin again.
        """
        known = self._serves[component.name].is_set()
        deadline = math.inf if known else time.monotonic() + _SERVE
        ask = functools.partial(
            probes.failure,
            component.endpoint,
            component.health,
            context=component.endpoint.context(),
        )
        while process.exit_status is None:
            why = await asyncio.to_thread(ask)
            if why is None:
                return None if known else await asyncio.to_thread(self._set_up, component)
            if time.monotonic() > deadline:
                return f"doesn't serve {component.health} after {_SERVE:g} s: {why}"
            await asyncio.sleep(_POLL)
        return "ended"

    def _set_up(self, component: components.Component) -> str | None:
        """Run its commands: None, or the one that fails."""
        with self._place.log(component.name).open("ab") as log:
            for command in component.setup:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, processes.OWNER: str(self._place.root)},
                    timeout=_SERVE,
                    check=False,
                )
                if done.returncode != 0:
                    return f"`{' '.join(command)}` {processes.describe_exit(done.returncode)}"
        return None

    def _note(self, record: state.Component, phase: str, message: str | None = None) -> None:
        record.phase = phase
        if message is not None:
            record.message = message
        self.state.save(self._place)

    def _told(self, record: state.Component) -> dict[str, str]:
        """What one wants to read in the supervisor's own log about a component that ended."""
        lines = processes.tail(pathlib.Path(record.log), 5)
        return {"component": record.name, "why": record.message, "log": " | ".join(lines)}

    async def _end_all(self) -> None:
        for wave in components.stopping_waves(self._table):
            await asyncio.gather(
                *(
                    asyncio.to_thread(process.stop, component.grace)
                    for component in wave
                    if (process := self._processes.get(component.name)) is not None
                )
            )


async def _first_failure_or(
    stopped: "asyncio.Task[bool]", tasks: "Sequence[asyncio.Task[None]]"
) -> None:
    """Wait for ``stopped``; raise what a task raises before."""
    pending: set[asyncio.Task[bool] | asyncio.Task[None]] = {stopped, *tasks}
    while not stopped.done():
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def _prepare(
    place: layout.Layout,
    loading: "asyncio.Task[types.ModuleType]",
    planned: plan.Plan,
    settings: components.Settings,
) -> None:
    """Give our components' users their rights, and the cluster what it needs for real pods."""
    bootstrap = await loading
    await bootstrap.prepare(
        place.kubeconfig("admin"),
        timeout=_SERVE,
        nodes=nodes.objects(settings),
        applied=nodes.applied(settings) if planned.spec.addons else [],
    )


async def supervise(place: layout.Layout) -> None:
    """Run the cluster that is planned in ``place`` until SIGTERM."""
    planned = plan.Plan.load(place)
    if planned is None:
        raise errors.StartupError(f"no cluster in {place.root}")
    pki = certificates.ensure(place.pki, datetime.datetime.now(datetime.UTC), planned.hosts)
    settings = planned.settings(place, pki)
    # The client takes half a second to import: while etcd and the apiserver start, not before.
    loading = asyncio.create_task(
        asyncio.to_thread(importlib.import_module, "whipstaff.cluster.bootstrap")
    )
    supervisor = Supervisor(
        place, nodes.table(settings), lambda: _prepare(place, loading, planned, settings)
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    await supervisor.run()


@contextlib.contextmanager
def _only_one(place: layout.Layout) -> Iterator[None]:
    files.private_folder(place.root)
    with place.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.StartupError(f"another supervisor runs for {place.root}") from None
        yield


@click.command()
@click.option("--data-dir", required=True, type=click.Path(path_type=pathlib.Path))
def main(data_dir: pathlib.Path) -> None:
    """Run a cluster's components until SIGTERM."""
    logs.setup(0, "text")
    place = layout.Layout(data_dir)
    try:
        with _only_one(place):
            asyncio.run(supervise(place))
    except errors.WhipstaffError as error:
        sys.exit(f"supervisor: {error}")


if __name__ == "__main__":
    main()
