"""The reference of flags: what each command says of itself with ``--help``.

``python -m website flags`` writes the page. Texts are those that somebody called `you` sees: the
home folder, which is in some defaults, is the only thing in them that depends on who asks. They are
told by a process of its own (``python -m website.flags``), because commands read it when imported.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import click

from whipstaff.runtime import commands

COMMANDS = (
    *("up", "down", "status", "kubeconfig", "load", "binaries"),
    *("scheduler", "controllers", "node-agent", "explain", "simulate"),
)
_ROOT = pathlib.Path(__file__).parents[1]
_HOME = "/home/you"
_WIDTH = 100
_HEAD = """# Flags

Each command with all its flags, as `--help` shows them. `python -m website flags` makes this page.
"""


def page() -> str:
    """The page, in Markdown."""
    told = subprocess.run(
        [sys.executable, "-m", "website.flags"],
        env={"PATH": os.environ["PATH"], "HOME": _HOME},
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return told.stdout


def _sections() -> Iterator[str]:
    yield _HEAD
    yield from _described(commands.cli, "whipstaff", None)


def _described(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    """A command's section and, if it is a group, those of its commands."""
    context = click.Context(command, parent, name, **command.context_settings)
    context.terminal_width = _WIDTH
    lines = [line.rstrip() for line in command.get_help(context).splitlines()]
    text = "\n".join(lines).replace(_HOME, "~").strip()
    yield f"## {context.command_path}\n\n```text\n{text}\n```\n"
    if isinstance(command, click.Group):
        there = command.list_commands(context)
        first = [each for each in COMMANDS if each in there]
        for each in [*first, *(each for each in there if each not in first)]:
            inner = command.get_command(context, each)
            if inner is not None:
                yield from _described(inner, each, context)


if __name__ == "__main__":
    sys.stdout.write("\n".join(_sections()))
