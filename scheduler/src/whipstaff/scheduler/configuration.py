"""KubeSchedulerConfiguration: what a file says, checked, with upstream's defaults.

No loop runs here: a file and the command's flags become a `Configuration`, or a
`ConfigurationError` that names the file and every field that is wrong, before anything starts.
Files written for the stock scheduler (v1) load unchanged. Some of their fields are checked and have
no effect: parallelism (a decision is one array operation), percentageOfNodesToScore (all nodes are
scored), profiling (there is no /debug/pprof) and content types (the client speaks JSON). Refused by
name are plugins that nobody knows.

Two defaults differ from upstream's on purpose. The client isn't limited unless the file says so:
upstream's 50 requests a second bind 50 pods a second and no more, whatever the scheduler could do,
while the API server protects itself by priority and fairness. And the Lease is called
`whipstaff-scheduler`, so that a stock scheduler beside this one keeps its own.

Answers to `pkg/scheduler/apis/config/v1` (defaults) and `pkg/scheduler/apis/config/validation`.
Left out: `--write-config-to`, and API versions before v1.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from whipstaff.runtime import errors, flags
from whipstaff.scheduler import extender_settings, plugin_arguments, plugin_sets, strict

API_VERSION = "kubescheduler.config.k8s.io/v1"
KIND = "KubeSchedulerConfiguration"

DEFAULT_SCHEDULER_NAME = "whipstaff"
"""The name without a file and without `--scheduler-name`: a second scheduler beside the stock one.
A profile in a file that names none is upstream's `default-scheduler`, as the file's author meant.
"""
UPSTREAM_SCHEDULER_NAME = "default-scheduler"

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


LEADER_ELECTION = flags.LeaderElection(resource_name="whipstaff-scheduler")
"""How one of several schedulers comes to lead, where neither file nor flags say otherwise."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClientConnection:
    """How the scheduler talks to the API server; no limit where `qps` is None."""

    kubeconfig: str | None = None
    qps: float | None = None
    burst: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """One scheduler name with its plugins: merged with the defaults, multiPoint not yet expanded.

    `arguments` has an entry for every plugin that takes arguments or was given some.
    """

    scheduler_name: str
    plugins: plugin_sets.PluginSets = dataclasses.field(
        default_factory=lambda: plugin_sets.merge({})
    )
    arguments: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {
            name: plugin_arguments.defaults(name) for name in plugin_arguments.KINDS
        }
    )

    def names(self) -> list[str]:
        """Every plugin that is enabled anywhere, in the order of first mention."""
        return list(
            dict.fromkeys(name for group in self.plugins.values() for name, _ in group.enabled)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Configuration:
    """Everything the scheduler is told. Durations in seconds."""

    profiles: tuple[Profile, ...] = (Profile(DEFAULT_SCHEDULER_NAME),)
    leader_election: flags.LeaderElection = LEADER_ELECTION
    client_connection: ClientConnection = ClientConnection()
    pod_initial_backoff: float = 1
    pod_max_backoff: float = 10
    delay_cache_until_active: bool = False
    extenders: tuple[extender_settings.ExtenderSettings, ...] = ()
    source: str = ""
    """The file it was read from; empty for the defaults."""


def load(path: str, *, external: Sequence[str] = ()) -> Configuration:
    """The configuration in the file at `path`.

    `external` are the names of plugins that aren't upstream's but are known here, such as those
    that packages bring. Raises `ConfigurationError`.
    """
    return of_document(strict.load(path), path, external=external)


def of_document(
    document: dict[str, Any], source: str, *, external: Sequence[str] = ()
) -> Configuration:
    """The configuration in a document that came from `source`, as `load` reads it from a file."""
    problems: list[str] = []
    configuration = _read(document, source, frozenset(external), problems)
    if problems:
        raise errors.ConfigurationError(f"{source}: {'; '.join(problems)}")
    return configuration


def describe(configuration: Configuration) -> dict[str, Any]:
    """The configuration in effect, in the form of the file, as `/configz` shows it."""
    election, connection = configuration.leader_election, configuration.client_connection
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "leaderElection": {
            "leaderElect": election.leader_elect,
            "leaseDuration": f"{election.lease_duration:g}s",
            "renewDeadline": f"{election.renew_deadline:g}s",
            "retryPeriod": f"{election.retry_period:g}s",
            "resourceLock": "leases",
            "resourceName": election.resource_name,
            "resourceNamespace": election.resource_namespace,
        },
        "clientConnection": {
            "kubeconfig": connection.kubeconfig or "",
            "qps": connection.qps or -1,
            "burst": connection.burst or 0,
        },
        "podInitialBackoffSeconds": configuration.pod_initial_backoff,
        "podMaxBackoffSeconds": configuration.pod_max_backoff,
        "delayCacheUntilActive": configuration.delay_cache_until_active,
        "extenders": [extender_settings.describe(each) for each in configuration.extenders],
        "profiles": [_describe_profile(profile) for profile in configuration.profiles],
    }


def _describe_profile(profile: Profile) -> dict[str, Any]:
    return {
        "schedulerName": profile.scheduler_name,
        "plugins": {
            point: {
                "enabled": [{"name": name, "weight": weight} for name, weight in group.enabled],
                "disabled": [{"name": name} for name in group.disabled],
            }
            for point, group in profile.plugins.items()
            if group.enabled or group.disabled
        },
        "pluginConfig": [
            {"name": name, "args": plugin_arguments.describe(name, arguments)}
            for name, arguments in profile.arguments.items()
        ],
    }


def effective(
    configuration: Configuration,
    scheduler_names: Sequence[str] = (),
    leader_election: flags.LeaderElection | None = None,
) -> Configuration:
    """`configuration` with what the flags say on top.

    `scheduler_names` are those of `--scheduler-name`: the configuration's one profile runs under
    each. Raises `ConfigurationError`, also where a file has several profiles, which have names of
    their own.
    """
    if leader_election is not None:
        election = leader_election.over(configuration.leader_election)
        election.validate()
        configuration = dataclasses.replace(configuration, leader_election=election)
    for name in scheduler_names:
        if not _SUBDOMAIN.match(name):
            raise errors.ConfigurationError(f"--scheduler-name: {name!r} is not a scheduler name")
    if not scheduler_names:
        return configuration
    if len(configuration.profiles) > 1:
        raise errors.ConfigurationError(
            f"--scheduler-name: {configuration.source} has {len(configuration.profiles)} profiles,"
            " whose names are set there"
        )
    profiles = tuple(
        dataclasses.replace(configuration.profiles[0], scheduler_name=name)
        for name in dict.fromkeys(scheduler_names)
    )
    return dataclasses.replace(configuration, profiles=profiles)


def _read(
    document: dict[str, Any], path: str, external: frozenset[str], problems: list[str]
) -> Configuration:
    fields = strict.Fields(document, "", problems)
    kind, version = fields.string("kind", ""), fields.string("apiVersion", "")
    if kind != KIND:
        fields.problem("kind", f"expected {KIND}, found {kind or 'nothing'}")
    if version != API_VERSION:
        fields.problem("apiVersion", f"expected {API_VERSION}, found {version or 'nothing'}")
    fields.integer("parallelism", 16, minimum=1)
    fields.integer("percentageOfNodesToScore", 0, minimum=0, maximum=100)
    fields.boolean("enableProfiling", True)
    fields.boolean("enableContentionProfiling", True)
    initial = fields.integer("podInitialBackoffSeconds", 1, minimum=1)
    highest = fields.integer("podMaxBackoffSeconds", max(10, initial), minimum=1)
    if highest < initial:
        fields.problem("podMaxBackoffSeconds", "must not be less than podInitialBackoffSeconds")
    extenders = extender_settings.read(fields)
    configuration = Configuration(
        profiles=_profiles(fields, external),
        extenders=extenders,
        leader_election=_leader_election(fields.fields("leaderElection")),
        client_connection=_client_connection(fields.fields("clientConnection")),
        pod_initial_backoff=initial,
        pod_max_backoff=highest,
        delay_cache_until_active=fields.boolean("delayCacheUntilActive", False),
        source=path,
    )
    fields.finish()
    return configuration


def _leader_election(fields: strict.Fields) -> flags.LeaderElection:
    default = LEADER_ELECTION
    settings = flags.LeaderElection(
        leader_elect=fields.boolean("leaderElect", default.leader_elect),
        # Zero is Go's way of not having set a duration.
        lease_duration=fields.duration("leaseDuration", 0) or default.lease_duration,
        renew_deadline=fields.duration("renewDeadline", 0) or default.renew_deadline,
        retry_period=fields.duration("retryPeriod", 0) or default.retry_period,
        resource_name=fields.string("resourceName", "") or default.resource_name,
        resource_namespace=fields.string("resourceNamespace", "") or default.resource_namespace,
    )
    if fields.string("resourceLock", "") not in ("", "leases"):
        fields.problem("resourceLock", "must be leases")
    if settings.leader_elect:
        _check_leader_election(fields, settings)
    fields.finish()
    return settings


def _check_leader_election(fields: strict.Fields, settings: flags.LeaderElection) -> None:
    """Source: ValidateLeaderElectionConfiguration and client-go's NewLeaderElector."""
    durations = {
        "leaseDuration": settings.lease_duration,
        "renewDeadline": settings.renew_deadline,
        "retryPeriod": settings.retry_period,
    }
    for name, seconds in durations.items():
        if seconds <= 0:
            fields.problem(name, "must be greater than zero")
    if settings.lease_duration <= settings.renew_deadline:
        fields.problem("leaseDuration", "must be greater than renewDeadline")
    if settings.renew_deadline <= 1.2 * settings.retry_period:
        fields.problem("renewDeadline", "must be greater than 1.2 times retryPeriod")


def _client_connection(fields: strict.Fields) -> ClientConnection:
    fields.string("acceptContentTypes", "")
    fields.string("contentType", "")
    qps = fields.number("qps", 0)
    burst = fields.integer("burst", 0, minimum=0)
    settings = ClientConnection(
        kubeconfig=fields.string("kubeconfig", "") or None,
        qps=qps if qps > 0 else None,
        burst=burst or None if qps > 0 else None,
    )
    fields.finish()
    return settings


def _profiles(fields: strict.Fields, external: frozenset[str]) -> tuple[Profile, ...]:
    items = fields.items("profiles") or [strict.Fields({}, fields.at("profiles[0]"), [])]
    default_name = UPSTREAM_SCHEDULER_NAME if len(items) == 1 else ""
    profiles: list[Profile] = []
    queue_sorts = []
    for item in items:
        name = item.string("schedulerName", None)
        if name is None:
            name = default_name
        if not name:
            item.problem("schedulerName", "is required")
        elif any(profile.scheduler_name == name for profile in profiles):
            item.problem("schedulerName", f"{name} is given twice")
        item.integer("percentageOfNodesToScore", 0, minimum=0, maximum=100)
        custom = _plugins(item.fields("plugins"), external)
        queue_sorts.append(custom.get("queueSort", plugin_sets.PluginSet()))
        if queue_sorts[-1] != queue_sorts[0]:
            item.problem("plugins.queueSort", "must be the same for all profiles")
        arguments = _plugin_config(item, external)
        profiles.append(Profile(name, plugin_sets.merge(custom), arguments))
        item.finish()
    return tuple(profiles)


def _plugins(fields: strict.Fields, external: frozenset[str]) -> dict[str, plugin_sets.PluginSet]:
    sets = {}
    for point in (plugin_sets.MULTI_POINT, *plugin_sets.POINTS):
        if fields.raw(point) is None:
            continue
        group = fields.fields(point)
        enabled: list[tuple[str, int]] = []
        for item in group.items("enabled"):
            name = _plugin_name(item, external)
            if any(name == other for other, _ in enabled):
                item.problem("name", f"{name} is enabled twice")
            weight = item.integer("weight", 0, minimum=0, maximum=2**31 - 1)
            enabled.append((name, weight))
            item.finish()
        disabled = []
        for item in group.items("disabled"):
            disabled.append(item.required("name"))
            item.integer("weight", 0)
            item.finish()
        if point == "queueSort" and len(enabled) > 1:
            group.problem("enabled", "only one queue sort plugin can be enabled")
        sets[point] = plugin_sets.PluginSet(tuple(enabled), tuple(disabled))
        group.finish()
    fields.finish()
    return sets


def _plugin_name(item: strict.Fields, external: frozenset[str]) -> str:
    name = item.required("name")
    if name in plugin_sets.REMOVED_PLUGINS:
        item.problem("name", f"{name} was removed from {API_VERSION}")
    elif name and not _is_known(name, external):
        item.problem(
            "name",
            f"unknown plugin {name}: neither one of Kubernetes' nor found in an installed package",
        )
    return name


def _is_known(name: str, external: frozenset[str]) -> bool:
    return name in plugin_sets.UPSTREAM_PLUGINS or name in external or ":" in name


def _plugin_config(item: strict.Fields, external: frozenset[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for entry in item.items("pluginConfig"):
        name = _plugin_name(entry, external)
        if name in arguments:
            entry.problem("name", f"{name} is configured twice")
        if name in plugin_arguments.KINDS:
            arguments[name] = plugin_arguments.read(name, entry.fields("args"), API_VERSION)
        else:
            arguments[name] = entry.raw("args")
        entry.finish()
    for name in plugin_arguments.KINDS:
        arguments.setdefault(name, plugin_arguments.defaults(name))
    return arguments
