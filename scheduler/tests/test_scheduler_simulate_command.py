"""`whipstaff simulate` as it is typed: sources, what is printed, exit codes."""

import csv
import io
import json
import os
import pathlib
import pty
import select
import subprocess
import sys
import time
from typing import Any

import click.testing
import pytest
import yaml

from whipstaff.runtime import errors
from whipstaff.scheduler import simulate_command, testing

Object = dict[str, Any]

CONFIGURATION = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"


def run(*arguments: str, stdin: bytes | None = None) -> click.testing.Result:
    return click.testing.CliRunner().invoke(
        simulate_command.simulate, list(arguments), input=stdin, catch_exceptions=False
    )


def printed(*arguments: str, stdin: bytes | None = None, code: int = 0) -> str:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == code, result.output
    assert result.stderr == ""
    return "\n".join(line.rstrip() for line in result.stdout.splitlines())


@pytest.fixture
def dump(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "dump.json"
    web = testing.pod("web", {"cpu": "1"}, node_name="a")
    web["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": "web",
            "uid": "w",
            "controller": True,
        }
    ]
    items = [testing.node("a", cpu="2"), testing.node("b", cpu="2"), web]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    return str(path)


@pytest.fixture
def manifest(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "two.yaml"
    pods = [testing.pod(name, {"cpu": "2"}) for name in ("first", "second")]
    path.write_text(yaml.safe_dump_all(pods))
    return str(path)


def test_place_says_where_and_why_not(dump: str, manifest: str) -> None:
    text = printed("place", "-f", manifest, "--from", dump)
    assert text == (
        "WORKLOAD            PODS  PLACED  PENDING  NODES\n"
        "Pod default/first      1       1        0  b\n"
        "Pod default/second     1       0        1\n"
        "\n"
        "Pending:\n"
        "  1 pod (default/second): 0/2 nodes are available: 2 Insufficient cpu."
        " no new claims to deallocate, preemption: 0/2 nodes are available:"
        " 2 No preemption victims found for incoming pod.\n"
        "\n"
        "Use of the nodes that aren't cordoned:\n"
        "        BEFORE MEAN  BEFORE STDDEV  BEFORE MAX  AFTER MEAN  AFTER STDDEV  AFTER MAX\n"
        "cpu           25.0%          25.0%       50.0%       75.0%         25.0%     100.0%\n"
        "memory         0.0%           0.0%        0.0%        0.0%          0.0%       0.0%"
    )
    wide = printed("place", "-f", manifest, "--from", dump, "-o", "wide")
    assert "default/first   b" in wide
    assert "<pending>" in wide


def test_check_fails_where_something_stays_pending(dump: str, manifest: str) -> None:
    printed("place", "-f", manifest, "--from", dump, "--check", code=1)
    printed("place", "-f", manifest, "--from", dump, "--check", "--nodes-like", "a=1")
    printed("drain", "a", "--from", dump, "--check")
    printed("drain", "a", "b", "--from", dump, "--check", code=1)


def test_manifests_and_dumps_come_from_standard_input(dump: str, manifest: str) -> None:
    content = pathlib.Path(manifest).read_bytes()
    from_file = printed("place", "-f", manifest, "--from", dump)
    assert printed("place", "-f", "-", "--from", dump, stdin=content) == from_file
    listed = pathlib.Path(dump).read_bytes()
    assert printed("place", "-f", manifest, "--from", "-", stdin=listed) == from_file
    result = run("place", "-f", "-", "--from", "-", stdin=b"")
    assert (result.exit_code, "read once only" in result.output) == (2, True)


def test_json_has_everything(dump: str, manifest: str) -> None:
    document = json.loads(printed("place", "-f", manifest, "--from", dump, "-o", "json"))
    assert (document["placed"], document["pending"]) == (1, 1)
    assert [pod["node"] for pod in document["pods"]] == ["b", None]
    assert document["nodes"][1]["requested cpu"] == 2000
    assert document["balance"]["after"][0]["mean"] == 0.75
    drained = json.loads(printed("drain", "a", "--from", dump, "-o", "json"))
    assert drained["pods"][0]["to"] == "b"
    counted = json.loads(printed("fit", "-f", _one(manifest), "--from", dump, "-o", "json"))
    assert counted["total"] == 3
    assert sum(node["more"] for node in counted["nodes"]) == 3


def _one(manifest: str) -> str:
    path = pathlib.Path(manifest).with_name("one.yaml")
    path.write_text(yaml.safe_dump(testing.pod("one", {"cpu": "1"})))
    return str(path)


def test_drain_says_where_they_go(dump: str) -> None:
    text = printed("drain", "a", "--from", dump)
    assert "a           1      1     0  drained" in text
    assert "ReplicaSet default/web     1       1        0  b" in text
    assert "default/web  a     1     b" in printed("drain", "a", "--from", dump, "-o", "wide")


def test_fit_says_how_many_and_what_ends_it(dump: str, manifest: str) -> None:
    text = printed("fit", "-f", _one(manifest), "--from", dump)
    assert text == (
        "3 more of default/one fit: on 2 of 2 nodes\n"
        "Then there is:\n"
        "  2 nodes: Insufficient cpu\n"
        "\n"
        "NODE  MORE  THEN\n"
        "b        2  Insufficient cpu\n"
        "a        1  Insufficient cpu"
    )


def test_compare_shows_both_side_by_side(dump: str, manifest: str, tmp_path: pathlib.Path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(CONFIGURATION)
    b.write_text(
        CONFIGURATION
        + "profiles: [{plugins: {score: {disabled: [{name: NodeResourcesBalancedAllocation}]}},"
        " pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated,"
        " resources: [{name: cpu, weight: 1}]}}}]}]\n"
    )
    files = ("--config", str(a), "--config", str(b))
    text = printed("compare", *files, "-f", _one(manifest), "--from", dump)
    assert "1 of 1 pod go to another node" in text
    assert "cpu stddev" in text
    document = json.loads(
        printed("compare", *files, "-f", _one(manifest), "--from", dump, "-o", "json")
    )
    assert (document["pods"][0]["node a"], document["pods"][0]["node b"]) == ("b", "a")
    result = run("compare", "--config", str(a), "-f", manifest, "--from", dump)
    assert (result.exit_code, "give --config twice" in result.output) == (2, True)


def test_rows_are_what_a_spreadsheet_takes(dump: str, manifest: str) -> None:
    document = json.loads(printed("place", "-f", manifest, "--from", dump, "-o", "json"))
    out = io.StringIO()
    writer = csv.DictWriter(out, document["nodes"][0])
    writer.writeheader()
    writer.writerows(document["nodes"])
    assert out.getvalue().startswith("node,schedulable,pods,allowed_pods,requested cpu")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("place",), "nothing is asked about: give -f, --pending or --anew"),
        (("fit",), "nothing is asked about: give -f"),
        (("place", "--pending", "--nodes-like", "a"), "'a' is not NODE=N"),
    ],
)
def test_usage_is_checked(dump: str, arguments: tuple[str, ...], problem: str) -> None:
    result = run(*arguments, "--from", dump)
    assert result.exit_code == 2
    assert problem in result.output


def test_what_is_wrong_is_one_error(dump: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="there is no node z"):
        run("drain", "z", "--from", dump)
    with pytest.raises(errors.ConfigurationError, match="there is no node z"):
        run("place", "--pending", "--from", dump, "--nodes-like", "z=1")
    with pytest.raises(errors.ConfigurationError, match=r"none.yaml: No such file or directory"):
        run("place", "-f", str(tmp_path / "none.yaml"), "--from", dump)
    (tmp_path / "c.yaml").write_text("kind: Else\n")
    with pytest.raises(errors.ConfigurationError, match=r"c.yaml: kind: expected"):
        run("place", "--pending", "--from", dump, "--config", str(tmp_path / "c.yaml"))


def test_progress_is_shown_on_a_terminal_only_and_on_standard_error(
    dump: str, manifest: str
) -> None:
    code = "from whipstaff.runtime import commands; commands.main()"
    program = [sys.executable, "-c", code, "simulate", "place", "-f", manifest, "--from", dump]
    environment = {**os.environ, "TERM": "xterm"}
    plain = subprocess.run(program, capture_output=True, env=environment, check=True, timeout=60)
    assert plain.stderr == b""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=follower, stdin=subprocess.DEVNULL, env=environment
    )
    os.close(follower)
    shown, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([leader], [], [], 1)[0]:
            continue
        try:
            more = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        shown += more
    out, _ = process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode == 0
    assert b"Placing" in shown
    assert out == plain.stdout
