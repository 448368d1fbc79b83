"""One measurement: a fresh control plane, nodes, a scheduler, init pods, then the measured pods.

A scheduler's CPU time and resident memory are its own process's, read while the measured pods are
bound; the load generator and the API server share the machine with it, alike for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator

import click
import psutil

from bench import load, report, workloads
from whipstaff.cluster import binaries, envtest, ports
from whipstaff.runtime import client, config, resources

STALLED_SECONDS = 60.0
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


SCHEDULERS: dict[
    str, Callable[[envtest.ControlPlane, pathlib.Path, int, pathlib.Path], list[str]]
] = {
    "kube-scheduler": stock_command,
    "whipstaff": our_command,
}


@contextlib.contextmanager
def started(command: list[str], log: pathlib.Path) -> Iterator[psutil.Process]:
    """Run a scheduler with its output in a file, and end it.

    Raises:
        click.ClickException: it ended by itself or stalled; the message holds the end of its log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield psutil.Process(process.pid)
    except (TimeoutError, psutil.NoSuchProcess) as error:
        ended = process.poll()
        what = str(error) if ended is None else f"{command[0]} ended with exit code {ended}"
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])
        raise click.ClickException(f"{what}; its log ends with\n{tail}") from error
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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


def _say(text: str) -> None:
    click.echo(text, err=True)


class Progress:
    """One line that counts, rewritten on a terminal and written now and then elsewhere."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._next = 0.0

    def __call__(self, count: int) -> None:
        """Show the count, at most twice a second on a terminal, every ten seconds elsewhere."""
        now = time.monotonic()
        if now < self._next and count < self._total:
            return
        terminal = sys.stderr.isatty()
        self._next = now + (0.5 if terminal else 10.0)
        end = "\r" if terminal and count < self._total else "\n"
        click.echo(f"  {self._label}: {count}/{self._total}{end}", err=True, nl=False)


async def measure(workload: workloads.Workload, scheduler: str) -> report.Result:
    """Measure one scheduler on one workload, everything fresh."""
    click.echo(f"{workload.name} with {scheduler}", err=True)
    assets = binaries.resolve((*envtest.NAMES, "kube-scheduler"), report=_say)
    with (
        tempfile.TemporaryDirectory(prefix="whipstaff-bench-") as name,
        envtest.ControlPlane(assets=assets) as plane,
    ):
        folder = pathlib.Path(name)
        user, groups = SCHEDULER_USER
        kubeconfig = pathlib.Path(plane.issue_kubeconfig(user, groups))
        async with client.Client(config.load(str(plane.kubeconfig))) as api:
            await load.create_all(
                api,
                resources.NODES,
                workload.nodes,
                workloads.node,
                progress=Progress("nodes", workload.nodes),
            )
            command = SCHEDULERS[scheduler](plane, kubeconfig, ports.scratch(1)[0], folder)
            with started(command, folder / "scheduler.log") as process:
                return await _bind_all(api, workload, scheduler, process)


async def _bind_all(
    api: client.Client, workload: workloads.Workload, scheduler: str, process: psutil.Process
) -> report.Result:
    watch = load.BindWatch(api)
    watch.start()
    try:
        await _pods(api, workload, "init", workload.init_pods)
        await watch.wait_for(
            workload.init_pods,
            stalled=STALLED_SECONDS,
            progress=Progress("init pods bound", workload.init_pods),
        )
        before = process.cpu_times()
        started_at = time.monotonic()
        async with peak_rss(process) as peak:
            created = asyncio.create_task(_pods(api, workload, "measured", workload.pods))
            await watch.wait_for(
                workload.init_pods + workload.pods,
                stalled=STALLED_SECONDS,
                progress=Progress("pods bound", workload.init_pods + workload.pods),
            )
            created_at = await created
        after = process.cpu_times()
    finally:
        await watch.stop()
    bound = {name: moment for name, (moment, _) in watch.bound.items() if name in created_at}
    seconds = max(bound.values()) - started_at
    cpu = (after.user + after.system) - (before.user + before.system)
    latencies = [max(0.0, moment - created_at[name]) for name, moment in bound.items()]
    return report.Result(
        workload=workload.name,
        scheduler=scheduler,
        nodes=workload.nodes,
        pods=workload.pods,
        seconds=seconds,
        throughput=report.throughput(list(bound.values()), started_at),
        cpu_ms_per_pod=1000 * cpu / workload.pods,
        peak_rss_mb=peak[0] / 2**20,
        latency_p50=report.percentile(latencies, 0.50),
        latency_p99=report.percentile(latencies, 0.99),
    )


async def _pods(
    api: client.Client, workload: workloads.Workload, prefix: str, count: int
) -> dict[str, float]:
    created: dict[str, float] = {}

    def note(pod: client.Object) -> None:
        created[pod["metadata"]["name"]] = time.monotonic()

    await load.create_all(
        api,
        resources.PODS,
        count,
        lambda index: workload.pod(load.NAMESPACE, f"{prefix}-{index:06d}"),
        done=note,
        progress=Progress(f"{prefix} pods created", count),
    )
    return created
