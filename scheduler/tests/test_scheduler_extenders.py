"""Extenders that are programs of others: real HTTP servers on the loopback interface."""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from whipstaff.scheduler import (
    consultation,
    decision,
    extender_settings,
    extender_testing,
    extenders,
    framework,
    pods,
    post_filters,
    preemption,
    profile,
    snapshot,
)

Object = dict[str, Any]
server = extender_testing.server
GPU = "example.com/gpu"


class World:
    """Nodes, and a decider that knows of extenders."""

    def __init__(self, *settings: extender_settings.ExtenderSettings) -> None:
        self.cluster = snapshot.Snapshot()
        self.profile = profile.default_profile("whipstaff")
        self.asked = extenders.Extenders(settings)
        decider = decision.Decider(self.cluster, random.Random(1))
        self.consultation = consultation.Consultation(self.asked, decider, self.cluster)
        for name in ("a", "b", "c"):
            self.node(name)

    def node(self, name: str, cpu: str = "4") -> None:
        room = {"cpu": cpu, "memory": "8Gi", "pods": "10"}
        self.cluster.upsert_node({"metadata": {"name": name}, "status": {"allocatable": room}})

    async def decide(self, pod: pods.PodInfo | None = None) -> decision.Decision:
        try:
            return await self.consultation.decide(pod or make_pod(), self.profile)
        finally:
            await self.asked.close()


def make_pod(limits: Mapping[str, str] | None = None, where: str = "containers") -> pods.PodInfo:
    container = {"name": "main", "resources": {"requests": {"cpu": "1"}}}
    spec: Object = {"schedulerName": "whipstaff", "containers": [container]}
    if limits is not None:
        spec[where] = [{"name": "x", "resources": {"limits": dict(limits)}}]
    metadata = {"name": "pod", "namespace": "default", "uid": "uid-pod"}
    return pods.PodInfo.from_object({"metadata": metadata, "spec": spec, "status": {}})


def passing(*names: str, **more: Any) -> Callable[[Object], Object]:
    return lambda _: {"NodeNames": list(names), **more}


async def test_a_pod_goes_where_the_extender_lets_it(server: extender_testing.Server) -> None:
    server.answers["filter"] = passing("b")
    decided = await World(server.settings()).decide()
    assert decided.node == "b"
    [(verb, body)] = server.asked
    assert verb == "filter"
    assert body["Pod"]["metadata"]["name"] == "pod"
    assert sorted(body["NodeNames"]) == ["a", "b", "c"]
    assert body["Nodes"] is None


async def test_an_extender_without_a_cache_gets_whole_nodes(
    server: extender_testing.Server,
) -> None:
    server.answers["filter"] = lambda body: {"nodes": {"items": body["Nodes"]["items"][2:]}}
    decided = await World(server.settings(node_cache_capable=False)).decide()
    [(_, body)] = server.asked
    assert body["NodeNames"] is None
    assert body["Nodes"]["items"][0]["status"]["allocatable"]["cpu"] == "4"
    assert decided.node == body["Nodes"]["items"][2]["metadata"]["name"]


async def test_only_nodes_that_the_plugins_leave_are_asked_about(
    server: extender_testing.Server,
) -> None:
    server.answers["filter"] = lambda body: {"NodeNames": body["NodeNames"]}
    world = World(server.settings())
    world.node("small", cpu="500m")
    await world.decide()
    assert "small" not in server.asked[0][1]["NodeNames"]


async def test_reasons_of_extenders_are_told(server: extender_testing.Server) -> None:
    server.answers["filter"] = passing(
        FailedNodes={"a": "no gpu free", "b": "no gpu free"},
        FailedAndUnresolvableNodes={"b": "no gpu at all"},
    )
    world = World(server.settings())
    decided = await world.decide()
    failure = decided.failure
    assert failure is not None
    assert str(failure) == "0/3 nodes are available: 1 no gpu at all, 1 no gpu free."
    assert failure.unschedulable_plugins == {"Extender"}
    codes = {name: failure.statuses[name].code for name in ("a", "b", "c")}
    assert codes == {
        "a": framework.Code.UNSCHEDULABLE,
        "b": framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
        "c": framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
    }


async def test_scores_are_weighted_and_brought_to_the_plugins_scale(
    server: extender_testing.Server,
) -> None:
    server.answers["prioritize"] = lambda _: [
        {"Host": "a", "Score": 1},
        {"host": "c", "score": 10},
        {"Host": "unknown", "Score": 5},
    ]
    settings = server.settings(filter_verb="", prioritize_verb="prioritize", weight=3)
    decided = await World(settings).decide()
    assert decided.node == "c"
    assert decided.scores["Extender"] == 10 * 3 * 10


async def test_scores_of_several_extenders_add_up(server: extender_testing.Server) -> None:
    server.answers["one"] = lambda _: [{"Host": "a", "Score": 9}, {"Host": "b", "Score": 5}]
    server.answers["two"] = lambda _: [{"Host": "b", "Score": 5}]
    quiet = {"filter_verb": "", "weight": 1}
    world = World(*(server.settings(prioritize_verb=verb, **quiet) for verb in ("one", "two")))
    decided = await world.decide()
    assert (decided.node, decided.scores["Extender"]) == ("b", 100)


async def test_a_pod_is_placed_without_the_scores_of_an_extender_that_fails(
    server: extender_testing.Server,
) -> None:
    server.answers["prioritize"] = lambda _: web.Response(status=500)
    settings = server.settings(filter_verb="", prioritize_verb="prioritize", weight=1)
    assert (await World(settings).decide()).node is not None


async def test_a_filter_that_fails_fails_the_attempt(server: extender_testing.Server) -> None:
    server.answers["filter"] = lambda _: web.Response(status=503)
    with pytest.raises(extenders.ExtenderError) as raised:
        await World(server.settings()).decide()
    assert str(raised.value) == (f"failed filter with extender at URL {server.url}filter, code 503")


async def test_an_extender_may_say_itself_that_it_failed(server: extender_testing.Server) -> None:
    server.answers["filter"] = passing(Error="the oracle is silent")
    with pytest.raises(extenders.ExtenderError, match=r"^the oracle is silent$"):
        await World(server.settings()).decide()


async def test_an_extender_may_not_name_nodes_that_it_was_not_asked_about(
    server: extender_testing.Server,
) -> None:
    server.answers["filter"] = passing("z")
    with pytest.raises(extenders.ExtenderError, match='claims a filtered node "z"'):
        await World(server.settings()).decide()


@pytest.mark.parametrize("answer", [[1], "text", {"NodeNames": 3}, {"Nodes": {"items": [{}]}}])
async def test_nonsense_fails_the_attempt_and_nothing_else(
    server: extender_testing.Server, answer: Any
) -> None:
    server.answers["filter"] = lambda _: answer
    with pytest.raises(extenders.ExtenderError, match="answers nonsense"):
        await World(server.settings()).decide()


async def test_an_extender_has_only_so_much_time(server: extender_testing.Server) -> None:
    server.answers["filter"] = lambda _: asyncio.sleep(1, {})
    with pytest.raises(extenders.ExtenderError, match=r"no answer .* within 0.05s"):
        await World(server.settings(timeout=0.05)).decide()


async def test_an_ignorable_extender_is_skipped_and_comes_last(
    server: extender_testing.Server,
) -> None:
    server.answers["broken"] = lambda _: web.Response(status=500)
    server.answers["filter"] = passing("c")
    broken = server.settings(filter_verb="broken", ignorable=True)
    assert (await World(broken, server.settings()).decide()).node == "c"
    assert [verb for verb, _ in server.asked] == ["filter", "broken"]
    assert server.asked[1][1]["NodeNames"] == ["c"]


async def test_pods_without_managed_resources_are_not_told_of(
    server: extender_testing.Server,
) -> None:
    world = World(server.settings(managed_resources=frozenset({GPU})))
    assert not world.consultation.is_needed(make_pod())
    assert not world.consultation.is_needed(make_pod({"example.com/tpu": "1"}))
    assert world.consultation.is_needed(make_pod({GPU: "1"}))
    assert world.consultation.is_needed(make_pod({GPU: "1"}, "initContainers"))
    await world.asked.close()


async def test_what_changes_meanwhile_is_heeded(server: extender_testing.Server) -> None:
    world = World(server.settings())

    def answer(body: Object) -> Object:
        if len(server.asked) == 1:
            for name in ("a", "b", "c"):
                world.node(name, cpu="100m")
            world.node("d")
        return {"NodeNames": body["NodeNames"]}

    server.answers["filter"] = answer
    assert (await world.decide()).node == "d"
    assert [body["NodeNames"] for _, body in server.asked] == [["a", "b", "c"], ["d"]]


# Who is evicted.


def victim(name: str, node: str, priority: int = 0) -> pods.PodInfo:
    spec = {"nodeName": node, "priority": priority, "containers": [{"name": "x"}]}
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
    return pods.PodInfo.from_object({"metadata": metadata, "spec": spec, "status": {}})


class Preempting(World):
    """Two nodes with two pods each, of which one would have to go; that on `a` is chosen."""

    def __init__(self, *settings: extender_settings.ExtenderSettings) -> None:
        super().__init__(*settings)
        self.there = {
            name: victim(name, name[0], priority=number)
            for number, name in enumerate(("a1", "b1", "a2", "b2"))
        }
        for pod in self.there.values():
            self.cluster.add_pod(pod)
        candidates = [
            preemption.Candidate("a", (self.there["a1"],), 0),
            preemption.Candidate("b", (self.there["b1"],), 1),
        ]
        choice = preemption.Choice(candidates, lambda _: 0.0)
        outcome = framework.PostFiltered(framework.SUCCESS, "a", candidates[0].victims, choice)
        asked = frozenset({"DefaultPreemption"})
        self.answer = post_filters.Answer("", outcome, asked, ("no new claims to deallocate",))

    async def preempt(self) -> post_filters.Answer:
        try:
            return await self.consultation.preempt(make_pod(), self.answer)
        finally:
            await self.asked.close()


def keeping(**victims: Any) -> Callable[[Object], Object]:
    return lambda _: {
        "NodeNameToMetaVictims": {
            node: {"Pods": [{"UID": f"uid-{name}"} for name in names]}
            for node, names in victims.items()
        }
    }


async def test_an_extender_may_choose_other_nodes_and_victims(
    server: extender_testing.Server,
) -> None:
    server.answers["preempt"] = keeping(b=["b2", "b1"])
    answer = await Preempting(server.settings(preempt_verb="preempt")).preempt()
    assert answer.outcome.nominated == "b"
    assert [pod.name for pod in answer.outcome.victims] == ["b2", "b1"]
    [(_, body)] = server.asked
    assert body["NodeNameToVictims"] is None
    assert body["NodeNameToMetaVictims"] == {
        "a": {"Pods": [{"UID": "uid-a1"}], "NumPDBViolations": 0},
        "b": {"Pods": [{"UID": "uid-b1"}], "NumPDBViolations": 1},
    }


async def test_an_extender_without_a_cache_gets_whole_victims(
    server: extender_testing.Server,
) -> None:
    server.answers["preempt"] = keeping(a=["a1"])
    settings = server.settings(preempt_verb="preempt", node_cache_capable=False)
    answer = await Preempting(settings).preempt()
    assert answer.outcome.nominated == "a"
    [(_, body)] = server.asked
    assert body["NodeNameToMetaVictims"] is None
    assert body["NodeNameToVictims"]["b"]["Pods"][0]["metadata"]["name"] == "b1"


async def test_nobody_is_evicted_where_the_extender_leaves_no_node(
    server: extender_testing.Server,
) -> None:
    server.answers["preempt"] = keeping()
    answer = await Preempting(server.settings(preempt_verb="preempt")).preempt()
    assert (answer.outcome.nominated, answer.outcome.victims) == (None, ())
    assert answer.message == (
        "no new claims to deallocate, preemption: no candidate node for preemption"
    )


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (keeping(a=[]), 'expected at least one victim pod on node "a"'),
        (keeping(z=["a1"]), 'nodeinfo not found for node name "z"'),
        (keeping(b=["a1"]), "but the pod is not found on that node"),
        (lambda _: web.Response(status=500), "failed preempt with extender at URL"),
        (lambda _: {"NodeNameToMetaVictims": ["a"]}, "answers nonsense"),
    ],
)
async def test_nobody_is_evicted_when_an_extender_fails(
    server: extender_testing.Server, said: Callable[[Object], Any], text: str
) -> None:
    server.answers["preempt"] = said
    answer = await Preempting(server.settings(preempt_verb="preempt")).preempt()
    assert answer.outcome.status.code == framework.Code.ERROR
    assert answer.outcome.nominated is None
    assert answer.message.startswith("preemption: ")
    assert text in answer.message


async def test_an_ignorable_extender_that_fails_has_no_say_in_evictions(
    server: extender_testing.Server,
) -> None:
    server.answers["preempt"] = lambda _: web.Response(status=500)
    world = Preempting(server.settings(preempt_verb="preempt", ignorable=True))
    assert await world.preempt() is world.answer


async def test_nodes_without_victims_are_passed_over_for_an_ignorable_extender(
    server: extender_testing.Server,
) -> None:
    server.answers["preempt"] = keeping(a=[], b=["b1"])
    world = Preempting(server.settings(preempt_verb="preempt", ignorable=True))
    assert (await world.preempt()).outcome.nominated == "b"
