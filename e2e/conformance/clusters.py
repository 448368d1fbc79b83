"""The cluster that is tested: `whipstaff up` with real containers, and the suite's images on it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

from e2e.conformance import recipes
from whipstaff.cluster import images, machines
from whipstaff.runtime import errors

_WHIPSTAFF = (sys.executable, "-m", "whipstaff.runtime.commands")
_SHOWN = 15  # lines of what a failed command said


class Real:
    """A cluster whose nodes run containers, in a folder of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._data = folder / "data"
        self._environ = {**os.environ, "KUBECONFIG": str(folder / "config")}

    @property
    def kubeconfig(self) -> pathlib.Path:
        """The administrator's."""
        return pathlib.Path(self._whipstaff("kubeconfig", "--path").strip())

    def start(self, nodes: int, say: Callable[[str], None], stock: Sequence[str] = ()) -> None:
        """Start it, with ``stock`` components in the place of ours, and load the suite's images.

        Raises:
            StartupError: it isn't possible here.
        """
        if why := machines.obstacle():
            raise errors.StartupError(f"no nodes with real containers: {why}")
        say("making the suite's images")
        archive = images.make("e2e", recipes.suite(), report=lambda text: say(f"  {text}"))
        say(f"starting a cluster of {nodes} nodes")
        replaced = (f"--stock={component}" for component in stock)
        real = ("--provider", "cri", "--nodes", str(nodes), "--image", str(archive))
        self._whipstaff("up", *real, "--unsafe-no-fsync", *replaced)

    def stop(self) -> None:
        """End it and leave nothing."""
        self._whipstaff("down")

    def _whipstaff(self, command: str, *arguments: str) -> str:
        done = subprocess.run(
            [*_WHIPSTAFF, command, "--data-dir", str(self._data), *arguments],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = "\n".join((done.stderr or done.stdout).splitlines()[-_SHOWN:])
            raise errors.StartupError(f"whipstaff {command}: {said}")
        return done.stdout
