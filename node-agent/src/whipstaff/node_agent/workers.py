"""Pod workers: what was decided about a pod is carried out, one thing after another, by UID.

A worker exists for every pod bound to a node of this process, from the first sight of it until the
API has forgotten it and nothing of it is left in the runtime. It is woken by news (of the pod's
object, of its containers, of the clock), decides (`lifecycle`), hands the status to the reporter,
does what is to be done through the provider, and decides again until there is nothing left to do.
A worker at rest is no task; one that works is exactly one. Two pods of the same name are two
workers: the UID is the identity.

Owns the workers (`pod_worker`) and what nodes have given to pods (`nodes.Node.usage`). Answers to
``pkg/kubelet/pod_workers.go`` and to HandlePodAdditions and its siblings in
``pkg/kubelet/kubelet.go``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from whipstaff.node_agent import (
    admission,
    conditions,
    execution,
    hosting,
    lifecycle,
    metrics,
    nodes,
    patches,
    pod_events,
    pod_worker,
    preemption,
    preemptor,
    provider,
    records,
    reports,
    room,
    statuses,
    steps,
    texts,
    timeline,
    volumes,
)
from whipstaff.node_agent.static_pods import mirrors
from whipstaff.node_agent.static_pods import pods as static_pods
from whipstaff.runtime import logs, objects

Object = objects.Object
Stage = lifecycle.Stage
Worker = pod_worker.Worker

# How long a worker whose work failed in a way that nobody foresaw waits before it tries again.
_AFTER_MISTAKE = 10.0
# How long what volumes show is good for at least, whatever it says of itself.
_BETWEEN_RENEWALS = 1.0
# How often pods are looked at without any news, as the kubelet does: none is lost for good.
_REVIEW = 60.0
# How long to wait before following the provider's events again.
_AFTER_BREAK = 1.0

_log = logs.get("node_agent.workers")


class Workers:
    """The workers of all nodes of a process.

    Args:
        runtime: the provider.
        executor: carries operations out.
        events: for what pods' owners are told.
        reporter: writes statuses.
        line: wakes workers up.
        context: of the statuses: the provider's name, the nodes' addresses.
        host: what pods on this machine need; None for a provider that has them elsewhere.

    Attributes:
        statics: the static pods; None where there are none.
        refusals: say why the node takes no pod such as this one now, whatever room there is.
        expected: how a node will look in the API; None where pods wait until it is there.
    """

    def __init__(
        self,
        runtime: provider.Provider,
        executor: execution.Executor,
        events: pod_events.PodEvents,
        reporter: reports.Reporter,
        line: timeline.Timeline,
        context: lifecycle.Context,
        host: hosting.Host | None = None,
    ) -> None:
        self.statics: static_pods.StaticPods | None = None
        self.refusals: list[Callable[[Object], admission.Rejection | None]] = []
        self.expected: Callable[[nodes.Node], Object] | None = None
        self._preemptor = preemptor.Preemptor(events, self.end, self._has_ended)
        self._runtime = runtime
        self._executor = executor
        self._events = events
        self._host = host
        self._reporter = reporter
        self._line = line
        self._context = context
        self._workers: dict[str, Worker] = {}
        self._unregistered: dict[str, list[Worker]] = {}  # by node
        self._stopping = False
        if host is not None:
            host.resizer.attach(room.Room(self.get, self.wake, self._hold))

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    # News.

    def first_sight(
        self, node: nodes.Node, record: Object, found: provider.RuntimePod | None
    ) -> Worker:
        """Make the worker of a pod that is met for the first time; `wake` sets it to work.

        Args:
            node: where the pod was bound to.
            record: the pod, from `records.pack`.
            found: what the provider's `list` has of it.
        """
        packed: bytes = record[records.PACKED]
        pod = records.unpack(packed)
        metadata = pod["metadata"]
        uid = metadata["uid"]
        if found is None:
            found = self._runtime.adopt(pod)
        runtime = found or provider.RuntimePod(uid, metadata["namespace"], metadata["name"])
        worker = Worker(
            uid=uid,
            namespace=metadata["namespace"],
            name=metadata["name"],
            node=node,
            packed=packed,
            life=lifecycle.Life(self._executor.judged(runtime)),
            wake=self.wake,
            seen_at=self._line.clock(),
            static=admission.is_static(pod),
            cleaned=self._host is None,
        )
        worker.take(record)
        worker.note(pod)
        worker.changed = False
        # What already ran here has been admitted in an earlier life of the agent, and what has
        # ended holds nothing any more.
        worker.admitted = bool(runtime.containers) or bool(runtime.sandboxes)
        over = conditions.is_terminal(pod.get("status") or {})
        if worker.admitted and not over:
            if self._host is not None:
                pod = self._host.found(pod, runtime)
            self._hold(worker, pod)
        worker.admitted = worker.admitted or over or worker.deleted
        worker.started = over or (pod.get("status") or {}).get("phase") == "Running"
        self._workers[uid] = worker
        return worker

    def orphan(self, node: nodes.Node, found: provider.RuntimePod) -> None:
        """Stop something that runs here and that the API has no pod for."""
        pod = records.orphan(found)
        packed = records.pack(pod)[records.PACKED]
        life = lifecycle.Life(found, orphaned=True)
        worker = Worker(
            found.uid, found.namespace, found.name, node, packed, life, self.wake,
            self._line.clock(), admitted=True, cleaned=self._host is None,
        )  # fmt: skip
        self._workers[found.uid] = worker
        self.wake(worker)

    def update(self, record: Object) -> None:
        """A pod's object is new or has changed."""
        worker = self._workers.get(record["metadata"]["uid"])
        if worker is None:
            return
        if worker.life.orphaned:
            # It is back, as a manifest that was out of the way; what ran of it ends first.
            worker.successor = record
            return
        if worker.take(record):
            worker.note(worker.load())
            self.wake(worker)

    def remove(self, record: Object) -> None:
        """The API has forgotten a pod: what runs of it ends, and there is nobody to report to."""
        worker = self._workers.get(record["metadata"]["uid"])
        if worker is None:
            return
        worker.successor = None
        # Its last state says how much grace is left: none for one that was deleted by force.
        worker.take(record)
        worker.life.orphaned = True
        worker.life.status = None
        self.wake(worker)

    def referred(self, uid: str) -> None:
        """Something that a pod refers to has changed: what failed for it may be possible now."""
        worker = self._workers.get(uid)
        if worker is not None:
            worker.remount = True
            worker.trouble = None
            worker.life.errors.clear()
            self.wake(worker)

    def mirrored(self, uid: str) -> None:
        """A static pod has a new mirror, which is to show its status."""
        worker = self._workers.get(uid)
        mirror = self.statics.mirror_of(uid) if self.statics is not None else None
        if worker is None or mirror is None:
            return
        if worker.last_status is None:
            worker.last_status = mirror.get("status")
        elif worker.life.status is None:
            worker.life.status = worker.last_status
        self._report(worker)
        self.wake(worker)

    def probed(self, uid: str) -> None:
        """A probe of one of a pod's containers has news."""
        worker = self._workers.get(uid)
        if worker is not None:
            self.wake(worker)
            self._show(worker)

    def end(self, uid: str, verdict: statuses.Verdict) -> None:
        """End a pod by the node's word; what it says about the grace period counts if shorter.

        A pod that ends already says so from now on, unless nothing is left of it but its volumes.
        """
        worker = self._workers.get(uid)
        if worker is None or worker.life.stage is Stage.TERMINATED:
            return
        if worker.life.stage is Stage.TERMINATING and not worker.life.runtime.running():
            return
        worker.life.verdict = verdict
        self.wake(worker)

    def get(self, uid: str) -> Worker | None:
        """A pod's worker."""
        return self._workers.get(uid)

    async def follow(self) -> None:
        """Take the provider's news, without end; where they break off, every pod is looked at."""
        async with asyncio.TaskGroup() as group:
            if self._host is not None:
                group.create_task(self._review_all())
            while True:
                try:
                    await self._follow()
                except provider.ProviderError as error:
                    _log.warning("the runtime's events broke off", error=str(error))
                except Exception:  # noqa: BLE001 (the node goes on)
                    _log.exception("the runtime's events broke off")
                await self._wait_for_runtime()
                self.look_again()

    async def _wait_for_runtime(self) -> None:
        """Wait until the provider answers again, so that not every worker finds out by itself."""
        while True:
            await asyncio.sleep(_AFTER_BREAK)
            try:
                await self._runtime.list()
            except Exception as error:  # noqa: BLE001 (the node goes on)
                _log.debug("the runtime is away", error=str(error))
            else:
                return

    def look_again(self) -> None:
        """Have every worker ask the provider what is there: news may have been lost."""
        for worker in self._workers.values():
            worker.stale = True
            self.wake(worker)

    async def _review_all(self) -> None:
        """Have each pod decided about anew from time to time, as if there were news."""
        while True:
            await asyncio.sleep(_REVIEW)
            try:
                found = {pod.uid: pod for pod in await self._runtime.list()}
            except Exception as error:  # noqa: BLE001 (the node goes on)
                _log.warning("what runs can't be reviewed", error=str(error))
                continue
            for worker in list(self._workers.values()):
                self._review(worker, found.get(worker.uid))
                # Others have their turn, so that a full node isn't held up.
                await asyncio.sleep(0)

    def _review(self, worker: Worker, found: provider.RuntimePod | None) -> None:
        if worker.task is not None or worker.settled:
            return
        known = worker.life.runtime
        found = found or dataclasses.replace(known, sandboxes=(), containers=())
        if self._executor.judged(found.not_before(known)) != self._executor.judged(known):
            _log.debug("not what was known of a pod", pod=worker.key)
            worker.stale = True
        self.wake(worker)

    async def _follow(self) -> None:
        async for event in self._runtime.events():
            worker = self._workers.get(event.uid)
            if worker is None:
                continue
            known = runtime = worker.life.runtime
            run = event.container
            if run is not None and worker.life.removed.get(run.name) == run.id:
                continue
            if event.container is not None:
                runtime = runtime.with_container(self._executor.judged_run(event.container))
            if event.sandbox is not None:
                runtime = runtime.with_sandbox(event.sandbox)
            if event.container is None and event.sandbox is None:
                worker.stale = True
            elif runtime is known:
                continue
            worker.life.runtime = runtime
            self.wake(worker)
            self._show(worker)

    def registered(self, node: nodes.Node) -> None:
        """A node has its object now, so its pods can be admitted."""
        for worker in self._unregistered.pop(node.name, ()):
            self.wake(worker)

    # Work.

    def wake(self, worker: Worker) -> None:
        """Have a worker decide again, soon; one that must stop at once is interrupted."""
        worker.dirty = True
        if self._stopping or self._workers.get(worker.uid) is not worker:
            return
        if worker.task is None:
            worker.task = asyncio.create_task(self._work(worker))
        elif worker.busy and not worker.interrupted and self._must_stop(worker):
            worker.interrupted = True
            worker.task.cancel()

    async def stop(self) -> None:
        """Let every worker go, in the middle of what it does; containers go on running."""
        self._stopping = True
        tasks = [worker.task for worker in self._workers.values() if worker.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _must_stop(self, worker: Worker) -> bool:
        """Whether what the worker is doing was overtaken: by a deletion, by a shorter grace."""
        life = worker.life
        if not (worker.deleted or life.orphaned or life.verdict is not None):
            return False
        if life.stage is Stage.SYNC:
            return True
        if life.stage is not Stage.TERMINATING or life.grace is None:
            return False
        limit = lifecycle.least_grace(life.grace, life.verdict)
        return lifecycle.effective_grace(worker.load(), limit) < life.grace

    async def _work(self, worker: Worker) -> None:
        try:
            while worker.dirty and not self._stopping:
                worker.dirty = False
                await self._attempt(worker)
        finally:
            worker.task = None
        if worker.dirty and not self._stopping:
            self.wake(worker)

    async def _attempt(self, worker: Worker) -> None:
        """Decide and act once; an interruption and a mistake lead to another attempt."""
        worker.interrupted = False
        try:
            if worker.stale:
                await self._look_again(worker)
            await self._decide(worker)
        except asyncio.CancelledError:
            if self._stopping:
                raise
            if not worker.interrupted:
                worker.stale = True
                worker.dirty = False
                self._wake_at(worker, self._line.clock() + _AFTER_MISTAKE)
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            worker.interrupted = False
            worker.dirty = worker.stale = True
        except provider.ProviderError as error:
            _log.warning("the runtime failed", pod=worker.key, error=str(error))
            self._wake_at(worker, self._line.clock() + _AFTER_MISTAKE)
        except Exception:  # noqa: BLE001 (one pod's trouble must not become another's)
            _log.exception("a pod worker failed", pod=worker.key)
            self._wake_at(worker, self._line.clock() + _AFTER_MISTAKE)

    async def _look_again(self, worker: Worker) -> None:
        """Ask the provider what is there, where news were lost or a verb was cut short."""
        worker.stale = False
        try:
            there = await self._runtime.list(worker.uid)
        except Exception:
            worker.stale = True
            raise
        # What was heard while that was on its way may be newer than it.
        known = worker.life.runtime
        found = there[0] if there else dataclasses.replace(known, sandboxes=(), containers=())
        worker.life.runtime = self._executor.judged(found.not_before(known))

    async def _decide(self, worker: Worker) -> None:
        life = worker.life
        over = life.stage is Stage.TERMINATED and worker.cleaned
        if over and (life.orphaned or worker.settled):
            await self._settle(worker)
            return
        pod = worker.load()
        if worker.changed:
            worker.changed = False
            worker.remount = True
            worker.trouble = None
            self._runtime.refresh(pod)
            self._notice(worker, pod)
        if not (worker.admitted or life.orphaned):
            if not await self._admit(worker):
                return
            pod = worker.load()
        now = self._line.clock()
        if self._host is not None:
            pod = self._host.resizer.allocated(pod)
        life.runtime = self._executor.judged(life.runtime)
        decision = lifecycle.decide(pod, life, self._context, now)
        if decision.verdict is not None and life.verdict is None:
            self._events.report(pod, "Normal", decision.verdict.reason, decision.verdict.message)
        life.verdict = decision.verdict
        life.stage = decision.stage
        life.grace = decision.grace
        if not life.orphaned:
            status = decision.status
            if self._host is not None:
                status = self._host.resizer.complete(pod, life.runtime, status)
            self._publish(worker, pod, status, now)
        if decision.finished:
            await self._finish(worker)
            return
        self._wake_at(worker, await self._carry_out(worker, pod, decision))

    async def _carry_out(
        self, worker: Worker, pod: Object, decision: lifecycle.Decision
    ) -> float | None:
        """Do what was decided; returns when to decide again without news."""
        if self._host is None:
            await self._execute(worker, pod, decision.operations)
            return decision.wake_at
        life = worker.life
        terminating = decision.stage is not Stage.SYNC
        self._host.watch(pod, life.runtime, terminating=terminating)
        operations = decision.operations
        due = [decision.wake_at]
        if not terminating and life.runtime.sandbox is not None:
            with _busy(worker):
                trouble = await self._remount(worker, pod, self._host)
            if trouble is not None:
                # What should have been renewed by now waits for that, too.
                due.append(trouble[1])
                if trouble[0].missing:
                    # Nothing starts on volumes that aren't there.
                    operations = [o for o in operations if not isinstance(o, steps.StartContainer)]
            elif (renewal := self._host.refresh_at(worker.uid)) is not None:
                due.append(max(renewal, self._line.clock() + _BETWEEN_RENEWALS))
            operations = [*await self._resize(worker, pod, self._host), *operations]
            due.append(self._host.resizer.retry_at(worker.uid))
        await self._execute(worker, pod, operations)
        return min((when for when in due if when is not None), default=None)

    async def _resize(
        self, worker: Worker, pod: Object, host: hosting.Host
    ) -> Sequence[lifecycle.Operation]:
        """Give a pod what it was allocated; returns the restarts that belong to it."""
        life = worker.life
        todo = host.resizer.plan(pod, life.runtime)
        if not todo:
            return []
        with _busy(worker):
            await host.resizer.resize(pod, life.runtime, todo)
        worker.stale = True
        worker.dirty = True
        return steps.restarts(pod, life.runtime, todo.restarts)

    async def _remount(
        self, worker: Worker, pod: Object, host: hosting.Host
    ) -> tuple[hosting.UnpreparedError, float] | None:
        """Bring a pod's volumes up to date if they may not be.

        Returns what keeps them from it, and when to try again: not for every other news, as with an
        API server that swallows what it is asked each try takes a while.
        """
        now = self._line.clock()
        if worker.trouble is not None and 0 < worker.trouble[1] - now <= worker.trouble[0].retry_in:
            return worker.trouble
        due = host.refresh_at(worker.uid)
        if not worker.remount and (due is None or due > now):
            return None
        worker.remount = False
        worker.trouble = None
        try:
            await host.mount(pod, host.pod_ips(pod, worker.life.runtime.sandbox))
        except hosting.UnpreparedError as error:
            for note in error.notes:
                self._events.report(pod, "Warning", error.reason, note)
            if not worker.remount:
                worker.trouble = error, self._line.clock() + error.retry_in
            worker.remount = True
            return worker.trouble or (error, self._line.clock())
        except BaseException:
            worker.remount = True
            raise
        return None

    async def _finish(self, worker: Worker) -> None:
        """Nothing runs any more: give back what the pod held, and let the API forget it."""
        self._release(worker)
        if self._host is not None and not worker.cleaned:
            try:
                await self._host.tear_down(worker.uid)
            except (volumes.VolumeError, OSError) as error:
                _log.warning("a pod can't be cleaned up", pod=worker.key, error=str(error))
                self._wake_at(worker, self._line.clock() + _AFTER_MISTAKE)
                return
            worker.cleaned = True
        worker.settled = worker.life.status is None
        if worker.life.orphaned:
            await self._settle(worker)
        elif worker.may_be_deleted():
            self._report(worker)

    async def _execute(
        self, worker: Worker, pod: Object, operations: Iterable[lifecycle.Operation]
    ) -> None:
        """Carry out the first operation that changes something; the rest is decided anew.

        So that a status tells of the sandbox while an image is pulled, and of the first container
        while the second one starts. Only stopping a container to start it again is one thing, and
        removing all of them.
        """
        planned = list(operations)
        whole = (steps.StopContainer, steps.RemoveContainer)
        together = any(isinstance(operation, whole) for operation in planned)
        worker.acting = True
        try:
            with _busy(worker):
                for operation in planned:
                    if await self._executor.execute(pod, worker.life, operation):
                        worker.dirty = True
                        if not together:
                            return
        finally:
            worker.acting = False

    async def _admit(self, worker: Worker) -> bool:
        """Let the node have its say; False for a pod that must wait for it."""
        node = worker.node
        known = node.object
        if known is None and worker.static and self.expected is not None:
            # The API server may be what is to start here.
            known = self.expected(node)
        if known is None:
            self._unregistered.setdefault(node.name, []).append(worker)
            return False
        with _busy(worker):
            async with node.admitting:
                pod = worker.load()
                rejection = None
                if not (objects.is_terminating(pod) or worker.life.orphaned):
                    rejection = await self._rejection(worker, pod, known)
        worker.admitted = True
        if rejection is None:
            return True
        _log.info("pod rejected", pod=worker.key, reason=rejection.reason)
        metrics.admission_rejections.labels(rejection.reason).inc()
        self._events.report(pod, "Warning", rejection.reason, rejection.message)
        worker.life.verdict = statuses.Verdict(rejection.reason, rejection.status_message)
        return True

    async def _rejection(
        self, worker: Worker, pod: Object, node: Object
    ) -> admission.Rejection | None:
        """Why a pod may not run; a pod that may holds what it asks for from now on."""
        refused = (refuse(pod) for refuse in self.refusals)
        usage, allocatable = worker.node.usage, worker.node.allocatable
        machine = self._host.limits if self._host is not None else None
        claim = admission.claim_of(pod["spec"])
        rejection = next(filter(None, refused), None) or admission.admit(
            pod, claim, node, allocatable, usage, machine
        )
        if rejection is not None and rejection.shortages:
            others = [
                preemption.Candidate(other.load(), other.claim.requests)
                for other in self._workers.values()
                if other.node is worker.node and other.claim is not None
            ]
            rejection = await self._preemptor.make_room(pod, rejection.shortages, others)
        if rejection is not None:
            return rejection
        self._hold(worker, pod)
        if self._host is not None:
            self._host.resizer.admitted(pod)
        return None

    def _has_ended(self, uid: str) -> bool:
        worker = self._workers.get(uid)
        return worker is None or worker.life.stage is Stage.TERMINATED

    def _publish(self, worker: Worker, pod: Object, status: Object, now: float) -> None:
        """Hand a status to the reporter, if the API doesn't show it already."""
        if not worker.started and status["phase"] == "Running":
            worker.started = True
            metrics.pod_start_duration.observe(now - worker.seen_at)
            created = texts.seconds(pod["metadata"].get("creationTimestamp"))
            metrics.pod_start_total_duration.observe(max(now - created, 0.0))
        pending = worker.life.status
        if pending is None:
            worker.status_since = now
        shown = pending or pod.get("status") or {}
        for kind, ended in statuses.newly_ended(shown, status):
            metrics.terminated_containers.labels(
                metrics.CONTAINER_TYPES[kind], str(ended["exitCode"]), ended.get("reason", "")
            ).inc()
        if patches.differs(shown, status):
            worker.life.status = status
        if worker.life.status is not None or worker.may_be_deleted():
            self._report(worker)

    def _show(self, worker: Worker) -> None:
        """Tell of news while the worker is busy with what may take long: a stop, a pull, a hook.

        Whoever balances load over a pod that is being stopped relies on its readiness.
        """
        life = worker.life
        if self._host is None or not worker.acting or worker.interrupted or life.orphaned:
            return
        life.runtime = self._executor.judged(life.runtime)
        pod = self._host.resizer.allocated(worker.load())
        now = self._line.clock()
        decision = lifecycle.decide(pod, life, self._context, now)
        if decision.stage is life.stage:
            status = self._host.resizer.complete(pod, life.runtime, decision.status)
            self._publish(worker, pod, status, now)

    def _report(self, worker: Worker) -> None:
        """Have a pod's news written: to the pod, or to the mirror of a static one."""
        if not worker.static:
            self._reporter.put(worker)
            return
        mirror = self.statics.mirror_of(worker.uid) if self.statics is not None else None
        if mirror is not None and self.statics is not None:
            self._reporter.put(mirrors.Mirror(worker, mirror, self.statics.mirror_seen))

    def _notice(self, worker: Worker, pod: Object) -> None:
        """A pod's spec may have changed: what it asks for, it may have to wait for."""
        if worker.claim is None:
            return
        if self._host is None:
            self._hold(worker, pod)
        else:
            self._host.resizer.noticed(pod)

    def _hold(self, worker: Worker, pod: Object) -> None:
        """Have a pod hold what its spec asks for, in the place of what it held before."""
        if worker.claim is not None:
            worker.node.usage.remove(worker.claim)
        worker.claim = admission.claim_of(pod["spec"])
        worker.node.usage.add(worker.claim)

    def _release(self, worker: Worker) -> None:
        if worker.claim is not None:
            worker.node.usage.remove(worker.claim)
            worker.claim = None
            if self._host is not None:
                self._host.resizer.retry("pod_deleted")

    async def _settle(self, worker: Worker) -> None:
        """All is over: the pod may be deleted from the API, or has been, and can be forgotten."""
        if not worker.life.orphaned:
            if worker.may_be_deleted():
                self._report(worker)
            return
        self._release(worker)
        await self._executor.remove(worker.load(), worker.life.runtime)
        if worker.alarm is not None:
            worker.alarm.cancel()
        self._workers.pop(worker.uid, None)
        worker.dirty = False
        if worker.static and self.statics is not None:
            self.statics.gone(worker.uid)
        elif worker.successor is not None:
            self.wake(self.first_sight(worker.node, worker.successor, None))

    def _wake_at(self, worker: Worker, when: float | None) -> None:
        if worker.alarm is not None:
            worker.alarm.cancel()
            worker.alarm = None
        if when is not None and when != float("inf"):
            worker.alarm = self._line.at(when, self.wake, worker)


@contextlib.contextmanager
def _busy(worker: Worker) -> Iterator[None]:
    """While this lasts, news that overtake what the worker does may interrupt it."""
    worker.busy = True
    try:
        yield
    finally:
        worker.busy = False
