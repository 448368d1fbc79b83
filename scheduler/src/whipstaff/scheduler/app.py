"""The scheduler put together: what reads, what decides, what writes, and in which order they end.

Its loop is the process's: check the API server and the rights, serve health and metrics, watch pods
and nodes, and while this replica leads, schedule. SIGTERM cancels it. Then nothing more is decided,
the bindings in flight are waited for, conditions and events are written out, and the lease is
released, in this order. A lost lease ends it at once, because somebody else leads by then.

Answers to `cmd/kube-scheduler/app/server.go`. Left out: /debug/pprof, /debug/flags/v.
"""

import asyncio
import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import prometheus_client
from aiohttp import web

from whipstaff.runtime import (
    client,
    config,
    errors,
    events,
    flags,
    informer,
    leases,
    logs,
    preflight,
    resources,
    serving,
    zpages,
)
from whipstaff.scheduler import (
    binder,
    binding_cycle,
    cluster_state,
    configuration,
    consultation,
    custom_resources,
    cycle,
    decision,
    decisions,
    evictions,
    extender_settings,
    extenders,
    framework,
    metrics,
    namespaces,
    nominator,
    pace,
    plugin_sets,
    pod_conditions,
    pods,
    profile,
    pruning,
    queue,
    queueing_hints,
    resource_metrics,
    snapshot,
    storage_state,
    timings,
    views,
    workloads,
)
from whipstaff.scheduler.plugins import defaultpreemption

DRAIN_BINDINGS = 10.0
DRAIN_WRITES = 3.0
"""Seconds that what is under way at the end is waited for."""

DRAIN_EVENTS = 15.0
"""Seconds for which events that wait are written at the end."""

OTHER_WRITES = 32
"""Requests in flight beside the bindings: conditions, evictions, volumes."""

EVENTS_IN_BURST = 20
"""Events a second in a burst of bindings or evictions. Each costs the API server as much as one of
those, so the pods are bound first and told of afterwards."""
EVENTS_PATIENCE = 60.0
"""Seconds that an event may wait for the end of a burst; then it is written beside it."""
EVENTS_WAITING = 100_000
"""How many events may wait at all; when half as many do, they are written beside a burst, too."""
EVENT_SENDERS = 16

RESOURCES = "NodeResourcesFit"
PREEMPTION = defaultpreemption.DefaultPreemption.name

USER_AGENT = "whipstaff-scheduler"

PAGES = ("/configz", "/debug/decisions", "/flagz", "/healthz", "/livez", "/metrics", "/readyz")
"""What /statusz points to."""

_log = logs.get("scheduler")


def access(settings: configuration.Configuration) -> list[preflight.Access]:
    """The rights without which the scheduler can't do its work."""
    watched = (resources.PODS, resources.NODES, resources.NAMESPACES, *workloads.RESOURCES)
    needed = [preflight.Access(verb, each) for each in watched for verb in ("list", "watch")]
    needed += storage_access(settings)
    needed += [
        preflight.Access("get", resources.PODS),
        preflight.Access("create", resources.PODS, "binding"),
        preflight.Access("patch", resources.PODS, "status"),
        preflight.Access("create", resources.EVENTS),
    ]
    if any(PREEMPTION in wanted.names() for wanted in settings.profiles):
        needed.append(preflight.Access("delete", resources.PODS))
        needed += [
            preflight.Access(verb, resources.PODDISRUPTIONBUDGETS) for verb in ("list", "watch")
        ]
    election = settings.leader_election
    if election.leader_elect:
        space, name = election.resource_namespace, election.resource_name
        needed += [
            preflight.Access("create", resources.LEASES, namespace=space),
            preflight.Access("get", resources.LEASES, namespace=space, name=name),
            preflight.Access("update", resources.LEASES, namespace=space, name=name),
        ]
    return needed


def storage_access(settings: configuration.Configuration) -> list[preflight.Access]:
    """The rights that plugins for volumes need, where there are such plugins."""
    names = (name for wanted in settings.profiles for name in wanted.names())
    if not storage_state.is_needed(names, extenders=bool(settings.extenders)):
        return []
    written = (resources.PERSISTENTVOLUMES, resources.PERSISTENTVOLUMECLAIMS)
    return [
        *(
            preflight.Access(verb, resource)
            for resource in storage_state.RESOURCES
            for verb in ("list", "watch")
        ),
        *(preflight.Access("patch", resource) for resource in written),
    ]


def build_profiles(settings: configuration.Configuration) -> dict[str, profile.Profile]:
    """The profiles with their plugins, by scheduler name.

    Raises `ConfigurationError` for a plugin that can't be used as the file says.
    """
    built = {}
    ignored = extender_settings.ignored_resources(settings.extenders)
    for index, wanted in enumerate(settings.profiles):
        where = f"{settings.source or 'defaults'}: profiles[{index}]"
        try:
            expansion = plugin_sets.expand(wanted.plugins, profile.implements)
            built[wanted.scheduler_name] = profile.build(
                wanted.scheduler_name,
                expansion.points,
                expansion.weights,
                _leaving(ignored, wanted.arguments),
            )
            custom_resources.named(built[wanted.scheduler_name].plugins)
        except (LookupError, ValueError) as error:
            text = error.args[0] if error.args else error
            raise errors.ConfigurationError(f"{where}: {text}") from error
        if not expansion.points["bind"]:
            raise errors.ConfigurationError(f"{where}: a bind plugin is needed (DefaultBinder)")
    return built


def _custom_resources(profiles: Mapping[str, profile.Profile]) -> list[resources.Resource]:
    """The custom resources whose changes plugins want to hear of."""
    found = (each for built in profiles.values() for each in custom_resources.named(built.plugins))
    return list(dict.fromkeys(found))


def _leaving(ignored: Sequence[str], arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments with which NodeResourcesFit leaves resources to extenders; theirs come first."""
    if not ignored:
        return arguments
    fit = {**arguments[RESOURCES], "ignoredResources": list(ignored)}
    return {**arguments, RESOURCES: fit}


def _know_nodes(asked: Iterable[extender_settings.ExtenderSettings]) -> bool:
    """Whether no extender has to be sent nodes."""
    return all(
        each.node_cache_capable or not (each.filter_verb or each.prioritize_verb) for each in asked
    )


def missing_plugins(settings: configuration.Configuration) -> list[str]:
    """The plugins of upstream's that the profiles enable and that aren't built yet."""
    decided_elsewhere = {"DefaultBinder"}
    return sorted(
        {
            name
            for wanted in settings.profiles
            for name in wanted.names()
            if name in plugin_sets.UPSTREAM_PLUGINS - decided_elsewhere
            and not profile.is_built(name)
        }
    )


class Scheduler:
    """One scheduler process's parts. `api` is for its work, `side_api` for events and leases.

    Two clients, so that a thousand bindings can't keep the lease from being renewed. `synced` is
    called when everything that there is has been read. `evidence_bytes` is the memory for what the
    last decisions rested on; with 0 that isn't kept.
    """

    def __init__(
        self,
        settings: configuration.Configuration,
        profiles: Mapping[str, profile.Profile],
        api: client.Client,
        side_api: client.Client,
        *,
        synced: Callable[[], None] = lambda: None,
        evidence_bytes: int = decisions.EVIDENCE_BYTES,
    ) -> None:
        self._settings = settings
        self._synced = synced
        self._cluster = snapshot.Snapshot()
        self._measured = metrics.Metrics()
        self._ring = decisions.Decisions(evidence_bytes=evidence_bytes)
        ready = asyncio.Event()
        others = {consultation.NAME: None} if settings.extenders else {}
        sort_plugin = next(iter(profiles.values())).queue_sort
        holders = {
            name: {each.name: each for each in built.pre_enqueue}
            for name, built in profiles.items()
        }
        self._waiting = queue.SchedulingQueue(
            now=time.monotonic,
            sort_key=sort_plugin.sort_key,
            gate=_gate(profiles, self._measured),
            holds=lambda pod, plugin: _holds(holders[pod.scheduler_name][plugin], pod),
            interests={
                name: queueing_hints.interests({**built.plugins, **others})
                for name, built in profiles.items()
            },
            initial_backoff=settings.pod_initial_backoff,
            max_backoff=settings.pod_max_backoff,
            wake=ready.set,
            promises=(promises := nominator.Nominator()),
        )
        self._pods = informer.Informer(
            api,
            resources.PODS,
            field_selector=cluster_state.POD_FIELD_SELECTOR,
            transform=pruning.lightly if settings.extenders else pruning.pod,
        )
        self._nodes = informer.Informer(
            api,
            resources.NODES,
            transform=pruning.node if _know_nodes(settings.extenders) else pruning.lightly,
        )
        self._extenders = extenders.Extenders(settings.extenders) if settings.extenders else None
        handle = binding_cycle.Handle(
            api, self._cluster, self._pods.get, self._measured, activate=self._activate
        )
        self._budgets = _budgets(api, profiles)
        pod_handler = cluster_state.PodHandler(
            self._cluster, self._waiting, profiles, handle.waiting_pods.reject_removed
        )
        node_handler = cluster_state.NodeHandler(self._cluster, self._waiting)
        observe = self._measured.event_duration.observe
        self._pods.add_handler(cluster_state.TimedHandler(pod_handler, observe))
        self._nodes.add_handler(cluster_state.TimedHandler(node_handler, observe))
        self._others = [
            *workloads.informers(api, self._cluster.workloads),
            *namespaces.informers(api, self._cluster.namespaces),
            *custom_resources.informers(api, _custom_resources(profiles), self._waiting),
        ]
        if storage_state.is_needed(
            (name for built in profiles.values() for name in built.plugins),
            extenders=bool(settings.extenders),
        ):
            self._others += storage_state.informers(api, self._cluster.storage, self._waiting)
        writes = pace.Pace()
        api.on_write = writes.note
        self._recorders = {
            name: events.Recorder(
                side_api,
                reporting_controller=name,
                qps=EVENTS_IN_BURST,
                burst=EVENTS_IN_BURST,
                is_busy=lambda: writes.is_burst,
                patience=EVENTS_PATIENCE,
                queue_size=EVENTS_WAITING,
                senders=EVENT_SENDERS,
                stop_timeout=DRAIN_EVENTS,
            )
            for name in profiles
        }
        self._conditions = pod_conditions.ConditionWriter(api, self._pods.get, now=time.time)
        self._evictor = evictions.Evictor(
            api,
            latest=self._pods.get,
            promises=promises,
            conditions=self._conditions,
            recorders=self._recorders,
            activate=self._waiting.activate,
            call_off=handle.call_off,
            measured=self._measured,
            clock=time.monotonic,
            now=time.time,
        )
        around = _Surroundings(
            random.Random(",".join(profiles)), self._pods, self._budgets, promises, self._evictor
        )
        for built in profiles.values():
            for plugin in built.plugins.values():
                if isinstance(plugin, framework.SurroundedPlugin):
                    plugin.settle(around)
        self._cycle = cycle.Cycle(
            waiting=self._waiting,
            ready=ready,
            cluster=self._cluster,
            # Seeded by name: choices among equals are the same in every run of this scheduler, and
            # others in another one beside it.
            decider=decision.Decider(
                self._cluster,
                random.Random(",".join(profiles)),
                promises=promises,
                evidence=evidence_bytes > 0,
                stopwatch=timings.Stopwatch(self._measured, random.random),
            ),
            profiles=profiles,
            latest=self._pods.get,
            handle=handle,
            recorders=self._recorders,
            conditions=self._conditions,
            ring=self._ring,
            measured=self._measured,
            evictor=self._evictor,
            asked=self._extenders,
            seen=lambda: self._pods.resource_version,
        )
        self._bindings = binder.Binder(api, self._cycle.settled, caught_up=self._pods.caught_up)
        self._elector: leases.LeaderElector | None = None
        if settings.leader_election.leader_elect:
            self._elector = _elector(settings.leader_election, side_api)
        self._background = asyncio.TaskGroup()
        self._watching = self._leads = self._stopping = False
        self.views = views.Views(
            cluster=self._cluster,
            waiting=self._waiting,
            ring=self._ring,
            profiles=profiles,
            latest=self._pods.get,
            measured=self._measured,
        )
        """What it shows of what it does."""
        self._measure()

    @property
    def metrics(self) -> metrics.Metrics:
        """What it counts."""
        return self._measured

    async def run(self) -> None:
        """Watches, and schedules while leading, until cancelled. Raises `LeaseLost`."""
        async with asyncio.TaskGroup() as background:
            self._background = background
            writers = [background.create_task(each.run()) for each in self._recorders.values()]
            try:
                if self._elector is None:
                    await self._lead()
                else:
                    if not self._settings.delay_cache_until_active:
                        self._watch()
                    await self._elector.run(self._lead)
            finally:
                self._stopping = True
                await asyncio.gather(*(watched.stop() for watched in self._watched()))
                for writer in writers:
                    writer.cancel()
                if self._extenders is not None:
                    await self._extenders.close()

    def _watch(self) -> None:
        """Starts to watch, once. An informer that fails takes the process with it."""
        if not self._watching:
            self._watching = True
            for watched in self._watched():
                self._background.create_task(_follow(watched.start()))

    def _watched(self) -> list[informer.Informer]:
        """Pods last: they are decided about only when all that matters to them is there."""
        budgets = [] if self._budgets is None else [self._budgets]
        return [*self._others, *budgets, self._nodes, self._pods]

    async def _lead(self) -> None:
        self._leads = True
        self._watch()
        for watched in self._watched():
            await watched.wait_synced()
        self._synced()
        _log.info("scheduling", nodes=len(self._cluster), pods=self._cluster.pod_count)
        try:
            async with asyncio.TaskGroup() as working:
                working.create_task(self._cycle.run(self._bindings))
                working.create_task(self._cycle.tick())
                if self._extenders is not None:
                    working.create_task(self._cycle.run_consulting(self._bindings))
        finally:
            await self._drain()

    async def _drain(self) -> None:
        """Ends what is under way; when the lease is lost there is no time for that."""
        self._stopping = True
        leading = self._elector is None or self._elector.is_leader
        given_up = await self._bindings.drain(DRAIN_BINDINGS if leading else 0)
        if given_up:
            _log.warning("bindings given up", count=given_up)
        await self._evictor.drain(DRAIN_WRITES if leading else 0)
        await self._conditions.drain(DRAIN_WRITES if leading else 0)

    def _activate(self, keys: Iterable[str]) -> None:
        """Has pods tried that are known by these keys."""
        found = (self._pods.get(key) for key in keys)
        known = (cluster_state.read(raw) for raw in found if raw is not None)
        self._waiting.activate(pod for pod in known if pod is not None)

    # What it shows.

    def _measure(self) -> None:
        measured = self._measured
        measured.queue_lengths = self._waiting.lengths
        measured.incoming = self._waiting.incoming
        measured.rejections = self._waiting.rejections
        measured.events_in_flight = self._waiting.in_flight_events
        measured.bindings_in_flight = self._bindings.__len__
        measured.cache_sizes = lambda: {
            "nodes": len(self._cluster),
            "pods": self._cluster.pod_count,
            "assumed_pods": self._cluster.assumed_count,
        }

    def show(self, server: serving.Server) -> None:
        """Adds what `server` serves of it: checks under upstream's names, and its views."""
        if self._elector is not None:
            server.add_check("leaderElection", self._check_lease, on=("healthz", "readyz"))
        server.add_check("sched-handler-sync", self._check_synced, on=("readyz",))
        server.add_check("shutdown", self._check_running, on=("readyz",))
        server.add_route("/configz", self._show_configuration)
        server.add_route(
            "/metrics/resources",
            resource_metrics.page(self._pods.list, lambda: self._leads),
        )
        self.views.show(server)

    def _check_lease(self) -> None:
        if self._elector is not None:
            self._elector.check()

    def _check_synced(self) -> None:
        if missing := [each for each in self._watched() if not each.synced.is_set()]:
            names = ", ".join(each.resource.name for each in missing)
            raise errors.WhipstaffError(f"not read yet: {names}")

    def _check_running(self) -> None:
        if self._stopping:
            raise errors.WhipstaffError("shutting down")

    async def _show_configuration(self, _: web.Request) -> web.Response:
        """/configz."""
        shown = {
            configuration.API_VERSION.partition("/")[0]: configuration.describe(self._settings)
        }
        return web.json_response(shown)


class _Surroundings:
    """What plugins may look at beside the pod and the snapshot."""

    def __init__(
        self,
        rng: random.Random,
        watched: informer.Informer,
        budgets: informer.Informer | None,
        promises: nominator.Nominator,
        evictor: evictions.Evictor,
    ) -> None:
        self.random = rng
        self.latest = watched.get
        self.nominated_node = promises.node_of
        self.is_preempting = evictor.is_preempting
        self.time = time.time
        self._budgets = budgets

    def budgets(self) -> Iterable[Mapping[str, Any]]:
        """Every PodDisruptionBudget."""
        return () if self._budgets is None else self._budgets.list()


def _budgets(
    api: client.Client, profiles: Mapping[str, profile.Profile]
) -> informer.Informer | None:
    """Watches PodDisruptionBudgets, if anybody wants to know them."""
    if any(PREEMPTION in built.plugins for built in profiles.values()):
        return informer.Informer(api, resources.PODDISRUPTIONBUDGETS)
    return None


async def run(
    settings: configuration.Configuration,
    profiles: Mapping[str, profile.Profile],
    connection: config.Connection,
    served: flags.Serving,
    *,
    page_address: tuple[str, int] | None = None,
    evidence_bytes: int = decisions.EVIDENCE_BYTES,
    shown_flags: Mapping[str, str],
) -> None:
    """The whole process. Raises `StartupError` and `LeaseLost`.

    `page_address` is where `views.page_server` listens, if anywhere; `evidence_bytes` as for
    `Scheduler`; `shown_flags` are for /flagz.
    """
    limits = settings.client_connection
    async with (
        client.Client(
            connection,
            user_agent=USER_AGENT,
            qps=limits.qps,
            burst=limits.burst,
            max_connections=binder.CONCURRENCY + OTHER_WRITES,
        ) as api,
        client.Client(connection, user_agent=USER_AGENT) as side_api,
    ):
        custom = custom_resources.access(_custom_resources(profiles))
        await preflight.check(side_api, [*access(settings), *custom])
        if missing := missing_plugins(settings):
            _log.info("plugins that are not built yet", plugins=", ".join(missing))
        scheduler = Scheduler(
            settings,
            profiles,
            api,
            side_api,
            synced=_settle_memory,
            evidence_bytes=evidence_bytes,
        )
        prometheus_client.REGISTRY.register(scheduler.metrics)
        try:
            async with (
                _server(scheduler, side_api, served, shown_flags),
                _page(scheduler, page_address),
            ):
                await scheduler.run()
        finally:
            prometheus_client.REGISTRY.unregister(scheduler.metrics)


def _server(
    scheduler: Scheduler,
    api: client.Client,
    served: flags.Serving,
    shown_flags: Mapping[str, str],
) -> contextlib.AbstractAsyncContextManager[object]:
    """The server of health and metrics, or nothing where the port is 0."""
    if not served.port:
        return contextlib.nullcontext()
    server = serving.Server(
        bind_address=served.bind_address,
        port=served.port,
        certificate=served.certificate,
        key=served.key,
        client_ca=served.client_ca,
        client=api,
    )
    scheduler.show(server)
    zpages.install(server, "whipstaff-scheduler", shown_flags, PAGES)
    return server


def _page(
    scheduler: Scheduler, address: tuple[str, int] | None
) -> contextlib.AbstractAsyncContextManager[object]:
    """The server of the page for this machine, if there is to be one."""
    return views.page_server(address, scheduler.views) if address else contextlib.nullcontext()


def _gate(
    profiles: Mapping[str, profile.Profile], measured: metrics.Metrics
) -> Callable[[pods.PodInfo], str]:
    """PreEnqueue: which plugin of its profile holds a pod."""

    def gate(pod: pods.PodInfo) -> str:
        started = time.perf_counter()
        held_by = first_to_hold(pod)
        label = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE if held_by else framework.Code.SUCCESS
        measured.extension_point_duration.observe(
            time.perf_counter() - started, "PreEnqueue", label.label, pod.scheduler_name
        )
        return held_by

    def first_to_hold(pod: pods.PodInfo) -> str:
        for plugin in profiles[pod.scheduler_name].pre_enqueue:
            if _holds(plugin, pod):
                return plugin.name
        return ""

    return gate


def _holds(plugin: framework.PreEnqueuePlugin, pod: pods.PodInfo) -> bool:
    """Whether the plugin keeps the pod out of the active queue."""
    try:
        status = plugin.pre_enqueue(pod)
    except Exception:  # noqa: BLE001 - a plugin's own code; the pod stays out, as upstream
        _log.exception("PreEnqueue failed", plugin=plugin.name, pod=pod.key)
        return True
    return not status.is_success


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


def _settle_memory() -> None:
    """Spares the garbage collector the objects that stay.

    The cluster is a million small objects without cycles. Looking through them all again and again
    takes an eighth of the scheduler's time, in pauses of a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _follow(task: asyncio.Task[None]) -> None:
    """Fails as `task` fails."""
    await task
