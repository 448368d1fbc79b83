"""The agent as a process on a machine with a containerd of its own, against a real API server."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import node_agent_harness as harness
from node_agent_containerd import BUSYBOX

from whipstaff.cluster import machines

Object = dict[str, Any]


@contextlib.asynccontextmanager
async def agent(
    cluster: harness.Cluster,
    node: str,
    machine: machines.Machine,
    folder: pathlib.Path,
    **settings: Any,
) -> AsyncIterator[None]:
    """The agent as a process, until it is told to end; settings are fields of its file."""
    told = {
        "apiVersion": "whipstaff.io/v1alpha1",
        "kind": "NodeAgentConfiguration",
        "cgroups": {"root": machine.cgroup},
        "podLogsDir": str(folder / "logs"),
        **settings,
    }
    (folder / "agent.yaml").write_text(json.dumps(told))
    command = harness.Command(
        cluster.kubeconfig,
        *("--config", str(folder / "agent.yaml"), "--provider", "cri", "--port", "0"),
        *("--healthz-port", "0"),
        *("--node-name", node, "--node-ip", "127.0.0.1", "--root-dir", str(folder / "agent")),
        *("--container-runtime-endpoint", machine.endpoint),
    )
    async with command:
        yield
        code, written = await command.stop()
        assert code == 0, written


def app(script: str, name: str = "app", **fields: Any) -> Object:
    """A container that runs a shell script."""
    return {
        "name": name,
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        **fields,
    }
