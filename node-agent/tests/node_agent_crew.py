"""Workers without an API server: a provider, a machine and a reporter that a test holds in hand."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from typing import Any

import node_agent_builders as make

from whipstaff.node_agent import (
    admission,
    execution,
    hosting,
    lifecycle,
    nodes,
    pod_events,
    pod_worker,
    provider,
    records,
    resizing,
    sysctls,
    timeline,
    workers,
)
from whipstaff.node_agent.images import pulling as images

Object = dict[str, Any]


class Runtime(provider.Provider):
    """A provider that has what a test put there, and stops and starts at once.

    Attributes:
        there: what `list` says, by UID.
        news: what `events` tells.
        calls: the verbs, as they came.
        gates: verbs that wait until somebody sets their event.
        away: no verb is answered.
        stubborn: the containers that `stop_container` can't stop, by name.
    """

    name = "test"

    def __init__(self) -> None:
        super().__init__(provider.Options(("node-0",)))
        self.there: dict[str, provider.RuntimePod] = {}
        self.news: asyncio.Queue[provider.RuntimeEvent | Exception] = asyncio.Queue()
        self.calls: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.away = False
        self.stubborn: set[str] = set()

    async def _pass(self, verb: str) -> None:
        self.calls.append(verb)
        if self.away:
            raise provider.ProviderError("connection refused")
        if verb in self.gates:
            await self.gates[verb].wait()

    async def ensure_sandbox(self, pod: Object, spec: provider.SandboxSpec) -> provider.Sandbox:
        await self._pass("ensure_sandbox")
        box = make.sandbox(attempt=spec.attempt)
        self._put(pod, lambda found: found.with_sandbox(box))
        return box

    async def stop_sandbox(self, pod: Object, sandbox: provider.Sandbox) -> provider.Sandbox:
        await self._pass("stop_sandbox")
        stopped = make.sandbox(attempt=sandbox.attempt, ready=False)
        self._put(pod, lambda found: found.with_sandbox(stopped))
        for run in self.there[pod["metadata"]["uid"]].running():
            killed = make.run(run.name, "exited", run.attempt, id=run.id, exit_code=137)
            self.news.put_nowait(provider.RuntimeEvent(pod["metadata"]["uid"], killed))
        return stopped

    async def start_container(
        self, pod: Object, sandbox: provider.Sandbox, spec: provider.ContainerSpec
    ) -> provider.RuntimeContainer:
        await self._pass("start_container")
        run = make.run(spec.name, attempt=spec.attempt, sandbox_id=sandbox.id)
        self._put(pod, lambda found: found.with_container(run))
        return run

    async def stop_container(
        self, pod: Object, container: provider.RuntimeContainer, grace: float
    ) -> provider.RuntimeContainer:
        await self._pass("stop_container")
        if container.name in self.stubborn:
            raise provider.ProviderError(f"{container.name} goes on running")
        run = make.run(container.name, "exited", container.attempt, id=container.id, exit_code=137)
        self._put(pod, lambda found: found.with_container(run))
        return run

    async def remove(
        self, pod: provider.RuntimePod, container: provider.RuntimeContainer | None = None
    ) -> None:
        await self._pass("remove")
        if container is None:
            self.there.pop(pod.uid, None)
        elif pod.uid in self.there:
            self.there[pod.uid] = self.there[pod.uid].without_container(container.id)

    async def list(self, uid: str | None = None) -> Sequence[provider.RuntimePod]:
        found = [pod for pod in self.there.values() if uid in {None, pod.uid}]
        await self._pass("list")
        return found

    async def events(self) -> AsyncIterator[provider.RuntimeEvent]:
        while True:
            event = await self.news.get()
            if isinstance(event, Exception):
                raise event
            yield event

    def _put(self, pod: Object, change: Any) -> None:
        metadata = pod["metadata"]
        empty = provider.RuntimePod(metadata["uid"], metadata["namespace"], metadata["name"])
        self.there[metadata["uid"]] = change(self.there.get(metadata["uid"], empty))


class Reporter:
    """The API server as workers see it: takes what is due, and answers with the pod."""

    def __init__(self) -> None:
        self.shown: dict[str, list[Object]] = {}
        self.finished: set[str] = set()

    def put(self, worker: pod_worker.Worker) -> None:
        status = worker.status_due
        if status is not None:
            self.shown.setdefault(worker.uid, []).append(copy.deepcopy(status))
            worker.written(status)
        if worker.may_be_deleted():
            self.finished.add(worker.uid)

    def last(self, uid: str = "uid-web") -> Object:
        return self.shown[uid][-1]


class Resizer:
    """Nothing is ever resized."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def allocated(self, pod: Object) -> Object:
        return pod

    def complete(self, _: Object, __: provider.RuntimePod, status: Object) -> Object:
        return status

    def plan(self, _: Object, __: provider.RuntimePod) -> Any:
        return resizing.Plan()


class Prober:
    """Probes that say what a test says."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, bool]] = {}

    def results(self, run: provider.RuntimeContainer) -> dict[str, bool]:
        return self.found.get(run.id, {})

    def grace(self, _: provider.RuntimeContainer) -> float | None:
        return None


class Host:
    """A machine whose volumes are what a test says.

    Attributes:
        trouble: what keeps volumes from being up to date.
        mounted: how often they were brought up to date.
        renewal: when they are to be next.
    """

    def __init__(self) -> None:
        self.resizer = Resizer()
        self.prober = Prober()
        self.limits = admission.Machine(sysctls.Allowlist("6.1.0"), False)
        self.trouble: hosting.UnpreparedError | None = None
        self.mounted = 0
        self.renewal: float | None = None
        self.torn_down: list[str] = []
        self.deleted_logs: list[str] = []

    async def prepare(self, _: Object, attempt: int) -> provider.SandboxSpec:
        return provider.SandboxSpec(attempt)

    async def mount(self, _: Object, __: Sequence[str]) -> None:
        self.mounted += 1
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble

    async def container(
        self, _: Object, __: provider.Sandbox, ___: Object, ____: int
    ) -> hosting.Prepared:
        return hosting.Prepared({}, (), (), (), "", provider.SandboxSpec(0))

    def pod_ips(self, _: Object, sandbox: provider.Sandbox | None) -> tuple[str, ...]:
        return sandbox.ips if sandbox is not None else ()

    def link_log(self, _: Object, __: provider.RuntimeContainer) -> None:
        pass

    async def delete_log(self, run: provider.RuntimeContainer) -> None:
        self.deleted_logs.append(run.id)

    def found(self, pod: Object, _: provider.RuntimePod) -> Object:
        return pod

    def watch(self, _: Object, __: provider.RuntimePod, *, terminating: bool) -> None:
        del terminating

    def refresh_at(self, _: str) -> float | None:
        return self.renewal

    async def tear_down(self, uid: str) -> None:
        self.torn_down.append(uid)

    async def forget(self, _: Object, __: provider.RuntimePod) -> None:
        pass


class Events:
    """Where events go."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def event(self, _: Object, __: str, reason: str, ___: str, note: str) -> None:
        self.told.append((reason, note))


class Crew:
    """Workers of one node, and all around them."""

    def __init__(self, *, on_host: bool = False) -> None:
        self.runtime = Runtime()
        self.reporter = Reporter()
        self.events = Events()
        self.line = timeline.Timeline()
        self.host = Host() if on_host else None
        host: Any = self.host
        told = pod_events.PodEvents(self.events)
        pictures = images.Images(self.runtime, self.line.clock)
        executor = execution.Executor(self.runtime, told, self.line, pictures, host)
        context = lifecycle.Context("test", ("192.168.0.2",))
        reporter: Any = self.reporter
        self.workers = workers.Workers(
            self.runtime, executor, told, reporter, self.line, context, host
        )
        template = nodes.Template(capacity={"cpu": "4", "memory": "8Gi", "pods": "110"})
        self.node = nodes.make(("node-0",), template)["node-0"]
        self.node.object = {
            "metadata": {"name": "node-0", "uid": "node", "labels": {}},
            "spec": {},
            "status": {},
        }

    def meet(self, pod: Object, runtime: provider.RuntimePod | None = None) -> pod_worker.Worker:
        """Take up a pod, and what runs of it."""
        if runtime is not None:
            self.runtime.there[runtime.uid] = runtime
        worker = self.workers.first_sight(self.node, records.pack(copy.deepcopy(pod)), runtime)
        self.workers.wake(worker)
        return worker

    async def rest(self, worker: pod_worker.Worker) -> None:
        """Wait until there is nothing left to be done for now."""
        while worker.task is not None:
            await asyncio.wait([worker.task], timeout=5)

    async def close(self) -> None:
        """Let go."""
        await self.workers.stop()
        self.line.close()
