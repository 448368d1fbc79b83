"""Faults on a node with real containers: what is killed, gets full, jumps or won't end.

Each is judged by the same things (`trials.watched`). ``--full`` (`make faults`) takes its time:
100 kills of the agent, an API server that is away for two minutes.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from e2e.faults import bench, trials, workloads
from whipstaff.cluster import machines

_why = machines.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(_why is not None, reason=f"nodes with real containers: {_why}"),
]

PIDS = 100


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bench.Bench]:
    found = bench.Bench(tmp_path_factory.mktemp("faults"))
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def node(made: bench.Bench) -> Iterator[bench.Bench]:
    """The node with an agent that is well."""
    with made.agent({"podPidsLimit": PIDS}):
        yield made


@pytest.fixture
def full(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--full"))


@pytest.mark.timeout(3600)
def test_an_agent_that_is_killed_again_and_again(node: bench.Bench, full: bool) -> None:
    with trials.watched(node, "killed") as trial:
        trial.begin()
        before = trial.runs()
        for _ in range(100 if full else 5):
            for _ in range(trial.chance.randint(1, 3)):
                trial.churn.step()
            time.sleep(trial.chance.uniform(0, 2.5))
            node.kill_agent()
            if trial.chance.random() < 0.5:
                trial.churn.step()
            node.start_agent(wait=trial.chance.random() < 0.7)
        node.wait_agent()
        trial.wait_jobs()
        assert trial.runs() == before


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("grace", [10, 0], ids=["restarted", "killed"])
def test_a_runtime_that_goes_alone_and_with_the_agent(
    node: bench.Bench, full: bool, grace: float
) -> None:
    # One that is killed again and again forgets containers from one life to the next.
    turns = 20 if full and grace else 3
    name = "runtime-restarted" if grace else "runtime-killed"
    with trials.watched(node, name, seed=2, runtime_killed=True) as trial:
        trial.begin()
        before = trial.runs()
        for turn in range(turns):
            for _ in range(3):
                trial.churn.step()
            time.sleep(trial.chance.uniform(0, 1))
            if turn % 2:
                node.kill_agent()
            node.restart_containerd(away=trial.chance.choice((0, 2)), grace=grace)
            if turn % 2:
                node.start_agent(wait=False)
            trial.churn.step()
            time.sleep(2)
        node.wait_agent()
        # A call that the runtime never answers is given up after two minutes, as by the kubelet.
        trial.wait_jobs(300)
        assert trial.runs() == before


def test_an_api_server_that_is_away(node: bench.Bench, full: bool) -> None:
    with trials.watched(node, "apiserver", seed=3) as trial:
        trial.begin()
        before = trial.runs()
        once = workloads.container("main", "sleep 3; echo over > /dev/termination-log; exit 7")
        of = workloads.spec(node.ledger, once, restartPolicy="Never")
        trial.start("once", of)
        # Who controls nodes may take one for lost that it couldn't hear of.
        trial.seen.forgiven = ("not ready any more: NodeNotReady", "not ready any more: None")
        node.plane.stop_apiserver(grace=0)
        time.sleep(60 if full else 3)
        node.kill_agent()
        node.start_agent(wait=False)
        time.sleep(60 if full else 12)  # longer than a start waits for an answer
        node.plane.start_apiserver()
        node.wait_agent()
        trial.start("later", workloads.spec(node.ledger, workloads.container("main", "sleep 99")))
        bench.eventually(trial.is_steady, seconds=90, text="the steady pods are ready")
        assert trial.runs() == before
        pod = node.get("Pod", "apiserver", "once")
        assert pod is not None
        (ended,) = pod["status"]["containerStatuses"]
        assert pod["status"]["phase"] == "Failed"
        assert ended["state"]["terminated"]["exitCode"] == 7
        assert ended["state"]["terminated"]["message"] == "over\n"


@contextlib.contextmanager
def small_disk(made: bench.Bench, megabytes: int) -> Iterator[None]:
    """The agent's root directory on a disk that is soon full."""
    folder = made.folder / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "faults", str(folder)]
    subprocess.run(command, check=True)
    usual, made.root = made.root, folder
    try:
        yield
    finally:
        made.root = usual
        subprocess.run(["umount", "--recursive", str(folder)], check=True)
        folder.rmdir()


FILL = "while true; do cat /dev/zero >> /scratch/fill; sleep 0.1; done"


def filler(ledger: pathlib.Path) -> bench.Object:
    """A pod that writes until there is no room, and again when there is some."""
    mounts = [{"name": "scratch", "mountPath": "/scratch"}]
    return workloads.spec(
        ledger,
        workloads.container("main", FILL, volumeMounts=mounts),
        volumes=[{"name": "scratch", "emptyDir": {}}],
    )


def test_a_disk_that_is_full(made: bench.Bench) -> None:
    with (
        small_disk(made, 16),
        made.agent({"evictionHard": {}}),
        trials.watched(made, "disk", seed=4) as trial,
    ):
        trial.begin()
        before = trial.runs()
        trial.start("filler", filler(made.ledger))
        bench.eventually(lambda: _free(made.root) == 0, seconds=30, text="no room is left")
        made.patch("ConfigMap", "disk", "told", {"data": {"a": "longer" * 1000}})
        waits = workloads.pod("waits", workloads.steady(made.ledger))
        made.create("disk", waits)
        made.scale("disk", "scaled", 4)
        time.sleep(3)
        made.kill_agent()
        made.start_agent()
        made.scale("disk", "scaled", 1)
        time.sleep(5)
        told = [text for _, text in made.events("disk", "waits")]
        assert any("no space left on device" in text.lower() for text in told), told
        made.delete("Pod", "disk", "filler")
        trial.wait_gone("filler")
        trial.wait_ready("waits", 150)
        assert trial.runs() == before


def _free(root: pathlib.Path) -> int:
    told = subprocess.run(
        ["df", "--output=avail", str(root)], capture_output=True, text=True, check=True
    ).stdout
    return int(told.split()[1])


def test_a_disk_that_is_nearly_full(made: bench.Bench) -> None:
    limits = {
        "evictionHard": {"nodefs.available": "40%"},
        "evictionPressureTransitionPeriod": "5s",
    }
    with (
        small_disk(made, 16),
        made.agent(limits),
        trials.watched(made, "pressure", seed=5) as trial,
    ):
        trial.begin()
        before = trial.runs()
        made.create("pressure", workloads.pod("filler", filler(made.ledger)))
        bench.eventually(
            lambda: trials.phase(made, "pressure", "filler") == "Failed",
            seconds=60,
            text="who filled the disk is evicted",
        )
        shown = made.get("Pod", "pressure", "filler")
        assert shown is not None
        assert shown["status"]["reason"] == "Evicted"
        bench.eventually(
            lambda: made.condition("DiskPressure") == "False",
            seconds=60,
            text="there is room again",
        )
        assert trial.runs() == before


@pytest.mark.skipif(bench.Bench.faketime() is None, reason="libfaketime isn't installed")
def test_a_clock_that_jumps(made: bench.Bench) -> None:
    with (
        made.agent({"heartbeats": {"renewIntervalSeconds": 2}}, made.clock_environ()),
        trials.watched(made, "clock", seed=6) as trial,
    ):
        trial.seen.forgiven = ("time of condition",)
        trial.begin()
        before = trial.runs()
        for turn, seconds in enumerate((-3600, 0, 3600)):
            made.jump(seconds)
            for _ in range(3):
                trial.churn.step()
            name = f"after-{turn}"
            of = workloads.spec(made.ledger, workloads.container("main", workloads.FOREVER))
            trial.start(name, of)
            changes(lambda: _lease(made), seconds=40, text="the Lease is renewed")
            if seconds:
                # Put right again, it waits for as long as it was told to by the wrong clock.
                changes(lambda: _restarts(trial), seconds=60, text="what crashes is restarted")
            made.delete("Pod", "clock", name)
            trial.wait_gone(name)
        trial.wait_jobs()
        assert trial.runs() == before


def changes(what: Callable[[], object], *, seconds: float, text: str) -> None:
    """Wait until something isn't any more what it is now."""
    before = what()
    bench.eventually(lambda: what() != before, seconds=seconds, text=text)


def _lease(made: bench.Bench) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{bench.NODE}"
    return str(made.plane.request("GET", path)["metadata"]["resourceVersion"])


def _restarts(trial: trials.Trial) -> int:
    return sum(trial.seen.restarts().values())


def test_a_container_that_ignores_being_asked_to_end(node: bench.Bench) -> None:
    with trials.watched(node, "stubborn", seed=7) as trial:
        stubborn = workloads.container("main", workloads.STUBBORN)
        of = workloads.spec(node.ledger, stubborn, terminationGracePeriodSeconds=4)
        for name in ("plain", "hurried", "interrupted"):
            trial.start(name, of)
        for name in ("plain", "hurried"):
            node.delete("Pod", "stubborn", name)
        began = time.monotonic()
        time.sleep(1)
        node.delete("Pod", "stubborn", "hurried", grace=1)
        trial.wait_gone("hurried")
        assert time.monotonic() - began < 4 + 10
        trial.wait_gone("plain")
        assert time.monotonic() - began > 4
        node.delete("Pod", "stubborn", "interrupted")
        time.sleep(1)
        node.kill_agent()
        node.start_agent()
        trial.wait_gone("interrupted")


def test_a_fork_bomb(node: bench.Bench) -> None:
    with trials.watched(node, "bomb", seed=8) as trial:
        trial.begin(crashing=0, scaled=0)
        before = trial.runs()
        script = "bomb() { bomb | bomb & }; bomb & exec sleep 100000"
        bomb = workloads.container("main", script, resources={"limits": {"cpu": "200m"}})
        trial.start("bomb", workloads.spec(node.ledger, bomb))
        uid = (node.get("Pod", "bomb", "bomb") or {})["metadata"]["uid"]
        bench.eventually(lambda: node.pids(uid) > PIDS / 2, seconds=30, text="many processes")
        beside = workloads.spec(node.ledger, workloads.container("main", workloads.FOREVER))
        trial.start("beside", beside)
        most = 0
        for _ in range(30):
            most = max(most, node.pids(uid))
            time.sleep(0.1)
        assert PIDS / 2 < most <= PIDS
        node.delete("Pod", "bomb", "bomb")
        trial.wait_gone("bomb")
        assert trial.runs() == before
