"""NodePorts."""

from typing import Any

import pytest

from whipstaff.scheduler import framework, testing
from whipstaff.scheduler.plugins import nodeports

REJECTED = framework.Status(
    framework.Code.UNSCHEDULABLE,
    ("node(s) didn't have free ports for the requested pod ports",),
)


def port(number: int, ip: str = "", protocol: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"hostPort": number}
    if ip:
        made["hostIP"] = ip
    if protocol:
        made["protocol"] = protocol
    return made


def test_a_pod_without_host_ports_is_skipped() -> None:
    plugin = nodeports.NodePorts()

    assert testing.statuses(plugin, testing.pod_info(), testing.cluster([])) == {"": framework.SKIP}


@pytest.mark.parametrize(
    ("wanted", "held", "fits"),
    [
        ([port(8080)], [port(9090)], True),
        ([port(8080)], [port(8080)], False),
        ([port(8080, protocol="UDP")], [port(8080)], True),
        ([port(8080, protocol="TCP")], [port(8080)], False),
        ([port(80, "127.0.0.1")], [port(80, "127.0.0.2")], True),
        ([port(80, "127.0.0.1")], [port(80, "127.0.0.1")], False),
        ([port(80, "127.0.0.1")], [port(80, "0.0.0.0")], False),
        ([port(80, "0.0.0.0")], [port(80, "127.0.0.1")], False),
        ([port(80)], [port(80, "10.0.0.1", "TCP"), port(80, "10.0.0.1", "UDP")], False),
        ([port(80, "10.0.0.1", "UDP")], [port(80, "0.0.0.0", "TCP")], True),
        ([port(1), port(2), port(3)], [port(9), port(3)], False),
        ([port(1), port(2)], [], True),
    ],
)
def test_two_pods_do_not_share_a_port(
    wanted: list[dict[str, Any]], held: list[dict[str, Any]], fits: bool
) -> None:
    holder = testing.pod(
        "holder", containers=[testing.container(host_ports=held)], node_name="busy"
    )
    cluster = testing.cluster([testing.node("free"), testing.node("busy")], [holder])
    pod = testing.pod_info(containers=[testing.container(host_ports=wanted)])

    found = testing.statuses(nodeports.NodePorts(), pod, cluster)

    assert found == {
        "free": framework.SUCCESS,
        "busy": framework.SUCCESS if fits else REJECTED,
    }


def test_a_sidecars_port_counts_and_an_init_containers_does_not() -> None:
    holders = [
        testing.pod(
            kind,
            initContainers=[testing.container(sidecar=kind == "sidecar", host_ports=[80])],
            node_name=kind,
        )
        for kind in ("sidecar", "init")
    ]
    cluster = testing.cluster([testing.node("sidecar"), testing.node("init")], holders)
    pod = testing.pod_info(containers=[testing.container(host_ports=[80])])

    found = testing.statuses(nodeports.NodePorts(), pod, cluster)

    assert found == {"sidecar": REJECTED, "init": framework.SUCCESS}
