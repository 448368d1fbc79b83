"""Addresses for nodes and pods: chosen so that nobody else's are taken, named so that they fit."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whipstaff.cluster import networks
from whipstaff.runtime import errors

ROOT = pathlib.Path("/home/somebody/.local/share/whipstaff/default")


def choose(*routes: str, before: networks.Network | None = None) -> networks.Network:
    return networks.choose("0123abcd", routes, before, 1500)


def test_the_first_cluster_has_the_usual_ranges() -> None:
    chosen = choose("192.0.2.0/24", "127.0.0.0/8")
    assert (chosen.subnet, chosen.pods) == ("172.30.0.0/24", "10.244.0.0/16")
    assert chosen.gateway == "172.30.0.1"
    assert (chosen.node_ip(0), chosen.node_ip(9)) == ("172.30.0.2", "172.30.0.11")
    assert (chosen.pod_cidr(0), chosen.pod_cidr(249)) == ("10.244.0.0/24", "10.244.249.0/24")


def test_what_the_host_has_a_route_for_is_left_alone() -> None:
    chosen = choose("172.30.0.0/23", "10.244.0.0/15", "10.246.3.7", "172.30.3.1")
    assert (chosen.subnet, chosen.pods) == ("172.30.2.0/24", "10.247.0.0/16")


def test_somebody_s_way_out_doesn_t_take_every_range() -> None:
    chosen = choose("0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8")
    assert (chosen.subnet, chosen.pods) == ("172.30.0.0/24", "10.244.0.0/16")


def test_a_cluster_keeps_its_ranges_while_they_are_free() -> None:
    before = networks.Network("0123abcd", "172.30.7.0/24", "10.250.0.0/16")
    assert choose(before=before).pods == "10.250.0.0/16"
    assert choose("10.250.0.0/16", before=before).pods == "10.244.0.0/16"
    assert choose("10.250.0.0/16", before=before).subnet == "172.30.7.0/24"


def test_where_all_is_taken_one_clear_line_says_so() -> None:
    with pytest.raises(errors.StartupError, match="all ranges"):
        choose("172.16.0.0/12")


@given(st.text(min_size=1), st.integers(0, networks.MAX_NODES - 1))
def test_names_of_links_fit_into_what_linux_has_for_them(folder: str, index: int) -> None:
    network = networks.Network(
        networks.identity(pathlib.Path("/data", folder)), "172.30.0.0/24", "10.244.0.0/16"
    )
    assert len(network.link(index)) <= 15
    assert network.link(index).isascii()


def test_each_data_directory_has_names_of_its_own() -> None:
    assert networks.identity(ROOT) == networks.identity(ROOT)
    assert networks.identity(ROOT) != networks.identity(ROOT.with_name("other"))


def test_the_nodes_path_to_a_namespace_is_short_whatever_the_data_directory() -> None:
    deep = pathlib.Path("/", *("folder" * 3 for _ in range(20)))
    assert len(str(networks.namespace(networks.identity(deep), "node-249"))) < 60
