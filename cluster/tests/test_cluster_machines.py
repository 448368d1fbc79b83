"""Machines for nodes: they run real pods, and nothing of them is left, however they end."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import grpc
import psutil
import pytest

from whipstaff.cluster import containerd, groups, images, machines, networks, processes
from whipstaff.node_agent.providers.cri.api import runtime_pb2, runtime_pb2_grpc
from whipstaff.runtime import errors

_why = machines.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(_why is not None, reason=f"nodes with real containers: {_why}"),
]

BUSYBOX = "localhost/busybox:1"


class Runtime:
    """Just enough of a CRI client."""

    def __init__(self, machine: machines.Machine) -> None:
        self._machine = machine
        self._channel = grpc.insecure_channel(machine.endpoint)
        self._service = runtime_pb2_grpc.RuntimeServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def pod(self, name: str, *, cgroup: str = "") -> tuple[str, runtime_pb2.PodSandboxConfig]:
        config = runtime_pb2.PodSandboxConfig(
            metadata=runtime_pb2.PodSandboxMetadata(name=name, uid=name, namespace="default"),
            linux=runtime_pb2.LinuxPodSandboxConfig(cgroup_parent=cgroup),
        )
        deadline = time.monotonic() + 20
        while True:  # CRI serves a moment after containerd does
            try:
                answer = self._service.RunPodSandbox(
                    runtime_pb2.RunPodSandboxRequest(config=config)
                )
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return answer.pod_sandbox_id, config

    def container(
        self, sandbox: tuple[str, runtime_pb2.PodSandboxConfig], *command: str
    ) -> tuple[str, int]:
        """Start a container: its id, and the process's id on the host."""
        config = runtime_pb2.ContainerConfig(
            metadata=runtime_pb2.ContainerMetadata(name="main"),
            image=runtime_pb2.ImageSpec(image=BUSYBOX),
            command=command,
        )
        created = self._service.CreateContainer(
            runtime_pb2.CreateContainerRequest(
                pod_sandbox_id=sandbox[0], config=config, sandbox_config=sandbox[1]
            )
        )
        identifier = created.container_id
        self._service.StartContainer(runtime_pb2.StartContainerRequest(container_id=identifier))
        status = self._service.ContainerStatus(
            runtime_pb2.ContainerStatusRequest(container_id=identifier, verbose=True)
        )
        return identifier, int(status.info["info"].split('"pid":')[1].split(",")[0])

    def running(self) -> list[str]:
        listed = self._service.ListContainers(runtime_pb2.ListContainersRequest())
        return [c.id for c in listed.containers if c.state == runtime_pb2.CONTAINER_RUNNING]

    def address(self, sandbox: str) -> str:
        status = self._service.PodSandboxStatus(
            runtime_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox)
        )
        return str(status.status.network.ip)


@contextlib.contextmanager
def runtime(machine: machines.Machine) -> Iterator[Runtime]:
    opened = Runtime(machine)
    try:
        yield opened
    finally:
        opened.close()


def archives() -> list[pathlib.Path]:
    return [images.archive("pause"), images.archive("busybox")]


def left_behind(root: pathlib.Path, containers: frozenset[str] = frozenset()) -> list[str]:
    """What `remains`; a process that was killed may take a moment to be gone."""
    deadline = time.monotonic() + 5
    while (found := remains(root, containers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def remains(root: pathlib.Path, containers: frozenset[str] = frozenset()) -> list[str]:
    """Whatever of a cluster's machines is on this computer."""
    cluster = networks.identity(root)
    names = {cluster, str(root), *containers}

    def named(text: str) -> bool:
        return any(name in text for name in names)

    found = [f"process {each.pid}" for each in processes.owned_by(root)]
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            text = pathlib.Path("/proc", str(process.pid), "cgroup").read_text()
            if named(text) and runs(process.pid):
                found.append(f"process {process.pid} in a group")
    for command in (["ip", "link"], ["ip", "route"], ["iptables-save"], ["cat", "/proc/mounts"]):
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found += [line for line in said.splitlines() if named(line)]
    folders = [hierarchy for hierarchy, _ in groups.hierarchies()]
    for folder in (*folders, *map(pathlib.Path, ("/run", "/var/lib/cni", "/var/run"))):
        for path, below, files in os.walk(folder):
            found += [f"{path}/{name}" for name in (*below, *files) if named(name)]
    return found


def test_a_pod_runs_and_the_host_reaches_it_and_nothing_is_left(tmp_path: pathlib.Path) -> None:
    with machines.Machine.start(tmp_path, images=archives()) as machine:
        with runtime(machine) as cri:
            inside = cri.pod("told", cgroup=f"{machine.cgroup}/kubepods")
            stray = cri.pod("not-told")
            web = ("sh", "-c", "echo hello > /tmp/index.html; httpd -f -p 80 -h /tmp")
            first, pid = cri.container(inside, *web)
            second, _ = cri.container(stray, "sleep", "1000")
            address = cri.address(inside[0])
            identifiers = frozenset({first, second, inside[0], stray[0]})
        assert remains(tmp_path, identifiers)
        assert address.startswith("10.")
        assert f"{machine.cgroup}/kubepods" in pathlib.Path(f"/proc/{pid}/cgroup").read_text()
        with contextlib.closing(connect(address, 80)) as web_server:
            web_server.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"200 OK" in web_server.recv(4096)
        # From the node, too, where the agent's probes and kube-proxy's answers come from.
        wget = machine.enter("busybox", "wget", "-qO-", f"http://{address}/index.html")
        assert subprocess.run(wget, capture_output=True, check=True).stdout == b"hello\n"
    assert not runs(pid)
    assert left_behind(tmp_path, identifiers) == []
    assert list(tmp_path.iterdir()) == []


def runs(pid: int) -> bool:
    """Whether there is such a process, other than one that nobody has taken off yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def connect(address: str, port: int, patience: float = 10) -> socket.socket:
    deadline = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection((address, port), timeout=patience)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_containers_run_on_when_containerd_is_killed_and_started_again(
    tmp_path: pathlib.Path,
) -> None:
    with machines.Machine.start(tmp_path, images=archives()) as machine:
        with runtime(machine) as cri:
            identifier, pid = cri.container(cri.pod("sleeper"), "sleep", "1000")
        machine.stop_containerd(grace=0)
        assert runs(pid)
        machine.start_containerd()
        with runtime(machine) as cri:
            cri.pod("another")
            assert cri.running() == [identifier]
    assert not runs(pid)
    assert left_behind(tmp_path) == []


def test_nothing_is_left_where_everything_but_the_containers_was_killed(
    tmp_path: pathlib.Path,
) -> None:
    machine = machines.Machine.start(tmp_path, images=archives())
    with runtime(machine) as cri:
        sandbox = cri.pod("orphan")
        # It forks as fast as it can, and ignores what it can.
        bomb = (
            "trap '' TERM; while true; do (trap '' TERM; sleep 0.1 & sleep 0.1) & sleep 0.01; done"
        )
        identifier, pid = cri.container(sandbox, "sh", "-c", bomb)
    for owned in processes.owned_by(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(owned.pid, signal.SIGKILL)
    assert runs(pid)
    machines.clean(tmp_path)
    assert left_behind(tmp_path, frozenset({identifier, sandbox[0]})) == []
    machine.stop()


def test_nothing_is_left_when_the_test_run_is_killed(tmp_path: pathlib.Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from whipstaff.cluster import machines\n"
        "machines.Machine.start(pathlib.Path(sys.argv[1]))\n"
        "print('up', flush=True)\n"
        "time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"up\n"
        assert remains(tmp_path)
        run.kill()
    assert left_behind(tmp_path) == []


def test_machines_that_stand_are_kept_and_damaged_ones_are_made_anew(
    tmp_path: pathlib.Path,
) -> None:
    nodes = ["node-0", "node-1"]
    try:
        network = machines.prepare(tmp_path, nodes)
        first = made(network)
        assert machines.prepare(tmp_path, nodes) == network
        assert made(network) == first
        subprocess.run(["ip", "link", "delete", network.link(1)], check=True)
        assert machines.prepare(tmp_path, nodes, network) == network
        assert made(network) != first
        assert reaches(network, "node-1", network.node_ip(0))
        assert machines.prepare(tmp_path, [*nodes, "node-2"], network) == network
    finally:
        machines.clean(tmp_path)
    assert left_behind(tmp_path) == []


def made(network: networks.Network) -> int:
    """When the machines were made."""
    return (networks.RUN / network.id / "made.json").stat().st_mtime_ns


def reaches(network: networks.Network, node: str, address: str) -> bool:
    """Whether a connection from a node to an address is answered, if only by a refusal."""
    inside = ["nsenter", f"--net={networks.namespace(network.id, node)}"]
    done = subprocess.run(
        [*inside, "busybox", "nc", "-w", "2", address, "9"], capture_output=True, check=False
    )
    return b"refused" in done.stderr


def test_what_a_reboot_and_a_half_made_start_leave_is_no_obstacle(tmp_path: pathlib.Path) -> None:
    cluster = networks.identity(tmp_path)
    for name in ("node-0", "node-1"):
        (networks.RUN / cluster / name).mkdir(parents=True)
        networks.namespace(cluster, name).touch()
    # The first name is without its namespace, as after a reboot; the other one has one already.
    made_before = networks.namespace(cluster, "node-1")
    subprocess.run(["unshare", f"--net={made_before}", "true"], check=True)
    (networks.RUN / cluster / "made.json").write_text("{")
    try:
        with networks.alone():
            subprocess.run(["ip", "link", "add", f"ws{cluster}", "type", "bridge"], check=True)
        network = machines.prepare(tmp_path, ["node-0", "node-1"])
        assert reaches(network, "node-1", network.node_ip(0))
    finally:
        machines.clean(tmp_path)
    assert left_behind(tmp_path) == []
    machines.clean(tmp_path)  # where there is nothing, nothing happens


def test_what_cni_noted_of_pods_goes_even_where_a_reboot_took_the_rest(
    tmp_path: pathlib.Path,
) -> None:
    with machines.Machine.start(tmp_path, images=archives()) as machine:
        with runtime(machine) as cri:
            sandbox, _ = cri.pod("forgotten")
        machine.stop_containerd(grace=0)
        groups.kill(machine.network.id, also=frozenset({sandbox}))
        for bundle in machine.place.state.glob("*/*/*"):
            if bundle.is_dir() and sandbox in bundle.name:
                shutil.rmtree(bundle, ignore_errors=True)
        assert noted(sandbox)
    assert not noted(sandbox)


def noted(sandbox: str) -> list[pathlib.Path]:
    return list(pathlib.Path("/var/lib/cni/results").glob(f"*{sandbox}*"))


def test_two_clusters_have_ranges_of_their_own_and_both_go(tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    try:
        one = machines.prepare(first, ["node-0"])
        two = machines.prepare(second, ["node-0"])
        assert one.subnet != two.subnet
        assert one.pods != two.pods
        assert pathlib.Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
        machines.clean(first)
        assert left_behind(first) == []
        assert reaches(two, "node-0", two.gateway)
    finally:
        machines.clean(first)
        machines.clean(second)
    assert left_behind(second) == []


def test_an_archive_that_cannot_be_loaded_is_one_clear_line(tmp_path: pathlib.Path) -> None:
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no archive")
    with pytest.raises(errors.StartupError, match=r"broken\.tar can't be loaded"):
        machines.Machine.start(tmp_path / "machine", images=[broken])
    assert left_behind(tmp_path / "machine") == []


def test_a_runtime_that_does_not_come_up_shows_the_end_of_its_log(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containerd, "command", lambda _: ("sh", "-c", "echo broken; exit 3"))
    with pytest.raises(errors.StartupError, match="containerd exited with code 3") as failure:
        machines.Machine.start(tmp_path)
    assert "broken" in failure.value.__notes__[0]
    assert left_behind(tmp_path) == []
