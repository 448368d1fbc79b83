"""One measurement: a fresh control plane, nodes, a scheduler, init pods, then the measured pods.

A scheduler's CPU time and resident memory are its own process's, read while the measured pods are
bound and once more when it rests; the load generator and the API server share the machine with it,
alike for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator

import click
import psutil

from bench import load, report, workloads
from whipstaff.cluster import binaries, envtest, ports, processes
from whipstaff.runtime import client, config, resources

STALLED_SECONDS = 60.0
SETTLED_SECONDS, SETTLED_SHARE = 2.0, 0.02
IDLE_PODS, IDLE_PAUSE, IDLE_SETTLES = 300, 0.05, 3.0
SCHEDULER_USER = ("system:kube-scheduler", ["system:masters"])


def stock_command(
    plane: envtest.ControlPlane, kubeconfig: pathlib.Path, port: int, folder: pathlib.Path
) -> list[str]:
    """The stock kube-scheduler with its client limits lifted."""
    configuration = folder / "kube-scheduler.yaml"
    configuration.write_text(
        "apiVersion: kubescheduler.config.k8s.io/v1\n"
        "kind: KubeSchedulerConfiguration\n"
        "leaderElection: {leaderElect: false}\n"
        f"clientConnection: {{kubeconfig: {kubeconfig}, qps: 5000, burst: 5000}}\n",
        encoding="utf-8",
    )
    return [
        str(plane.settings.binaries["kube-scheduler"]),
        f"--config={configuration}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
    ]


def our_command(
    plane: envtest.ControlPlane, kubeconfig: pathlib.Path, port: int, folder: pathlib.Path
) -> list[str]:
    """Our scheduler in the stock one's place."""
    del plane, folder
    return [
        sys.executable,
        "-m",
        "whipstaff.runtime.commands",
        "scheduler",
        f"--kubeconfig={kubeconfig}",
        "--scheduler-name=default-scheduler",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
    ]


def no_scheduler_command(
    plane: envtest.ControlPlane, kubeconfig: pathlib.Path, port: int, folder: pathlib.Path
) -> list[str]:
    """A client that binds and decides nothing: what the API server can take."""
    del plane, port, folder
    return [sys.executable, "-m", "bench.binding", str(kubeconfig)]


SCHEDULERS: dict[
    str, Callable[[envtest.ControlPlane, pathlib.Path, int, pathlib.Path], list[str]]
] = {
    "kube-scheduler": stock_command,
    "whipstaff": our_command,
    "binds only": no_scheduler_command,
}


@contextlib.contextmanager
def started(command: list[str], log: pathlib.Path) -> Iterator[psutil.Process]:
    """Run a scheduler with its output in a file, and end it.

    Raises:
        click.ClickException: it ended by itself or stalled; the message holds the end of its log.
    """
    process = processes.Process.start("the scheduler", command, log, owner=log.parent)
    try:
        yield psutil.Process(process.pid)
    except (TimeoutError, psutil.NoSuchProcess) as error:
        status = process.exit_status
        what = str(error) if status is None else f"{command[0]} {processes.describe_exit(status)}"
        end = "\n".join(processes.tail(log))
        raise click.ClickException(f"{what}; its log ends with\n{end}") from error
    finally:
        process.stop(20)


@contextlib.asynccontextmanager
async def peak_rss(process: psutil.Process) -> AsyncIterator[list[int]]:
    """Sample the resident set five times a second; the one value is the largest seen, in bytes."""
    peak = [0]

    async def sample() -> None:
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak[0] = max(peak[0], process.memory_info().rss)
            await asyncio.sleep(0.2)

    task = asyncio.create_task(sample())
    try:
        yield peak
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _cpu(measured: list[psutil.Process]) -> float:
    """The CPU seconds that processes have used."""
    times = [process.cpu_times() for process in measured]
    return sum(each.user + each.system for each in times)


async def _settle(process: psutil.Process) -> None:
    """Wait until a process has hardly anything to do, for at most `STALLED_SECONDS`."""
    end = time.monotonic() + STALLED_SECONDS
    used = _cpu([process])
    while time.monotonic() < end:
        await asyncio.sleep(SETTLED_SECONDS)
        before, used = used, _cpu([process])
        if used - before < SETTLED_SHARE * SETTLED_SECONDS:
            return


def _say(text: str) -> None:
    click.echo(text, err=True)


class Progress:
    """One line that counts, rewritten on a terminal and written now and then elsewhere."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._next = 0.0
        self._ended = False

    def __call__(self, count: int) -> None:
        """Show the count, at most twice a second on a terminal, every ten seconds elsewhere."""
        now = time.monotonic()
        if self._ended or (now < self._next and count < self._total):
            return
        self._ended = count >= self._total
        terminal = sys.stderr.isatty()
        self._next = now + (0.5 if terminal else 10.0)
        end = "\r" if terminal and count < self._total else "\n"
        click.echo(f"  {self._label}: {count}/{self._total}{end}", err=True, nl=False)


async def measure(
    workload: workloads.Workload, scheduler: str, arrival: report.Arrival
) -> report.Result:
    """Measure one scheduler on one workload, everything fresh.

    With the arrival `stream` pods are created while they are bound, as in scheduler_perf: on a
    small machine the load and the API server take most of it. With `backlog` all are there before
    the scheduler starts, and the clock runs from the last init pod's binding: what the scheduler
    can do by itself. With `idle` each of `IDLE_PODS` comes `IDLE_PAUSE` after the one before was
    bound: how long a pod waits where there is nothing else to do. At least one pod is bound before
    the clock runs: upstream too waits until the scheduler works.
    """
    workload = dataclasses.replace(workload, init_pods=max(1, workload.init_pods))
    click.echo(f"{workload.name} with {scheduler}, {arrival}", err=True)
    assets = binaries.resolve((*envtest.NAMES, "kube-scheduler"), report=_say)
    with (
        tempfile.TemporaryDirectory(prefix="whipstaff-bench-") as name,
        envtest.ControlPlane(assets=assets) as plane,
    ):
        folder = pathlib.Path(name)
        user, groups = SCHEDULER_USER
        kubeconfig = pathlib.Path(plane.issue_kubeconfig(user, groups))
        command = SCHEDULERS[scheduler](plane, kubeconfig, ports.scratch(1)[0], folder)
        async with client.Client(config.load(str(plane.kubeconfig))) as api:
            await load.prepare(api, workload)
            await load.create_all(
                api,
                resources.NODES,
                workload.nodes,
                workload.node,
                progress=Progress("nodes", workload.nodes),
            )
            plane_processes = [psutil.Process(pid) for pid in plane.process_ids.values()]
            run = Run(api, workload, plane_processes)
            bind = {"backlog": run.backlog, "stream": run.stream, "idle": run.idle}[arrival]
            await bind(started(command, folder / "scheduler.log"))
            return run.result(scheduler, arrival)


@dataclasses.dataclass(slots=True)
class Run:
    """The moments and the costs of one run, gathered as it goes."""

    api: client.Client
    workload: workloads.Workload
    plane: list[psutil.Process]
    created: dict[str, float] = dataclasses.field(default_factory=dict)
    bound: dict[str, float] = dataclasses.field(default_factory=dict)
    started_at: float = 0.0
    cpu: float = 0.0
    settled_cpu: float = 0.0
    plane_cpu: float = 0.0
    peak_rss: int = 0

    async def stream(self, scheduler: contextlib.AbstractContextManager[psutil.Process]) -> None:
        """Bind the init pods, then create the measured ones as fast as they are taken."""
        with scheduler as process:
            async with load.watched(self.api) as watch:
                await self._create_init()
                await self._wait(watch, self.workload.init_pods, "init pods bound")
                async with self._measured(process), self._churning():
                    creating = asyncio.create_task(self._create_measured())
                    await self._wait(watch, self.workload.init_pods + self.workload.pods, "bound")
                    measured = await creating
        self.created = measured
        self.bound = {name: watch.bound[name][0] for name in measured}

    async def idle(self, scheduler: contextlib.AbstractContextManager[psutil.Process]) -> None:
        """Bind the init pods, then create the measured ones one by one."""
        self.workload = dataclasses.replace(self.workload, pods=min(self.workload.pods, IDLE_PODS))
        progress = Progress("bound one by one", self.workload.pods)
        with scheduler as process:
            async with load.watched(self.api) as watch:
                await self._create_init()
                await self._wait(watch, self.workload.init_pods, "init pods bound")
                await asyncio.sleep(IDLE_SETTLES)
                async with self._measured(process):
                    for index in range(self.workload.pods):
                        pod = self.workload.pod(load.NAMESPACE, f"{load.MEASURED}{index:06d}")
                        await self.api.create(resources.PODS, pod)
                        self.created[pod["metadata"]["name"]] = time.monotonic()
                        await watch.wait_for(
                            self.workload.init_pods + index + 1,
                            stalled=STALLED_SECONDS,
                            progress=lambda _: None,
                        )
                        progress(index + 1)
                        await asyncio.sleep(IDLE_PAUSE)
        self.bound = {name: watch.bound[name][0] for name in self.created}

    async def backlog(self, scheduler: contextlib.AbstractContextManager[psutil.Process]) -> None:
        """Create all pods, then start the scheduler; the init pods are its warm-up."""
        total = self.workload.init_pods + self.workload.pods
        await self._create_init()
        await self._create_measured()
        async with load.watched(self.api) as watch:
            with scheduler as process:
                await self._wait(watch, self.workload.init_pods, "init pods bound")
                # Many come with one look; those that came with the last init pod don't count.
                before = set(watch.bound)
                async with self._measured(process):
                    await self._wait(watch, total, "bound")
        self.bound = {
            name: moment for name, (moment, _) in watch.bound.items() if name not in before
        }

    def result(self, scheduler: str, arrival: report.Arrival) -> report.Result:
        """What the run comes to."""
        seconds = max(self.bound.values()) - self.started_at
        waits = [max(0.0, self.bound[name] - moment) for name, moment in self.created.items()]
        return report.Result(
            workload=self.workload.name,
            scheduler=scheduler,
            arrival=arrival,
            nodes=self.workload.nodes,
            pods=len(self.bound),
            seconds=seconds,
            throughput=report.throughput(list(self.bound.values()), self.started_at),
            cpu_ms_per_pod=1000 * self.cpu / len(self.bound),
            settled_cpu_ms_per_pod=1000 * self.settled_cpu / len(self.bound),
            plane_ms_per_pod=1000 * self.plane_cpu / len(self.bound),
            peak_rss_mb=self.peak_rss / 2**20,
            latency_p50=report.percentile(waits, 0.50),
            latency_p99=report.percentile(waits, 0.99),
        )

    @contextlib.asynccontextmanager
    async def _churning(self) -> AsyncIterator[None]:
        """Have what the workload wants go on beside."""
        if self.workload.churn is None:
            yield
            return
        task = asyncio.create_task(load.churn(self.api, self.workload.churn))
        try:
            yield
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _measured(self, process: psutil.Process) -> AsyncIterator[None]:
        """Account for the process's CPU time and memory, and start the clock."""
        before, plane_before = _cpu([process]), _cpu(self.plane)
        self.started_at = time.monotonic()
        async with peak_rss(process) as peak:
            yield
            self.cpu = _cpu([process]) - before
            self.plane_cpu = _cpu(self.plane) - plane_before
            await _settle(process)
        self.settled_cpu = _cpu([process]) - before
        self.peak_rss = peak[0]

    async def _wait(self, watch: load.BindWatch, count: int, label: str) -> None:
        await watch.wait_for(count, stalled=STALLED_SECONDS, progress=Progress(label, count))

    async def _create_init(self) -> None:
        make = self.workload.init_pod or self.workload.pod
        await self._create(
            load.INIT,
            self.workload.init_pods,
            lambda index, name: make(load.init_namespace(self.workload, index), name),
        )

    async def _create_measured(self) -> dict[str, float]:
        return await self._create(
            load.MEASURED,
            self.workload.pods,
            lambda _, name: self.workload.pod(load.NAMESPACE, name),
        )

    async def _create(
        self, prefix: str, count: int, make: Callable[[int, str], client.Object]
    ) -> dict[str, float]:
        """Create pods: the moment of each answer by name."""
        created: dict[str, float] = {}

        def note(pod: client.Object) -> None:
            created[pod["metadata"]["name"]] = time.monotonic()

        await load.create_all(
            self.api,
            resources.PODS,
            count,
            lambda index: make(index, f"{prefix}{index:06d}"),
            done=note,
            progress=Progress(f"{prefix}pods created", count),
        )
        return created
