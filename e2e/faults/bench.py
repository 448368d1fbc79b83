"""One node whose parts a test kills as it likes: control plane, machine, agent.

`whipstaff up` has a supervisor that brings back what dies, with a pause that grows; here each part
ends and starts when the test says so, and the agent's root directory, configuration and clock are
the test's. The agent runs in the host's network, which reaches the node's pods.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from whipstaff.cluster import groups, images, machines, ports, processes, testing
from whipstaff.runtime import errors

Object = dict[str, Any]

NODE = "node-0"
IMAGE = "localhost/busybox:1"
_CORE = "/api/v1"
_PATHS = {
    "ConfigMap": f"{_CORE}/namespaces/{{}}/configmaps",
    "Secret": f"{_CORE}/namespaces/{{}}/secrets",
    "Pod": f"{_CORE}/namespaces/{{}}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
}
_FAKETIME = pathlib.Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Bench:
    """A control plane, a machine with containerd, and an agent that isn't started yet.

    Args:
        folder: for everything that is kept.

    Attributes:
        machine: the node's.
        plane: etcd, kube-apiserver and kube-controller-manager.
        root: the agent's root directory, for the next start.
        configuration: the agent's, for the next start.
        ledger: a folder that pods mount to note each start of a container; each trial has its own.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._agent: processes.Process | None = None
        self.machine = machines.Machine.start(
            folder / "machine", NODE, [images.archive("pause"), images.archive("busybox")]
        )
        self.plane = testing.ControlPlane(admission=True)
        try:
            self.plane.start()
            self.plane.start_controller_manager()
        except BaseException:
            self.close()
            raise
        self.root = self.machine.place.agent
        self.ledger = folder
        self.configuration: Object = {}
        self.agents = 0
        self._kubeconfig = self.plane.issue_kubeconfig(f"system:node:{NODE}", ["system:nodes"])
        self._port, self._health_port = ports.scratch(2)

    def close(self) -> None:
        """End everything, and remove the machine."""
        self.stop_agent()
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(self.machine.log, self.folder)
        self.machine.stop()
        self.plane.stop()

    # The agent.

    @property
    def log(self) -> pathlib.Path:
        """What all agents have written."""
        return self.folder / "agent.log"

    @property
    def agent_pid(self) -> int:
        """The running agent's process."""
        assert self._agent is not None
        return self._agent.pid

    def start_agent(self, *, wait: bool = True, environ: Mapping[str, str] | None = None) -> None:
        """Start an agent, and wait until it has taken over its pods."""
        place = self.machine.place
        config = self.folder / "agent.yaml"
        resolv_conf = self.folder / "resolv.conf"
        resolv_conf.write_text("nameserver 10.96.0.10\n")
        document = {
            "apiVersion": "whipstaff.io/v1alpha1",
            "kind": "NodeAgentConfiguration",
            "cgroups": {"root": self.machine.cgroup},
            "podLogsDir": str(place.pod_logs),
            "resolvConf": str(resolv_conf),
            **self.configuration,
        }
        config.write_text(json.dumps(document))
        flags = {
            "config": config,
            "kubeconfig": self._kubeconfig,
            "provider": "cri",
            "node-name": NODE,
            "node-ip": self.machine.ip,
            "bind-address": "127.0.0.1",
            "port": self._port,
            "healthz-port": self._health_port,
            "client-ca-file": self.plane.ca,
            "container-runtime-endpoint": self.machine.endpoint,
            "root-dir": self.root,
        }
        self._agent = processes.Process.start(
            "agent",
            [
                *(sys.executable, "-m", "whipstaff.runtime.commands", "node-agent"),
                *(f"--{name}={value}" for name, value in flags.items()),
            ],
            self.log,
            owner=self.machine.root,
            environ={"PYTHONUNBUFFERED": "1", **(environ or {})},
        )
        self.agents += 1
        if wait:
            self.wait_agent()

    def wait_agent(self) -> None:
        """Wait until the agent says that it is well."""
        eventually(self._serves, seconds=60, text="the agent serves")

    @contextlib.contextmanager
    def agent(
        self, configuration: Object | None = None, environ: Mapping[str, str] | None = None
    ) -> Iterator[None]:
        """An agent of this configuration, while it lasts; whoever follows it is ended as well."""
        self.configuration = configuration or {}
        try:
            self.start_agent(environ=environ)
            yield
        finally:
            self.stop_agent()

    def kill_agent(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self._agent is not None
        assert self._agent.exit_status is None, processes.tail(self.log)
        self._agent.stop(0)
        self._agent = None

    def stop_agent(self) -> None:
        """SIGTERM, and wait until it is gone; nothing where there is none."""
        if self._agent is not None:
            self._agent.stop(30)
            self._agent = None

    def _serves(self) -> bool:
        assert self._agent is not None
        assert self._agent.exit_status is None, processes.tail(self.log)
        connection = http.client.HTTPConnection("127.0.0.1", self._health_port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()

    # The clock.

    @staticmethod
    def faketime() -> pathlib.Path | None:
        """The library that gives a process another clock."""
        return _FAKETIME if _FAKETIME.exists() else None

    def clock_environ(self) -> dict[str, str]:
        """With which a process has the clock that `jump` sets."""
        self.jump(0)
        return {
            "LD_PRELOAD": str(_FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            # The monotonic clock doesn't jump with the wall's, on no machine.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds: int) -> None:
        """Set that clock, against the true time."""
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.replace(self._clock)

    @property
    def _clock(self) -> pathlib.Path:
        return self.folder / "clock"

    # The API.

    def create(self, namespace: str, body: Object) -> Object:
        """Create an object."""
        found: Object = self.plane.request("POST", _PATHS[body["kind"]].format(namespace), body)
        return found

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object; None where there is none."""
        try:
            found: Object = self.plane.request("GET", self._path(kind, namespace, name))
        except errors.NotFound:
            return None
        return found

    def pods(self, namespace: str, selector: str = "") -> list[Object]:
        """The pods of a namespace."""
        path = f"{_PATHS['Pod'].format(namespace)}?labelSelector={selector}"
        found: list[Object] = self.plane.request("GET", path)["items"]
        return found

    def patch(self, kind: str, namespace: str, name: str, change: Object) -> None:
        """Merge a change into an object."""
        self.plane.request(
            "PATCH",
            self._path(kind, namespace, name),
            change,
            content_type="application/merge-patch+json",
        )

    def scale(self, namespace: str, name: str, replicas: int) -> None:
        """Give a Deployment another number of replicas."""
        self.patch("Deployment", namespace, name, {"spec": {"replicas": replicas}})

    def delete(self, kind: str, namespace: str, name: str, grace: int | None = None) -> None:
        """Delete an object and, in the background, what it owns."""
        options: Object = {"propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            self.plane.request("DELETE", self._path(kind, namespace, name), options)
        except errors.NotFound:
            return

    def delete_all(self, namespace: str) -> None:
        """Delete every workload of a namespace."""
        for kind in ("Deployment", "Job", "Pod"):
            path = f"{_PATHS[kind].format(namespace)}?propagationPolicy=Background"
            self.plane.request("DELETE", path)

    def clear(self, namespace: str) -> None:
        """Delete whatever pods are there still, without waiting for the node."""
        path = f"{_PATHS['Pod'].format(namespace)}?gracePeriodSeconds=0"
        self.plane.request("DELETE", path)

    def events(self, namespace: str, name: str) -> list[tuple[str, str]]:
        """Reason and text of all events about an object."""
        path = f"{_CORE}/namespaces/{namespace}/events?fieldSelector=involvedObject.name={name}"
        return [(e["reason"], e["message"]) for e in self.plane.request("GET", path)["items"]]

    def node(self) -> Object:
        """The Node."""
        found: Object = self.plane.request("GET", f"{_CORE}/nodes/{NODE}")
        return found

    def condition(self, kind: str) -> str:
        """The status of one of the Node's conditions."""
        for condition in self.node()["status"].get("conditions") or ():
            if condition["type"] == kind:
                return str(condition["status"])
        return ""

    def _path(self, kind: str, namespace: str, name: str) -> str:
        return f"{_PATHS[kind].format(namespace)}/{name}"

    # The machine.

    def ctr(self, *arguments: str) -> str:
        """What containerd's own command says."""
        return subprocess.run(
            ["ctr", "--address", str(self.machine.place.socket), "-n", "k8s.io", *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def restart_containerd(self, away: float = 0, *, grace: float = 0) -> None:
        """Stop it, by SIGKILL where it has no `grace`, and start it again after some seconds."""
        self.machine.stop_containerd(grace=grace)
        time.sleep(away)
        self.machine.start_containerd()

    def pids(self, uid: str) -> int:
        """How many processes and threads a pod has, as the kernel counts them."""
        for root, _ in groups.hierarchies():
            top = pathlib.Path(f"{root}{self.machine.cgroup}/kubepods")
            for file in (*top.glob(f"*/pod{uid}/pids.current"), top / f"pod{uid}/pids.current"):
                if file.exists():
                    return int(file.read_text())
        return 0


def eventually(what: Callable[[], object], *, seconds: float, text: str) -> None:
    """Wait until `what()` holds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"{text}: not within {seconds:g} s"
        time.sleep(0.2)
