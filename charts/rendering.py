"""The chart as Helm renders it, for tests: objects, the pods among them, and refusals."""

import dataclasses
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any, TypeAlias

import yaml

Object: TypeAlias = dict[str, Any]

CHART = pathlib.Path(__file__).parent / "whipstaff"
CI = sorted(CHART.glob("ci/*-values.yaml"))
NAMESPACE = "whipstaff-system"
RELEASE = "demo"


@dataclasses.dataclass(frozen=True)
class Helm:
    """The program, with this chart."""

    program: pathlib.Path

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command; what it says is in the failure."""
        done = subprocess.run(
            [str(self.program), *arguments], capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def render(
        self, *arguments: str, values: pathlib.Path | None = None, namespace: str = NAMESPACE
    ) -> list[Object]:
        """The objects of a release, those of its hooks and tests among them."""
        given = ("--values", str(values)) if values else ()
        done = self.run("template", RELEASE, str(CHART), "-n", namespace, *given, *arguments)
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    def refusal(self, *arguments: str) -> str:
        """What is said to values that can't be."""
        done = self.run("template", RELEASE, str(CHART), *arguments, check=False)
        assert done.returncode != 0, "nothing is wrong with it"
        return done.stderr


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    """The objects of some kinds."""
    return [each for each in objects if each["kind"] in kinds]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    """The object of a kind whose name ends like this."""
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"].endswith(name))
    return found


def pod_specs(objects: Sequence[Object]) -> dict[str, Object]:
    """The specs of all pods that objects lead to, by ``Kind/name``."""
    found = {}
    for each in objects:
        spec = each if each["kind"] == "Pod" else each.get("spec", {}).get("template", {})
        if "containers" in spec.get("spec", {}):
            found[f"{each['kind']}/{each['metadata']['name']}"] = spec["spec"]
    return found
