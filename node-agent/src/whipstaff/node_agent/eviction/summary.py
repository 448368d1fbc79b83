"""The node's own summary (``/stats/summary``) as what evictions are decided on.

Pure, but for `has_own_disk`. The summary has everything already, and what an operator sees there is
what the node acts on. Answers to makeSignalObservations in ``pkg/kubelet/eviction/helpers.go`` and
to HasDedicatedImageFs in ``pkg/kubelet/stats``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from whipstaff.node_agent import texts
from whipstaff.node_agent.eviction import evictor
from whipstaff.node_agent.eviction import ranking as eviction_ranking
from whipstaff.node_agent.eviction import signals as eviction_signals
from whipstaff.runtime import objects

Object = objects.Object
Observation = eviction_signals.Observation
Files = eviction_ranking.Files


def measurement(summary: Object, *, dedicated: bool = False) -> evictor.Measurement:
    """What a summary says.

    Args:
        summary: of one node, complete: see k8s.io/kubelet ``pkg/apis/stats/v1alpha1``.
        dedicated: whether images have a file system of their own.
    """
    usage = {pod["podRef"]["uid"]: _pod(pod) for pod in summary.get("pods") or ()}
    return evictor.Measurement(dict(_observations(summary["node"])), usage, dedicated)


def has_own_disk(images: str, root_dir: str) -> bool:
    """Whether images are on another file system than the agent's directory.

    Raises:
        OSError: one of the paths isn't there.
    """
    return bool(images) and os.stat(images).st_dev != os.stat(root_dir).st_dev  # noqa: PTH116


def _observations(node: Object) -> Iterable[tuple[str, Observation]]:
    yield from _memory(eviction_signals.MEMORY, node.get("memory"))
    for container in node.get("systemContainers") or ():
        if container["name"] == "pods":
            yield from _memory(eviction_signals.PODS_MEMORY, container.get("memory"))
    disk, inodes = eviction_signals.NODE_DISK, eviction_signals.NODE_INODES
    yield from _disk(disk, inodes, node.get("fs"))
    disk, inodes = eviction_signals.IMAGE_DISK, eviction_signals.IMAGE_INODES
    yield from _disk(disk, inodes, (node.get("runtime") or {}).get("imageFs"))
    limits = node.get("rlimit") or {}
    if {"maxpid", "curproc"} <= limits.keys():
        most = limits["maxpid"]
        yield eviction_signals.PIDS, Observation(most - limits["curproc"], most, _at(limits))


def _memory(signal: str, told: Object | None) -> Iterable[tuple[str, Observation]]:
    if told is not None and {"availableBytes", "workingSetBytes"} <= told.keys():
        available = told["availableBytes"]
        yield signal, Observation(available, available + told["workingSetBytes"], _at(told))


def _disk(disk: str, inodes: str, told: Object | None) -> Iterable[tuple[str, Observation]]:
    if told is None:
        return
    if {"availableBytes", "capacityBytes"} <= told.keys():
        yield disk, Observation(told["availableBytes"], told["capacityBytes"], _at(told))
    # A file system without inodes of its own, such as btrfs, says that it has none.
    if {"inodesFree", "inodes"} <= told.keys() and told["inodes"]:
        yield inodes, Observation(told["inodesFree"], told["inodes"], _at(told))


def _pod(told: Object) -> eviction_ranking.PodUsage:
    return eviction_ranking.PodUsage(
        memory=(told.get("memory") or {}).get("workingSetBytes"),
        processes=(told.get("process_stats") or {}).get("process_count"),
        ephemeral=(told.get("ephemeral-storage") or {}).get("usedBytes"),
        containers=tuple(
            eviction_ranking.ContainerUsage(
                container["name"],
                (container.get("memory") or {}).get("workingSetBytes"),
                _files(container.get("rootfs")),
                _files(container.get("logs")),
            )
            for container in told.get("containers") or ()
        ),
        volumes={volume["name"]: _files(volume) for volume in told.get("volume") or ()},
    )


def _files(told: Mapping[str, Any] | None) -> Files:
    return Files((told or {}).get("usedBytes"), (told or {}).get("inodesUsed"))


def _at(told: Mapping[str, Any]) -> float:
    return texts.seconds(told.get("time"))
