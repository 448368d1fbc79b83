"""The commands of docs/simulate.md print what stands below them, and its Python runs."""

import pathlib
import re
import shlex
from typing import Any

import click.testing
import pytest

from whipstaff.scheduler import simulate_command

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "simulate.md"


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("block", blocks("console"))
def test_a_command_prints_what_the_page_shows(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    typed, _, shown = block.partition("\n")
    arguments = shlex.split(typed.removeprefix("$ whipstaff simulate "))
    result = click.testing.CliRunner().invoke(
        simulate_command.simulate, arguments, catch_exceptions=False
    )
    assert result.exit_code == 0
    assert [line.rstrip() for line in result.stdout.splitlines()] == shown.splitlines()


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found: dict[str, Any] = {}
    [block] = blocks("python")
    exec(compile(block, str(PAGE), "exec"), found)
    assert len(found["search"]) == 5
    assert found["count"] == 1
    assert len(found["drained"].placement.pending) == 1
    assert found["room"] == 34
