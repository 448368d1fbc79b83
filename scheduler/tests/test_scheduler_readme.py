"""The plugins of the README are plugins."""

import pathlib
import re
from typing import Any

from whipstaff.scheduler import framework, testing

README = pathlib.Path(__file__).parents[1] / "README.md"


def examples() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(README), "exec"), found)
    return found


def test_both_examples_do_what_they_say() -> None:
    cluster = testing.cluster(
        [testing.node("a"), testing.node("b", labels={"maintenance": "tonight"})],
        [testing.pod("x", node_name="a")],
    )
    for name in ("Quiet", "QuietNode"):
        plugin = examples()[name]()

        statuses = testing.statuses(plugin, testing.pod_info(), cluster)

        assert statuses["a"] == framework.SUCCESS
        assert statuses["b"].reasons == ("node(s) were about to be maintained",)
        assert testing.scores(plugin, testing.pod_info(), cluster) == {"a": 99, "b": 100}
