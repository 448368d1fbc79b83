"""What an operator sees of the scheduler, beside what the stock one shows under the same load."""

from __future__ import annotations

import asyncio
import json
import pathlib
import time
from collections.abc import AsyncIterator
from typing import Any

import prometheus_client.parser
import pytest

from e2e.scheduling import crowd, programs
from whipstaff.runtime import errors, resources

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ELSEWHERE = {
    "scheduler_batch_attempts": "opportunistic batches: pods that look alike share answers instead",
    "scheduler_batch_cache_flushed": "the same",
    "scheduler_get_node_hint_duration_seconds": "the same",
    "scheduler_store_schedule_results_duration_seconds": "the same",
    "scheduler_queueing_hint_execution_duration_seconds": "hints aren't timed one by one",
}
"""What the stock scheduler measures under this load and ours doesn't; docs/parity.md has more."""

OUR_OWN = {"whipstaff_scheduler_overtaken_bindings"}
IN_COMMON = ("scheduler_", "kube_pod_", "leader_election_", "kubernetes_healthcheck")


@pytest.fixture
async def made(tmp_path: pathlib.Path) -> AsyncIterator[programs.Programs]:
    try:
        async with programs.running(tmp_path) as running:
            yield running
    except errors.StartupError as error:
        pytest.skip(str(error))


class Metric:
    """One metric as it is exposed: type, names of labels, and its buckets."""

    def __init__(self, family: Any) -> None:
        self.type = family.type
        self.labels = {
            frozenset(sample.labels) - {"le"}
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        self.buckets = sorted(
            {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Metric):
            return NotImplemented
        alike = (self.type, self.labels) == (other.type, other.labels)
        return alike and self.buckets == pytest.approx(other.buckets)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.type} {[sorted(each) for each in self.labels]} {self.buckets}"


def metrics_in(text: str) -> dict[str, Metric]:
    families = prometheus_client.parser.text_string_to_metric_families(text)
    return {
        family.name: Metric(family)
        for family in families
        if family.samples and family.name.startswith((*IN_COMMON, "whipstaff_"))
    }


async def test_metrics_have_the_stock_schedulers_names_labels_and_buckets(
    made: programs.Programs,
) -> None:
    made.plane.create_namespace(crowd.NAMESPACE)
    await made.nodes(3, 4_000)
    shown = {}
    for kind in (programs.STOCK, programs.OURS):
        pages = shown[kind] = programs.Pages(kind, made.plane)
        made.scheduler(kind, kind, {"leaderElection": {"resourceName": kind}}, *pages.flags)
        await load(made, kind)
    seen: dict[str, dict[str, Metric]] = {}
    for kind, pages in shown.items():
        seen[kind] = {}
        await pages.get("/readyz")
        for path in ("/metrics", "/metrics/resources", "/metrics/slis"):
            status, text = await pages.get(path)
            assert status == 200
            seen[kind] |= metrics_in(text)
    stock, ours = seen[programs.STOCK], seen[programs.OURS]
    assert "scheduler_framework_extension_point_duration_seconds" in stock
    assert "kube_pod_resource_request" in stock
    assert set(stock) - set(ours) == set(ELSEWHERE)
    assert set(ours) - set(stock) == OUR_OWN
    for name in set(stock) & set(ours):
        assert (name, ours[name]) == (name, stock[name])
    points = [
        {
            sample.labels["extension_point"]: sample.value
            for family in prometheus_client.parser.text_string_to_metric_families(
                (await pages.get("/metrics"))[1]
            )
            for sample in family.samples
            if sample.name == "scheduler_framework_extension_point_duration_seconds_count"
            and sample.labels["status"] in {"Success", "Skip"}
        }
        for pages in (shown[programs.STOCK], shown[programs.OURS])
    ]
    del points[0]["Sign"]
    assert set(points[0]) == set(points[1])


async def load(made: programs.Programs, kind: str) -> None:
    """Pods that fit, one that fits nowhere, one that is waiting for its gate, and a preemptor."""
    name = kind[:4]
    for number in range(20):
        await made.api.create(resources.PODS, crowd.pod(f"{name}-{number}", 100, kind))
    await made.api.create(resources.PODS, crowd.pod(f"{name}-big", 9_000, kind))
    gated = crowd.pod(f"{name}-gated", 100, kind)
    gated["spec"]["schedulingGates"] = [{"name": "example.com/wait"}]
    await made.api.create(resources.PODS, gated)
    await placed(made, *(f"{name}-{number}" for number in range(20)))
    urgent = crowd.pod(f"{name}-urgent", 3_900, kind)
    urgent["spec"]["priorityClassName"] = "system-cluster-critical"
    limits = {"limits": {"cpu": "3900m", "memory": "1Gi"}}
    urgent["spec"]["containers"][0]["resources"] |= limits
    await made.api.create(resources.PODS, urgent)
    await placed(made, f"{name}-urgent")
    await made.api.delete(resources.PODS, f"{name}-urgent", crowd.NAMESPACE, grace_period_seconds=0)


async def placed(made: programs.Programs, *names: str) -> None:
    deadline = time.monotonic() + 60
    for name in names:
        while not (await made.api.get(resources.PODS, name, crowd.NAMESPACE))["spec"].get(
            "nodeName"
        ):
            assert time.monotonic() < deadline, f"nobody places {name}"
            await asyncio.sleep(0.2)


async def test_pages_answer_as_the_stock_schedulers(made: programs.Programs) -> None:
    shown = {}
    for kind in (programs.STOCK, programs.OURS):
        pages = shown[kind] = programs.Pages(kind, made.plane)
        made.scheduler(kind, kind, {"leaderElection": {"resourceName": kind}}, *pages.flags)
    for pages in shown.values():
        deadline = time.monotonic() + 60
        while (await pages.get("/readyz"))[0] != 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
    for path in (
        "/healthz",
        "/livez",
        "/readyz",
        "/readyz/leaderElection",
        "/readyz/nonsense",
        "/readyz?exclude=shutdown",
    ):
        stock, ours = [await pages.get(path) for pages in shown.values()]
        assert (path, ours[0], ours[1].strip()) == (path, stock[0], stock[1].strip())
    for path in ("/healthz", "/readyz", "/readyz?exclude=shutdown&exclude=nonsense"):
        verbose = f"{path}{'&' if '?' in path else '?'}verbose"
        stock, ours = [await pages.get(verbose) for pages in shown.values()]
        lines = [line for line in ours[1].splitlines() if line != "[+]ping ok"]
        assert (ours[0], sorted(lines)) == (stock[0], sorted(stock[1].splitlines()))
    for kind, path in (("Statusz", "/statusz"), ("Flagz", "/flagz")):
        for version in ("v1beta1", "v1alpha1"):
            accept = f"application/json;g=config.k8s.io;v={version};as={kind}"
            stock, ours = [
                (status, json.loads(text))
                for status, text in [await pages.get(path, accept) for pages in shown.values()]
            ]
            assert (stock[0], set(stock[1])) == (ours[0], set(ours[1]))
        assert [(await pages.get(path, "image/png"))[0] for pages in shown.values()] == [406, 406]
        assert [(await pages.get(path))[0] for pages in shown.values()] == [200, 200]
    flagz = json.loads((await shown[programs.OURS].get("/flagz", accept))[1])["flags"]
    assert flagz["bind-address"] == "127.0.0.1"
    assert flagz["leader-elect-lease-duration"] == "15s"
