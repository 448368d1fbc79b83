"""Whether a cluster's nodes have real containers, and the machines and images for those that do.

What `whipstaff.cluster.clusters` does for `whipstaff.cluster.nodes` before anything starts: choose
where nobody said it, refuse what can't be, make what is needed.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from whipstaff.cluster import (
    addons,
    components,
    containerd,
    images,
    layout,
    machines,
    networks,
    nodes,
    plan,
    progress,
    state,
)
from whipstaff.runtime import errors

FEW_NODES = 10  # so many have real containers unasked: each is some 150 MB and three processes


def provider(spec: plan.Spec) -> tuple[str, str | None]:
    """What runs the pods where nobody said it, and why (None: it makes no difference)."""
    if not spec.nodes:
        return components.SIMULATED, None
    why = machines.obstacle()
    if why is None and spec.nodes > FEW_NODES:
        why = f"{spec.nodes} nodes are many, --provider cri insists"
    if why is None or "node-agent" in spec.stock:
        return components.CRI, "real containers, as root with containerd"
    return components.SIMULATED, f"no real containers: {why}"


def check(spec: plan.Spec, place: layout.Layout) -> None:
    """What can't be had, before anything is made.

    Raises:
        ConfigurationError: parts of what was asked for don't go together.
        StartupError: it isn't possible on this machine.
    """
    if spec.provider != components.CRI:
        if "node-agent" in spec.stock:
            raise errors.ConfigurationError(
                "--stock node-agent: the kubelet needs nodes with real containers, --provider cri"
            )
        return
    if spec.nodes > networks.MAX_NODES:
        raise errors.ConfigurationError(
            f"--nodes: {spec.nodes} nodes with real containers are more than {networks.MAX_NODES}"
        )
    if "node-agent" in spec.stock and (extra := nodes.kubelet_path_excess(place.root)) > 0:
        raise errors.ConfigurationError(
            f"--data-dir: {place.root} is {extra} characters too long for the kubelet's sockets"
        )
    if spec.nodes and (why := machines.obstacle()) is not None:
        raise errors.StartupError(f"--provider cri: {why}; --provider simulated needs nothing")


def make_machines(
    place: layout.Layout, planned: plan.Plan, before: plan.Plan | None, show: progress.Progress
) -> plan.Plan:
    """Images and machines for nodes with real containers."""
    with show.step("Images") as step:
        wanted = (*nodes.IMAGES, *(addons.IMAGES if planned.spec.addons else ()))
        archives = [str(images.archive(name, report=step.update)) for name in wanted]
        step.result = f"{', '.join(wanted)}, made here"
    archives += planned.spec.images
    with show.step("Machines") as step:
        earlier = before.network if before else None
        listens = [planned.ports.apiserver]
        names = nodes.names(planned.spec.nodes)
        network = machines.prepare(place.root, names, earlier, listens)
        step.result = (
            f"{len(names)} network namespaces in {network.subnet}, pods in {network.pods}, "
            f"{containerd.version()}"
        )
    changed = dataclasses.replace(planned, network=network, archives=tuple(archives))
    changed.save(place)
    return changed


def load(place: layout.Layout, archives: Sequence[pathlib.Path], show: progress.Progress) -> None:
    """Give images to every node of a running cluster; the next ``up`` doesn't know of them.

    Args:
        place: the cluster's data directory.
        archives: OCI or Docker archives.
        show: where progress goes.

    Raises:
        StartupError: there are no such nodes, or a file isn't such an archive.
    """
    planned, running = plan.Plan.load(place), state.State.load(place)
    if planned is None or running is None or not running.supervised:
        raise errors.StartupError(f"no cluster runs in {place.root}: `whipstaff up` starts one")
    if planned.network is None:
        raise errors.StartupError("the cluster has no nodes with real containers")
    for archive in archives:
        with show.step("Image") as step:
            for name in nodes.names(planned.spec.nodes):
                step.update(f"{archive.name} on {name}")
                containerd.load(machines.files_of(place.root, name), archive)
            step.result = f"{archive.name} on {planned.spec.nodes} nodes"
