"""What the pages say is tried: their commands on a new cluster, and their list of metrics."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from website import metrics, staging
from whipstaff.cluster import binaries, layout

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


class User:
    """A new user of this machine, with a home of their own and this installation on PATH."""

    def __init__(self, home: pathlib.Path) -> None:
        kubectl = pathlib.Path(binaries.resolve(("kubectl",))["kubectl"]).parent
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "KUBE"))}
        self.environ = {
            **kept,
            "HOME": str(home),
            "WHIPSTAFF_CACHE": str(layout.cache_dir()),
            "PATH": f"{pathlib.Path(sys.executable).parent}:{kubectl}:{os.environ['PATH']}",
        }
        self.home = home

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            env=self.environ,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture
def user(tmp_path: pathlib.Path) -> Iterator[User]:
    made = User(tmp_path)
    try:
        yield made
    finally:
        made.run("whipstaff down")


def steps(page: str) -> list[tuple[str, list[str]]]:
    """The commands of a page that are marked to be run, each with the lines shown below it."""
    found: list[tuple[str, list[str]]] = []
    text = (staging.DOCS / page).read_text(encoding="utf-8")
    for block in re.findall(r"<!-- run -->\n```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def pattern(line: str) -> str:
    """A line of output as it may be another time: words with digits or paths in them differ."""
    words = [r"\S+" if re.search(r"\d|^~?/|~/", word) else re.escape(word) for word in line.split()]
    return r"\s+".join(words)


def test_a_new_user_can_follow_the_page_word_for_word(user: User) -> None:
    todo = steps("start-local.md")
    assert [command.split()[0] for command, _ in todo].count("whipstaff") == 4
    for command, shown in todo:
        printed = user.run(command)
        for line in shown:
            if line not in {"...", ""}:
                assert re.search(pattern(line), printed), f"$ {command}\n{line}\n---\n{printed}"
    assert not (user.home / ".local" / "share" / "whipstaff" / "default").exists()


def test_the_list_of_metrics_is_what_the_components_show(user: User) -> None:
    user.run("whipstaff up --provider simulated --wait 60s")
    folder = user.home / ".local" / "share" / "whipstaff" / "default"
    answers = metrics.answers(user.run("whipstaff status -o json"), folder)
    page = (staging.DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    shown = {family.name for answer in answers.values() for family in metrics.families(answer)}
    assert shown == metrics.named_in(page), "out of date: python -m website metrics"
