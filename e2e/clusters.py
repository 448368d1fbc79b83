"""A whole cluster through the command line, as a user starts it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from whipstaff.cluster import binaries

WHIPSTAFF = [sys.executable, "-m", "whipstaff.runtime.commands"]


class Cluster:
    """One `whipstaff up`, and kubectl against it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.data_dir = folder / "data"
        self.home = folder / "home"
        self.home.mkdir()
        self.environment = {**os.environ, "KUBECONFIG": str(self.home / "config")}
        self.kubectl_path = str(binaries.resolve(("kubectl",))["kubectl"])

    def whipstaff(
        self, command: str, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*WHIPSTAFF, command, "--data-dir", str(self.data_dir), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{done.stdout}\n{done.stderr}"
        return done

    def up(self, *arguments: str) -> str:
        return self.whipstaff("up", *arguments).stdout

    def down(self) -> None:
        self.whipstaff("down")

    def status(self) -> dict[str, Any]:
        return json.loads(self.whipstaff("status", "-o", "json", check=False).stdout)

    @property
    def kubeconfig(self) -> str:
        return self.whipstaff("kubeconfig", "--path").stdout.strip()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl through the context that `up` made current."""
        return subprocess.run(
            [self.kubectl_path, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout

    def pods(self, *arguments: str) -> list[dict[str, Any]]:
        return json.loads(self.kubectl("get", "pods", "-o", "json", *arguments))["items"]


def eventually(what: Callable[[], bool], *, seconds: float, text: str) -> None:
    """Wait until `what()` holds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"{text}: not within {seconds} s"
        time.sleep(0.2)
