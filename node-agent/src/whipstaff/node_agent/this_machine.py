"""The agent where its containers run on this machine: what it is told, and what its server may ask.

Runs no loop and owns nothing: it puts the command line, the configuration, the machine and the
runtime's word together. Answers to the wiring in ``cmd/kubelet/app/server.go``.
"""

from __future__ import annotations

import asyncio
import pathlib
import platform
import time
from typing import TYPE_CHECKING

from whipstaff.node_agent import (
    agent,
    configuration,
    configz,
    hosting,
    machine,
    pod_events,
    provider,
    server,
    sysctls,
)
from whipstaff.node_agent import upkeep as node_upkeep
from whipstaff.node_agent.cgroups import manager as cgroups
from whipstaff.node_agent.server import statistics
from whipstaff.runtime import errors, logs, quantities

if TYPE_CHECKING:
    from whipstaff.node_agent import app

_PATIENCE = 30.0

_log = logs.get("node_agent.this_machine")


async def settings(plan: app.Plan, runtime: provider.Provider) -> agent.Settings:
    """What the agent is told.

    Raises:
        errors.ConfigurationError: there are several nodes on one machine.
        errors.StartupError: the runtime doesn't answer.
    """
    told = plan.settings
    if not runtime.on_host:
        return agent.Settings(plan.template(), told.timing, told.status_writers)
    if len(plan.node_names) > 1:
        raise errors.ConfigurationError(
            f"--nodes: {runtime.name} runs containers on this machine, which is one node"
        )
    real = await asyncio.to_thread(machine.read, plan.root_dir)
    await _wait_for(runtime)
    driver = told.cgroup_driver
    if not driver:
        driver = (await runtime.status(plan.node_names[0])).cgroup_driver
    return agent.Settings(
        plan.template(real),
        told.timing,
        told.status_writers,
        told.pulls,
        _hosting(plan),
        cgroups.Manager(told.cgroup_root, driver, real, _limits(told)),
        real,
        configz.shown(
            told,
            address=plan.bind_address,
            port=plan.port,
            endpoint=plan.endpoint,
            cluster_dns=plan.cluster_dns,
            cluster_domain=plan.cluster_domain,
            cgroup_driver=driver,
        ),
        pathlib.Path(told.static_pods) if told.static_pods else None,
    )


async def _wait_for(runtime: provider.Provider) -> None:
    """Wait until the runtime answers: a machine that boots starts it at the same time.

    Raises:
        errors.StartupError: it doesn't within half a minute.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            await runtime.list()
        except provider.ProviderError as error:
            if time.monotonic() > deadline:
                raise errors.StartupError(
                    f"the container runtime doesn't answer: {error}"
                ) from error
            _log.info("waiting for the container runtime", error=str(error))
            await asyncio.sleep(1.0)
        else:
            return


def sources(plan: app.Plan, made: agent.Settings, host: hosting.Host | None) -> server.Sources:
    """Where the server finds what neither the agent nor the provider knows."""
    groups = made.groups
    if host is None or groups is None:
        return server.Sources()
    return server.Sources(
        machine=made.machine,
        node_usage=groups.node_usage,
        pods_usage=groups.pods_usage,
        pod_usage=groups.usage,
        cgroup=groups.parent,
        volumes=lambda uid: _volumes(host, uid),
        root_dir=plan.root_dir,
        configuration=lambda: made.configuration or {},
        probes=host.prober.metrics,
        logs=plan.settings.logs,
    )


async def upkeep(
    plan: app.Plan,
    parts: agent.Agent,
    host: hosting.Host,
    sources: server.Sources,
    recorder: pod_events.Recorder,
) -> None:
    """Look after the node, until cancelled."""
    figures = statistics.Statistics(server.Pods(parts), parts, sources)
    await node_upkeep.Upkeep(parts, host, figures, recorder, plan.settings.upkeep, time.time).run()


def _limits(told: configuration.Settings) -> cgroups.Limits:
    return cgroups.Limits(
        reserved_memory=quantities.value(told.reserved.get("memory", "0")), pod_pids=told.pod_pids
    )


async def _volumes(host: hosting.Host, uid: str) -> dict[str, server.FileSystem]:
    return {
        name: server.FileSystem(
            at=used.at,
            available=used.available,
            capacity=used.capacity,
            used=used.used,
            inodes=used.inodes,
            inodes_free=used.inodes_free,
            inodes_used=used.inodes_used,
        )
        for name, used in (await host.volumes.usage(uid)).items()
    }


def _hosting(plan: app.Plan) -> hosting.Settings:
    """How pods live on this machine."""
    logs = pathlib.Path(plan.settings.pod_logs)
    usual = plan.settings.pod_logs == configuration.Settings().pod_logs
    return hosting.Settings(
        root=pathlib.Path(plan.root_dir),
        log_root=logs,
        link_root=logs.with_name("containers") if usual else None,
        cluster_dns=plan.cluster_dns,
        cluster_domain=plan.cluster_domain,
        resolv_conf=plan.settings.resolv_conf,
        sysctls=sysctls.Allowlist(platform.release(), plan.settings.unsafe_sysctls),
    )
