"""The machine: what its kernel tells, as a Node shows it."""

from __future__ import annotations

import pathlib

from whipstaff.node_agent import machine

UUID = "4C4C4544-0032-3510-8057-B2C04F4D3432"


def tree(folder: pathlib.Path) -> pathlib.Path:
    files = {
        "proc/meminfo": "MemTotal:       4000000 kB\nSwapTotal:  2048 kB\nHugePages_Total:   3\n",
        "proc/sys/kernel/random/boot_id": "boot\n",
        "proc/sys/kernel/pid_max": "32768\n",
        "proc/sys/kernel/threads-max": "9000\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "3\n",
        "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
        "sys/class/dmi/id/product_uuid": UUID + "\n",
        "etc/machine-id": "ec2\n",
        "etc/os-release": 'NAME=Debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_machine_is_read_from_its_kernels_files(tmp_path: pathlib.Path) -> None:
    found = machine.read(str(tmp_path / "not" / "there"), tree(tmp_path))
    assert (found.memory, found.swap, found.pids) == (4_096_000_000, 2 << 20, 9000)
    assert found.huge_pages == {2 << 20: 6 << 20, 1 << 30: 0}
    assert set(found.page_sizes) == {"2MB", "1GB"}
    assert found.ephemeral > 0
    assert machine.info(found) == {
        "machineID": "ec2",
        "systemUUID": UUID,
        "bootID": "boot",
        "kernelVersion": found.kernel,
        "osImage": "Debian GNU/Linux 12 (bookworm)",
        "swap": {"capacity": 2 << 20},
    }


def test_this_machine_can_be_read() -> None:
    found = machine.read("/var/lib/whipstaff-test")
    assert found.cpus > 0
    assert found.memory > 0
    assert found.boot_id


def test_what_a_machine_has_is_a_nodes_capacity() -> None:
    host = machine.Machine(2, 24 << 30, ephemeral=1000 << 10, huge_pages={2 << 20: 0, 1 << 30: 0})
    assert machine.capacity(host, 50) == {
        "cpu": "2",
        "memory": "24Gi",
        "ephemeral-storage": "1000Ki",
        "pods": "50",
        "hugepages-2Mi": "0",
        "hugepages-1Gi": "0",
    }


def test_reservations_add_up() -> None:
    assert machine.add_up({"cpu": "100m", "memory": "1Gi"}, {"memory": "100Mi"}) == {
        "cpu": "100m",
        "memory": "1124Mi",
    }
