"""Control groups of pods: names, both versions, what is set, what is left behind (nothing)."""

from __future__ import annotations

import os
import pathlib
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import machine
from whipstaff.node_agent.cgroups import files as cgroup_files
from whipstaff.node_agent.cgroups import hierarchies as cgroup_hierarchies
from whipstaff.node_agent.cgroups import manager as cgroups
from whipstaff.node_agent.cgroups import names as cgroup_names
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.node_agent.cgroups import slices as cgroup_slices

HOST = machine.Machine(cpus=2, memory=4 << 30, huge_pages={2 << 20: 0}, pids=4096)
MI = 1 << 20
SLICES = "/a_b.slice/a_b-kubepods.slice/a_b-kubepods-burstable.slice"


def pod(name: str = "web", qos: str = "", **resources: Any) -> Any:
    status = {"phase": "Pending"} | ({"qosClass": qos} if qos else {})
    found = make.pod(name, status=status, containers=[make.container("app", resources=resources)])
    found["metadata"]["uid"] = f"uid-{name}"
    return found


def burstable(name: str, cpu: str) -> Any:
    return pod(name, requests={"cpu": cpu})


def guaranteed(name: str) -> Any:
    same = {"cpu": "500m", "memory": "64Mi"}
    return pod(name, requests=same, limits=same)


# Names.


@pytest.mark.parametrize(
    ("driver", "path"),
    [
        ("cgroupfs", "/a-b/kubepods/burstable/pod12-34"),
        (
            "systemd",
            f"{SLICES}/a_b-kubepods-burstable-pod12_34.slice",
        ),
    ],
)
def test_a_pod_has_the_name_that_the_kubelet_gives_it(driver: Any, path: str) -> None:
    pods = (*cgroup_names.parse("/a-b"), "kubepods")
    name = cgroup_names.pod(pods, "Burstable", "12-34")
    assert cgroup_names.path(name, driver) == path
    assert cgroup_names.uid_of(path.rpartition("/")[2], driver) == "12-34"


def test_guaranteed_pods_are_right_below_all_pods() -> None:
    name = cgroup_names.pod(("kubepods",), "Guaranteed", "1")
    assert cgroup_names.path(name, "cgroupfs") == "/kubepods/pod1"


def test_folders_of_others_are_not_pods() -> None:
    assert cgroup_names.uid_of("burstable", "cgroupfs") is None
    assert cgroup_names.uid_of("pod", "cgroupfs") is None
    assert cgroup_names.uid_of("kubepods-burstable.slice", "systemd") is None
    assert cgroup_names.uid_of("cri-containerd-1.scope", "systemd") is None


@pytest.mark.parametrize("uid", ["", "../..", "a/b"])
def test_a_uid_can_not_lead_elsewhere(uid: str) -> None:
    with pytest.raises(ValueError, match="UID"):
        cgroup_names.pod(("kubepods",), "Burstable", uid)


def test_there_are_two_drivers() -> None:
    with pytest.raises(ValueError, match="driver"):
        cgroups.Manager("", "openrc", HOST)


# Which version the machine has.


def test_controllers_are_found_where_they_are_mounted(tmp_path: pathlib.Path) -> None:
    found = cgroup_hierarchies.find(
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        f"32 31 0:29 / {tmp_path}/another/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"33 31 0:29 / {tmp_path}/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        f"34 31 0:37 / {tmp_path}/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    assert found.version == 1
    assert [found.has(name) for name in ("cpu", "name=systemd", "memory")] == [True, True, False]
    assert found.missing("/x") == [
        f"{tmp_path}/cpu/x",
        f"{tmp_path}/cpu/x",
        f"{tmp_path}/systemd/x",
    ]


def test_a_machine_without_control_groups_is_refused() -> None:
    with pytest.raises(OSError, match="failed to find cgroup mounts"):
        cgroup_hierarchies.find("31 23 0:28 / /sys rw - sysfs sysfs rw\n")
    with pytest.raises(OSError, match="failed to find cgroup mounts"):
        cgroup_hierarchies.find("41 31 0:38 / /elsewhere rw - cgroup2 cgroup2 rw\n")


def test_groups_that_runtimes_make_beside_version_1_are_removed(tmp_path: pathlib.Path) -> None:
    found = cgroup_hierarchies.find(
        f"32 31 0:29 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu\n"
        f"41 31 0:38 / {tmp_path}/unified rw - cgroup2 cgroup2 rw\n"
    )
    assert found.version == 1
    (tmp_path / "unified/kubepods/pod1").mkdir(parents=True)
    assert found.children("/kubepods") == {"pod1"}
    found.remove("/kubepods/pod1")
    assert list((tmp_path / "unified/kubepods").iterdir()) == []


# Version 2, on a tree of files that behaves as the kernel's.


class Kernel:
    """Makes a group's files with its directory, and takes them away with it."""

    def __init__(self, top: pathlib.Path) -> None:
        self.top = top
        self._mkdir, self._rmdir = pathlib.Path.mkdir, pathlib.Path.rmdir
        self._fill(top, "cpuset cpu io memory pids hugetlb")

    def mkdir(self, path: pathlib.Path, *args: Any, **arguments: Any) -> None:
        there = path.is_dir()
        self._mkdir(path, *args, **arguments)
        if not there and path.is_relative_to(self.top):
            handed = (path.parent / "cgroup.subtree_control").read_text()
            self._fill(path, handed.replace("+", ""))

    def rmdir(self, path: pathlib.Path) -> None:
        for entry in path.iterdir():
            if entry.is_file():
                entry.unlink()
        self._rmdir(path)

    def _fill(self, path: pathlib.Path, controllers: str) -> None:
        (path / "cgroup.controllers").write_text(controllers)
        for name in ("cgroup.subtree_control", "cgroup.procs", "cgroup.kill"):
            (path / name).write_text("")
        if "hugetlb" in controllers:
            (path / "hugetlb.2MB.max").write_text("max")
            (path / "hugetlb.2MB.rsvd.max").write_text("max")


@pytest.fixture
def tree(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    kernel = Kernel(tmp_path)

    def mkdir(path: pathlib.Path, *args: Any, **arguments: Any) -> None:
        kernel.mkdir(path, *args, **arguments)

    def rmdir(path: pathlib.Path) -> None:
        kernel.rmdir(path)

    monkeypatch.setattr(pathlib.Path, "mkdir", mkdir)
    monkeypatch.setattr(pathlib.Path, "rmdir", rmdir)
    return tmp_path


@pytest.fixture
def manager(tree: pathlib.Path) -> cgroups.Manager:
    found = cgroups.Manager("/node-0", "cgroupfs", HOST, hierarchy=cgroup_hierarchies.V2(tree))
    found.start()
    return found


def value(tree: pathlib.Path, path: str) -> str:
    return (tree / path).read_text().strip()


def test_all_pods_together_may_have_what_the_machine_has(
    tree: pathlib.Path, manager: cgroups.Manager
) -> None:
    assert manager.version == 2
    assert value(tree, "node-0/kubepods/cpu.weight") == "79"
    assert value(tree, "node-0/kubepods/memory.max") == str(4 << 30)
    assert value(tree, "node-0/kubepods/pids.max") == "4096"
    assert value(tree, "node-0/kubepods/besteffort/cpu.weight") == "1"
    assert value(tree, "node-0/kubepods/burstable/hugetlb.2MB.max") == str(1 << 62)


def test_controllers_are_handed_down_from_the_top(
    tree: pathlib.Path, manager: cgroups.Manager
) -> None:
    del manager
    for group in (".", "node-0", "node-0/kubepods"):
        assert (
            value(tree, f"{group}/cgroup.subtree_control") == "+cpu +cpuset +memory +hugetlb +pids"
        )


def test_a_controller_that_is_not_handed_down_is_named(tree: pathlib.Path) -> None:
    hierarchy = cgroup_hierarchies.V2(tree)
    (tree / "node").mkdir()
    (tree / "node" / "cgroup.controllers").write_text("cpu")
    with pytest.raises(
        OSError, match='cgroup "/node" has some missing controllers: cpuset, memory'
    ):
        hierarchy.create("/node")


def test_what_is_reserved_is_not_for_pods(tree: pathlib.Path) -> None:
    limits = cgroups.Limits(reserved_memory=1 << 30)
    cgroups.Manager("", "cgroupfs", HOST, limits, hierarchy=cgroup_hierarchies.V2(tree)).start()
    assert value(tree, "kubepods/memory.max") == str(3 << 30)


def test_a_pod_gets_a_group_with_its_limits(tree: pathlib.Path, manager: cgroups.Manager) -> None:
    web = guaranteed("web")
    assert manager.parent(web) == "/node-0/kubepods/poduid-web"
    manager.ensure(web)
    group = "node-0/kubepods/poduid-web"
    assert value(tree, f"{group}/cpu.max") == "50000 100000"
    assert value(tree, f"{group}/cpu.weight") == "20"
    assert value(tree, f"{group}/memory.max") == str(64 * MI)
    assert value(tree, f"{group}/hugetlb.2MB.rsvd.max") == "0"
    assert manager.read(web) == cgroup_numbers.Numbers(
        cgroup_numbers.shares_of_weight(20), 50_000, memory=64 * MI
    )


def test_a_group_that_is_there_is_left_alone_until_the_pod_is_resized(
    tree: pathlib.Path, manager: cgroups.Manager
) -> None:
    web = guaranteed("web")
    manager.ensure(web)
    web["spec"]["containers"][0]["resources"]["limits"]["memory"] = "128Mi"
    manager.ensure(web)
    assert value(tree, "node-0/kubepods/poduid-web/memory.max") == str(64 * MI)
    manager.update(web)
    assert value(tree, "node-0/kubepods/poduid-web/memory.max") == str(128 * MI)
    manager.write(web, cgroup_numbers.Numbers(quota=-1))
    assert value(tree, "node-0/kubepods/poduid-web/cpu.max") == "max 100000"


def test_the_burstable_class_weighs_what_its_pods_ask_for(
    tree: pathlib.Path, manager: cgroups.Manager
) -> None:
    weight = lambda: int(value(tree, "node-0/kubepods/burstable/cpu.weight"))  # noqa: E731
    manager.ensure(burstable("a", "1"))
    manager.ensure(burstable("b", "2"))
    assert weight() == cgroup_numbers.weight(cgroup_numbers.shares(3000))
    manager.remove("uid-a")
    assert weight() == cgroup_numbers.weight(cgroup_numbers.shares(2000))


def test_an_agent_that_starts_again_still_counts_what_is_there(
    tree: pathlib.Path, manager: cgroups.Manager
) -> None:
    manager.ensure(burstable("a", "1"))
    again = cgroups.Manager("/node-0", "cgroupfs", HOST, hierarchy=cgroup_hierarchies.V2(tree))
    again.start()
    assert again.pods() == {"uid-a"}
    again.ensure(burstable("b", "1"))
    weight = int(value(tree, "node-0/kubepods/burstable/cpu.weight"))
    # A weight is coarser than shares, so what is remembered is nearly what was asked for.
    assert abs(weight - cgroup_numbers.weight(cgroup_numbers.shares(2000))) <= 1


def test_pods_are_found_in_all_classes_and_removed(manager: cgroups.Manager) -> None:
    for one in (guaranteed("a"), burstable("b", "1"), pod("c")):
        manager.ensure(one)
    assert manager.pods() == {"uid-a", "uid-b", "uid-c"}
    for uid in manager.pods():
        manager.remove(uid)
    assert manager.pods() == set()
    manager.remove("uid-a")


def test_usage_is_read_from_a_pods_group(tree: pathlib.Path, manager: cgroups.Manager) -> None:
    assert manager.usage("uid-web") is None
    manager.ensure(guaranteed("web"))
    group = tree / "node-0/kubepods/poduid-web"
    (group / "memory.current").write_text("5000\n")
    (group / "memory.stat").write_text("anon 2000\nfile 3000\ninactive_file 1000\npgfault 7\n")
    (group / "cpu.stat").write_text("usage_usec 12\nuser_usec 6\n")
    (group / "pids.current").write_text("3\n")
    usage = manager.usage("uid-web")
    assert usage is not None
    assert (usage.memory, usage.working_set, usage.rss) == (5000, 4000, 2000)
    assert (usage.cpu_nanoseconds, usage.page_faults, usage.processes) == (12_000, 7, 3)


def test_the_top_counts_memory_as_version_1_does(
    tree: pathlib.Path, manager: cgroups.Manager
) -> None:
    (tree / "memory.stat").write_text("anon 2000\nfile 3000\ninactive_file 1000\n")
    assert manager.node_usage().memory == 5000


# Systemd.


class Systemd(cgroup_slices.Slices):
    """Notes what systemd is asked for."""

    def __init__(self, answers: list[str | None] | None = None) -> None:
        super().__init__(2)
        self.calls: list[tuple[str, list[str]]] = []
        self.answers = answers or []

    def _call(self, method: str, signature: str, arguments: list[str]) -> str | None:
        self.calls.append((method, arguments))
        return self.answers.pop(0) if self.answers else None


def test_slices_are_asked_of_systemd(tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_slices.Slices, "available", staticmethod(lambda: True))
    systemd = Systemd()
    manager = cgroups.Manager(
        "", "systemd", HOST, hierarchy=cgroup_hierarchies.V2(tree), slices=systemd
    )
    manager.start()
    manager.ensure(guaranteed("web"))
    path = "/kubepods.slice/kubepods-poduid_web.slice"
    assert manager.parent(guaranteed("web")) == path
    assert (tree / path[1:]).is_dir()
    assert [call[1][0] for call in systemd.calls if call[0] == "StartTransientUnit"] == [
        "kubepods.slice",
        "kubepods-burstable.slice",
        "kubepods-besteffort.slice",
        "kubepods-poduid_web.slice",
    ]
    assert manager.pods() == {"uid-web"}
    manager.remove("uid-web")
    assert systemd.calls[-1] == ("StopUnit", ["kubepods-poduid_web.slice", "replace"])


def test_systemd_is_told_values_in_its_own_words() -> None:
    numbers = cgroup_numbers.Numbers(1024, 12_345, memory=MI, pids=-1)
    assert cgroup_slices.properties(numbers, 2) == [
        ("CPUWeight", "t", "39"),
        ("CPUQuotaPeriodUSec", "t", "100000"),
        ("CPUQuotaPerSecUSec", "t", "130000"),
        ("MemoryMax", "t", str(MI)),
        ("TasksMax", "t", str(2**64 - 1)),
    ]
    assert cgroup_slices.properties(cgroup_numbers.Numbers(2, memory=1), 1) == [
        ("CPUShares", "t", "2"),
        ("MemoryLimit", "t", "1"),
    ]


def test_a_slice_that_runs_gets_new_values() -> None:
    systemd = Systemd(["Unit kubepods.slice was already loaded or has a fragment file."])
    systemd.start("/kubepods.slice", cgroup_numbers.Numbers(2))
    assert systemd.calls[0][1][:6] == ["kubepods.slice", "replace", "8", "Wants", "as", "1"]
    assert systemd.calls[0][1][6] == "-.slice"
    assert systemd.calls[1] == (
        "SetUnitProperties", ["kubepods.slice", "true", "1", "CPUWeight", "t", "1"]
    )  # fmt: skip


def test_what_systemd_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match=r"systemd can't start a\.slice: Access denied"):
        Systemd(["Access denied"]).start("/a.slice", cgroup_numbers.Numbers())


def test_systemd_as_the_driver_needs_systemd(tree: pathlib.Path) -> None:
    if cgroup_slices.Slices.available():
        pytest.skip("systemd runs this machine")
    manager = cgroups.Manager("", "systemd", HOST, hierarchy=cgroup_hierarchies.V2(tree))
    with pytest.raises(OSError, match="systemd doesn't run this machine"):
        manager.start()


# The real kernel.


def _writable(path: str) -> bool:
    return os.geteuid() == 0 and os.access(path, os.W_OK)


@pytest.fixture
def sleeper() -> Iterator[Callable[[pathlib.Path], subprocess.Popen[bytes]]]:
    """Starts a process in a group; whatever happens, it is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: pathlib.Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sleep", "60"])
        started.append(process)
        (folder / "cgroup.procs").write_text(str(process.pid))
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def real() -> Iterator[tuple[cgroups.Manager, pathlib.Path]]:
    hierarchy = cgroup_hierarchies.find(pathlib.Path("/proc/self/mountinfo").read_text())
    if not isinstance(hierarchy, cgroup_hierarchies.V1) or not _writable("/sys/fs/cgroup/cpu"):
        pytest.skip("needs root on a machine with version 1 of control groups")
    name = f"whipstaff-test-{uuid.uuid4().hex[:8]}"
    manager = cgroups.Manager(f"/{name}", "cgroupfs", machine.read("/"), hierarchy=hierarchy)
    manager.start()
    yield manager, pathlib.Path(name)
    hierarchy.remove(f"/{name}")
    assert not list(pathlib.Path("/sys/fs/cgroup").glob(f"*/{name}"))


@pytest.mark.cluster
def test_version_1_bounds_counts_and_removes_a_pod(
    real: tuple[cgroups.Manager, pathlib.Path],
    sleeper: Callable[[pathlib.Path], subprocess.Popen[bytes]],
) -> None:
    manager, name = real
    web = guaranteed("web")
    manager.ensure(web)
    group = name / "kubepods/poduid-web"
    top = pathlib.Path("/sys/fs/cgroup")
    assert cgroup_files.read(top / "memory" / group, "memory.limit_in_bytes") == str(64 * MI)
    assert cgroup_files.read(top / "cpu" / group, "cpu.cfs_quota_us") == "50000"
    assert cgroup_files.read(top / "cpuset" / group, "cpuset.cpus")
    assert manager.read(web) == cgroup_numbers.Numbers(512, 50_000, memory=64 * MI)
    inner = group / "container"
    for folder in top.iterdir():
        if (folder / group).is_dir():
            (folder / inner).mkdir()
    (top / "cpuset" / inner / "cpuset.cpus").write_text("0")
    (top / "cpuset" / inner / "cpuset.mems").write_text("0")
    process = sleeper(top / "pids" / inner)
    (top / "memory" / inner / "cgroup.procs").write_text(str(process.pid))
    usage = manager.usage("uid-web")
    assert usage is not None
    assert usage.processes == 1
    assert usage.cpu_nanoseconds is not None
    assert manager.pods() == {"uid-web"}
    manager.least_cpu("uid-web")
    assert manager.read(web).shares == 2
    manager.remove("uid-web")
    assert process.wait() == -9
    assert manager.pods() == set()
    assert list(top.glob(f"*/{group}")) == []


@pytest.mark.cluster
def test_version_1_counts_the_whole_machine(
    real: tuple[cgroups.Manager, pathlib.Path],
) -> None:
    manager, _ = real
    usage = manager.node_usage()
    assert usage.working_set
    assert usage.cpu_nanoseconds
    assert manager.pods_usage().memory is not None
    assert abs(usage.at - time.time()) < 5


@pytest.mark.cluster
def test_version_2_ends_and_removes_what_is_in_a_group(
    sleeper: Callable[[pathlib.Path], subprocess.Popen[bytes]],
) -> None:
    mounts = [pathlib.Path("/sys/fs/cgroup/unified"), pathlib.Path("/sys/fs/cgroup")]
    found = [path for path in mounts if (path / "cgroup.controllers").exists()]
    if not found or not _writable(str(found[0])):
        pytest.skip("needs root and version 2 of control groups")
    hierarchy = cgroup_hierarchies.V2(found[0])
    name = f"/whipstaff-test-{uuid.uuid4().hex[:8]}"
    try:
        hierarchy.create(f"{name}/kubepods/pod1/container")
        assert hierarchy.missing(f"{name}/kubepods/pod1") == []
        process = sleeper(found[0] / name[1:] / "kubepods/pod1/container")
        assert cgroup_files.processes(found[0] / name[1:]) == {process.pid}
        hierarchy.remove(f"{name}/kubepods/pod1")
        assert process.wait() == -9
        assert hierarchy.children(f"{name}/kubepods") == set()
    finally:
        hierarchy.remove(name)
    assert not (found[0] / name[1:]).exists()
