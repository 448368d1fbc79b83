"""What an agent is told: a small configuration file, and the flags that stand over it.

No loop runs here: file and flags become `Settings`, or a `ConfigurationError` that names file and
field, before anything starts. A file looks like this; every field may be left out::

    apiVersion: whipstaff.io/v1alpha1
    kind: NodeAgentConfiguration
    nodes:                        # every node of the process
      capacity: {cpu: "32", memory: 256Gi, ephemeral-storage: 256Gi, pods: "110"}
      reserved: {memory: 1Gi}     # capacity that pods can't have
      labels: {disk: ssd, topology.kubernetes.io/zone: [a, b, c]}   # a list is dealt out in turn
      annotations: {}
      taints: [{key: simulated, value: "true", effect: NoSchedule}]
      providerID: simulated://{name}
    addressType: InternalIP     # or ExternalIP: for a second node on a machine, see the README
    heartbeats: {leaseDurationSeconds: 40, renewIntervalSeconds: 10, statusReportSeconds: 300}
    events: {qps: 50, burst: 100}
    statusWriters: 64             # statuses being written at a time
    healthzPort: 10248            # health for everybody, over plain HTTP; 0 for none
    healthzBindAddress: 127.0.0.1
    provider: {jobSeconds: 1}     # the provider's own settings
    # Where containers run on this machine (cri):
    cgroups: {root: "", driver: cgroupfs}    # cgroupfs or systemd; default: what the runtime says
    podLogsDir: /var/log/pods
    resolvConf: /etc/resolv.conf
    staticPodPath: ""                        # a directory of manifests
    allowedUnsafeSysctls: []                 # such as kernel.msg*
    podPidsLimit: -1
    evictionHard: {memory.available: 100Mi, nodefs.available: 10%, imagefs.available: 15%}
    evictionSoft: {}                         # and evictionSoftGracePeriod, evictionMinimumReclaim
    evictionMaxPodGracePeriod: 0
    evictionPressureTransitionPeriod: 5m
    imageGCHighThresholdPercent: 85
    imageGCLowThresholdPercent: 80
    imageMinimumGCAge: 2m
    imageMaximumGCAge: 0s
    containerLogMaxSize: 10Mi
    containerLogMaxFiles: 5
    shutdownGracePeriod: 0s                  # how long a shutdown of the machine waits for pods,
    shutdownGracePeriodCriticalPods: 0s      # of which at the end, for critical ones; or in full:
    shutdownGracePeriodByPodPriority: []     # of {priority: 0, shutdownGracePeriodSeconds: 60}
    images: {maxParallelPulls: 0, registryPullQPS: 5, registryBurst: 10}   # 0: no limit
    enableSystemLogHandler: true             # /logs/: the files in /var/log
    enableSystemLogQuery: false              # /logs/?query=SERVICE: of the machine's journal

Answers to the few parts of ``KubeletConfiguration`` that mean something to every provider; leaves
out the rest of it.
"""

from __future__ import annotations

import functools
import ipaddress
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml

from whipstaff.node_agent import heartbeats, upkeep_configuration
from whipstaff.node_agent.images import pulling as images
from whipstaff.node_agent.server import node_logs
from whipstaff.runtime import errors, quantities, selectors

API_VERSION = "whipstaff.io/v1alpha1"
KIND = "NodeAgentConfiguration"

DEFAULT_CAPACITY: Mapping[str, str] = {
    "cpu": "32",
    "memory": "256Gi",
    "ephemeral-storage": "256Gi",
    "pods": "110",
}

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_FIELDS = {
    "": (
        "apiVersion",
        "kind",
        "nodes",
        "heartbeats",
        "events",
        "statusWriters",
        "provider",
        "cgroups",
        "images",
        "podLogsDir",
        "resolvConf",
        "staticPodPath",
        "allowedUnsafeSysctls",
        "podPidsLimit",
        "healthzPort",
        "healthzBindAddress",
        "enableSystemLogHandler",
        "enableSystemLogQuery",
        *upkeep_configuration.FIELDS,
    ),
    "nodes": (
        *("capacity", "reserved", "labels", "annotations", "taints"),
        *("providerID", "addressType"),
    ),
    "heartbeats": ("leaseDurationSeconds", "renewIntervalSeconds", "statusReportSeconds"),
    "events": ("qps", "burst"),
    "cgroups": ("root", "driver"),
    "images": ("maxParallelPulls", "registryPullQPS", "registryBurst"),
}
_DRIVERS = ("", "cgroupfs", "systemd")
_ADDRESS_TYPES = ("InternalIP", "ExternalIP")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Settings:
    """What configuration file and flags say together.

    Attributes:
        capacity: quantities by resource name, over the node's usual ones.
        reserved: quantities by resource name.
        labels: values by key, dealt out to the nodes in turn.
        annotations, taints, provider_id: of every node.
        address_type: what the Node calls its addresses.
        timing: of the heartbeats.
        event_qps, event_burst: how many events are written, on average and at once.
        status_writers: statuses being written at a time, at most.
        provider: the provider's own settings.
        cgroup_root: the cgroup that all pods are in, empty for the root.
        cgroup_driver: ``cgroupfs`` or ``systemd``; empty for what the runtime says.
        pulls: how images are pulled.
        pod_logs: the directory of the pods' logs.
        resolv_conf: the file with the node's own DNS settings.
        static_pods: the directory of static pods' manifests; empty for none.
        unsafe_sysctls: what pods may set besides the sysctls that are safe.
        pod_pids: processes and threads in one pod; negative for any number.
        healthz_port, healthz_bind_address: where everybody may ask for health; port 0 for nowhere.
        logs: what is shown of the node's own logs.
        upkeep: when the node looks after itself.
    """

    capacity: Mapping[str, str] = field(default_factory=dict)
    reserved: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()
    provider_id: str = ""
    address_type: str = _ADDRESS_TYPES[0]
    timing: heartbeats.Timing = field(default_factory=heartbeats.Timing)
    event_qps: float = 50.0
    event_burst: int = 100
    status_writers: int = 64
    provider: Mapping[str, Any] = field(default_factory=dict)
    cgroup_root: str = ""
    cgroup_driver: str = ""
    pulls: images.Limits = field(default_factory=images.Limits)
    pod_logs: str = "/var/log/pods"
    resolv_conf: str = "/etc/resolv.conf"
    static_pods: str = ""
    unsafe_sysctls: Sequence[str] = ()
    pod_pids: int = -1
    healthz_port: int = 10248
    healthz_bind_address: str = "127.0.0.1"
    logs: node_logs.Settings = field(default_factory=node_logs.Settings)
    upkeep: upkeep_configuration.Policies = field(default_factory=upkeep_configuration.Policies)

    @property
    def pods_per_node(self) -> int:
        """How many pods fit on a node."""
        return quantities.value(self.capacity.get("pods", DEFAULT_CAPACITY["pods"]))


def load(path: str | None) -> Settings:
    """The settings in a file; the defaults without one.

    Raises:
        errors.ConfigurationError: it can't be read, or a field isn't known or can't be used.
    """
    if path is None:
        return Settings()
    try:
        document = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise errors.ConfigurationError(f"{path}: {reason}") from error
    except yaml.YAMLError as error:
        raise errors.ConfigurationError(f"{path}: {' '.join(str(error).split())}") from error
    return _Reader(path).read(document)


def parse_labels(text: str) -> dict[str, list[str]]:
    """The labels of ``--node-labels key=value,key=value``.

    Raises:
        errors.ConfigurationError: names the flag and the part that can't be used.
    """
    labels: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise errors.ConfigurationError(f"--node-labels: {part!r} is not key=value")
        _named("--node-labels", functools.partial(_check_label, key, value))
        labels[key] = [value]
    return labels


def parse_taints(text: str) -> list[dict[str, str]]:
    """The taints of ``--register-with-taints key=value:effect,key:effect``.

    Raises:
        errors.ConfigurationError: names the flag and the part that can't be used.
    """
    taints = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        rest, _, effect = part.rpartition(":")
        key, _, value = rest.partition("=")
        taint = {"key": key, "effect": effect} | ({"value": value} if value else {})
        _named(f"--register-with-taints {part}", functools.partial(_check_taint, taint))
        taints.append(taint)
    return taints


class _Reader:
    """Reads one file; every complaint names it and the field."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, document: Any) -> Settings:
        root = self._mapping(document, "")
        for name, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
            if root.get(name) != wanted:
                raise self._error(name, f"must be {wanted}, not {root.get(name)!r}")
        told = self._mapping(root.get("nodes"), "nodes")
        beats = self._mapping(root.get("heartbeats"), "heartbeats")
        events = self._mapping(root.get("events"), "events")
        default = Settings()
        groups = self._mapping(root.get("cgroups"), "cgroups")
        pulls = self._mapping(root.get("images"), "images")
        capacity = self._quantities(told, "capacity")
        return Settings(
            capacity=capacity,
            reserved=self._reserved(told, {**DEFAULT_CAPACITY, **capacity}),
            labels=self._labels(told),
            annotations=self._strings(told, "nodes.annotations"),
            taints=self._taints(told),
            provider_id=self._string(told, "nodes.providerID"),
            address_type=self._address_type(told),
            timing=self._timing(beats),
            event_qps=self._number(events, "events.qps", default.event_qps, 0.1),
            event_burst=int(self._number(events, "events.burst", default.event_burst, 1)),
            status_writers=int(self._number(root, "statusWriters", default.status_writers, 1)),
            provider=self._mapping(root.get("provider"), "provider"),
            cgroup_root=self._string(groups, "cgroups.root"),
            cgroup_driver=self._driver(groups),
            pulls=images.Limits(
                parallel=int(self._number(pulls, "images.maxParallelPulls", 0, 0)),
                qps=self._number(pulls, "images.registryPullQPS", default.pulls.qps, 0),
                burst=int(self._number(pulls, "images.registryBurst", default.pulls.burst, 1)),
            ),
            pod_logs=self._string(root, "podLogsDir") or default.pod_logs,
            resolv_conf=self._string(root, "resolvConf") or default.resolv_conf,
            static_pods=self._string(root, "staticPodPath"),
            unsafe_sysctls=self._texts(root, "allowedUnsafeSysctls"),
            pod_pids=int(self._number(root, "podPidsLimit", default.pod_pids, -1)),
            healthz_port=self._port(root, "healthzPort", default.healthz_port),
            healthz_bind_address=self._address(root, "healthzBindAddress")
            or default.healthz_bind_address,
            logs=self._logs(root),
            upkeep=self._checked_as_whole(functools.partial(upkeep_configuration.read, root)),
        )

    def _logs(self, root: Mapping[str, Any]) -> node_logs.Settings:
        enabled = self._flag(root, "enableSystemLogHandler", default=True)
        query = self._flag(root, "enableSystemLogQuery", default=False)
        if query and not enabled:
            raise self._error("enableSystemLogQuery", "enableSystemLogHandler is required for it")
        return node_logs.Settings(enabled=enabled, query=query)

    def _port(self, told: Mapping[str, Any], where: str, default: int) -> int:
        value = told.get(where, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
            raise self._error(where, f"{value!r} is no port")
        return value

    def _address(self, told: Mapping[str, Any], where: str) -> str:
        found = self._string(told, where)
        return found and str(self._checked(where, functools.partial(ipaddress.ip_address, found)))

    def _flag(self, told: Mapping[str, Any], where: str, *, default: bool) -> bool:
        value = told.get(where, default)
        if not isinstance(value, bool):
            raise self._error(where, f"{value!r} is neither true nor false")
        return value

    def _texts(self, told: Mapping[str, Any], where: str) -> Sequence[str]:
        found = told.get(where) or []
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise self._error(where, "must be a list of texts")
        return found

    def _driver(self, groups: Mapping[str, Any]) -> str:
        driver = self._string(groups, "cgroups.driver")
        if driver not in _DRIVERS:
            raise self._error("cgroups.driver", f"{driver!r} is neither cgroupfs nor systemd")
        return driver

    def _address_type(self, told: Mapping[str, Any]) -> str:
        found = self._string(told, "nodes.addressType") or _ADDRESS_TYPES[0]
        if found not in _ADDRESS_TYPES:
            raise self._error(
                "nodes.addressType", f"{found!r} is neither {' nor '.join(_ADDRESS_TYPES)}"
            )
        return found

    def _timing(self, beats: Mapping[str, Any]) -> heartbeats.Timing:
        usual = heartbeats.Timing()
        timing = heartbeats.Timing(
            lease_duration=int(
                self._number(beats, "heartbeats.leaseDurationSeconds", usual.lease_duration, 1)
            ),
            lease_interval=self._number(
                beats, "heartbeats.renewIntervalSeconds", usual.lease_interval, 0.1
            ),
            report_interval=self._number(
                beats, "heartbeats.statusReportSeconds", usual.report_interval, 1
            ),
        )
        if timing.lease_interval >= timing.lease_duration:
            raise self._error(
                "heartbeats.renewIntervalSeconds",
                f"{timing.lease_interval:g} must be less than leaseDurationSeconds "
                f"({timing.lease_duration})",
            )
        return timing

    def _reserved(self, told: Mapping[str, Any], capacity: Mapping[str, str]) -> Mapping[str, str]:
        reserved = self._quantities(told, "reserved")
        for name in reserved:
            if name not in capacity:
                raise self._error(f"nodes.reserved.{name}", "is not part of nodes.capacity")
        return reserved

    def _quantities(self, told: Mapping[str, Any], name: str) -> dict[str, str]:
        found = self._mapping(told.get(name), f"nodes.{name}")
        result: dict[str, str] = {}
        for key, value in found.items():
            where = f"nodes.{name}.{key}"
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise self._error(where, f"{value!r} is not a quantity")
            amount = self._checked(where, functools.partial(quantities.parse, value))
            if amount < 0:
                raise self._error(where, f"{value!r} is negative")
            result[str(key)] = str(value)
        return result

    def _labels(self, told: Mapping[str, Any]) -> dict[str, Sequence[str]]:
        labels: dict[str, Sequence[str]] = {}
        for key, value in self._mapping(told.get("labels"), "nodes.labels").items():
            values = value if isinstance(value, list) else [value]
            if not values or not all(isinstance(v, str) for v in values):
                raise self._error(f"nodes.labels.{key}", f"{value!r} is no text or list of texts")
            for one in values:
                self._checked(f"nodes.labels.{key}", functools.partial(_check_label, key, one))
            labels[key] = values
        return labels

    def _taints(self, told: Mapping[str, Any]) -> list[Mapping[str, str]]:
        taints = told.get("taints") or []
        if not isinstance(taints, list):
            raise self._error("nodes.taints", "must be a list")
        for index, taint in enumerate(taints):
            where = f"nodes.taints[{index}]"
            self._known(taint, where, ("key", "value", "effect"))
            self._checked(where, functools.partial(_check_taint, taint))
        return taints

    def _strings(self, told: Mapping[str, Any], where: str) -> Mapping[str, str]:
        found = self._mapping(told.get(where.rpartition(".")[2]), where)
        for key, value in found.items():
            if not isinstance(value, str):
                raise self._error(f"{where}.{key}", f"{value!r} is not a text")
        return found

    def _string(self, told: Mapping[str, Any], where: str) -> str:
        value = told.get(where.rpartition(".")[2], "")
        if not isinstance(value, str):
            raise self._error(where, f"{value!r} is not a text")
        return value

    def _number(self, told: Mapping[str, Any], where: str, default: float, least: float) -> float:
        value = told.get(where.rpartition(".")[2], default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise self._error(where, f"{value!r} is not a number from {least:g} up")
        return value

    def _mapping(self, value: Any, where: str) -> Mapping[str, Any]:
        if value is None and where:
            return {}
        if where in _FIELDS:
            self._known(value, where, _FIELDS[where])
        elif not isinstance(value, dict):
            raise self._error(where, "must be a mapping")
        found: Mapping[str, Any] = value
        return found

    def _known(self, value: Any, where: str, names: Iterable[str]) -> None:
        if not isinstance(value, dict):
            raise self._error(where, "must be a mapping")
        for name in value:
            if name not in names:
                path = f"{where}.{name}" if where else str(name)
                raise self._error(path, f"unknown field (known: {', '.join(names)})")

    def _checked(self, where: str, check: Callable[[], _T]) -> _T:
        return _named(f"{self._path}: {where}", check)

    def _checked_as_whole(self, read: Callable[[], _T]) -> _T:
        """What names its fields itself when something is wrong with them."""
        return _named(self._path, read)

    def _error(self, where: str, text: str) -> errors.ConfigurationError:
        return errors.ConfigurationError(f"{self._path}: {where + ': ' if where else ''}{text}")


def _named(where: str, check: Callable[[], _T]) -> _T:
    try:
        return check()
    except ValueError as error:
        raise errors.ConfigurationError(f"{where}: {error}") from error


def _check_label(key: Any, value: str) -> None:
    selectors.check_label_key(str(key))
    selectors.check_label_value(str(key), value)


def _check_taint(taint: Mapping[str, Any]) -> None:
    if taint.get("effect") not in _EFFECTS:
        raise ValueError(f"effect {taint.get('effect')!r} is none of {', '.join(_EFFECTS)}")
    _check_label(taint.get("key", ""), str(taint.get("value", "")))
