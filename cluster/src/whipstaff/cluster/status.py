"""How a cluster is: what its components do, and how many of its nodes are Ready.

Reads the supervisor's state and asks each component itself, so that one that hangs or was left
behind by a killed supervisor shows. Changes nothing.
"""

import asyncio
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import rich.table

from whipstaff.cluster import certificates, components, layout, nodes, plan, probes, state, waiting
from whipstaff.runtime import client, config, errors, resources

_TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class Component:
    """One component as it is now; ``phase`` Unhealthy: it runs and doesn't answer."""

    name: str
    phase: str
    pid: int | None
    port: int
    uptime_seconds: int | None
    restarts: int
    log: str
    message: str
    address: str
    node: str


@dataclass(frozen=True, slots=True)
class Status:
    """A cluster as it is now; ``nodes`` is None when the apiserver doesn't tell."""

    name: str
    data_dir: str
    kubernetes_version: str
    server: str
    kubeconfig: str
    supervisor_pid: int | None
    components: list[Component]
    nodes_expected: int
    nodes_ready: int | None

    @property
    def problems(self) -> list[str]:
        """What isn't as it should be, a line each."""
        found = [
            f"{component.name} is {component.phase}: {component.message}".rstrip(": ")
            for component in self.components
            if component.phase != state.RUNNING
        ]
        if not self.components:
            found.append("nothing runs: `whipstaff up` starts the cluster")
        elif self.supervisor_pid is None:
            found.append("its supervisor was killed: `whipstaff up` starts everything anew")
        elif self.nodes_ready is None:
            found.append("the apiserver doesn't tell about nodes")
        elif self.nodes_ready < self.nodes_expected:
            found.append(f"{self.nodes_ready} of {self.nodes_expected} nodes are Ready")
        return found

    def document(self) -> dict[str, Any]:
        """For ``-o json``, in the API's spelling."""
        return {
            "name": self.name,
            "dataDir": self.data_dir,
            "kubernetesVersion": self.kubernetes_version,
            "server": self.server,
            "kubeconfig": self.kubeconfig,
            "supervisor": {"pid": self.supervisor_pid},
            "components": [_camel(asdict(component)) for component in self.components],
            "nodes": {"expected": self.nodes_expected, "ready": self.nodes_ready},
            "problems": self.problems,
        }

    def table(self) -> rich.table.Table:
        """The components, for people."""
        table = rich.table.Table(box=None, pad_edge=False)
        for heading in ("COMPONENT", "STATUS", "PID", "ADDRESS", "UPTIME", "RESTARTS", "LOG"):
            table.add_column(heading, no_wrap=True)
        for component in self.components:
            colour = "green" if component.phase == state.RUNNING else "red"
            table.add_row(
                component.name,
                f"[{colour}]{component.phase}[/{colour}]",
                str(component.pid or "-"),
                component.address,
                "-" if component.uptime_seconds is None else _duration(component.uptime_seconds),
                str(component.restarts),
                os.path.relpath(component.log, self.data_dir),
            )
        return table


async def look(place: layout.Layout) -> Status:
    """How the cluster in ``place`` is.

    Raises:
        StartupError: there is none.
    """
    planned, running = plan.Plan.load(place), state.State.load(place)
    if planned is None:
        raise errors.StartupError(f"no cluster in {place.root}: `whipstaff up` starts one")
    endpoints = await asyncio.to_thread(_endpoints, place, planned)
    records = running.components if running else []
    found, ready = await asyncio.gather(
        asyncio.gather(*(_component(record, endpoints) for record in records)),
        _ready(place) if records else asyncio.sleep(0),
    )
    return Status(
        name=place.name,
        data_dir=str(place.root),
        kubernetes_version=planned.spec.kubernetes_version,
        server=planned.server,
        kubeconfig=str(place.kubeconfig("admin")),
        supervisor_pid=running.supervisor.pid if running and running.supervised else None,
        components=list(found),
        nodes_expected=planned.spec.nodes,
        nodes_ready=ready,
    )


def _endpoints(place: layout.Layout, planned: plan.Plan) -> dict[str, components.Component]:
    pki = certificates.load(place.pki)
    return {each.name: each for each in nodes.table(planned.settings(place, pki))}


async def _component(record: state.Component, table: dict[str, components.Component]) -> Component:
    phase, message = record.phase, record.message
    alive = record.process is not None and record.process.process() is not None
    if phase == state.RUNNING:
        message = ""
        known = table[record.name]
        if not alive:
            phase, message = state.FAILED, "its process is gone"
        elif why := await asyncio.to_thread(
            probes.failure, known.endpoint, known.health, timeout=_TIMEOUT
        ):
            phase, message = "Unhealthy", why
    return Component(
        name=record.name,
        phase=phase,
        pid=record.process.pid if record.process is not None and alive else None,
        port=record.port,
        uptime_seconds=int(time.time() - record.since) if alive and record.since else None,
        restarts=record.restarts,
        log=record.log,
        message=message,
        address=record.address,
        node=record.node,
    )


async def _ready(place: layout.Layout) -> int | None:
    try:
        async with client.Client(config.load(place.kubeconfig("admin")), timeout=_TIMEOUT) as api:
            return waiting.ready_nodes((await api.list(resources.NODES)).items)
    except (errors.Unreachable, errors.ApiError):
        return None


def _camel(record: dict[str, Any]) -> dict[str, Any]:
    result = {}
    for name, value in record.items():
        first, *rest = name.split("_")
        result["".join((first, *(word.capitalize() for word in rest)))] = value
    return result


def _duration(seconds: int) -> str:
    """As kubectl writes ages: the two largest units."""
    for unit, size, smaller, step in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}{seconds % size // step}{smaller}"
    return f"{seconds // 60}m{seconds % 60}s" if seconds >= 60 else f"{seconds}s"
