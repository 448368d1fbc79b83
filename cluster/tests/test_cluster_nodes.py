"""What runs on nodes with real containers, and what their files say."""

import datetime
import json
import pathlib
import tomllib

import pytest
import yaml

from whipstaff.cluster import (
    certificates,
    components,
    containerd,
    layout,
    networks,
    nodes,
)

NETWORK = networks.Network("0123abcd", "172.30.0.0/24", "10.244.0.0/16", 1400)
NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> components.Settings:
    place = layout.Layout(tmp_path)
    for name in nodes.names(2):
        (place.nodes / name).mkdir(parents=True)
    return made(place)


def made(
    place: layout.Layout, stock: frozenset[str] = frozenset(), count: int = 2
) -> components.Settings:
    names = components.needed_binaries(stock, components.CRI)
    return components.Settings(
        files=place,
        pki=certificates.ensure(place.pki, NOW, [NETWORK.gateway]),
        ports=components.Ports(),
        binaries={name: pathlib.Path("/bin", name) for name in names},
        nodes=count,
        provider=components.CRI,
        stock=stock,
        network=NETWORK,
        archives=(pathlib.Path("/images/pause.tar"),),
    )


def by_name(settings: components.Settings) -> dict[str, components.Component]:
    return {component.name: component for component in nodes.table(settings)}


def test_each_node_has_a_runtime_a_proxy_and_an_agent(settings: components.Settings) -> None:
    on_nodes = [component for component in nodes.table(settings) if component.node]
    assert [(component.name, component.node) for component in on_nodes] == [
        (f"{kind}-{node}", node)
        for node in ("node-0", "node-1")
        for kind in ("containerd", "kube-proxy", "whipstaff-node-agent")
    ]
    run = settings.files.root
    for component in on_nodes:
        namespace = networks.namespace(networks.identity(run), component.node)
        assert component.argv[:2] == ("nsenter", f"--net={namespace}")


def test_an_agent_starts_when_its_runtime_has_its_images(settings: components.Settings) -> None:
    table = by_name(settings)
    assert "containerd-node-1" in table["whipstaff-node-agent-node-1"].after
    (command,) = table["containerd-node-1"].setup
    assert command[0] == "ctr"
    assert command[-1] == "/images/pause.tar"


def test_a_runtime_outlives_the_agent_that_needs_it(settings: components.Settings) -> None:
    waves = components.stopping_waves(nodes.table(settings))
    order = {component.name: number for number, wave in enumerate(waves) for component in wave}
    assert order["whipstaff-node-agent-node-0"] < order["containerd-node-0"]
    assert order["kube-proxy-node-0"] < order["kube-apiserver"]


def test_the_apiserver_is_on_the_bridge_and_checks_who_serves_a_node(
    settings: components.Settings,
) -> None:
    flags = components.kube_apiserver(settings).argv
    assert "--bind-address=172.30.0.1" in flags
    assert "--advertise-address=172.30.0.1" in flags
    assert any(flag.startswith("--kubelet-certificate-authority=") for flag in flags)
    assert not any("endpoint-reconciler-type" in flag for flag in flags)
    assert settings.server == "https://172.30.0.1:6443"


def test_every_binary_that_runs_is_one_that_is_got(settings: components.Settings) -> None:
    for stock in (frozenset[str](), frozenset({"scheduler", "node-agent"})):
        table = nodes.table(made(settings.files, stock))
        run = {arg for component in table for arg in component.argv if arg.startswith("/bin/")}
        needed = components.needed_binaries(stock, components.CRI)
        assert run == {f"/bin/{name}" for name in needed}


def test_a_node_is_known_to_the_apiserver_as_itself(settings: components.Settings) -> None:
    nodes.configure(settings, NOW)
    config = yaml.safe_load(settings.files.kubeconfig("node-0").read_text())
    assert config["users"][0]["name"] == "system:node:node-0"
    assert config["clusters"][0]["cluster"]["server"] == "https://172.30.0.1:6443"
    # What it serves with must not let it ask as a node.
    serving = certificates.Pair(
        settings.files.pki / "node-0.crt", settings.files.pki / "node-0.key"
    )
    text = serving.certificate.read_bytes()
    assert text != (settings.files.pki / "node-0-client.crt").read_bytes()


def test_an_agent_s_settings_name_its_group_and_its_logs(settings: components.Settings) -> None:
    nodes.configure(settings, NOW)
    folder = settings.files.nodes / "node-1"
    config = yaml.safe_load((folder / "agent.yaml").read_text())
    cluster = networks.identity(settings.files.root)
    assert cluster != NETWORK.id  # the one in this test is made up
    assert config["kind"] == "NodeAgentConfiguration"
    assert config["cgroups"] == {"root": "/whipstaff/0123abcd/node-1"}
    assert config["podLogsDir"] == str(folder / "pods")
    assert config["resolvConf"] == str(folder / "resolv.conf")
    assert "127.0.0" not in (folder / "resolv.conf").read_text()


def test_the_kubelet_takes_the_agent_s_place_with_the_same_identity(
    settings: components.Settings,
) -> None:
    stock = made(settings.files, frozenset({"node-agent"}))
    nodes.configure(stock, NOW)
    kubelet = by_name(stock)["kubelet-node-0"]
    assert f"--kubeconfig={settings.files.kubeconfig('node-0')}" in kubelet.argv
    config = yaml.safe_load((settings.files.nodes / "node-0" / "agent.yaml").read_text())
    assert config["kind"] == "KubeletConfiguration"
    assert config["cgroupRoot"] == "/whipstaff/0123abcd/node-0"
    assert config["authentication"]["anonymous"] == {"enabled": False}


def test_nodes_are_given_the_ranges_that_their_machines_have(settings: components.Settings) -> None:
    assert [
        (node["metadata"]["name"], node["spec"]["podCIDR"]) for node in nodes.objects(settings)
    ] == [
        ("node-0", "10.244.0.0/24"),
        ("node-1", "10.244.1.0/24"),
    ]
    assert "--allocate-node-cidrs=false" in components.kube_controller_manager(settings).argv


def test_a_small_cluster_has_one_dns_pod_a_node(settings: components.Settings) -> None:
    for count, expected in ((1, 1), (2, 2), (5, 2)):
        found = nodes.applied(made(settings.files, count=count))
        (dns,) = (
            o for o in found if o["kind"] == "Deployment" and o["metadata"]["name"] == "coredns"
        )
        assert dns["spec"]["replicas"] == expected


@pytest.fixture
def place(tmp_path: pathlib.Path) -> containerd.Files:
    return containerd.Files(tmp_path / "data", tmp_path / "run")


def test_a_runtime_keeps_everything_below_its_own_folders(place: containerd.Files) -> None:
    text = containerd.config(place, cni="/cni", snapshots="native", restrict_oom=True)
    config = tomllib.loads(text)
    assert config["root"] == str(place.store)
    assert config["state"] == str(place.state)
    assert config["grpc"]["address"] == str(place.socket)
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == containerd.PAUSE
    assert cri["restrict_oom_score_adj"] is True
    assert cri["netns_mounts_under_state_dir"] is True
    assert cri["containerd"]["snapshotter"] == "native"
    for runtime in cri["containerd"]["runtimes"].values():
        assert runtime["options"]["Root"] == str(place.runc)


def test_pods_have_routes_and_no_bridge(place: containerd.Files) -> None:
    config = json.loads(containerd.conflist(NETWORK, "node-1", "10.244.1.0/24", place))
    ptp, portmap = config["plugins"]
    assert config["cniVersion"] == "0.4.0"
    assert ptp["type"] == "ptp"
    assert ptp["mtu"] == 1400
    assert ptp["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    assert ptp["ipam"]["dataDir"] == str(place.addresses)
    assert portmap["capabilities"] == {"portMappings": True}


def test_what_is_missing_is_named_by_the_packages_that_have_it(tmp_path: pathlib.Path) -> None:
    nothing = {"PATH": str(tmp_path)}
    found = containerd.missing(nothing)
    assert {"containerd", "runc", "iptables"} <= set(found)
    assert found == sorted(set(found))
    for name in containerd.CNI_PLUGINS:
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    given = {"PATH": str(tmp_path), "CNI_PATH": str(tmp_path)}
    assert containerd.cni_folder(given) == str(tmp_path)
    assert "containernetworking-plugins" not in containerd.missing(given)


@pytest.mark.parametrize(
    ("capabilities", "expected"), [("1fffeffffff", ["CAP_SYS_RESOURCE"]), ("1ffffffffff", [])]
)
def test_what_this_process_may_not_is_read_from_its_status(
    tmp_path: pathlib.Path, capabilities: str, expected: list[str]
) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython\nCapEff:\t{capabilities}\n")
    assert containerd.lacks(["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"], status) == expected


def test_a_folder_that_the_kubelet_can_t_use_is_known_before() -> None:
    short, long = pathlib.Path("/tmp/lab"), pathlib.Path("/tmp", "x" * 60)
    assert nodes.kubelet_path_excess(short) <= 0
    assert nodes.kubelet_path_excess(long) > 0
