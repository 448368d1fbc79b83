"""What nodes, pods and containers use, as far as it is asked for.

`Readings` asks the provider and the agent's other parts (`Sources`), at most once a second for each
node, and keeps two readings of everything, so that a rate of CPU can be told. Nobody reads while
nobody asks. Runs no loop; owns the readings. Answers to ``pkg/kubelet/stats`` (the CRI's stats
provider) and to ``pkg/kubelet/server/stats/resource_analyzer.go``. Leaves out pressure (PSI),
swap, accelerators and user-defined metrics.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import registry

from whipstaff.node_agent import machine, pod_worker, provider
from whipstaff.node_agent.server import file_systems, found_pods, node_logs
from whipstaff.runtime import logs, objects

Object = objects.Object
FileSystem = file_systems.FileSystem
Worker = pod_worker.Worker

# Scrapers come every ten seconds or more; some of them at the same time.
_FRESH = 1.0
_IMAGES_FRESH = 60.0

_log = logs.get("node_agent.server")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the server's answers come from, besides the agent and the provider; all optional.

    Attributes:
        machine: this machine, where it is the node.
        node_usage, pods_usage: what the machine uses, and of that all pods together.
        pod_usage: what a pod's own cgroup uses, by UID; without it, what the provider says of its
            sandbox, or the sum of its containers.
        cgroup: the path of a pod's cgroup, for the metrics that name it.
        volumes: the file systems of a pod's volumes, by UID and then by the volume's name; whoever
            gives them keeps them for a while.
        root_dir: a directory in the node's file system.
        configuration: what ``/configz`` shows: a KubeletConfiguration.
        probes: the metrics of ``/metrics/probes``.
        check_loop: complains when pods aren't taken care of any more; for ``/healthz``.
        logs: the node's own logs; None where the node is no machine.
    """

    machine: machine.Machine | None = None
    node_usage: Callable[[], provider.Usage | None] | None = None
    pods_usage: Callable[[], provider.Usage | None] | None = None
    pod_usage: Callable[[str], provider.Usage | None] | None = None
    cgroup: Callable[[Object], str] | None = None
    volumes: Callable[[str], Awaitable[Mapping[str, FileSystem]]] | None = None
    root_dir: str = ""
    configuration: Callable[[], Object] | None = None
    probes: registry.Collector | None = None
    check_loop: Callable[[], None] | None = None
    logs: node_logs.Settings | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What something uses, and nanoseconds of CPU a second since the reading before it."""

    usage: provider.Usage
    rate: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerReading:
    """What one running container uses; `logs` only where files were looked at."""

    run: provider.RuntimeContainer
    reading: Reading
    logs: FileSystem | None = None


@dataclass(frozen=True, slots=True)
class PodReading:
    """What one pod uses: in all, its sandbox's network, and container by container."""

    worker: Worker
    sandbox: provider.Sandbox
    total: Reading
    network: provider.Usage | None = None
    containers: Sequence[ContainerReading] = ()
    volumes: Mapping[str, FileSystem] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeReading:
    """What one node uses; what needs a look at files only where that was wanted."""

    name: str
    at: float
    total: Reading
    pods: Sequence[PodReading] = ()
    all_pods: Reading | None = None
    agent: Reading | None = None
    root: FileSystem | None = None
    images: FileSystem | None = None


class Meter:
    """Reckons rates from readings of counters."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, int, int | None]] = {}

    def read(self, key: str, usage: provider.Usage, since: float = 0.0) -> Reading:
        """A reading with its rate: of the time since the one before it, first since the start.

        Args:
            key: what was read.
            usage: what it uses.
            since: when its counter was zero, in seconds since the epoch; 0.0 if unknown.
        """
        counter = usage.cpu_nanoseconds
        if counter is None:
            return Reading(usage)
        known = self._known.get(key)
        if known is None or counter < known[1]:
            age = usage.at - since
            rate = int(counter / age) if since and age >= _FRESH else None
        elif usage.at - known[0] < _FRESH:
            return Reading(usage, known[2])
        else:
            rate = int((counter - known[1]) / (usage.at - known[0]))
        self._known[key] = (usage.at, counter, rate)
        return Reading(usage, rate)

    def keep(self, keys: Iterable[str]) -> None:
        """Forget everything else."""
        kept = set(keys)
        if len(self._known) > len(kept):
            self._known = {key: value for key, value in self._known.items() if key in kept}


class Sum:
    """What many use together: a counter that never falls, though they come and go."""

    def __init__(self) -> None:
        self._last: Mapping[str, int] = {}
        self._gone = 0

    def add_up(self, counters: Mapping[str, int]) -> int:
        """The sum of counters and of the last that was seen of those that are gone."""
        self._gone += sum(
            value for key, value in self._last.items() if counters.get(key, -1) < value
        )
        self._last = counters
        return self._gone + sum(counters.values())


class Readings:
    """Reads what the nodes of a process use.

    Args:
        pods: its pods.
        runtime: the provider.
        sources: everything else that can be asked.
    """

    def __init__(self, pods: found_pods.Pods, runtime: provider.Provider, sources: Sources) -> None:
        self._pods = pods
        self._runtime = runtime
        self._sources = sources
        self._meters: dict[str, Meter] = {}
        self._sums: dict[str, Sum] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._known: dict[tuple[str, bool], tuple[float, NodeReading]] = {}
        self._image_bytes = (-_IMAGES_FRESH, 0)

    async def read(self, node: str, *, files: bool) -> NodeReading:
        """What a node uses now, or a moment ago.

        Args:
            node: its name.
            files: whether file systems, volumes and logs are wanted, too.

        Raises:
            provider.ProviderError: the provider can't say.
        """
        async with self._locks.setdefault(node, asyncio.Lock()):
            for complete in {files, True}:
                at, known = self._known.get((node, complete), (0.0, None))
                if known is not None and time.monotonic() - at < _FRESH:
                    return known
            found = await self._read(node, files)
            self._known[node, files] = (time.monotonic(), found)
            return found

    async def _read(self, node: str, files: bool) -> NodeReading:
        workers = [
            worker
            for worker in self._pods.on(node)
            if (sandbox := worker.life.runtime.sandbox) is not None and sandbox.ready
        ]
        usages = await self._usages(workers)
        groups, totals = await asyncio.to_thread(self._groups, [w.uid for w in workers])
        meter = self._meters.setdefault(node, Meter())
        pods = [self._pod(meter, worker, usages, groups.get(worker.uid)) for worker in workers]
        used = [pod.total.usage for pod in pods]
        now = time.time()
        all_pods = meter.read("pods", totals.get("pods") or _sum(used, now))
        total = meter.read("node", totals.get("node") or self._sum_up(node, all_pods.usage, pods))
        agent = meter.read("agent", totals["agent"]) if "agent" in totals else None
        meter.keep(
            ["node", "pods", "agent", *(worker.uid for worker in workers)]
            + [each.run.id for pod in pods for each in pod.containers]
        )
        reading = NodeReading(node, now, total, pods, all_pods, agent)
        return await self._with_files(reading) if files else reading

    async def _usages(self, workers: Sequence[Worker]) -> Mapping[str, provider.Usage]:
        """What the provider says, in one question where all its pods are wanted."""
        if len(self._pods.node_names) == 1:
            return await self._runtime.stats()
        found: dict[str, provider.Usage] = {}
        for worker in workers:
            found.update(await self._runtime.stats(worker.uid))
        return found

    def _sum_up(
        self, node: str, all_pods: provider.Usage, pods: Iterable[PodReading]
    ) -> provider.Usage:
        """What a node without a machine uses: what its pods do, and did."""
        counters = {
            each.run.id: each.reading.usage.cpu_nanoseconds or 0
            for pod in pods
            for each in pod.containers
        }
        spent = self._sums.setdefault(node, Sum()).add_up(counters)
        return dataclasses.replace(all_pods, cpu_nanoseconds=spent)

    def _groups(
        self, uids: Iterable[str]
    ) -> tuple[dict[str, provider.Usage], dict[str, provider.Usage]]:
        """What control groups say: by pod, and of the whole node."""
        sources = self._sources
        by_pod: dict[str, provider.Usage] = {}
        if sources.pod_usage is not None:
            for uid in uids:
                if (usage := sources.pod_usage(uid)) is not None:
                    by_pod[uid] = usage
        totals: dict[str, provider.Usage] = {}
        if sources.node_usage is not None and (usage := sources.node_usage()) is not None:
            totals["node"] = usage
            totals["agent"] = file_systems.own_usage()
        if sources.pods_usage is not None and (usage := sources.pods_usage()) is not None:
            totals["pods"] = usage
        return by_pod, totals

    @staticmethod
    def _pod(
        meter: Meter,
        worker: Worker,
        usages: Mapping[str, provider.Usage],
        group: provider.Usage | None,
    ) -> PodReading:
        sandbox = worker.life.runtime.sandbox
        assert sandbox is not None
        each = [
            ContainerReading(run, meter.read(run.id, usages[run.id], run.started_at))
            for run in sorted(worker.life.runtime.running(), key=lambda run: run.name)
            if run.id in usages
        ]
        network = usages.get(sandbox.id)
        usage = group
        if usage is None and network is not None and network.cpu_nanoseconds is not None:
            usage = network
        if usage is None:
            usage = _sum([one.reading.usage for one in each], time.time())
        total = meter.read(worker.uid, usage, sandbox.created_at)
        return PodReading(worker, sandbox, total, network, each)

    # Files.

    async def _with_files(self, reading: NodeReading) -> NodeReading:
        pods = [await self._pod_with_files(pod) for pod in reading.pods]
        root = images = None
        if self._sources.root_dir:
            root = await asyncio.to_thread(file_systems.read, self._sources.root_dir)
        path = await self._runtime.image_filesystem()
        if path:
            images = await asyncio.to_thread(file_systems.read, path)
        if images is not None:
            images = images.with_used(await self._bytes_of_images())
        return NodeReading(
            reading.name, reading.at, reading.total, pods,
            reading.all_pods, reading.agent, root, images,
        )  # fmt: skip

    async def _pod_with_files(self, pod: PodReading) -> PodReading:
        containers = await asyncio.to_thread(_with_logs, pod.containers)
        volumes = await self._volumes_of(pod.worker.uid)
        return PodReading(pod.worker, pod.sandbox, pod.total, pod.network, containers, volumes)

    async def _volumes_of(self, uid: str) -> Mapping[str, FileSystem]:
        if self._sources.volumes is None:
            return {}
        try:
            return await self._sources.volumes(uid)
        except OSError as error:
            _log.info("volumes can't be measured", uid=uid, error=str(error))
            return {}

    async def _bytes_of_images(self) -> int:
        at, size = self._image_bytes
        if time.monotonic() - at >= _IMAGES_FRESH:
            size = sum(image.size for image in await self._runtime.images())
            self._image_bytes = (time.monotonic(), size)
        return size


def _with_logs(containers: Sequence[ContainerReading]) -> list[ContainerReading]:
    return [
        ContainerReading(each.run, each.reading, file_systems.of_logs(each.run.log_path))
        for each in containers
    ]


def _sum(usages: Sequence[provider.Usage], now: float) -> provider.Usage:
    """What several use together; what is known of none of them isn't known."""

    def total(values: Iterable[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if known or not usages else None

    return provider.Usage(
        at=min((usage.at for usage in usages), default=now),
        cpu_nanoseconds=total(usage.cpu_nanoseconds for usage in usages),
        memory=total(usage.memory for usage in usages),
        working_set=total(usage.working_set for usage in usages),
        rss=total(usage.rss for usage in usages),
        page_faults=total(usage.page_faults for usage in usages),
        major_page_faults=total(usage.major_page_faults for usage in usages),
        processes=total(usage.processes for usage in usages),
    )
