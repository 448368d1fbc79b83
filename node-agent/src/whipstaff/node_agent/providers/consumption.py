"""What a played container uses: CPU time that adds up while its script may change, and memory.

A counter of CPU time never falls, and its slope is what the script says at each moment; so what
was used under an earlier script is kept. Containers whose scripts never said anything need no
such account. Answers to no part of upstream; KWOK's ResourceUsage is the other way to the same end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers import scripts

_NANO = 1_000_000_000
# metrics-server takes a counter that stands at zero for none.
_AT_START = 1_000_000

_USUAL = scripts.Script()


@dataclass(slots=True)
class Account:
    """What one run has used until a moment, and what it uses from then on.

    Attributes:
        at: the moment, in seconds since the epoch.
        seconds: of CPU time until then.
        cpu: CPUs from then on.
        memory: bytes.
    """

    at: float
    seconds: float
    cpu: float
    memory: int


def account(
    known: Account | None,
    run: provider.RuntimeContainer,
    script: scripts.Script,
    since: float,
) -> Account | None:
    """The account of a run whose script says this from some time on; None where it needs none.

    Args:
        known: its account until then; None where its script said nothing.
        run: the run.
        script: what it does.
        since: from when on, in seconds since the epoch; before its start for all of the time.
    """
    usual = (script.usage_cpu, script.usage_memory) == (_USUAL.usage_cpu, _USUAL.usage_memory)
    if known is None and usual:
        return None
    since = max(since, run.started_at)
    before = known or _unsaid(run)
    return Account(since, _seconds(before, since), script.usage_cpu, script.usage_memory)


def usage(
    accounts: Mapping[str, Account], run: provider.RuntimeContainer, now: float
) -> provider.Usage:
    """What a run has used.

    Args:
        accounts: those that there are, by the run's ID.
        run: the run.
        now: seconds since the epoch.
    """
    found = accounts.get(run.id) or _unsaid(run)
    return provider.Usage(
        at=now,
        cpu_nanoseconds=_AT_START + int(_seconds(found, now) * _NANO),
        memory=found.memory,
        working_set=found.memory,
        rss=found.memory,
        filesystem=0,
        inodes=0,
        processes=1,
    )


def _unsaid(run: provider.RuntimeContainer) -> Account:
    return Account(run.started_at, 0.0, _USUAL.usage_cpu, _USUAL.usage_memory)


def _seconds(known: Account, now: float) -> float:
    return known.seconds + max(now - known.at, 0.0) * known.cpu
