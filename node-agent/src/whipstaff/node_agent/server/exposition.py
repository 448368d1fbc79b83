"""``/metrics/resource`` and ``/metrics/cadvisor``: what a node and its pods use, for Prometheus.

Pure: makes the text from a reading (`usage`). It is written by hand because samples carry the time
at which they were read, and because a node with a hundred pods is scraped every few seconds.
Answers to ``pkg/kubelet/metrics/collectors/resource_metrics.go`` and to cAdvisor's
``metrics/prometheus.go``, of which it has what dashboards and alerts ask for: CPU, memory, file
systems, network and processes. Leaves out swap, disk I/O and CPU throttling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from whipstaff.node_agent import machine, provider
from whipstaff.node_agent.server import usage
from whipstaff.runtime import objects

Object = objects.Object

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_NANO = 1e9


@dataclass(slots=True)
class _Family:
    kind: str
    text: str
    samples: list[str] = field(default_factory=list)


class _Text:
    """Families of samples, in the order in which they were named first."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def name(self, name: str, kind: str, text: str) -> None:
        self._families[name] = _Family(kind, text)

    def add(self, name: str, labels: str, value: float | None, at: float | None = None) -> None:
        """One sample, where there is a value; `at` in seconds since the epoch."""
        if value is not None:
            when = "" if at is None else f" {int(at * 1000)}"
            self._families[name].samples.append(f"{name}{labels} {_number(value)}{when}\n")

    def __str__(self) -> str:
        return "".join(
            f"# HELP {name} {family.text}\n# TYPE {name} {family.kind}\n{''.join(family.samples)}"
            for name, family in self._families.items()
            if family.samples
        )


def resource(reading: usage.NodeReading | None) -> str:
    """What metrics-server reads; None says that nothing could be read."""
    text = _Text()
    for name, kind, what in (
        ("container_cpu_usage_seconds_total", "counter",
         "[STABLE] Cumulative cpu time consumed by the container in core-seconds"),
        ("container_memory_working_set_bytes", "gauge",
         "[STABLE] Current working set of the container in bytes"),
        ("container_start_time_seconds", "gauge",
         "[STABLE] Start time of the container since unix epoch in seconds"),
        ("node_cpu_usage_seconds_total", "counter",
         "[STABLE] Cumulative cpu time consumed by the node in core-seconds"),
        ("node_memory_working_set_bytes", "gauge",
         "[STABLE] Current working set of the node in bytes"),
        ("pod_cpu_usage_seconds_total", "counter",
         "[STABLE] Cumulative cpu time consumed by the pod in core-seconds"),
        ("pod_memory_working_set_bytes", "gauge",
         "[STABLE] Current working set of the pod in bytes"),
        ("resource_scrape_error", "gauge",
         "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise"),
    ):  # fmt: skip
        text.name(name, kind, what)
    text.add("resource_scrape_error", "", 1 if reading is None else 0)
    if reading is None:
        return str(text)
    _cpu_and_memory(text, "node", "", reading.total.usage)
    for pod in reading.pods:
        of_pod = _labels({"pod": pod.worker.name, "namespace": pod.worker.namespace})
        for each in pod.containers:
            labels = _labels(
                {
                    "container": each.run.name,
                    "pod": pod.worker.name,
                    "namespace": pod.worker.namespace,
                }
            )
            text.add("container_start_time_seconds", labels, each.run.created_at or None)
            _cpu_and_memory(text, "container", labels, each.reading.usage)
        _cpu_and_memory(text, "pod", of_pod, pod.total.usage)
    return str(text)


def _cpu_and_memory(text: _Text, what: str, labels: str, used: provider.Usage) -> None:
    text.add(f"{what}_cpu_usage_seconds_total", labels, _seconds(used.cpu_nanoseconds), used.at)
    text.add(f"{what}_memory_working_set_bytes", labels, used.working_set, used.at)


def cadvisor(
    reading: usage.NodeReading | None,
    of_machine: machine.Machine | None,
    cgroup: Callable[[Object], str] | None,
) -> str:
    """What cAdvisor would tell.

    Args:
        reading: what is used; None says that nothing could be read.
        of_machine: the node's machine, where it is known.
        cgroup: the path of a pod's cgroup, for the label ``id``.
    """
    text = _Text()
    for name, (kind, what, _) in _OF_CONTAINERS.items():
        text.name(name, kind, what)
    for name, (kind, what, _) in _OF_NETWORKS.items():
        text.name(name, kind, what)
    text.name("container_start_time_seconds", "gauge",
              "Start time of the container since unix epoch in seconds.")  # fmt: skip
    text.name("container_scrape_error", "gauge",
              "1 if there was an error while getting container metrics, 0 otherwise")  # fmt: skip
    text.name("machine_cpu_cores", "gauge", "Number of logical CPU cores.")
    text.name("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.")
    text.add("container_scrape_error", "", 1 if reading is None else 0)
    if of_machine is not None:
        identity = _labels(
            {
                "boot_id": of_machine.boot_id,
                "machine_id": of_machine.machine_id,
                "system_uuid": of_machine.system_uuid,
            }
        )
        text.add("machine_cpu_cores", identity, of_machine.cpus)
        text.add("machine_memory_bytes", identity, of_machine.memory)
    if reading is not None:
        _add_samples(text, {"id": "/"}, reading.total.usage)
        for pod in reading.pods:
            _add_pod(text, pod, cgroup)
    return str(text)


def _add_pod(text: _Text, pod: usage.PodReading, cgroup: Callable[[Object], str] | None) -> None:
    path = cgroup(pod.worker.load()) if cgroup is not None else f"/pod{pod.worker.uid}"
    names = {"namespace": pod.worker.namespace, "pod": pod.worker.name}
    _add_samples(text, {"id": path, **names}, pod.total.usage)
    if pod.network is not None and pod.network.interface:
        labels = _cadvisor_labels(
            {"id": f"{path}/{pod.sandbox.id}", "name": pod.sandbox.id, **names},
            interface=pod.network.interface,
        )
        for name, (_, _, value) in _OF_NETWORKS.items():
            text.add(name, labels, value(pod.network), pod.network.at)
    for each in pod.containers:
        run = each.run
        own = {
            "id": f"{path}/{run.id}",
            "name": run.id,
            "image": run.image,
            "container": run.name,
            **names,
        }
        _add_samples(text, own, each.reading.usage)
        text.add(
            "container_start_time_seconds",
            _cadvisor_labels(own),
            run.started_at or None,
            each.reading.usage.at,
        )


def _add_samples(text: _Text, names: Mapping[str, str], used: provider.Usage) -> None:
    labels = _cadvisor_labels(names)
    for name, (_, _, value) in _OF_CONTAINERS.items():
        shown = labels
        if name == "container_cpu_usage_seconds_total":
            shown = _cadvisor_labels(names, cpu="total")
        text.add(name, shown, value(used), used.at)


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / _NANO


_OF_CONTAINERS: Mapping[str, tuple[str, str, Callable[[provider.Usage], float | None]]] = {
    "container_cpu_usage_seconds_total": (
        "counter", "Cumulative cpu time consumed in seconds.",
        lambda used: _seconds(used.cpu_nanoseconds),
    ),
    "container_memory_usage_bytes": (
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        lambda used: used.memory,
    ),
    "container_memory_working_set_bytes": (
        "gauge", "Current working set in bytes.", lambda used: used.working_set,
    ),
    "container_memory_rss": ("gauge", "Size of RSS in bytes.", lambda used: used.rss),
    "container_fs_usage_bytes": (
        "gauge", "Number of bytes that are consumed by the container on this filesystem.",
        lambda used: used.filesystem,
    ),
    "container_processes": (
        "gauge", "Number of processes running inside the container.",
        lambda used: used.processes,
    ),
}  # fmt: skip
_OF_NETWORKS: Mapping[str, tuple[str, str, Callable[[provider.Usage], float | None]]] = {
    "container_network_receive_bytes_total": (
        "counter", "Cumulative count of bytes received", lambda used: used.received,
    ),
    "container_network_receive_errors_total": (
        "counter", "Cumulative count of errors encountered while receiving",
        lambda used: used.receive_errors,
    ),
    "container_network_transmit_bytes_total": (
        "counter", "Cumulative count of bytes transmitted", lambda used: used.sent,
    ),
    "container_network_transmit_errors_total": (
        "counter", "Cumulative count of errors encountered while transmitting",
        lambda used: used.send_errors,
    ),
}  # fmt: skip


def _cadvisor_labels(names: Mapping[str, str], **more: str) -> str:
    """All labels that cAdvisor's metrics have; what isn't known is empty."""
    empty = dict.fromkeys(("container", "id", "image", "name", "namespace", "pod"), "")
    return _labels({**empty, **names, **more})


def _labels(labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in labels.items())
    return f"{{{inner}}}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(value)
