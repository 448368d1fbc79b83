"""Free ports: the usual ones, the next ones, and never the same for two clusters."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

import pytest

from whipstaff.cluster import ports
from whipstaff.runtime import errors


@contextlib.contextmanager
def listener(host: str = ports.LOOPBACK) -> Iterator[int]:
    with socket.create_server((host, 0)) as server:
        yield server.getsockname()[1]


def nobody(_owner: str) -> bool:
    return False


def test_a_port_somebody_listens_on_is_not_free() -> None:
    with listener() as port:
        assert not ports.is_free(port)
    assert ports.is_free(port)


def test_a_port_taken_on_all_addresses_is_not_free_on_loopback() -> None:
    with listener("0.0.0.0") as port:
        assert not ports.is_free(port)


def test_the_usual_port_is_taken_when_it_is_free() -> None:
    (free,) = ports.scratch(1)
    assert ports.pick(free) == free


def test_the_next_free_port_is_taken_when_the_usual_one_is_not() -> None:
    with listener() as port:
        picked = ports.pick(port, taken={port + 1})
    assert picked > port + 1


def test_no_free_port_is_one_clear_line() -> None:
    with listener() as port, pytest.raises(errors.StartupError, match=f"from {port} to {port}"):
        ports.pick(port, attempts=1)


def test_scratch_ports_are_different_and_below_the_ephemeral_range() -> None:
    found = ports.scratch(20)
    assert len(set(found)) == 20
    assert max(found) < 32_768


def test_two_clusters_that_start_together_get_different_ports(tmp_path: pathlib.Path) -> None:
    ledger = tmp_path / "ports.json"
    (usual,) = ports.scratch(1)
    first = ports.reserve(ledger, "one", {"etcd": usual, "peer": usual}, now=0, lives=nobody)
    second = ports.reserve(ledger, "two", {"etcd": usual}, now=1, lives=nobody)
    assert first["etcd"] == usual
    assert len({*first.values(), *second.values()}) == 3


def test_a_cluster_gets_its_own_ports_again(tmp_path: pathlib.Path) -> None:
    ledger = tmp_path / "ports.json"
    (usual,) = ports.scratch(1)
    assert ports.reserve(ledger, "one", {"etcd": usual}, now=0, lives=nobody) == {"etcd": usual}
    assert ports.reserve(ledger, "one", {"etcd": usual}, now=1, lives=nobody) == {"etcd": usual}


def test_a_reservation_is_given_up(tmp_path: pathlib.Path) -> None:
    ledger = tmp_path / "ports.json"
    (usual,) = ports.scratch(1)
    ports.reserve(ledger, "one", {"etcd": usual}, now=0, lives=nobody)
    ports.release(ledger, "one")
    assert ports.reserve(ledger, "two", {"etcd": usual}, now=2, lives=nobody) == {"etcd": usual}


def test_the_ports_of_a_cluster_that_runs_stay_its_own(tmp_path: pathlib.Path) -> None:
    ledger = tmp_path / "ports.json"
    (usual,) = ports.scratch(1)
    ports.reserve(ledger, "one", {"etcd": usual}, now=0, lives=nobody)
    later = ports.reserve(ledger, "two", {"etcd": usual}, now=1000, lives=lambda o: o == "one")
    assert later["etcd"] != usual


def test_a_reservation_ends(tmp_path: pathlib.Path) -> None:
    ledger = tmp_path / "ports.json"
    (usual,) = ports.scratch(1)
    ports.reserve(ledger, "one", {"etcd": usual}, now=0, lives=nobody)
    assert ports.reserve(ledger, "two", {"etcd": usual}, now=1000, lives=nobody) == {"etcd": usual}


def test_the_holder_of_a_port_is_named() -> None:
    with listener() as port:
        assert f"pid {os.getpid()}" in (ports.holder(port) or "")
    assert ports.holder(port) is None
