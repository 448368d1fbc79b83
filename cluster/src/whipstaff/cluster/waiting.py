"""What ``up`` waits for once the supervisor runs, and shows: components, nodes, the example."""

import asyncio
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from whipstaff.cluster import (
    addons,
    certificates,
    example,
    layout,
    plan,
    ports,
    probes,
    processes,
    progress,
    state,
)
from whipstaff.runtime import client, config, errors, objects, resources

_POLL = 0.05
_ADDON_POLL = 0.2
_SETTLE = 30.0  # seconds that a running cluster's components may take to serve again
_EXAMPLE = 30.0


def components_serve(
    place: layout.Layout, supervisor: processes.Process | None, show: progress.Progress
) -> None:
    """Show each component when it serves, until all do.

    Args:
        place: the cluster's data directory.
        supervisor: the one that was just started; None where one runs already.
        show: where progress goes.

    Raises:
        StartupError: a component never served, or the supervisor ended.
    """
    begun = time.monotonic()
    shown: set[str] = set()
    with show.under_way("Starting") as step:
        while True:
            running = state.State.load(place)
            for title, result in _serving(running) if running else ():
                if title not in shown:
                    shown.add(title)
                    show.done(title, f"{result:<16}", time.monotonic() - begun)
            if running is not None and (failed := running.failed) is not None:
                raise processes.failure(f"{failed.name} {failed.message}", pathlib.Path(failed.log))
            if running is not None and running.settled:
                return
            if supervisor is None:
                if time.monotonic() - begun > _SETTLE:
                    raise errors.StartupError(_unsettled(place, running))
            elif (status := supervisor.exit_status) is not None:
                raise processes.failure(
                    f"the supervisor {processes.describe_exit(status)}", supervisor.log
                )
            starting = (
                [c.name for c in running.components if c.phase != state.RUNNING] if running else []
            )
            step.update(", ".join(starting) or "supervisor")
            time.sleep(_POLL)


def _serving(running: state.State) -> list[tuple[str, str]]:
    """What serves, a title and a text each: components, and nodes whose components all do."""
    groups: dict[str, list[state.Component]] = {}
    for component in running.components:
        groups.setdefault(component.node or component.name, []).append(component)
    found = []
    for title, members in groups.items():
        if all(member.phase == state.RUNNING for member in members):
            address = members[-1].address
            if members[0].node:
                kinds = (member.name.removesuffix(f"-{title}") for member in members)
                address = f"{address.partition(':')[0]:<16}{', '.join(kinds)}"
            found.append((title, address))
    return found


def _unsettled(place: layout.Layout, running: state.State | None) -> str:
    waiting = [c for c in running.components if c.phase != state.RUNNING] if running else []
    told = (f"{c.name} is {c.phase}: {c.message}".rstrip(": ") for c in waiting)
    return f"the cluster in {place.root} isn't well: {'; '.join(told) or 'nothing runs'}"


async def nodes_and_example(
    place: layout.Layout,
    planned: plan.Plan,
    show: progress.Progress,
    *,
    wait: float,
    with_example: bool,
) -> None:
    """Wait up to ``wait`` seconds for all nodes to be Ready, and show the example.

    Raises:
        StartupError: they aren't, or the example's replicas don't run.
    """
    async with client.Client(config.load(place.kubeconfig("admin"))) as api:
        with show.step("Nodes") as step:
            await _nodes_ready(place, api, planned.spec.nodes, wait, step)
            step.result = f"{planned.spec.nodes} Ready, {planned.spec.provider}"
        if planned.network is not None and planned.spec.addons:
            with show.step("Addons") as step:
                await _dns_serves(api, wait)
                step.result = f"cluster DNS at {addons.DNS_IP}, metrics-server (kubectl top)"
        if with_example:
            await _show_example(place, planned, api, show)


async def _nodes_ready(
    place: layout.Layout, api: client.Client, wanted: int, wait: float, step: progress.Step
) -> None:
    deadline = time.monotonic() + wait
    while True:
        begun = time.monotonic()
        ready = ready_nodes((await api.list(resources.NODES)).items)
        if ready >= wanted:
            return
        if begun > deadline:
            raise processes.failure(
                f"{ready} of {wanted} nodes are Ready after {wait:g} s", _agent_log(place)
            )
        step.update(f"{ready} of {wanted} Ready")
        # Thousands of nodes take a while to list: that must not be what keeps the machine busy.
        await asyncio.sleep(max(_POLL, 4 * (time.monotonic() - begun)))


def _agent_log(place: layout.Layout) -> pathlib.Path:
    """The log of an agent, the first one's where each node has one."""
    running = state.State.load(place)
    for component in running.components if running else ():
        if "node-agent" in component.name or component.name.startswith("kubelet"):
            return pathlib.Path(component.log)
    return place.log("whipstaff-node-agent")


async def _dns_serves(api: client.Client, wait: float) -> None:
    """Wait for a pod of the cluster's DNS to be Ready.

    Raises:
        StartupError: none is in time.
    """
    deadline = time.monotonic() + wait
    while True:
        deployment = await api.get(resources.DEPLOYMENTS, "coredns", "kube-system")
        if deployment.get("status", {}).get("readyReplicas"):
            return
        if time.monotonic() > deadline:
            raise errors.StartupError(
                f"the cluster's DNS isn't ready after {wait:g} s: see "
                "`kubectl -n kube-system describe pods -l k8s-app=kube-dns`"
            )
        await asyncio.sleep(_ADDON_POLL)


def ready_nodes(nodes: Sequence[Mapping[str, Any]]) -> int:
    """How many of the nodes have the condition Ready."""
    conditions = (objects.condition(node, "Ready") for node in nodes)
    return sum(1 for found in conditions if found is not None and found["status"] == "True")


async def _show_example(
    place: layout.Layout, planned: plan.Plan, api: client.Client, show: progress.Progress
) -> None:
    ours = "scheduler" not in planned.spec.stock
    admin = certificates.Pair(place.pki / "admin.crt", place.pki / "admin.key")
    url = f"https://{ports.LOOPBACK}:{planned.ports.scheduler}"
    scheduler = probes.Endpoint(url, None, admin) if ours else None
    sample = example.Example(real=planned.network is not None)
    show.line(f"\nDeployment {example.NAME}, {sample.replicas} replicas:")
    show.line(f"  {'POD':<28}{'NODE':<28}{'SCORE' if ours else ''}".rstrip())
    count = 0
    async for placed in sample.run(api, scheduler, _EXAMPLE):
        count += 1
        score = "-" if placed.score is None else str(placed.score)
        show.line(f"  {placed.pod:<28}{placed.node:<28}{score if ours else ''}".rstrip())
    if count < sample.replicas:
        raise errors.StartupError(
            f"{count} of {sample.replicas} replicas of the example run after {_EXAMPLE:g} s: "
            f"see `kubectl describe pods -l app={example.NAME}`"
        )
    if planned.network is not None:
        url, answer = await sample.fetch(api, planned.network.node_ip(0), _EXAMPLE)
        show.line(f"\nService {example.NAME}:\n  $ curl {url}\n  {answer}")
