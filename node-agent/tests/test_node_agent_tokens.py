"""Pods have tokens of a real API server, and have new ones in time."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import node_agent_harness as harness
import pytest

from whipstaff.cluster import testing
from whipstaff.node_agent import tokens
from whipstaff.runtime import resources

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]


@pytest.fixture
async def cluster(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[harness.Cluster]:
    made = harness.Cluster(apiserver.kubeconfig, namespace)
    account = {"metadata": {"name": "default", "namespace": namespace}}
    await made.api.create(resources.SERVICEACCOUNTS, account)
    yield made
    await made.close()


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def claims_of(token: str) -> Object:
    body = token.split(".")[1]
    found: Object = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


async def test_a_token_is_bound_to_its_pod(cluster: harness.Cluster) -> None:
    pod = await cluster.create("node", "web", serviceAccountName="default")
    made = tokens.Tokens(cluster.api, time.time)
    found = claims_of(await made.get(pod, "vault", 3607))
    assert found["aud"] == ["vault"]
    assert found["kubernetes.io"]["pod"]["uid"] == pod["metadata"]["uid"]
    assert found["kubernetes.io"]["serviceaccount"]["name"] == "default"
    assert "https" in claims_of(await made.get(pod))["aud"][0]


async def test_it_is_kept_and_renewed_in_time(cluster: harness.Cluster) -> None:
    pod = await cluster.create("node", "web", serviceAccountName="default")
    clock = Clock()
    made = tokens.Tokens(cluster.api, clock)
    uid = pod["metadata"]["uid"]
    first = await made.get(pod, "", 1000)
    assert await made.get(pod, "", 1000) == first
    due = made.refresh_at(uid)
    assert due is not None
    assert 785 < due - clock() < 801
    clock.ahead = 801
    second = await made.get(pod, "", 1000)
    assert second != first
    made.forget(uid)
    assert made.refresh_at(uid) is None


async def test_one_that_lasts_long_is_renewed_after_a_day(cluster: harness.Cluster) -> None:
    pod = await cluster.create("node", "web", serviceAccountName="default")
    made = tokens.Tokens(cluster.api, time.time)
    await made.get(pod, "other", 7 * 24 * 3600)
    due = made.refresh_at(pod["metadata"]["uid"])
    assert due is not None
    assert 24 * 3600 - 15 < due - time.time() < 24 * 3600 + 5


async def test_the_old_one_is_given_out_while_there_is_no_new_one(cluster: harness.Cluster) -> None:
    pod = await cluster.create("node", "web", serviceAccountName="default")
    clock = Clock()
    made = tokens.Tokens(cluster.api, clock)
    first = await made.get(pod, "", 1000)
    await cluster.api.delete(resources.SERVICEACCOUNTS, "default", cluster.namespace)
    clock.ahead = 900
    assert await made.get(pod, "", 1000) == first
    due = made.refresh_at(pod["metadata"]["uid"])
    assert due is not None
    assert due > clock()
    clock.ahead = 1001
    with pytest.raises(tokens.TokenError, match="expired and refresh failed"):
        await made.get(pod, "", 1000)


async def test_without_an_account_there_is_none(cluster: harness.Cluster) -> None:
    pod = await cluster.create("node", "web", serviceAccountName="default")
    pod["spec"]["serviceAccountName"] = "nobody"
    made = tokens.Tokens(cluster.api, time.time)
    with pytest.raises(tokens.TokenError) as caught:
        await made.get(pod)
    assert str(caught.value) == ('failed to fetch token: serviceaccounts "nobody" not found')
    pod["spec"]["serviceAccountName"] = "../secrets/key"
    with pytest.raises(tokens.TokenError):
        await made.get(pod)


async def test_a_pod_that_is_gone_gets_none(cluster: harness.Cluster) -> None:
    pod = await cluster.create("node", "web", serviceAccountName="default")
    pod["metadata"]["uid"] = "another"
    made = tokens.Tokens(cluster.api, time.time)
    with pytest.raises(tokens.TokenError, match="failed to fetch token"):
        await made.get(pod)
