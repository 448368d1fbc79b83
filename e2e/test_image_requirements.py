"""What the images' requirement files have to have; needs no cluster."""

from __future__ import annotations

import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def normalized(requirement: str) -> str:
    found = _NAME.match(requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.mark.parametrize("component", ["scheduler", "controllers", "node-agent"])
def test_an_image_has_all_that_its_component_depends_on(component: str) -> None:
    lines = (ROOT / "requirements" / f"{component}.txt").read_text().splitlines()
    pinned = {normalized(line) for line in lines if "==" in line}
    for distribution in ("runtime", component):
        project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]
        needed = {normalized(each) for each in project["dependencies"]} - {"whipstaff-runtime"}
        assert needed <= pinned, "run `make requirements`"
