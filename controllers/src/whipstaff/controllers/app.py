"""The controllers put together: what they share, and in which order it starts and ends.

`run` checks the API server and the rights, serves health and metrics, takes the lease, reads
everything once and then works until cancelled: what is being written is finished, events are
written out, and the lease is released, in this order. A lost lease ends it at once, because
somebody else leads by then. `operator` has the process, and calls this.

Nothing is watched before the lease is held, so a replica that waits costs the API server nothing.
Answers to `cmd/kube-controller-manager/app/controllermanager.go`.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from whipstaff.controllers import rivals
from whipstaff.controllers import shadow as shadows
from whipstaff.controllers.deployment import controller as deployments
from whipstaff.controllers.replicaset import controller as replicasets
from whipstaff.runtime import (
    client,
    config,
    events,
    flags,
    informer,
    leases,
    logs,
    preflight,
    resources,
    serving,
    workqueue,
)

DEPLOYMENT, REPLICASET = "deployment", "replicaset"
CONTROLLERS = (DEPLOYMENT, REPLICASET)
LEASE = "whipstaff-controllers"
USER_AGENT = "whipstaff-controllers"
DRAIN_WRITES = 3.0
"""Seconds that events have at the end."""
EVENTS_WAITING = 10_000
"""Events that may wait. They are written one at a time, as upstream: pods come first."""

_log = logs.get("controllers")


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the command line says, checked.

    Attributes:
        controllers: names of `CONTROLLERS`.
        workers: how many objects each works on at the same time.
        look_for_stock: refuse to work beside the stock controllers.
        shadow: write nothing, and tell what would have been done otherwise.
        served: where health and metrics are served; None serves nothing.
    """

    controllers: Sequence[str]
    workers: int
    election: flags.LeaderElection
    served: flags.Serving | None
    look_for_stock: bool = True
    shadow: bool = False


def access(plan: Plan) -> list[preflight.Access]:
    """The rights without which the controllers can't do their work."""
    owners = [resources.REPLICASETS]
    if DEPLOYMENT in plan.controllers:
        owners.append(resources.DEPLOYMENTS)
    needed = [] if plan.shadow else _writes(plan)
    needed += [preflight.Access("get", each) for each in owners]
    needed += [
        preflight.Access(verb, each)
        for each in (resources.PODS, *owners)
        for verb in ("list", "watch")
    ]
    return needed


def _writes(plan: Plan) -> list[preflight.Access]:
    needed = [preflight.Access("create", resources.EVENTS)]
    if REPLICASET in plan.controllers:
        needed += [preflight.Access(verb, resources.PODS) for verb in ("create", "delete", "patch")]
        needed.append(preflight.Access("update", resources.REPLICASETS, "status"))
    if DEPLOYMENT in plan.controllers:
        writes = ("create", "update", "patch", "delete")
        needed += [preflight.Access(verb, resources.REPLICASETS) for verb in writes]
        needed.append(preflight.Access("update", resources.DEPLOYMENTS))
        needed.append(preflight.Access("update", resources.DEPLOYMENTS, "status"))
    if plan.look_for_stock:
        needed += rivals.access(plan.controllers)
    if plan.election.leader_elect:
        space, name = plan.election.resource_namespace, plan.election.resource_name
        needed += [
            preflight.Access("create", resources.LEASES, namespace=space),
            preflight.Access("get", resources.LEASES, namespace=space, name=name),
            preflight.Access("update", resources.LEASES, namespace=space, name=name),
        ]
    return needed


class Controllers:
    """One process's parts. `api` is for its work, `side_api` for events and the lease.

    Two clients, so that a burst of pods can't keep the lease from being renewed.

    Attributes:
        leading: set once the lease is held and everything has been read.
    """

    def __init__(self, plan: Plan, api: client.Client, side_api: client.Client) -> None:
        self._plan = plan
        self._pods = informer.Informer(
            api,
            resources.PODS,
            transform=replicasets.prune_pod,
            indexers=replicasets.POD_INDEXERS,
        )
        self._replicasets = informer.Informer(
            api,
            resources.REPLICASETS,
            transform=replicasets.prune_replicaset,
            indexers=deployments.REPLICASET_INDEXERS,
        )
        self._informers = [self._pods, self._replicasets]
        self._lookout: rivals.Lookout | None = None
        if plan.look_for_stock and not plan.shadow:
            self._lookout = rivals.Lookout(side_api, plan.controllers)
        self._recorders: list[events.Recorder] = []
        self._replicaset: replicasets.ReplicaSetController | None = None
        self._deployment: deployments.DeploymentController | None = None
        if REPLICASET in plan.controllers:
            recorder = self._recorder(side_api, REPLICASET)
            self._replicaset = replicasets.ReplicaSetController(
                api, self._replicasets, self._pods, recorder
            )
        if DEPLOYMENT in plan.controllers:
            self._deployments = informer.Informer(
                api,
                resources.DEPLOYMENTS,
                transform=replicasets.prune_replicaset,
                indexers=deployments.DEPLOYMENT_INDEXERS,
            )
            self._informers.append(self._deployments)
            self._deployment = deployments.DeploymentController(
                api,
                self._deployments,
                self._replicasets,
                self._pods,
                replicasets.POD_INDEX,
                self._recorder(side_api, DEPLOYMENT),
            )
        self.leading = asyncio.Event()
        self._elector: leases.LeaderElector | None = None
        if plan.election.leader_elect and not plan.shadow:
            self._elector = _elector(plan.election, side_api)

    def _recorder(self, api: client.Client, name: str) -> events.Recorder:
        kind = shadows.SilentRecorder if self._plan.shadow else events.Recorder
        recorder = kind(
            api,
            reporting_controller=f"{name}-controller",
            qps=None,
            queue_size=EVENTS_WAITING,
            senders=1,
            stop_timeout=DRAIN_WRITES,
        )
        self._recorders.append(recorder)
        return recorder

    async def run(self) -> None:
        """Works while leading, until cancelled. Raises `LeaseLost`."""
        recording = [asyncio.create_task(each.run()) for each in self._recorders]
        try:
            if self._elector is None:
                await self._lead()
            else:
                await self._elector.run(self._lead)
        finally:
            for task in recording:
                task.cancel()
            await asyncio.wait(recording)

    async def _lead(self) -> None:
        work = self._watch()
        try:
            async with asyncio.TaskGroup() as working:
                for watched in self._informers:
                    working.create_task(_follow(watched.start()))
                if self._lookout is not None:
                    await self._lookout.look()
                for watched in self._informers:
                    await watched.synced.wait()
                _log.info("working", replicasets=len(self._replicasets), pods=len(self._pods))
                for queue, sync in work:
                    working.create_task(workqueue.run_workers(queue, sync, self._plan.workers))
                if self._lookout is not None:
                    working.create_task(self._lookout.keep_looking())
                self.leading.set()
        finally:
            await asyncio.gather(*(watched.stop() for watched in self._informers))

    def _watch(self) -> list[tuple[workqueue.WorkQueue[str], shadows.Sync]]:
        """Connect informers and queues; gives each queue and what works on it."""
        work: list[tuple[workqueue.WorkQueue[str], shadows.Sync]] = []
        if self._deployment is not None:
            sync: shadows.Sync = self._deployment.sync
            if self._plan.shadow:
                shadow = shadows.Shadow(DEPLOYMENT, self._deployment.queue)
                shadow.watch(self._deployments, self._replicasets)
                sync = shadow.watched(sync)
            self._deployment.watch()
            work.append((self._deployment.queue, sync))
        if self._replicaset is not None:
            sync = self._replicaset.sync
            if self._plan.shadow:
                sync = shadows.Shadow(REPLICASET, self._replicaset.queue).watched(sync)
            self._replicaset.watch()
            work.append((self._replicaset.queue, sync))
        return work

    def check_lease(self) -> None:
        """Raises `LeaseExpired` where the lease should have been renewed long ago."""
        if self._elector is not None:
            self._elector.check()


async def run(
    plan: Plan, connection: config.Connection, started: Callable[[Controllers], None]
) -> None:
    """All of the controllers' work, until cancelled.

    Args:
        plan: what to run.
        connection: with which API server, and as whom.
        started: is told the parts, before they work.

    Raises:
        errors.StartupError: the API server is away, or rights are missing.
        rivals.RivalFound: the stock controllers do this work.
        leases.LeaseLost: somebody else leads.
    """
    kind = shadows.NotingClient if plan.shadow else client.Client
    async with (
        kind(connection, user_agent=USER_AGENT) as api,
        client.Client(connection, user_agent=USER_AGENT) as side_api,
    ):
        await preflight.check(side_api, access(plan))
        parts = Controllers(plan, api, side_api)
        started(parts)
        async with _server(parts, side_api, plan.served):
            await parts.run()


def _server(
    parts: Controllers, api: client.Client, served: flags.Serving | None
) -> contextlib.AbstractAsyncContextManager[object]:
    """The server of health and metrics, or nothing where none is wanted."""
    if served is None or not served.port:
        return contextlib.nullcontext()
    server = serving.Server(
        bind_address=served.bind_address,
        port=served.port,
        certificate=served.certificate,
        key=served.key,
        client_ca=served.client_ca,
        client=api,
    )
    server.add_check("leaderElection", parts.check_lease)
    return server


def _elector(settings: flags.LeaderElection, api: client.Client) -> leases.LeaderElector:
    return leases.LeaderElector(
        api,
        name=settings.resource_name,
        namespace=settings.resource_namespace,
        identity=leases.new_identity(),
        lease_duration=settings.lease_duration,
        renew_deadline=settings.renew_deadline,
        retry_period=settings.retry_period,
    )


async def _follow(task: asyncio.Task[None]) -> None:
    """Fails as `task` fails."""
    await task
