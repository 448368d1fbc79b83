"""The provider on docs/providers.md is one."""

from __future__ import annotations

import pathlib
import re
from collections.abc import AsyncIterator
from typing import Any

import node_agent_harness as harness
import pytest

from whipstaff.cluster import testing

pytestmark = pytest.mark.apiserver

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "providers.md"


@pytest.fixture
async def cluster(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[harness.Cluster]:
    made = harness.Cluster(apiserver.kubeconfig, namespace)
    yield made
    await made.close()


async def test_the_provider_of_the_page_runs_coroutines(
    cluster: harness.Cluster, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    coroutines, jobs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "coroutines.py").write_text(coroutines)
    (tmp_path / "jobs.py").write_text(jobs)
    monkeypatch.chdir(tmp_path)
    (name,) = cluster.node_names()

    def running(image: str, *arguments: str) -> list[dict[str, Any]]:
        return [{"name": "app", "image": image, "args": list(arguments)}]

    async with harness.Command(
        cluster.kubeconfig,
        *("--node-name", name, "--provider", "coroutines:Provider"),
        *("--node-ip", "127.0.0.1", "--port", "0"),
    ):
        await cluster.create(name, containers=running("jobs:nap", "1000"))
        never = {"restartPolicy": "Never"}
        await cluster.create(name, "done", containers=running("jobs:nap", "0.1"), **never)
        await cluster.create(name, "failed", containers=running("jobs:nap", "long"), **never)
        await cluster.create(name, "missing", containers=running("nothing:here"))

        pod = await cluster.wait_phase("Running")
        status = pod["status"]["containerStatuses"][0]
        assert status["containerID"].startswith("coroutines://")
        await cluster.wait_phase("Succeeded", "done")
        await cluster.wait_phase("Failed", "failed")

        def refused(pod: dict[str, Any] | None) -> bool:
            statuses = (pod or {"status": {}})["status"].get("containerStatuses") or [{}]
            waiting = statuses[0].get("state", {}).get("waiting", {})
            return "no such coroutine" in waiting.get("message", "")

        await cluster.wait(refused, "missing")
        for each in ("web", "missing"):
            await cluster.delete(each)
            await cluster.wait_gone(each)
