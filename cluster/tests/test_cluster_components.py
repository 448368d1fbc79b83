"""Which components make up a cluster, and how they are started and stopped."""

import datetime
import pathlib

import pytest

from whipstaff.cluster import binaries, bootstrap, certificates, components, layout


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> certificates.Pki:
    now = datetime.datetime.now(datetime.UTC)
    return certificates.ensure(tmp_path_factory.mktemp("pki"), now)


def settings(pki: certificates.Pki, **changes: object) -> components.Settings:
    usual: dict[str, object] = {
        "files": layout.Layout(pathlib.Path("/data")),
        "pki": pki,
        "ports": components.Ports(),
        "binaries": {name: pathlib.Path("/bin", name) for name in binaries.NAMES},
        "nodes": 3,
    }
    return components.Settings(**usual | changes)  # type: ignore[arg-type]


def names(found: list[components.Component]) -> list[str]:
    return [component.name for component in found]


def test_our_scheduler_runs_in_the_place_of_the_stock_one(pki: certificates.Pki) -> None:
    assert names(components.table(settings(pki))) == [
        *("etcd", "kube-apiserver", "kube-controller-manager"),
        *("whipstaff-controllers", "whipstaff-scheduler", "whipstaff-node-agent"),
    ]
    stock = names(components.table(settings(pki, stock=frozenset({"scheduler"}))))
    assert "kube-scheduler" in stock
    assert "whipstaff-scheduler" not in stock


def test_no_object_has_a_stock_controller_and_ours(pki: certificates.Pki) -> None:
    table = {c.name: c.argv for c in components.table(settings(pki))}
    off = "--controllers=*,-deployment-controller,-replicaset-controller"
    assert off in table["kube-controller-manager"]
    assert "--controllers=deployment,replicaset" in table["whipstaff-controllers"]
    stock = components.table(settings(pki, stock=frozenset({"controllers"})))
    assert "whipstaff-controllers" not in names(stock)
    assert not any("--controllers" in flag for c in stock for flag in c.argv)


def test_without_nodes_there_is_no_agent(pki: certificates.Pki) -> None:
    assert "whipstaff-node-agent" not in names(components.table(settings(pki, nodes=0)))


def test_every_component_has_its_binary_and_its_kubeconfig(pki: certificates.Pki) -> None:
    for stock in (frozenset[str](), frozenset({"scheduler", "controllers"})):
        table = components.table(settings(pki, stock=stock))
        run = {pathlib.Path(c.argv[0]).name for c in table if c.argv[0].startswith("/bin/")}
        assert run == set(components.needed_binaries(stock))
        written = {f"/data/kubeconfigs/{name}.kubeconfig" for name in components.users(stock)}
        given = {flag.partition("=")[2] for c in table for flag in c.argv if "kubeconfig=" in flag}
        assert given == written


def test_no_component_outlives_what_it_needs(pki: certificates.Pki) -> None:
    waves = components.stopping_waves(components.table(settings(pki)))
    assert [set(names(wave)) for wave in waves] == [
        {
            *("kube-controller-manager", "whipstaff-controllers"),
            *("whipstaff-scheduler", "whipstaff-node-agent"),
        },
        {"kube-apiserver"},
        {"etcd"},
    ]


def test_flags_from_outside_come_last(pki: certificates.Pki) -> None:
    extra = {"kube-apiserver": ("--v=4",), "whipstaff-scheduler": ("--v=5",)}
    table = {c.name: c for c in components.table(settings(pki, extra=extra))}
    assert table["kube-apiserver"].argv[-1] == "--v=4"
    assert table["whipstaff-scheduler"].argv[-1] == "--v=5"


def test_every_listener_is_on_loopback(pki: certificates.Pki) -> None:
    for component in components.table(settings(pki, stock=frozenset({"scheduler"}))):
        flags = dict(flag.partition("=")[::2] for flag in component.argv if "=" in flag)
        addresses = [
            value
            for name, value in flags.items()
            if name in {"--bind-address", "--node-ip"} or name.startswith("--listen-")
        ]
        assert addresses
        assert all("127.0.0.1" in address for address in addresses)


def test_an_agent_of_many_nodes_takes_no_port_but_its_own(pki: certificates.Pki) -> None:
    table = {c.name: c for c in components.table(settings(pki))}
    agent = table["whipstaff-node-agent"]
    assert "--healthz-port=0" in agent.argv
    assert agent.endpoint.pair == pki.admin, "health is asked for with rights"


def test_pod_addresses_suffice_for_the_nodes(pki: certificates.Pki) -> None:
    assert settings(pki, nodes=256).pod_cidr == "10.244.0.0/16"
    assert settings(pki, nodes=257).pod_cidr == "10.128.0.0/9"


def test_only_sync_to_disk_can_be_left_out_and_only_when_asked(pki: certificates.Pki) -> None:
    assert not any("fsync" in flag for flag in components.etcd(settings(pki)).argv)
    assert "--unsafe-no-fsync=true" in components.etcd(settings(pki, fsync=False)).argv


def test_rights_are_bound_to_the_users_of_our_components() -> None:
    users = {
        subject["name"] for _, body in bootstrap.manifests() for subject in body.get("subjects", ())
    }
    assert users == {user for user in components.users(frozenset()).values() if "whip" in user}


def test_each_component_may_write_its_own_lease_only() -> None:
    roles = [body for resource, body in bootstrap.manifests() if resource.kind == "Role"]
    users = ["whipstaff-controllers", "whipstaff-scheduler"]
    written = [
        (role["metadata"]["name"], rule["resourceNames"])
        for role in roles
        for rule in role["rules"]
        if "leases" in rule["resources"] and "update" in rule["verbs"]
    ]
    assert sorted(written) == [(user, [user]) for user in users]


def test_what_is_not_in_a_role_of_the_whole_cluster_is_given_by_name() -> None:
    for resource, body in bootstrap.manifests():
        for rule in body["rules"] if resource.kind == "Role" else ():
            assert rule["verbs"] == ["create"] or rule["resourceNames"]
