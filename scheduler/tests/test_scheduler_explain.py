"""`whipstaff explain pod`: what people read of a decision, from either source."""

import asyncio
import contextlib
import io
import json
import pathlib
import ssl
from typing import Any

import aiohttp
import pytest
import rich.console
from click.testing import CliRunner

from whipstaff.runtime import commands, config, errors, resources, serving
from whipstaff.scheduler import (
    asking,
    explain_command,
    explain_tables,
    explaining,
    offline,
    profile,
    report,
    testing,
)

Object = dict[str, Any]

FEW = report.Scope()


def computed(pod: Object, *others: Object, scope: report.Scope = FEW) -> report.Document:
    profiles = {"default-scheduler": profile.default_profile("default-scheduler")}
    there = offline.Offline([pod, *others], profiles)
    made = explaining.computed(there, pod, profiles["default-scheduler"], scope)
    assert there.latest("default/" + pod["metadata"]["name"]) is not None, "nothing is changed"
    return made


def printed(document: report.Document, *, wide: bool = False) -> str:
    console = rich.console.Console(file=io.StringIO(), width=explain_tables.UNLIMITED)
    explain_tables.print_document(document, console, wide=wide)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def nodes(count: int, **settings: Any) -> list[Object]:
    return [testing.node(f"node-{number}", **settings) for number in range(count)]


def test_a_pod_that_fits_is_told_score_by_score() -> None:
    gpu = [{"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}]
    small = testing.node("small", cpu="2")
    document = computed(testing.pod("web", {"cpu": "1"}), *nodes(1), small)
    assert document["node"] == "node-0"
    [best, other] = document["nodes"]
    assert best["total"] == sum(each["weighted"] for each in best["scores"].values())
    assert best["scores"]["TaintToleration"] == {"score": 100, "weighted": 300}
    assert (other["name"], other["fits"]) == ("small", True)
    assert document["needs"] == []
    text = printed(document, wide=True)
    assert "decided now it would go to node-0" in text
    assert "2 of 2 nodes would do" in text
    assert "100x3=300" in text
    tainted = computed(testing.pod("web", {"cpu": "1"}), *nodes(1), testing.node("g", taints=gpu))
    assert [group["plugin"] for group in tainted["groups"]] == ["TaintToleration"]


def test_many_nodes_are_told_in_groups_and_the_nearest_by_name() -> None:
    full = testing.pod("full", {"cpu": "3500m"}, node_name="node-7")
    pod = testing.pod("big", {"cpu": "5"})
    bigger = testing.node("bigger", cpu="6")
    filler = testing.pod("filler", {"cpu": "1500m"}, node_name="bigger")
    document = computed(pod, *nodes(40), full, bigger, filler)
    assert document["node"] is None
    assert document["groups"] == [
        {
            "count": 40,
            "plugin": "NodeResourcesFit",
            "verdict": "UnschedulableAndUnresolvable",
            "reasons": ["Insufficient cpu"],
            "examples": [f"node-{number}" for number in range(5)],
        },
        {
            "count": 1,
            "plugin": "NodeResourcesFit",
            "verdict": "Unschedulable",
            "reasons": ["Insufficient cpu"],
            "examples": ["bigger"],
        },
    ]
    assert document["needs"][0] == {
        "node": "bigger",
        "changes": ["500m more cpu (5 wanted, 4500m of 6 free)"],
    }
    text = printed(document)
    assert "Pod default/big has no node, and decided now it would get none" in text
    assert "0/41 nodes are available: 41 Insufficient cpu." in text
    assert "  40  Insufficient cpu  NodeResourcesFit  node-0, node-1, node-2, ..." in text
    assert "  bigger needs 500m more cpu (5 wanted, 4500m of 6 free)" in text


def test_all_nodes_or_some_can_be_asked_for() -> None:
    pod = testing.pod("web", {"cpu": "1"})
    everything = [*nodes(30), testing.node("off", unschedulable=True)]
    few = computed(pod, *everything)
    assert (len(few["nodes"]), few["left_out"]) == (20, 11)
    assert "... and 10 more nodes that would do" in printed(few)
    listed = computed(pod, *everything, scope=report.Scope(None))
    assert [node["name"] for node in listed["nodes"]][-1] == "off"
    assert "NodeUnschedulable: node(s) were unschedulable" in printed(listed)
    named = computed(pod, *everything, scope=report.Scope(names=frozenset({"off", "node-3"})))
    assert [node["name"] for node in named["nodes"]] == ["node-3", "off"]
    assert named["needs"] == [
        {
            "node": "off",
            "changes": [
                "to be uncordoned, or a toleration of node.kubernetes.io/unschedulable:NoSchedule"
            ],
        }
    ]


def test_a_placed_pod_is_explained_as_if_it_had_no_node_yet() -> None:
    placed = testing.pod("web", {"cpu": "3"}, node_name="node-1")
    document = computed(placed, *nodes(2))
    assert (document["bound"], document["feasible"]) == ("node-1", 2)
    assert "Pod default/web is on node-1; decided now, the best would be" in printed(document)


def test_room_that_would_be_made_is_told() -> None:
    low = testing.pod("low", {"cpu": "3"}, node_name="node-0", priority=-5)
    document = computed(testing.pod("high", {"cpu": "3"}, priority=9), *nodes(1), low)
    assert (document["nominated"], document["victims"]) == ("node-0", ["default/low"])
    assert "Room is made on node-0; evicted for it: default/low" in printed(document)


def test_a_pod_that_is_held_back_says_so() -> None:
    held = testing.pod("held", schedulingGates=[{"name": "example.com/quota"}])
    document = computed(held, *nodes(1))
    told = "held by SchedulingGates: waiting for scheduling gates: [example.com/quota]"
    assert document["notes"] == [told]


def test_what_looks_like_markup_is_printed_as_it_is() -> None:
    document = computed(testing.pod("web", {"cpu": "64"}), *nodes(1))
    document["message"] = "[red]0/1[/red] nodes"
    assert "[red]0/1[/red] nodes" in printed(document)


# The command.


@pytest.mark.parametrize("words", [[], ["pod"], ["node", "a"], ["pod", "a", "b"], ["pod/"]])
def test_what_isnt_a_pod_is_refused(words: list[str]) -> None:
    result = CliRunner().invoke(explain_command.command, words)
    assert result.exit_code == 2


def test_where_a_scheduler_serves_is_found_in_the_kubeconfig(tmp_path: pathlib.Path) -> None:
    connection = config.load(str(kubeconfig(tmp_path, scheduler="https://127.0.0.1:1")))
    found = asking.find(connection, None, None)
    assert found is not None
    assert found.address == "https://127.0.0.1:1"
    other = asking.find(connection, "https://127.0.0.1:2/", None)
    assert other is not None
    assert other.address == "https://127.0.0.1:2"
    assert asking.find(config.load(str(kubeconfig(tmp_path))), None, None) is None
    with pytest.raises(errors.ConfigurationError, match="--scheduler-address"):
        asking.find(connection, "127.0.0.1:10259", None)


async def test_a_token_goes_to_nobody_whose_certificate_proves_nothing(
    tmp_path: pathlib.Path,
) -> None:
    connection = config.load(str(kubeconfig(tmp_path)))
    stranger = asking.Scheduler("https://192.0.2.1:10259", connection, None)
    with pytest.raises(errors.WhipstaffError, match="--scheduler-ca-file"):
        await stranger.get("/debug/explain")


async def test_a_scheduler_that_isnt_there_is_told_by_its_address(tmp_path: pathlib.Path) -> None:
    connection = config.load(str(kubeconfig(tmp_path)))
    with pytest.raises(errors.Unreachable, match=r"https://127\.0\.0\.1:1"):
        await asking.Scheduler("https://127.0.0.1:1", connection, None).get("/debug/explain")


def kubeconfig(folder: pathlib.Path, **extension: str) -> pathlib.Path:
    cluster: Object = {"server": "https://127.0.0.1:6443"}
    if extension:
        cluster["extensions"] = [{"name": "whipstaff", "extension": extension}]
    content = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    file = folder / "kubeconfig"
    file.write_text(json.dumps(content))
    return file


# On a real API server.


async def run(cluster: Any, *arguments: str) -> tuple[int, str]:
    """What the command prints, and its exit code; in a thread, for it has a loop of its own."""

    def call() -> tuple[int, str]:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                commands.main(["explain", *arguments, f"--kubeconfig={cluster.plane.kubeconfig}"])
            except SystemExit as end:
                return int(end.code or 0), output.getvalue()
        return 0, output.getvalue()

    return await asyncio.to_thread(call)


@pytest.mark.apiserver
async def test_the_schedulers_own_decision_is_told(cluster: Any) -> None:
    await cluster.node("node-a", cpu="2")
    await cluster.node("node-b", cpu="1")
    async with cluster.scheduling() as scheduler:
        server = serving.Server(client=cluster.api)
        scheduler.show(server)
        async with server:
            asked = f"--scheduler-address={server.url}", "-n", cluster.namespace
            await cluster.pod("fits")
            await cluster.placed("fits")
            code, text = await run(cluster, "pod", "fits", *asked)
            assert code == 0, text
            assert f"Pod {cluster.namespace}/fits: node-a was chosen" in text
            await cluster.pod("big", cpu="2500m")
            await cluster.refused("big")
            code, text = await run(cluster, "pod/big", "-o", "json", *asked)
            document = json.loads(text)
            assert document["source"] == "recorded"
            assert document["needs"][0] == {
                "node": "node-a",
                "changes": ["more cpu than it has at all (2500m wanted, the node has 2)"],
            }
            assert document["groups"][0]["reasons"] == ["Insufficient cpu"]
            code, text = await run(cluster, "pod", "big", "--source=computed", *asked)
            assert code == 0, text
            assert "default plugins" not in text, "the scheduler's own are used"
            await cluster.pod("theirs", scheduler="somebody-else")
            code, text = await run(cluster, "pod", "theirs", *asked)
            own = f"has no profile called somebody-else: decided as {cluster.scheduler_name} would"
            assert own in text


@pytest.mark.apiserver
async def test_without_a_scheduler_it_is_decided_now_and_nothing_is_written(cluster: Any) -> None:
    await cluster.node("node-a", cpu="1")
    await cluster.pod("waits", cpu="2")
    before = (await cluster.get("waits"))["metadata"]["resourceVersion"]
    code, text = await run(cluster, "pod", "waits", "-n", cluster.namespace)
    assert code == 0, text
    assert "has no node, and decided now it would get none" in text
    assert "no scheduler has tried it yet" in text
    assert "more cpu than it has at all (2 wanted, the node has 1)" in text
    code, text = await run(cluster, "pod", "wait", "-n", cluster.namespace)
    assert code == 1
    assert f"there is no pod wait in the namespace {cluster.namespace}; there is waits" in text
    code, text = await run(cluster, "pod", "waits", "--source=recorded", "-n", cluster.namespace)
    assert code == 2
    assert "--scheduler-address" in text
    assert (await cluster.get("waits"))["metadata"]["resourceVersion"] == before
    assert not (await cluster.api.list(resources.EVENTS, cluster.namespace)).items


@pytest.mark.apiserver
async def test_who_may_not_see_decisions_is_refused(cluster: Any) -> None:
    async with cluster.scheduling() as scheduler:
        server = serving.Server(client=cluster.api)
        scheduler.show(server)
        async with server:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            async with aiohttp.ClientSession() as session:
                for path, status in (
                    ("/debug/cluster", 403),
                    ("/debug/explain?namespace=a&name=b", 403),
                    ("/debug/decisions", 403),
                    ("/debug/node?name=a", 403),
                    ("/ui/", 200),
                ):
                    async with session.get(f"{server.url}{path}", ssl=context) as answer:
                        assert answer.status == status, path
