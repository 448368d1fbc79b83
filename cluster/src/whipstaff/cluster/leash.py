"""Ends a test's processes when the test run itself is killed and can't.

Run as a process of its own, it reads one JSON object a line from standard input, ``{"pid",
"birth"}``, ``{"folder"}`` or ``{"machines"}``. When the input ends, because its writer closed it or
died, what is left of these processes is killed, and these folders and clusters' machines are
removed.
"""

import pathlib
import shutil
import subprocess
import sys

import orjson

from whipstaff.cluster import processes


class Leash:
    """The writing end, in the process that owns the others."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "whipstaff.cluster.leash"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def hold(self, identity: processes.Identity) -> None:
        """End this process, too."""
        self._write({"pid": identity.pid, "birth": identity.birth})

    def remove(self, folder: pathlib.Path) -> None:
        """Remove this folder, too."""
        self._write({"folder": str(folder)})

    def clean(self, root: pathlib.Path) -> None:
        """Remove the machines of the cluster in this folder, too."""
        self._write({"machines": str(root)})

    def let_go(self) -> None:
        """End and remove everything that was held, and wait for it."""
        self._process.communicate()

    def _write(self, entry: dict[str, str | int]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(entry) + b"\n")
        self._process.stdin.flush()


def main() -> None:
    """Wait for the end of standard input, then clean up."""
    entries = [orjson.loads(line) for line in sys.stdin.buffer if line.endswith(b"\n")]
    held = [processes.Identity(entry["pid"], entry["birth"]) for entry in entries if "pid" in entry]
    processes.end(held, grace=0)
    for entry in entries:
        if "machines" in entry:
            from whipstaff.cluster import machines  # noqa: PLC0415 - it knows this module, too

            machines.clean(pathlib.Path(entry["machines"]))
    for entry in entries:
        if "folder" in entry:
            shutil.rmtree(entry["folder"], ignore_errors=True)


if __name__ == "__main__":
    main()
