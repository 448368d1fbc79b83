"""What a run measured, and the table that is printed and stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from bench import report

STOCK, OURS = "kubelet", "whipstaff"


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """How long something took for each of some pods, in milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """The spread of durations."""
        return cls(
            round(1000 * report.percentile(seconds, 0.50), 1),
            round(1000 * report.percentile(seconds, 0.99), 1),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """Pods started, and later deleted, in one way.

    Attributes:
        arrival: ``one by one`` or ``at once``.
        running, ready: from the answer to the create, which binds the pod, to the watch event.
        gone: from the answer to the delete to the watch event.
        all_ready, all_gone: from the first request to the last event, in seconds.
        start_cpu, stop_cpu: the agent's CPU time a pod, in milliseconds.
        peak_rss: the agent's largest resident set while the pods started, in MiB.
    """

    arrival: str
    pods: int
    running: Spread
    ready: Spread
    gone: Spread
    all_ready: float
    all_gone: float
    start_cpu: float
    stop_cpu: float
    peak_rss: float


@dataclasses.dataclass(frozen=True, slots=True)
class Rest:
    """The agent while nothing happens.

    Attributes:
        rss: its resident set at the end, in MiB; `private` is that without what it shares with
            others or reads from files.
        cpu: percent of one CPU.
        machine_cpu: how busy the whole machine was meanwhile, in percent of all CPUs.
    """

    pods: int
    rss: float
    private: float
    cpu: float
    machine_cpu: float


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One agent.

    Attributes:
        load: the machine's load average, over a minute, when the run began.
    """

    agent: str
    max_pods: int
    load: float
    rests: tuple[Rest, ...]
    phases: tuple[Phase, ...]


def table(results: Sequence[Result]) -> str:
    """A Markdown table, a row a measure; the ratio is ours to the kubelet's: below 1 is better."""
    by_agent = {result.agent: result for result in results}
    shown = [agent for agent in (STOCK, OURS) if agent in by_agent]
    ratio = len(shown) == 2
    titles = ["", *shown, *(["ratio"] if ratio else [])]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for title, unit, get in _measures(results[0]):
        values = [get(by_agent[agent]) for agent in shown]
        cells = [f"{value:,.{_digits(value)}f} {unit}" for value in values]
        if ratio:
            cells.append(f"{values[1] / values[0]:.2f}" if values[0] else "-")
        lines.append(f"| {' | '.join([title, *cells])} |")
    return "\n".join(lines)


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 10 else 2


_Measure = tuple[str, str, Callable[[Result], float]]


def _measures(example: Result) -> list[_Measure]:
    """The rows: what each is called, its unit, and how it is read."""
    found: list[_Measure] = []
    for index, phase in enumerate(example.phases):
        name = f"{phase.pods} {phase.arrival}"
        for label, field in (
            ("bind → Running", "running"),
            ("bind → Ready", "ready"),
            ("delete → gone", "gone"),
        ):
            found += [
                (f"{name}: {label} {share}", "ms", _spread(index, field, share))
                for share in ("p50", "p99")
            ]
        if phase.arrival == "at once":
            found.append((f"{name}: until all are Ready", "s", _phase(index, "all_ready")))
            found.append((f"{name}: until all are gone", "s", _phase(index, "all_gone")))
        found.append((f"{name}: CPU a start", "ms", _phase(index, "start_cpu")))
        found.append((f"{name}: CPU a stop", "ms", _phase(index, "stop_cpu")))
        found.append((f"{name}: peak RSS", "MiB", _phase(index, "peak_rss")))
    for index, rest in enumerate(example.rests):
        found.append((f"idle with {rest.pods} pods: RSS", "MiB", _rest(index, "rss")))
        found.append((f"idle with {rest.pods} pods: CPU", "%", _rest(index, "cpu")))
    return found


def _spread(index: int, field: str, share: str) -> Callable[[Result], float]:
    return lambda result: float(getattr(getattr(result.phases[index], field), share))


def _phase(index: int, field: str) -> Callable[[Result], float]:
    return lambda result: float(getattr(result.phases[index], field))


def _rest(index: int, field: str) -> Callable[[Result], float]:
    return lambda result: float(getattr(result.rests[index], field))
