"""What a twin is told, what it refuses, and how its processes are kept running."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import time
import tomllib
from typing import Any

import pytest
import yaml

from whipstaff.node_agent import configuration
from whipstaff.node_agent.twin import runtime, settings
from whipstaff.runtime import errors


@pytest.fixture
def twin(tmp_path: pathlib.Path) -> settings.Twin:
    return settings.Twin(
        of="worker",
        name="worker-twin",
        data=tmp_path / "data",
        run=tmp_path / "run",
        cni_conf=tmp_path / "conf",
        cni_bin=(tmp_path / "host", tmp_path / "image"),
        sandbox_image="example.org/pause:1",
    )


def loaded(document: dict[str, Any], folder: pathlib.Path) -> configuration.Settings:
    """As the agent reads it."""
    file = folder / "agent.yaml"
    file.write_text(yaml.safe_dump(document))
    return configuration.load(str(file))


def test_a_twin_keeps_away_what_looks_for_the_stock_node(
    twin: settings.Twin, tmp_path: pathlib.Path
) -> None:
    found = loaded(settings.agent_configuration(twin, {}), tmp_path)
    assert found.address_type == "ExternalIP"
    assert found.labels["kubernetes.io/os"] == ["whipstaff"]
    assert found.labels["whipstaff.io/twin-of"] == ["worker"]
    assert found.taints == [{"key": "whipstaff.io/twin", "value": "true", "effect": "NoSchedule"}]
    assert found.cgroup_root == "/whipstaff-twin/worker"
    assert found.healthz_port == 0


def test_what_the_user_configures_stands_over_that_but_for_what_would_mix_up_the_two(
    twin: settings.Twin, tmp_path: pathlib.Path
) -> None:
    given = {
        "nodes": {"labels": {"kubernetes.io/os": "linux", "disk": "ssd"}, "taints": []},
        "cgroups": {"root": "/kubepods"},
        "podPidsLimit": 100,
    }
    found = loaded(settings.agent_configuration(twin, given), tmp_path)
    assert found.labels["kubernetes.io/os"] == ["linux"]
    assert found.labels["disk"] == ["ssd"]
    assert found.labels["whipstaff.io/twin-of"] == ["worker"]
    assert found.taints == []
    assert found.pod_pids == 100
    assert found.cgroup_root == "/whipstaff-twin/worker"
    assert found.address_type == "ExternalIP"


def test_containerd_has_everything_below_the_twin_s_own_folders(twin: settings.Twin) -> None:
    document = tomllib.loads(runtime.config(twin, restrict_oom=True))
    cri = document["plugins"]["io.containerd.grpc.v1.cri"]
    assert document["root"].startswith(str(twin.data))
    own = (document["state"], document["grpc"]["address"], document["ttrpc"]["address"])
    runc = cri["containerd"]["runtimes"]["runc"]["options"]["Root"]
    assert all(path.startswith(str(twin.run)) for path in (*own, runc))
    assert cri["sandbox_image"] == "example.org/pause:1"
    assert cri["restrict_oom_score_adj"] is True
    assert cri["cni"] == {"bin_dir": str(twin.plugins), "conf_dir": str(twin.cni_conf)}


def test_the_machine_s_cni_plugins_go_before_those_of_the_image(twin: settings.Twin) -> None:
    for folder, names in zip(twin.cni_bin, (("ptp", "own"), ("ptp", "loopback")), strict=True):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    for _ in range(2):
        runtime.link_plugins(twin)
        linked = {path.name: path.readlink().parent.name for path in twin.plugins.iterdir()}
        assert linked == {"ptp": "host", "own": "host", "loopback": "image"}


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({}, "there is no CNI configuration"),
        ({"10-calico.conflist": {"plugins": [{"type": "calico"}]}}, "Calico drops"),
        ({"10-a.conf": {"type": "calico"}, "20-b.conflist": {}}, "Calico drops"),
        ({"10-a.conflist": {"plugins": [{}]}}, "10-a.conflist: can't be read"),
    ],
)
def test_a_network_that_takes_no_second_node_is_refused(
    tmp_path: pathlib.Path, files: dict[str, Any], text: str
) -> None:
    for name, document in files.items():
        (tmp_path / name).write_text(json.dumps(document))
    with pytest.raises(errors.StartupError, match=text):
        runtime.check_network(tmp_path)


def test_the_first_configuration_counts_as_for_the_runtime(tmp_path: pathlib.Path) -> None:
    kindnet = {"plugins": [{"type": "ptp"}, {"type": "portmap"}]}
    (tmp_path / "10-kindnet.conflist").write_text(json.dumps(kindnet))
    (tmp_path / "20-calico.conflist").write_text(json.dumps({"plugins": [{"type": "calico"}]}))
    (tmp_path / "00-notes.txt").write_text("not a configuration")
    runtime.check_network(tmp_path)


def test_images_of_a_machine_without_containerd_are_pulled(
    twin: settings.Twin, tmp_path: pathlib.Path
) -> None:
    twin.data.mkdir()
    runtime.copy_images(twin, tmp_path / "none.sock", ["example.org/pause:1"])
    assert not list(twin.data.iterdir())


@pytest.mark.parametrize(
    ("effective", "restricts"), [("000001ffffffffff", False), ("a80425fb", True)]
)
def test_scores_are_restricted_where_the_pod_lacks_the_capability(
    effective: str, restricts: bool
) -> None:
    assert runtime.restricts_oom(f"Name:\tx\nCapEff:\t{effective}\n") is restricts


# The supervisor takes over signals and reaps all children, so it runs in a process of its own.
_SUPERVISED = """
import sys, pathlib, time
from whipstaff.node_agent.twin import supervisor
folder = pathlib.Path(sys.argv[1])
script = sys.argv[2]
watched = supervisor.Supervisor()
child = watched.start("child", [sys.executable, "-c", script, str(folder)])
watched.run(until=lambda: (folder / "enough").exists())
(folder / "told").write_text(str(watched.told))
watched.stop(child, 0.5)
(folder / "stopped").write_text(str(child.pid))
"""


def supervised(folder: pathlib.Path, script: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _SUPERVISED, str(folder), script]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(30)
def test_a_process_that_ends_is_started_again(tmp_path: pathlib.Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "runs = len(list(folder.glob('run-*')))\n"
        "(folder / f'run-{runs}').touch()\n"
        "if runs: (folder / 'enough').touch(); time.sleep(60)\n"
        "sys.exit(1)"
    )
    with supervised(tmp_path, script) as process:
        assert process.wait(20) == 0
    assert len(list(tmp_path.glob("run-*"))) == 2
    assert (tmp_path / "told").read_text() == "False"
    assert (tmp_path / "stopped").read_text() == "0"


@pytest.mark.timeout(30)
def test_a_process_that_can_t_work_with_what_it_was_told_ends_all(tmp_path: pathlib.Path) -> None:
    with supervised(tmp_path, "raise SystemExit(2)") as process:
        _, said = process.communicate(timeout=20)
    assert "child can't work with what it was told" in said
    assert not (tmp_path / "told").exists()


@pytest.mark.timeout(30)
def test_a_signal_ends_the_loop_and_a_process_that_ignores_its_own_is_killed(
    tmp_path: pathlib.Path,
) -> None:
    script = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "(pathlib.Path(sys.argv[1]) / 'up').touch()\n"
        "time.sleep(60)"
    )
    with supervised(tmp_path, script) as process:
        while not (tmp_path / "up").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert (tmp_path / "told").read_text() == "True"
    assert (tmp_path / "stopped").read_text() == "0"
