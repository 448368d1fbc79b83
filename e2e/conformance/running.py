"""Runs the suite's program in several processes, and tells how far it is."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from e2e.conformance import programs, results
from whipstaff.cluster import builds, images
from whipstaff.runtime import errors

_EVERY = 10.0  # seconds between two lines of progress
_COUNT = re.compile(r"Will run (\d+) of \d+ specs")
_BAD = re.compile(r"\[(FAILED|PANICKED|TIMEDOUT|INTERRUPTED)\]")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tests: those that match one of ``focus`` and none of ``skip``, and the labels."""

    focus: Sequence[str] = ()
    skip: Sequence[str] = ()
    labels: str = ""

    def flags(self) -> list[str]:
        return [
            *(f"--focus={pattern}" for pattern in self.focus),
            *(f"--skip={pattern}" for pattern in self.skip),
            *([f"--label-filter={self.labels}"] if self.labels else ()),
        ]


def run(
    selection: Selection,
    *,
    kubeconfig: pathlib.Path,
    output: pathlib.Path,
    nodes: int,
    procs: int,
    workshop: images.Workshop,
    environ: Mapping[str, str] = os.environ,
    say: Callable[[str], None] = print,
) -> list[results.Spec]:
    """Run the chosen tests against a cluster; their results.

    Args:
        selection: which.
        kubeconfig: the administrator's.
        output: the folder for the log and the report.
        nodes: how many nodes there are.
        procs: how many tests run beside each other; those marked [Serial] come last and alone.
        workshop: where the programs come from.
        environ: what the programs run with.
        say: told every few seconds how far it is, and of every failure.

    Raises:
        StartupError: the suite didn't get to report anything.
    """
    output.mkdir(parents=True, exist_ok=True)
    kubectl = workshop.program(
        builds.MODULE, "kubectl", [builds.MODULE / "go.mod", builds.MODULE / "kubectl/main.go"]
    )
    report, log = output / "report.json", output / "e2e.log"
    report.unlink(missing_ok=True)
    command = [
        *(str(programs.ginkgo(workshop)), "run", f"--procs={procs}", "--no-color", "--timeout=12h"),
        *(f"--output-dir={output}", f"--json-report={report.name}", "--silence-skips"),
        *selection.flags(),
        *(str(programs.e2e_test(workshop)), "--", "--provider=skeleton"),
        *(f"--kubeconfig={kubeconfig}", f"--kubectl-path={kubectl}", f"--num-nodes={nodes}"),
        *("--disable-log-dump", f"--report-dir={output}"),
    ]
    variables = {**environ, "PATH": f"{kubectl.parent}{os.pathsep}{environ.get('PATH', '')}"}
    variables.pop("KUBECONFIG", None)
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=variables
        ) as process,
    ):
        try:
            _follow(process, log, say)
        except BaseException:
            process.terminate()  # ginkgo cleans up and still writes its report
            raise
    if not report.exists():
        end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise errors.StartupError(f"the suite made no report; the end of {log}:\n{end}")
    return results.read(report)


def _follow(
    process: subprocess.Popen[bytes], log: pathlib.Path, say: Callable[[str], None]
) -> None:
    """Until it ends, count ginkgo's dots and pass on its failures."""
    passed, failed, total, told = 0, 0, "?", 0.0
    with log.open(errors="replace") as lines:
        while True:
            ended = process.poll() is not None
            while line := lines.readline():
                if found := _COUNT.search(line):
                    total = found[1]
                if _BAD.search(line) and line.startswith("•"):
                    failed += 1
                    say(f"failed: {lines.readline().strip()}")
                else:
                    passed += line.count("•")
            if ended:
                return
            if time.monotonic() > told + _EVERY:
                told = time.monotonic()
                say(f"{passed} passed, {failed} failed, of {total}")
            time.sleep(0.5)
