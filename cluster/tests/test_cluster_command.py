"""The command line's mistakes: one clear line, the right exit code, nothing started."""

import pathlib
from collections.abc import Callable

import click.testing
import pytest

from whipstaff.cluster import command, layout, machines, plan, provisioning
from whipstaff.runtime import commands

Run = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    for name in ("KUBECONFIG", "XDG_DATA_HOME", "XDG_CACHE_HOME", "WHIPSTAFF_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line as a user does: its exit code, standard output and standard error."""

    def call(*arguments: str) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as left:
            commands.main(arguments)
        return left.value.code, *capfd.readouterr()

    return call


def test_an_unknown_component_is_refused_with_the_names_there_are(run: Run) -> None:
    code, _, err = run("up", "--stock", "kubelet")
    assert code == 2
    assert "'kubelet'" in err
    assert "scheduler" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--provider", "simulated", "--stock", "node-agent"],
            "--stock node-agent: the kubelet needs nodes with real containers",
        ),
        (
            ["--provider", "cri", "--nodes", "251"],
            "--nodes: 251 nodes with real containers are more than 250",
        ),
        (["--image", "/no/such/archive"], "'/no/such/archive' does not exist"),
        (["--provider", "docker"], "'docker'"),
        (["--nodes", "-1"], "--nodes"),
        (["--kubernetes-version", "newest"], "--kubernetes-version: 'newest' isn't a version"),
        (["--wait", "soon"], "'soon'"),
        (["--extra-config", "kube-apiserver"], "--extra-config: 'kube-apiserver' isn't"),
        (["--extra-config", "kube-dns.v=4"], "a component of etcd, kube-apiserver"),
        (["--assets", "/no/such/folder"], "--assets: /no/such/folder has no etcd"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_clear_line(
    run: Run, arguments: list[str], said: str, home: pathlib.Path
) -> None:
    code, out, err = run("up", *arguments)
    assert code == 2
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err
    assert "✓" not in out
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_a_damaged_kubeconfig_stops_up_before_anything_starts(
    run: Run, home: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "config"
    file.write_text("contexts: {")
    monkeypatch.setenv("KUBECONFIG", str(file))
    code, _, err = run("up")
    assert code == 2
    assert err.startswith(f"Error: {file}: can't be read as a kubeconfig")


def test_a_folder_that_holds_something_else_is_left_alone(run: Run, home: pathlib.Path) -> None:
    folder = home / "project"
    (folder / "logs").mkdir(parents=True)
    code, _, err = run("up", "--data-dir", str(folder))
    assert code == 2
    assert "holds 'logs' and no cluster" in err
    code, out, _ = run("down", "--data-dir", str(folder))
    assert code == 0
    assert out == f"No cluster in {folder}.\n"
    assert [path.name for path in folder.iterdir()] == ["logs"]


def test_without_a_cluster_status_and_kubeconfig_say_so(run: Run, home: pathlib.Path) -> None:
    for name in ("status", "kubeconfig"):
        code, out, err = run(name, "--data-dir", str(home / "none"))
        assert (code, out) == (1, "")
        assert err == f"Error: no cluster in {home / 'none'}: `whipstaff up` starts one\n"
    assert not (home / "none").exists()


def test_images_are_loaded_only_where_there_is_a_cluster(run: Run, home: pathlib.Path) -> None:
    archive = home / "image.tar"
    archive.touch()
    code, _, err = run("load", "--data-dir", str(home / "none"), str(archive))
    assert code == 1
    assert err == f"Error: no cluster runs in {home / 'none'}: `whipstaff up` starts one\n"


def test_down_without_a_cluster_is_done_already(run: Run, home: pathlib.Path) -> None:
    assert run("down")[0] == 0
    assert list(home.iterdir()) == []


def test_a_cluster_of_another_version_can_be_taken_down(run: Run, home: pathlib.Path) -> None:
    place = layout.Layout(home / "old")
    place.root.mkdir()
    place.plan.write_text('{"version": 0}')
    place.state.write_text('{"version": 0}')
    assert run("up", "--data-dir", str(place.root))[0] == 2
    assert run("down", "--data-dir", str(place.root))[0] == 0
    assert not place.root.exists()


def test_data_that_is_kept_is_kept(run: Run, home: pathlib.Path) -> None:
    place = layout.Layout(home / "lab")
    place.etcd.mkdir(parents=True)
    plan.Plan().save(place)
    assert run("down", "--data-dir", str(place.root), "--keep-data")[0] == 0
    assert place.etcd.exists()
    assert plan.Plan.load(place) == plan.Plan()


def test_the_kubeconfig_s_path_is_printed(run: Run, home: pathlib.Path) -> None:
    place = layout.Layout(home / "lab")
    place.root.mkdir()
    plan.Plan().save(place)
    code, out, _ = run("kubeconfig", "--path", "--data-dir", str(place.root))
    assert code == 0
    assert out == f"{place.kubeconfig('admin')}\n"


@pytest.mark.parametrize("name", ["up", "down", "status", "load", "kubeconfig", "get_binaries"])
def test_every_option_is_explained(name: str) -> None:
    result = click.testing.CliRunner().invoke(getattr(command, name), ["--help"])
    assert result.exit_code == 0
    assert "--help" in result.output


def test_where_there_can_be_no_containers_one_line_says_why(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "obstacle", lambda: "not installed: `apt-get install runc`")
    code, _, err = run("up", "--provider", "cri")
    assert code == 1
    assert err == (
        "Error: --provider cri: not installed: `apt-get install runc`; "
        "--provider simulated needs nothing\n"
    )


@pytest.mark.parametrize(
    ("nodes", "why", "expected"),
    [
        (3, None, "cri: real containers"),
        (3, "it takes root", "simulated: no real containers: it takes root"),
        (500, None, "simulated: no real containers: 500 nodes are many, --provider cri insists"),
    ],
)
def test_unasked_nodes_are_as_real_as_they_can_be(
    monkeypatch: pytest.MonkeyPatch, nodes: int, why: str | None, expected: str
) -> None:
    monkeypatch.setattr(machines, "obstacle", lambda: why)
    provider, told = provisioning.provider(plan.Spec(nodes=nodes))
    assert f"{provider}: {told}".startswith(expected)
