"""The same random users on two clusters, one with the stock controllers and one with ours.

After every step of a sequence both clusters come to rest and are compared (`compare`); during it a
witness on each side watches the bounds of rollouts (`limits`). A sequence that differs ends there.
To see one again::

    python -m e2e.controllers.differential --seed 17 --steps 15
"""

from __future__ import annotations

import asyncio
import pathlib
import tempfile
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import click

from e2e.controllers import actions, compare, limits, sides
from whipstaff.runtime import objects, resources

Object: TypeAlias = dict[str, Any]

AT_ONCE = 5
"""Sequences that run beside each other, each in a namespace of its own."""
QUIET = 0.7
"""Seconds without a change after which a namespace may be at rest."""
PATIENCE = 25.0
"""Seconds that a namespace which isn't at rest is waited for."""
SECOND_LOOKS = 5.0
"""Seconds for which a difference has to last, since events may come late."""
_SETTLED = frozenset({"ProgressDeadlineExceeded", "NewReplicaSetAvailable", "DeploymentPaused"})


@dataclass(slots=True)
class Outcome:
    """How a sequence went.

    Attributes:
        seed: of the sequence.
        done: the steps that were done.
        problems: what differed after the last of them.
        refused: steps that both API servers refused.
        remarks: bounds that both sides left, which upstream doesn't promise then; and a Deployment
            that upstream does nothing for, which ends the sequence.
        ended: whether it was ended by that.
    """

    seed: int
    done: list[actions.Step] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    refused: int = 0
    remarks: list[str] = field(default_factory=list)
    ended: bool = False

    def __str__(self) -> str:
        lines = [f"seed {self.seed} differs after step {len(self.done)}:"]
        lines += [f"  {number}. {step}" for number, step in enumerate(self.done, 1)]
        lines += [f"  * {text}" for text in self.problems]
        command = "python -m e2e.controllers.differential"
        lines.append(f"  again: {command} --seed {self.seed} --steps {len(self.done)}")
        return "\n".join(lines)


class _Pair:
    """Both sides with who watches them."""

    def __init__(self, stock: sides.Side, ours: sides.Side) -> None:
        self.sides = (stock, ours)
        self._readers = [compare.Reader(side) for side in self.sides]
        self._witnesses = [limits.Witness(side) for side in self.sides]

    async def follow(self, seed: int, count: int) -> Outcome:
        """One sequence, to its end or to the first difference."""
        namespace, outcome = f"seed-{seed}", Outcome(seed)
        body: Object = {"metadata": {"name": namespace}}
        await _both(side.api.create(resources.NAMESPACES, body) for side in self.sides)
        for step in actions.plan(seed, count):
            began = time.monotonic()
            outcome.done.append(step)
            outcome.problems = await self._do(namespace, step, outcome)
            if outcome.problems or outcome.ended:
                return outcome
            # ReplicaSets are told apart by the second in which they were made.
            await asyncio.sleep(max(0.0, began + 1.1 - time.monotonic()))
        await _both(side.api.delete(resources.NAMESPACES, namespace) for side in self.sides)
        return outcome

    async def _do(self, namespace: str, step: actions.Step, outcome: Outcome) -> list[str]:
        for witness in self._witnesses:
            witness.begin(namespace)
        answers = await _both(actions.perform(side, namespace, step) for side in self.sides)
        if len(set(answers)) > 1:
            return [f"the API servers answered {answers}"]
        outcome.refused += answers[0] != "done"
        await _both(_rest(side, namespace) for side in self.sides)
        problems, still = await self._compare(namespace)
        if still and all(any(f" {name}" in text for name in still) for text in problems):
            outcome.remarks.append(f"{step}: the stock controller does nothing for {still}")
            outcome.ended = True
            return []
        if step.judged:
            problems += self._judge(namespace, step, outcome)
        return problems

    async def _compare(self, namespace: str) -> tuple[list[str], list[str]]:
        """What differs, and the Deployments that the stock controller does nothing for."""
        end = time.monotonic() + SECOND_LOOKS
        while True:
            states = await _both(reader.read(namespace) for reader in self._readers)
            found = compare.differences(*states)
            if not found or time.monotonic() > end:
                return found, compare.standing_still(states[0]) if found else []
            await asyncio.sleep(0.3)

    def _judge(self, namespace: str, step: actions.Step, outcome: Outcome) -> list[str]:
        stock, ours = (each.judge(namespace, step.taken) for each in self._witnesses)
        both = stock.keys() & ours.keys()
        outcome.remarks += [f"{step}: {name}: {ours[name]}" for name in both]
        found = ((side, each) for side, each in (("stock", stock), ("ours", ours)))
        return [
            f"bounds of {name} on side {side}: {text}"
            for side, each in found
            for name, text in each.items()
            if name not in both
        ]


async def run(seeds: Sequence[int], count: int) -> list[Outcome]:
    """Run sequences of `count` steps each."""
    with tempfile.TemporaryDirectory(prefix="whipstaff-differential-") as folder:
        async with sides.both(pathlib.Path(folder)) as (stock, ours):
            pair = _Pair(stock, ours)
            turn = asyncio.Semaphore(AT_ONCE)

            async def one(seed: int) -> Outcome:
                async with turn:
                    outcome = await pair.follow(seed, count)
                    _report(outcome)
                    return outcome

            return list(await asyncio.gather(*map(one, seeds)))


def _report(outcome: Outcome) -> None:
    if outcome.problems:
        click.echo(str(outcome), err=True)
        return
    text = f"seed {outcome.seed}: {len(outcome.done)} steps alike, {outcome.refused} refused"
    click.echo("\n  ".join([text, *outcome.remarks]), err=True)


async def _both(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(*calls))


# ---- coming to rest --------------------------------------------------------------------------


async def _rest(side: sides.Side, namespace: str) -> None:
    """Wait until nothing changes any more, and nothing should; but not for ever."""
    side.changed[namespace] = began = time.monotonic()
    while time.monotonic() < began + PATIENCE:
        await asyncio.sleep(0.05)
        quiet = time.monotonic() - side.changed[namespace] > QUIET
        if quiet and await _is_settled(side, namespace):
            return


async def _is_settled(side: sides.Side, namespace: str) -> bool:
    pods = side.list(resources.PODS, namespace)
    deployments = side.list(resources.DEPLOYMENTS, namespace)
    replicasets = side.list(resources.REPLICASETS, namespace)
    if any(objects.is_terminating(each) for each in (*pods, *deployments, *replicasets)):
        return False
    if any(_lacks(each, pods) for each in replicasets):
        quotas = await side.api.list(resources.RESOURCEQUOTAS, namespace)
        running = sum(not objects.is_finished(pod) for pod in pods)
        if not any(running >= int(each["spec"]["hard"]["pods"]) for each in quotas):
            return False
    return all(map(_is_observed, (*deployments, *replicasets))) and not any(
        map(_is_waiting, deployments)
    )


def _lacks(replicaset: Object, pods: Iterable[Object]) -> bool:
    status = replicaset.get("status") or {}
    ready = status.get("readyReplicas", 0), status.get("availableReplicas", 0)
    has = sum(objects.is_owned_by(pod, replicaset) and not objects.is_finished(pod) for pod in pods)
    return bool(has != replicaset["spec"]["replicas"] or ready[0] != ready[1])


def _is_observed(obj: Object) -> bool:
    seen = (obj.get("status") or {}).get("observedGeneration", 0)
    return bool(seen >= obj["metadata"]["generation"])


def _is_waiting(deployment: Object) -> bool:
    """Whether its deadline is near, and will say something when it is over."""
    spec, status = deployment["spec"], deployment["status"]
    seconds = spec.get("progressDeadlineSeconds", 600)
    said = objects.condition(deployment, "Progressing")
    return (
        seconds < 60
        and not spec.get("paused")
        and said is not None
        and said.get("reason") not in _SETTLED
        and any(
            status.get(name, 0) != spec["replicas"]
            for name in ("replicas", "updatedReplicas", "availableReplicas")
        )
    )


@click.command()
@click.option("--seed", "seeds", type=int, multiple=True, required=True)
@click.option("--steps", type=int, default=15, show_default=True)
def main(seeds: Sequence[int], steps: int) -> None:
    """Run sequences again."""
    outcomes = asyncio.run(run(seeds, steps))
    raise SystemExit(any(each.problems for each in outcomes))


if __name__ == "__main__":
    main()
