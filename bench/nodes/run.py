"""One agent's run: at rest, pods one by one, pods at once, and everything gone again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Coroutine

import click
import psutil

from bench import run
from bench.nodes import clusters, pods, report
from whipstaff.runtime import client, config, resources

_MIB = 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        one_by_one, at_once: pods.
        rest: seconds for which the agent is watched while nothing happens.
        settle: seconds before that.
    """

    one_by_one: int
    at_once: int
    rest: float
    settle: float


async def measure(agent: str, node: clusters.Node, sizes: Sizes, load: float) -> report.Result:
    """Measure the agent of a fresh cluster."""
    async with client.Client(config.load(str(node.kubeconfig))) as api, pods.watched(api) as watch:
        found = await api.get(resources.NODES, node.name)
        room = int(found["status"]["allocatable"]["pods"])
        if room < max(sizes.one_by_one, sizes.at_once):
            raise click.ClickException(f"the node has room for {room} pods only")
        bench = _Bench(api, watch, node, sizes)
        rests = []
        phases = []
        # What is done for the first time only, like unpacking an image, isn't measured.
        await bench.phase("warm-up", 2, together=False)
        rests.append(await bench.rest(0))
        for arrival, count in (("one by one", sizes.one_by_one), ("at once", sizes.at_once)):
            together = arrival == "at once"
            phases.append(await bench.phase(arrival, count, together=together, rests=rests))
        return report.Result(agent, room, load, tuple(rests), tuple(phases))


@dataclasses.dataclass(slots=True)
class _Cost:
    """What the agent used while something went on: CPU seconds, and the largest resident set."""

    cpu: float = 0.0
    peak: int = 0


class _Bench:
    def __init__(
        self, api: client.Client, watch: pods.Watch, node: clusters.Node, sizes: Sizes
    ) -> None:
        self._api = api
        self._watch = watch
        self._node = node
        self._sizes = sizes

    async def rest(self, count: int) -> report.Rest:
        """Watch the agent while nothing happens."""
        sizes = self._sizes
        click.echo(f"  at rest with {count} pods: {sizes.settle + sizes.rest:.0f} s", err=True)
        await asyncio.sleep(sizes.settle)
        psutil.cpu_percent()
        before, began = self._cpu(), time.monotonic()
        await asyncio.sleep(sizes.rest)
        cpu = (self._cpu() - before) / (time.monotonic() - began)
        memory = self._node.agent.memory_full_info()
        return report.Rest(
            pods=count,
            rss=round(memory.rss / _MIB, 1),
            private=round(memory.uss / _MIB, 1),
            cpu=round(100 * cpu, 2),
            machine_cpu=psutil.cpu_percent(),
        )

    async def phase(
        self,
        arrival: str,
        count: int,
        *,
        together: bool,
        rests: list[report.Rest] | None = None,
    ) -> report.Phase:
        """Start pods, wait until they are Ready, and delete them, all or one after the other.

        While all run, the agent is watched at rest where `rests` takes what is seen.
        """
        prefix = arrival.replace(" ", "-")
        names = [f"{prefix}-{index:03d}" for index in range(count)]
        async with self._costs() as start:
            began = time.monotonic()
            await self._each(names, pods.create, "ready", arrival, together=together)
            started = time.monotonic() - began
        if rests is not None:
            rests.append(await self.rest(count))
        async with self._costs() as stop:
            began = time.monotonic()
            await self._each(names, pods.delete, "gone", arrival, together=together)
            gone = time.monotonic() - began
        times = [self._watch.of(name) for name in names]
        return report.Phase(
            arrival=arrival,
            pods=count,
            running=report.Spread.of([max(0.0, t.running - t.created) for t in times]),
            ready=report.Spread.of([max(0.0, t.ready - t.created) for t in times]),
            gone=report.Spread.of([max(0.0, t.gone - t.deleted) for t in times]),
            all_ready=round(started, 2),
            all_gone=round(gone, 2),
            start_cpu=round(1000 * start.cpu / count, 2),
            stop_cpu=round(1000 * stop.cpu / count, 2),
            peak_rss=round(start.peak / _MIB, 1),
        )

    async def _each(
        self,
        names: list[str],
        act: Callable[..., Coroutine[None, None, None]],
        moment: pods.Moment,
        arrival: str,
        *,
        together: bool,
    ) -> None:
        """Do something to each pod, and wait for what comes of it."""
        show = run.Progress(f"{arrival}: {moment}", len(names))
        extra = (self._node.name,) if act is pods.create else ()
        if together:
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(act(self._api, self._watch, name, *extra))
            await self._watch.wait(names, moment, show)
            return
        for done, name in enumerate(names, start=1):
            await act(self._api, self._watch, name, *extra)
            await self._watch.wait([name], moment)
            show(done)

    @contextlib.asynccontextmanager
    async def _costs(self) -> AsyncIterator[_Cost]:
        cost = _Cost()
        before = self._cpu()
        async with run.peak_rss(self._node.agent) as peak:
            yield cost
        cost.cpu = self._cpu() - before
        cost.peak = peak[0]

    def _cpu(self) -> float:
        """The agent's CPU time until now, in seconds.

        Raises:
            click.ClickException: it doesn't run any more.
        """
        try:
            times = self._node.agent.cpu_times()
        except psutil.NoSuchProcess:
            raise click.ClickException("the agent has ended") from None
        return times.user + times.system
