"""``/stats/summary``: what a node and its pods use, as JSON.

Pure: makes the answer from a reading (`usage`). Answers to ``pkg/kubelet/server/stats/summary.go``
and to ``k8s.io/kubelet/pkg/apis/stats/v1alpha1``, whose fields these are. Leaves out pressure,
swap and accelerators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whipstaff.node_agent import containers, provider, requirements, texts
from whipstaff.node_agent.server import file_systems, usage
from whipstaff.runtime import objects, quantities

Object = objects.Object
FileSystem = file_systems.FileSystem

_DEFAULT_INTERFACE = "eth0"


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of the node's machine at the time; None is not known.

    Attributes:
        memory: bytes that the node has.
        started_at: when it was started, in seconds since the epoch.
        interfaces: its network interfaces.
        processes: how many processes there can be, and how many there are.
    """

    memory: int | None = None
    started_at: float = 0.0
    interfaces: Sequence[file_systems.Interface] = ()
    processes: tuple[int, int] | None = None


def make(reading: usage.NodeReading, machine: Machine, *, only_cpu_and_memory: bool) -> Object:
    """The answer.

    Args:
        reading: what is used.
        machine: what there is.
        only_cpu_and_memory: leaves out the rest.
    """
    brief = only_cpu_and_memory
    node: Object = {
        "nodeName": reading.name,
        "systemContainers": _system_containers(reading, machine),
        "startTime": texts.timestamp(machine.started_at),
        **_cpu_and_memory(reading.total, machine.memory),
    }
    if not brief:
        if machine.interfaces:
            node["network"] = _network(machine.interfaces, reading.at)
        _put(node, "fs", _file_system(reading.root))
        images = _file_system(reading.images)
        if images is not None:
            node["runtime"] = {"imageFs": images, "containerFs": images}
        if machine.processes is not None:
            most, now = machine.processes
            node["rlimit"] = {
                "time": texts.timestamp(reading.at), "maxpid": most, "curproc": now,
            }  # fmt: skip
    return {"node": node, "pods": [_pod(pod, reading, brief=brief) for pod in reading.pods]}


def _system_containers(reading: usage.NodeReading, machine: Machine) -> list[Object]:
    found = []
    for name, one in (("kubelet", reading.agent), ("pods", reading.all_pods)):
        if one is not None:
            started = {"name": name, "startTime": texts.timestamp(machine.started_at)}
            limit = machine.memory if name == "pods" else None
            found.append({**started, **_cpu_and_memory(one, limit)})
    return found


def _pod(pod: usage.PodReading, node: usage.NodeReading, *, brief: bool) -> Object:
    worker = pod.worker
    spec = worker.load()["spec"]
    limits = {
        definition["name"]: requirements.amounts((definition.get("resources") or {}).get("limits"))
        for _, definition in containers.every(spec)
    }
    result: Object = {
        "podRef": {"name": worker.name, "namespace": worker.namespace, "uid": worker.uid},
        "startTime": texts.timestamp(pod.sandbox.created_at),
        "containers": [
            _container(each, limits.get(each.run.name, {}).get("memory"), node.images, brief=brief)
            for each in pod.containers
        ],
        **_cpu_and_memory(pod.total, _memory_limit(spec, limits)),
    }
    if brief:
        return result
    if pod.network is not None and pod.network.interface:
        result["network"] = _network([_interface(pod.network)], pod.network.at)
    volumes = [_volume(worker.namespace, worker.name, spec, *each) for each in pod.volumes.items()]
    if volumes:
        result["volume"] = volumes
    _put(result, "ephemeral-storage", _file_system(_ephemeral(pod, spec, node)))
    if pod.total.usage.processes is not None:
        result["process_stats"] = {"process_count": pod.total.usage.processes}
    return result


def _container(
    each: usage.ContainerReading, limit: int | None, images: FileSystem | None, *, brief: bool
) -> Object:
    result: Object = {
        "name": each.run.name,
        "startTime": texts.timestamp(each.run.created_at),
        **_cpu_and_memory(each.reading, limit),
    }
    if not brief:
        _put(result, "rootfs", _file_system(_layer(each, images)))
        _put(result, "logs", _file_system(each.logs))
    return result


def _memory_limit(spec: Object, limits: Mapping[str, Mapping[str, int]]) -> int | None:
    """What a pod's memory is limited to: by itself, or because each of its containers is."""
    own = (spec.get("resources") or {}).get("limits") or {}
    if "memory" in own:
        return quantities.value(own["memory"])
    each = [limits[definition["name"]].get("memory", 0) for definition in containers.regular(spec)]
    return sum(each) if each and all(each) else None


def _cpu_and_memory(reading: usage.Reading, limit: int | None) -> Object:
    used = reading.usage
    at = texts.timestamp(used.at)
    result: Object = {}
    if used.cpu_nanoseconds is not None:
        cpu = result["cpu"] = {"time": at}
        _put(cpu, "usageNanoCores", reading.rate)
        cpu["usageCoreNanoSeconds"] = used.cpu_nanoseconds
    if used.working_set is not None:
        memory = result["memory"] = {"time": at}
        if limit is not None:
            memory["availableBytes"] = max(limit - used.working_set, 0)
        _put(memory, "usageBytes", used.memory)
        memory["workingSetBytes"] = used.working_set
        _put(memory, "rssBytes", used.rss)
        _put(memory, "pageFaults", used.page_faults)
        _put(memory, "majorPageFaults", used.major_page_faults)
    return result


def _layer(each: usage.ContainerReading, images: FileSystem | None) -> FileSystem | None:
    """A container's writable layer, which is where images are."""
    used = each.reading.usage
    if used.filesystem is None:
        return None
    around = images or FileSystem(used.at)
    return around.with_used(used.filesystem, used.inodes)


def _ephemeral(pod: usage.PodReading, spec: Object, node: usage.NodeReading) -> FileSystem | None:
    """What a pod takes up of the node's disk that goes away with it: layers, logs, volumes."""
    local = {
        volume["name"]
        for volume in spec.get("volumes") or ()
        if "configMap" in volume
        or ("emptyDir" in volume and not (volume["emptyDir"] or {}).get("medium"))
    }
    parts = [_layer(each, node.images) for each in pod.containers]
    parts += [each.logs for each in pod.containers]
    parts += [found for name, found in pod.volumes.items() if name in local]
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return (node.root or known[0]).with_used(
        sum(part.used or 0 for part in known), sum(part.inodes_used or 0 for part in known)
    )


def _volume(namespace: str, pod: str, spec: Object, name: str, found: FileSystem) -> Object:
    result = {**(_file_system(found) or {}), "name": name}
    for volume in spec.get("volumes") or ():
        if volume["name"] != name:
            continue
        claim = volume.get("persistentVolumeClaim")
        if claim is not None:
            result["pvcRef"] = {"name": claim["claimName"], "namespace": namespace}
        elif "ephemeral" in volume:
            result["pvcRef"] = {"name": f"{pod}-{name}", "namespace": namespace}
    return result


def _file_system(found: FileSystem | None) -> Object | None:
    if found is None:
        return None
    result: Object = {"time": texts.timestamp(found.at)}
    _put(result, "availableBytes", found.available)
    _put(result, "capacityBytes", found.capacity)
    _put(result, "usedBytes", found.used)
    _put(result, "inodesFree", found.inodes_free)
    _put(result, "inodes", found.inodes)
    _put(result, "inodesUsed", found.inodes_used)
    return result


def _network(interfaces: Sequence[file_systems.Interface], at: float) -> Object:
    each = [
        {
            "name": one.name,
            "rxBytes": one.received,
            "rxErrors": one.receive_errors,
            "txBytes": one.sent,
            "txErrors": one.send_errors,
        }
        for one in interfaces
    ]
    default = next((one for one in each if one["name"] == _DEFAULT_INTERFACE), None)
    return {"time": texts.timestamp(at), **(default or {"name": ""}), "interfaces": each}


def _interface(used: provider.Usage) -> file_systems.Interface:
    return file_systems.Interface(
        used.interface,
        used.received or 0,
        used.receive_errors or 0,
        used.sent or 0,
        used.send_errors or 0,
    )


def _put(target: Object, key: str, value: object) -> None:
    if value is not None:
        target[key] = value
