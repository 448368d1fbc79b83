"""A fresh cluster with one node of real containers, and its agent's process.

Everything but the agent is the same for both: control plane, containerd and its settings, the
node's network, kube-proxy. The stock kubelet has its defaults, client limits included, but for what
it takes to run beside others on one machine (see `whipstaff.cluster.nodes`); ours has its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator

import click
import psutil
import rich.console

from bench.nodes import report
from whipstaff.cluster import clusters, components, layout, nodes, processes, progress, state

_WAIT = 180.0


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """One node of a cluster of its own."""

    name: str
    kubeconfig: pathlib.Path
    agent: psutil.Process
    log: pathlib.Path


@contextlib.contextmanager
def started(agent: str) -> Iterator[Node]:
    """A cluster with one node that runs this agent.

    Raises:
        click.ClickException: it doesn't come up, or something went wrong with it.
        whipstaff.runtime.errors.StartupError: it can't come up here.
    """
    show = progress.Progress(rich.console.Console(stderr=True, highlight=False, soft_wrap=True))
    with tempfile.TemporaryDirectory(prefix="whipstaff-bench-") as folder:
        place = layout.Layout(pathlib.Path(folder, "cluster"))
        asked = {
            "nodes": 1,
            "provider": components.CRI,
            "stock": ("node-agent",) if agent == report.STOCK else (),
            "addons": False,
            "fsync": False,
        }
        options = clusters.Options(update_kubeconfig=False, example=False, wait=_WAIT)
        try:
            clusters.up(place, asked, options, show)
            node = _node(place)
            try:
                yield node
            except click.ClickException as error:
                end = "\n".join(processes.tail(node.log))
                text = f"{error.message}; the agent's log ends with\n{end}"
                raise click.ClickException(text) from error
        finally:
            clusters.down(place, show, keep_data=False)


def _node(place: layout.Layout) -> Node:
    (name,) = nodes.names(1)
    running = state.State.load(place)
    agents = ("kubelet", "whipstaff-node-agent")
    for component in running.components if running else ():
        if component.name in {f"{kind}-{name}" for kind in agents} and component.process:
            return Node(
                name,
                place.kubeconfig("admin"),
                psutil.Process(component.process.pid),
                place.log(component.name),
            )
    raise click.ClickException("the node's agent doesn't run")


def load() -> float:
    """The machine's load average over the last minute."""
    return os.getloadavg()[0]
