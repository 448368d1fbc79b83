"""What every fault is judged by: a namespace that is watched, and emptied at the end."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

from e2e.faults import bench, leftovers, witness, workloads
from whipstaff.runtime import errors

Object = dict[str, Any]


class Trial:
    """One namespace, its pods and who watches them.

    Attributes:
        namespace: its name.
        seen: what the pods went through.
        churn: somebody who never rests.
        runtime_killed: containers may end while nobody is there to see how.
    """

    runtime_killed = False

    def __init__(self, made: bench.Bench, namespace: str, seen: witness.Witness, seed: int) -> None:
        self._bench = made
        self.namespace = namespace
        self.seen = seen
        self.churn = workloads.Churn(made, namespace, seed)
        self.chance = random.Random(seed)

    def begin(self, *, crashing: int = 2, scaled: int = 2) -> None:
        """Make what is there all the time, and wait until it is well."""
        self.churn.begin(crashing=crashing, scaled=scaled)
        bench.eventually(self.is_steady, seconds=90, text="the steady pods are ready")

    def is_steady(self) -> bool:
        """Whether the pods that nothing may happen to are there, and ready."""
        pods = self._bench.pods(self.namespace, "app=steady")
        return len(pods) == 2 and all(is_ready(pod) for pod in pods)

    def runs(self) -> dict[tuple[str, str], tuple[str, int]]:
        """The containers of the steady pods, and how often they were restarted."""
        return {
            (pod["metadata"]["name"], status["name"]): (
                status["containerID"],
                status["restartCount"],
            )
            for pod in self._bench.pods(self.namespace, "app=steady")
            for name in ("initContainerStatuses", "containerStatuses")
            for status in pod["status"][name]
        }

    def start(self, name: str, of: Object, seconds: float = 60) -> None:
        """Make a pod, and wait until it is ready."""
        self._bench.create(self.namespace, workloads.pod(name, of))
        self.wait_ready(name, seconds)

    def wait_ready(self, name: str, seconds: float = 60) -> None:
        """Wait until a pod is ready."""
        bench.eventually(
            lambda: is_ready(self._bench.get("Pod", self.namespace, name) or {}),
            seconds=seconds,
            text=f"{name} is ready",
        )

    def wait_gone(self, name: str, seconds: float = 30) -> None:
        """Wait until a pod is gone."""
        bench.eventually(
            lambda: self._bench.get("Pod", self.namespace, name) is None,
            seconds=seconds,
            text=f"{name} is gone",
        )

    def wait_jobs(self, seconds: float = 90) -> None:
        """Wait until every Job that was made has ended well, as far as anybody can know."""

        def done() -> bool:
            found = [self._bench.get("Job", self.namespace, name) for name in self.churn.jobs]
            shown = [job for job in found if job is not None and not self._nobody_saw(job)]
            failed = [job["status"] for job in shown if job["status"].get("failed")]
            assert not failed, f"a Job's pod has failed: {failed}"
            return all(job["status"].get("succeeded") for job in shown)

        try:
            bench.eventually(done, seconds=seconds, text="every Job has ended")
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *self._unfinished()])) from None

    def _unfinished(self) -> Iterator[str]:
        """The Jobs that haven't ended, each with what became of its pods."""
        for name in self.churn.jobs:
            job = self._bench.get("Job", self.namespace, name)
            if job is None or job["status"].get("succeeded"):
                continue
            yield f"Job {name}: {job['status']}"
            for pod in self._bench.pods(self.namespace, f"job-name={name}"):
                yield f"  {pod['metadata']['name']}: {_told(pod)}"

    def _nobody_saw(self, job: Object) -> bool:
        """Whether a Job failed only because its pod ended or began while the runtime went."""
        if not (self.runtime_killed and job["status"].get("failed")):
            return False
        pods = self._bench.pods(self.namespace, f"job-name={job['metadata']['name']}")
        ends = [
            container["state"].get("terminated", {}).get("reason")
            for pod in pods
            for kind in ("initContainerStatuses", "containerStatuses")
            for container in pod["status"].get(kind) or ()
        ]
        went = {"Unknown", "StartError"}
        return bool(went & set(ends)) and set(ends) <= {*went, "Completed", None}


def _told(pod: Object) -> Object:
    """A pod's phase and what is told of its containers."""
    told = ("phase", "reason", "initContainerStatuses", "containerStatuses")
    return {name: pod["status"][name] for name in told if name in pod["status"]}


@contextlib.contextmanager
def watched(
    made: bench.Bench, namespace: str, seed: int = 1, *, runtime_killed: bool = False
) -> Iterator[Trial]:
    """A trial in a new namespace, judged at its end.

    Nothing went backwards, every pod goes when it is deleted, nothing ran more often than is told,
    and nothing is left on the machine (but scraps of containerd's own, where it was killed).
    """
    before = set(leftovers.of(made))
    made.ledger = made.folder / "ledgers" / namespace
    made.ledger.mkdir(parents=True)
    made.plane.create_namespace(namespace)
    bench.eventually(
        lambda: _has_account(made, namespace), seconds=120, text="there is a ServiceAccount"
    )

    def left() -> list[str]:
        found = leftovers.of(made, scraps=not runtime_killed)
        return [each for each in found if each not in before]

    with witness.Witness(made.plane.kubeconfig, namespace) as seen:
        try:
            trial = Trial(made, namespace, seen, seed)
            trial.runtime_killed = runtime_killed
            yield trial
            made.delete_all(namespace)
            gone = f"nothing is left in {namespace}"
            bench.eventually(lambda: not made.pods(namespace), seconds=90, text=gone)
        finally:
            seen.write(made.folder / f"{namespace}.json")
            made.clear(namespace)
            # After a trial that failed too: the next one is on the same machine.
            with contextlib.suppress(AssertionError):
                bench.eventually(lambda: not left(), seconds=60, text="nothing is left")
        _assert_none(seen.all_found())
        _assert_none(workloads.miscounted(made.ledger, seen))
        _assert_none(left())


def _has_account(made: bench.Bench, namespace: str) -> bool:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    try:
        made.plane.request("GET", path)
    except errors.NotFound:
        return False
    return True


def _assert_none(found: list[str]) -> None:
    assert not found, "\n" + "\n".join(found)


def is_ready(pod: Object) -> bool:
    """Whether a pod is ready."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def phase(made: bench.Bench, namespace: str, name: str) -> str:
    """A pod's phase; empty where there is none."""
    pod = made.get("Pod", namespace, name)
    return str(pod["status"].get("phase")) if pod else ""
