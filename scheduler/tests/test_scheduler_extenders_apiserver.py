"""Extenders beside the stock API server: what users see of their pods."""

import asyncio
from typing import Any

import pytest

from whipstaff.runtime import resources
from whipstaff.scheduler import configuration, cycle, extender_settings, extender_testing

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]
GPU = "example.com/gpu"
HOSTNAME = "kubernetes.io/hostname"
server = extender_testing.server


def configured(*settings: extender_settings.ExtenderSettings) -> configuration.Configuration:
    return configuration.Configuration(extenders=settings)


def asking(amount: str = "1") -> list[Object]:
    amounts = {GPU: amount}
    return [{"name": "main", "image": "x", "resources": {"requests": amounts, "limits": amounts}}]


async def test_a_pod_goes_where_the_extender_says(
    cluster: Any, server: extender_testing.Server
) -> None:
    for name in ("node-a", "node-b", "node-c"):
        await cluster.node(name)
    server.answers["filter"] = lambda _: {"NodeNames": ["node-a", "node-c"]}
    server.answers["prioritize"] = lambda _: [{"Host": "node-c", "Score": 10}]
    settings = server.settings(prioritize_verb="prioritize", weight=10)
    async with cluster.scheduling(settings=configured(settings)):
        await cluster.pod("one")
        await cluster.pod("two")
        assert await cluster.placed("one", "two") == ["node-c", "node-c"]
    sent = server.asked[0][1]["Pod"]
    assert sent["spec"]["containers"][0]["terminationMessagePolicy"] == "File"


async def test_the_user_reads_why_the_extender_refused(
    cluster: Any, server: extender_testing.Server
) -> None:
    await cluster.node("node-a")
    server.answers["filter"] = lambda _: {"FailedAndUnresolvableNodes": {"node-a": "no licence"}}
    async with cluster.scheduling(settings=configured(server.settings())):
        await cluster.pod("pod")
        await cluster.refused("pod", reasons="0/1 nodes are available: 1 no licence.")
        server.answers["filter"] = lambda body: {"NodeNames": body["NodeNames"]}
        await cluster.node("node-b")
        assert await cluster.placed("pod") != [""]


async def test_the_user_reads_that_the_extender_failed(
    cluster: Any, server: extender_testing.Server
) -> None:
    await cluster.node("node-a")
    server.answers["filter"] = lambda _: {"Error": "the oracle is silent"}
    async with cluster.scheduling(settings=configured(server.settings())):
        await cluster.pod("pod")
        told = await cluster.refused("pod", "the oracle is silent")
        assert told["reason"] == "SchedulerError"
        server.answers["filter"] = lambda body: {"NodeNames": body["NodeNames"]}
        assert await cluster.placed("pod") == ["node-a"]


async def test_other_pods_do_not_wait_for_an_extender(
    cluster: Any, server: extender_testing.Server
) -> None:
    await cluster.node("node-a")
    opened = asyncio.Event()

    async def answer() -> Object:
        await opened.wait()
        return {"NodeNames": ["node-a"]}

    server.answers["filter"] = lambda _: answer()
    settings = server.settings(
        timeout=60, managed_resources=frozenset({GPU}), ignored_resources=(GPU,)
    )
    async with cluster.scheduling(settings=configured(settings)):
        await cluster.pod("slow", containers=asking())
        await cluster.pod("gone", containers=asking())
        await cluster.pod("quick")
        assert await cluster.placed("quick") == ["node-a"]
        assert await cluster.node_of("slow") == ""
        await cluster.api.delete(resources.PODS, "gone", cluster.namespace)
        opened.set()
        assert await cluster.placed("slow") == ["node-a"]


async def test_resources_that_the_scheduler_is_not_to_ignore_are_counted(
    cluster: Any, server: extender_testing.Server
) -> None:
    await cluster.node("node-a")
    server.answers["filter"] = lambda body: {"NodeNames": body["NodeNames"]}
    settings = server.settings(managed_resources=frozenset({GPU}))
    async with cluster.scheduling(settings=configured(settings)):
        await cluster.pod("pod", containers=asking())
        await cluster.refused("pod", reasons=f"0/1 nodes are available: 1 Insufficient {GPU}.")
    assert server.asked == []


async def test_an_extender_binds_the_pods_that_it_is_interested_in(
    cluster: Any, server: extender_testing.Server
) -> None:
    await cluster.node("node-a")

    async def bind(body: Object) -> Object:
        if server.verbs().count("bind") == 1:
            return {"Error": "try again"}
        await cluster.bind(body["PodName"], body["Node"])
        return {}

    server.answers["bind"] = bind
    settings = server.settings(
        filter_verb="",
        bind_verb="bind",
        managed_resources=frozenset({GPU}),
        ignored_resources=(GPU,),
    )
    async with cluster.scheduling(settings=configured(settings)):
        pod = await cluster.pod("theirs", containers=asking())
        await cluster.pod("ours")
        assert await cluster.placed("theirs", "ours") == ["node-a", "node-a"]
        [event] = await cluster.events("theirs", "Scheduled")
        assert event["action"] == "Binding"
        [failed] = await cluster.events("theirs", "FailedScheduling")
        assert "try again" in failed["note"]
    expected = {
        "PodName": "theirs",
        "PodNamespace": cluster.namespace,
        "PodUID": pod["metadata"]["uid"],
        "Node": "node-a",
    }
    assert server.asked == [("bind", expected)] * 2


async def test_a_pod_is_bound_without_a_binder_that_may_be_missed(
    cluster: Any, server: extender_testing.Server
) -> None:
    await cluster.node("node-a")
    server.answers["bind"] = lambda _: {"Error": "no"}
    settings = server.settings(filter_verb="", bind_verb="bind", ignorable=True)
    async with cluster.scheduling(settings=configured(settings)):
        await cluster.pod("pod")
        assert await cluster.placed("pod") == ["node-a"]
    assert server.verbs() == ["bind"]


async def test_an_extender_says_who_is_evicted(
    cluster: Any, server: extender_testing.Server
) -> None:
    for name in ("node-a", "node-b"):
        await cluster.node(name, cpu="1")

    def leave_b(body: Object) -> Object:
        victims = body["NodeNameToMetaVictims"]
        return {"NodeNameToMetaVictims": {"node-b": victims["node-b"]}}

    server.answers["preempt"] = leave_b
    settings = server.settings(filter_verb="", preempt_verb="preempt")
    high = f"{cluster.scheduler_name}-high"
    await cluster.api.create(resources.PRIORITYCLASSES, {"metadata": {"name": high}, "value": 1000})
    try:
        async with cluster.scheduling(settings=configured(settings)):
            await cluster.pod("low-a", cpu="800m", nodeSelector={HOSTNAME: "node-a"})
            await cluster.pod("low-b", cpu="800m", nodeSelector={HOSTNAME: "node-b"})
            await cluster.placed("low-a", "low-b")
            await cluster.pod("high", cpu="700m", priorityClassName=high)
            assert await cluster.placed("high") == ["node-b"]
            assert await cluster.node_of("low-a") == "node-a"
    finally:
        await cluster.api.delete(resources.PRIORITYCLASSES, high)
    assert sorted(server.asked[0][1]["NodeNameToMetaVictims"]) == ["node-a", "node-b"]


async def test_more_pods_than_may_stand_in_line_are_all_placed(
    cluster: Any, server: extender_testing.Server
) -> None:
    await cluster.node("node-a", cpu="64")
    server.answers["filter"] = lambda body: {"NodeNames": body["NodeNames"]}
    await cluster.pods_of(3 * cycle.CONSULTING)
    async with cluster.scheduling(settings=configured(server.settings())):
        names = [f"pod-{number:04}" for number in range(3 * cycle.CONSULTING)]
        assert set(await cluster.placed(*names)) == {"node-a"}
    asked = [body["Pod"]["metadata"]["name"] for _, body in server.asked]
    assert sorted(asked) == names
