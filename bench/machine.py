"""The machine that measured, what is put down of a measurement there, and how it is ended."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import platform
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def describe() -> str:
    """The processors and the memory."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [
        line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if "model name" in line
    ]
    memory = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
    model = models[0] if models else platform.processor()
    return f"{len(models)} x {model}, {int(memory) // 2**20} GiB"


def record(
    command: str,
    results: Iterable[DataclassInstance],
    output: pathlib.Path | None,
    **more: Any,
) -> dict[str, Any]:
    """What was measured, when, where and how; kept as JSON where a file is named.

    Args:
        command: the command without its arguments.
        results: what the runs came to.
        output: the file; its folder is made if need be.
        more: what else is to be put down.
    """
    made = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "machine": describe(),
        "command": " ".join([command, *sys.argv[1:]]),
        **more,
        "results": [dataclasses.asdict(result) for result in results],
    }
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return made


def end_on_sigterm() -> None:
    """Have SIGTERM end the process as an error does: what was started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
