"""The example of the README does what it says."""

import asyncio
import contextlib
import pathlib
import re
from typing import Any

import pytest

from whipstaff.cluster import testing
from whipstaff.runtime import client, config, resources

README = pathlib.Path(__file__).parent.parent / "README.md"


def _example() -> dict[str, Any]:
    found = re.search(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(found[1], str(README), "exec"), names)
    return names


def test_the_modules_that_are_named_are_there() -> None:
    modules = README.parent / "src/whipstaff/runtime"
    there = {path.stem for path in modules.glob("*.py")} - {"__init__"}
    table = set(re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE))
    below = re.search(r"^(`\w+`(?:, `\w+`)* and `\w+`) are what", README.read_text(), re.MULTILINE)
    assert below is not None
    assert table | set(re.findall(r"\w+", below[1])) - {"and"} == there


@pytest.mark.apiserver
async def test_the_example_keeps_its_number_right(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    example = _example()

    async def number() -> str:
        found = await api.get(resources.NAMESPACES, namespace)
        return str(found["metadata"].get("annotations", {}).get("example.com/pods", ""))

    async def until(expected: str) -> None:
        async with asyncio.timeout(10):
            while await number() != expected:  # noqa: ASYNC110 (it's remote)
                await asyncio.sleep(0.05)

    connection = config.load(str(apiserver.kubeconfig))
    running = asyncio.create_task(example["run"](connection))
    try:
        async with client.Client(connection) as api:
            for name in ("a", "b"):
                spec = {"containers": [{"name": "main", "image": "none"}]}
                metadata = {"name": name, "namespace": namespace}
                await api.create(resources.PODS, {"metadata": metadata, "spec": spec})
            await until("2")
            await api.delete(resources.PODS, "a", namespace, grace_period_seconds=0)
            await until("1")
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
