"""What a cluster is to be and what runs: written, read back, compared."""

import pathlib

import pytest

from whipstaff.cluster import components, layout, plan, processes, state
from whipstaff.runtime import errors


@pytest.fixture
def place(tmp_path: pathlib.Path) -> layout.Layout:
    return layout.Layout(tmp_path)


def test_a_plan_is_read_as_it_was_written(place: layout.Layout) -> None:
    spec = plan.Spec(nodes=5, stock=("scheduler",), extra_config=("etcd.log-level=info",))
    written = plan.Plan(
        spec, components.Ports(apiserver=7000), {"etcd": "/bin/etcd"}, "/home/x/config", "a", "b"
    )
    written.save(place)
    assert plan.Plan.load(place) == written


def test_no_file_is_no_cluster(place: layout.Layout) -> None:
    assert plan.Plan.load(place) is None
    assert state.State.load(place) is None


@pytest.mark.parametrize("contents", ["", "{}", '{"spec": {"nodez": 3}}', "[]"])
def test_a_file_of_another_version_is_named(place: layout.Layout, contents: str) -> None:
    place.plan.write_text(contents)
    with pytest.raises(errors.ConfigurationError, match=r"cluster\.json: isn't a cluster"):
        plan.Plan.load(place)


def test_only_what_was_asked_for_can_differ() -> None:
    spec = plan.Spec(nodes=3, stock=("scheduler",))
    assert spec.differences({}) == []
    assert spec.differences({"nodes": 3, "stock": ("scheduler",)}) == []
    assert spec.differences({"nodes": 5, "kubernetes_version": "v1.35.0"}) == [
        "--nodes 3, not 5",
        "--kubernetes-version v1.36.3, not v1.35.0",
    ]
    assert plan.Spec().differences({"stock": ("scheduler",)}) == ["--stock nothing, not scheduler"]


def test_extra_configuration_becomes_flags() -> None:
    spec = plan.Spec(
        extra_config=("kube-apiserver.v=4", "etcd.log-level=info", "kube-apiserver.profiling=true")
    )
    assert spec.extra() == {
        "kube-apiserver": ("--v=4", "--profiling=true"),
        "etcd": ("--log-level=info",),
    }


def test_the_state_is_read_as_it_was_written(place: layout.Layout) -> None:
    ourselves = processes.Identity.of(1)
    component = state.Component("etcd", 2379, "/x/etcd.log", state.RUNNING, ourselves, 1.5, 2, "m")
    written = state.State(ourselves, [component, state.Component("other", 1, "/x/other.log")])
    written.save(place)
    found = state.State.load(place)
    assert found == written
    assert found is not None
    assert found.supervised
    assert not found.settled


def test_the_first_component_that_never_served_is_the_failed_one() -> None:
    good = state.Component("etcd", 1, "", state.RUNNING)
    bad = state.Component("kube-apiserver", 2, "", state.FAILED)
    assert state.State(processes.Identity(1, ""), [good, bad]).failed is bad
    assert state.State(processes.Identity(1, ""), [good]).failed is None


def test_the_default_cluster_has_the_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert layout.Layout(layout.default_data_dir()).name == "whipstaff"
    assert layout.Layout(pathlib.Path("/tmp/my lab (2)")).name == "whipstaff-my-lab-2"


def test_bytecode_is_cached_elsewhere_only_where_it_may_not_be_beside_the_sources() -> None:
    assert layout.bytecode_cache({"HOME": "/home/x"}) == {}
    assert layout.bytecode_cache({"HOME": "/home/x", "PYTHONDONTWRITEBYTECODE": "1"}) == {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": "/home/x/.cache/whipstaff/bytecode",
    }


def test_folders_follow_the_environment() -> None:
    home = {"HOME": "/home/x"}
    assert str(layout.default_data_dir(home)) == "/home/x/.local/share/whipstaff/default"
    assert str(layout.cache_dir(home)) == "/home/x/.cache/whipstaff"
    assert str(layout.cache_dir(home | {"XDG_CACHE_HOME": "/c"})) == "/c/whipstaff"
    assert str(layout.cache_dir(home | {"XDG_CACHE_HOME": "not/absolute"})).startswith("/home/x")
    assert str(layout.cache_dir(home | {"WHIPSTAFF_CACHE": "/w"})) == "/w"
