"""What is left on a machine when all of its pods are gone: nothing should be."""

from __future__ import annotations

import fnmatch
import os
import pathlib
import subprocess
from collections.abc import Iterator

import psutil

from e2e.faults import bench
from whipstaff.cluster import containerd, groups


def of(made: bench.Bench, *, scraps: bool = True) -> list[str]:
    """All that is left of pods: containers, processes, groups, mounts, networks, files.

    Args:
        made: the node.
        scraps: count what nobody but containerd knows of: shims that hold no process, their files
            and those of runc. Of what was being started or ended when containerd was killed, the
            next one doesn't find everything.
    """
    return [
        *_containers(made),
        *_shims(made, idle=scraps),
        *_groups(made),
        *_mounts(made),
        *_networks(made),
        *_files(made, scraps=scraps),
    ]


def _containers(made: bench.Bench) -> Iterator[str]:
    for kind in ("tasks", "containers"):
        for line in made.ctr(kind, "list", "--quiet").split():
            yield f"containerd: {kind} {line}"


def _shims(made: bench.Bench, *, idle: bool) -> Iterator[str]:
    address = str(made.machine.place.socket)
    for process in psutil.process_iter():
        try:
            if not (process.name().startswith(containerd.SHIM) and address in process.cmdline()):
                continue
            if idle or process.children():
                yield f"shim: {process.pid} {' '.join(process.cmdline())}"
        except psutil.Error:
            continue


def _groups(made: bench.Bench) -> Iterator[str]:
    for root, _ in groups.hierarchies():
        top = pathlib.Path(f"{root}{made.machine.cgroup}")
        for folder, _, _ in os.walk(top):  # which passes over what vanishes meanwhile
            name = pathlib.Path(folder).name
            if fnmatch.fnmatch(name, "*pod*-*") or name.startswith("cri-containerd"):
                yield f"group: {folder}"


def _mounts(made: bench.Bench) -> Iterator[str]:
    place = made.machine.place
    own = {str(place.netns), str(made.root)}
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        target = line.split()[1]
        below = any(target.startswith(f"{top}/") for top in (place.run, place.folder, made.root))
        if below and target not in own:
            yield f"mount: {target}"


def _networks(made: bench.Bench) -> Iterator[str]:
    machine = made.machine
    told = subprocess.run(
        machine.enter("ip", "-o", "link"), capture_output=True, text=True, check=True
    ).stdout
    for line in told.splitlines():
        if "veth" in line.split()[1]:
            yield f"link: {line}"
    rules = subprocess.run(
        machine.enter("iptables-save", "-t", "nat"), capture_output=True, text=True, check=True
    ).stdout
    yield from (f"rule: {line}" for line in rules.splitlines() if "CNI-DN" in line)
    for file in machine.place.addresses.glob("*/*"):
        if file.name[0].isdigit():
            yield f"address: {file}"
    for file in pathlib.Path("/var/lib/cni/results").glob(f"{machine.network.bridge}*"):
        yield f"CNI: {file}"


def _files(made: bench.Bench, *, scraps: bool) -> Iterator[str]:
    place = made.machine.place
    folders = {
        "pod": made.root / "pods",
        "logs": place.pod_logs,
        "sandbox": place.state / "io.containerd.grpc.v1.cri" / "sandboxes",
        "container": place.state / "io.containerd.grpc.v1.cri" / "containers",
        "netns": place.state / "io.containerd.grpc.v1.cri" / "netns",
    }
    if scraps:
        folders["runc"] = place.runc / "k8s.io"
        folders["bundle"] = place.state / "io.containerd.runtime.v2.task" / "k8s.io"
    for what, folder in folders.items():
        if folder.is_dir():
            yield from (f"{what}: {entry}" for entry in folder.iterdir())
