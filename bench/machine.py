"""The machine that measured, for the record, and how a measurement there is ended."""

from __future__ import annotations

import pathlib
import platform
import signal
import sys


def describe() -> str:
    """The processors and the memory."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [
        line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if "model name" in line
    ]
    memory = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
    model = models[0] if models else platform.processor()
    return f"{len(models)} x {model}, {int(memory) // 2**20} GiB"


def end_on_sigterm() -> None:
    """Have SIGTERM end the process as an error does: what was started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
