"""`whipstaff scheduler` as its operators know it: flags, exit codes, signals, what it serves."""

import asyncio
import collections
import datetime
import json
import pathlib
import random
import signal
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import click.testing
import pytest

from whipstaff.runtime import errors, objects, resources
from whipstaff.scheduler import command

Object = dict[str, Any]
Start = Callable[..., Any]

LEASE = ("whipstaff-scheduler", "kube-system")
QUICK_LEASE = (
    "--leader-elect-lease-duration=3s",
    "--leader-elect-renew-deadline=2s",
    "--leader-elect-retry-period=500ms",
)


def configured(folder: pathlib.Path, text: str) -> str:
    path = folder / "scheduler.yaml"
    path.write_text(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n" + text
    )
    return str(path)


def client_context(cluster: Any) -> ssl.SSLContext:
    """An administrator's certificate; the scheduler's own is self-signed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    admin = cluster.plane.pki.admin
    context.load_cert_chain(admin.certificate, admin.key)
    return context


async def lease_holder(cluster: Any) -> str:
    try:
        lease = await cluster.api.get(resources.LEASES, *LEASE)
    except errors.NotFound:
        return ""
    return lease["spec"].get("holderIdentity") or ""


@pytest.fixture
async def without_lease(cluster: Any) -> Any:
    """No lease is left over from another test, nor for another test."""
    await remove_lease(cluster)
    yield
    await remove_lease(cluster)


async def remove_lease(cluster: Any) -> None:
    try:
        await cluster.api.delete(resources.LEASES, *LEASE)
    except errors.NotFound:
        return


# Mistakes: one line, the right exit code, nothing started.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles: [{schedulerNam: x}]", "profiles[0].schedulerNam: unknown field"),
        ("parallelism: none", "parallelism: expected a whole number"),
        (
            "profiles: [{plugins: {score: {enabled: [{name: Nowhere}]}}}]",
            "profiles[0].plugins.score.enabled[0].name: unknown plugin Nowhere",
        ),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: ImageLocality}]}}}]",
            "profiles[0]: plugin ImageLocality does not extend filter",
        ),
        (
            "profiles: [{plugins: {score: {enabled: [{name: 'no.such.module:Plugin'}]}}}]",
            "profiles[0]: plugin no.such.module:Plugin can't be loaded",
        ),
        (
            "profiles: [{plugins: {multiPoint: {disabled: [{name: PrioritySort}]}}}]",
            "profiles[0]: exactly one queueSort plugin is needed",
        ),
        (
            "profiles: [{plugins: {multiPoint: {disabled: [{name: DefaultBinder}]}}}]",
            "profiles[0]: a bind plugin is needed (DefaultBinder)",
        ),
    ],
)
def test_a_wrong_file_is_refused_before_anything_starts(
    tmp_path: pathlib.Path, text: str, message: str
) -> None:
    path = configured(tmp_path, text)
    with pytest.raises(errors.ConfigurationError) as caught:
        command.command.main(["--config", path], standalone_mode=False)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--leader-elect=perhaps"], "Invalid value for '--leader-elect'"),
        (["--secure-port=high"], "Invalid value for '--secure-port'"),
        (["--bind-address=everywhere"], "Invalid value for '--bind-address'"),
        (["--unknown"], "No such option"),
        (["surplus"], "unexpected extra argument"),
    ],
)
def test_a_wrong_flag_is_named(arguments: list[str], message: str) -> None:
    result = click.testing.CliRunner().invoke(command.command, arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--page-address=0.0.0.0:80", "has to be a loopback address"),
        ("--page-address=here", "isn't IP:PORT"),
        ("--explanation-memory=much", "'much' is not a quantity"),
        ("--explanation-memory=-1Mi", "less than nothing"),
    ],
)
def test_a_value_that_cant_be_used_is_named_with_its_flag(argument: str, message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=argument.partition("=")[0]) as caught:
        command.command.main([argument], standalone_mode=False)
    assert message in str(caught.value)


async def test_exit_codes_tell_configuration_from_circumstances(
    tmp_path: pathlib.Path, start_scheduler: Start
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "users: [{name: u, user: {}}]\n"
    )
    wrong = start_scheduler("--config", configured(tmp_path, "parallelism: -1"))
    absent = start_scheduler("--kubeconfig", str(tmp_path / "absent"))
    unreachable = start_scheduler("--kubeconfig", str(kubeconfig))
    assert await wrong.ends() == 2
    assert await absent.ends() == 2
    assert await unreachable.ends(60) == 1
    for process in (wrong, absent, unreachable):
        [line] = process.lines
        assert line.startswith("Error: ")
    assert "scheduler.yaml: parallelism: -1 is not at least 1" in wrong.lines[0]
    assert "cannot reach the API server" in unreachable.lines[0]


@pytest.mark.apiserver
async def test_an_expired_certificate_is_named(cluster: Any, start_scheduler: Start) -> None:
    expired = cluster.plane.issue_kubeconfig("late", valid_for=-datetime.timedelta(hours=1))
    process = start_scheduler("--kubeconfig", str(expired))
    assert await process.ends() == 1
    [line] = process.lines
    assert "expired on" in line


@pytest.mark.apiserver
async def test_every_missing_right_is_named(cluster: Any, start_scheduler: Start) -> None:
    nobody = cluster.plane.issue_kubeconfig("nobody-special")
    process = start_scheduler("--kubeconfig", str(nobody))
    assert await process.ends() == 1
    [line] = process.lines
    for right in ("pods/binding", "pods/status", "nodes", "leases", "events"):
        assert right in line


@pytest.mark.apiserver
async def test_a_port_that_is_taken_is_named(cluster: Any, start_scheduler: Start) -> None:
    process = start_scheduler(
        "--kubeconfig", str(cluster.plane.kubeconfig), f"--secure-port={cluster.plane.port}"
    )
    assert await process.ends() == 1
    assert (
        f"can't serve on 127.0.0.1:{cluster.plane.port}: the address is in use"
        in (process.lines[-1])
    )


# At work.


@pytest.mark.apiserver
async def test_the_rights_of_the_stock_scheduler_are_enough(
    cluster: Any, start_scheduler: Start, without_lease: None
) -> None:
    user = "whipstaff-scheduler"
    subjects = [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]
    lease_role = {
        "metadata": {"name": user, "namespace": LEASE[1]},
        "rules": [
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": [LEASE[0]],
                "verbs": ["get", "update"],
            },
        ],
    }
    made: list[tuple[Any, str, str | None]] = []

    async def bind(kind: str, role: str, namespace: str | None = None) -> None:
        resource = resources.ROLEBINDINGS if namespace else resources.CLUSTERROLEBINDINGS
        name = f"test-{role}".replace(":", "-")
        role_ref = {"kind": kind, "name": role, "apiGroup": "rbac.authorization.k8s.io"}
        body = {"metadata": {"name": name}, "roleRef": role_ref, "subjects": subjects}
        await cluster.api.create(resource, body, namespace)
        made.append((resource, name, namespace))

    await cluster.api.create(resources.ROLES, lease_role, LEASE[1])
    made.append((resources.ROLES, user, LEASE[1]))
    try:
        await bind("ClusterRole", "system:kube-scheduler")
        await bind("ClusterRole", "system:volume-scheduler")
        await bind("Role", user, LEASE[1])
        kubeconfig = cluster.plane.issue_kubeconfig(user, ["whipstaff:components"])
        process = start_scheduler(
            "--kubeconfig", str(kubeconfig), "--scheduler-name", cluster.scheduler_name
        )
        await cluster.node("node-a")
        await cluster.pod("web")
        await cluster.placed("web")
        await cluster.events("web", "Scheduled")
        await cluster.pod("big", cpu="64")
        await cluster.refused("big")
        await cluster.pod("vip", cpu="4", priorityClassName="system-cluster-critical")
        await cluster.placed("vip")
        await cluster.events("web", "Preempted")
        process.send(signal.SIGTERM)
        assert await process.ends() == 0
        assert not [line for line in process.lines if "level=error" in line]
    finally:
        for resource, name, namespace in made:
            await cluster.api.delete(resource, name, namespace)


@pytest.mark.apiserver
async def test_what_it_serves(cluster: Any, start_scheduler: Start, without_lease: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        page = f"127.0.0.1:{free.getsockname()[1]}"
    process = start_scheduler(
        f"--kubeconfig={cluster.plane.kubeconfig}",
        f"--scheduler-name={cluster.scheduler_name}",
        f"--page-address={page}",
    )
    await cluster.node("node-a")
    await cluster.node("node-b", cpu="1")
    await cluster.pod("web", cpu="2")
    await cluster.placed("web")
    await cluster.pod("big", cpu="64")
    await cluster.refused("big")
    context = client_context(cluster)
    for path in ("/healthz", "/livez", "/readyz"):
        assert await process.fetch(path, context) == (200, "ok")
    _, checks = await process.fetch("/readyz?verbose", context)
    for name in ("leaderElection", "sched-handler-sync", "shutdown"):
        assert f"[+]{name} ok" in checks
    _, metrics = await process.fetch("/metrics", context)
    profile = f'profile="{cluster.scheduler_name}"'
    for line in (
        f'scheduler_schedule_attempts_total{{{profile},result="scheduled"}} 1.0',
        'scheduler_pending_pods{queue="unschedulable"} 1.0',
        f'scheduler_unschedulable_pods{{plugin="NodeResourcesFit",{profile}}} 1.0',
        "scheduler_pod_scheduling_attempts_count 1.0",
        "scheduler_preemption_attempts_total 1.0",
        'leader_election_master_status{name="whipstaff-scheduler"} 1.0',
    ):
        assert line in metrics.splitlines()
    _, shown = await process.fetch("/configz", context)
    shown_configuration = json.loads(shown)["kubescheduler.config.k8s.io"]
    assert shown_configuration["profiles"][0]["schedulerName"] == cluster.scheduler_name
    _, answer = await process.fetch(
        f"/debug/decisions?namespace={cluster.namespace}&name=web&limit=5", context
    )
    [decided] = json.loads(answer)
    assert decided["pod"] == f"{cluster.namespace}/web"
    assert decided["node"] == "node-a"
    assert (decided["feasible"], decided["evaluated"]) == (1, 2)
    assert decided["score"] == sum(decided["scores"].values()) > 0
    _, answer = await process.fetch(f"/debug/decisions?namespace={cluster.namespace}", context)
    assert json.loads(answer)[-1]["message"] == (
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: "
        "0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    )
    assert (await process.fetch("/debug/decisions?limit=x", context))[0] == 400
    _, answer = await process.fetch(
        f"/debug/explain?namespace={cluster.namespace}&name=big", context
    )
    assert json.loads(answer)["needs"][0] == {
        "node": "node-a",
        "changes": ["more cpu than it has at all (64 wanted, the node has 4)"],
    }
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{page}/") as response:
            assert "Whipstaff scheduler" in await response.text()
        async with session.get(f"http://{page}/debug/cluster") as response:
            assert (await response.json())["attempts"]["scheduled"] == 1
    nobody = ssl.create_default_context()
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    _, resources_text = await process.fetch("/metrics/resources", context)
    name = f'namespace="{cluster.namespace}",node="node-a",pod="web",priority="0",resource="cpu"'
    assert (
        f'kube_pod_resource_request{{{name},scheduler="{cluster.scheduler_name}",unit="cores"}} 2.0'
    ) in resources_text.splitlines()
    _, text = await process.fetch("/statusz", context)
    assert "whipstaff-scheduler statusz" in text
    for path in ("/statusz", "/flagz", "/metrics", "/metrics/resources", "/metrics/slis"):
        assert (await process.fetch(path, nobody))[0] == 403
    for path in ("/configz", "/debug/decisions"):
        assert (await process.fetch(path, nobody))[0] == 403
    for path in ("/healthz", "/livez", "/readyz"):
        assert (await process.fetch(path, nobody))[0] == 200


@pytest.mark.apiserver
async def test_one_of_two_replicas_leads_and_the_other_takes_over(
    cluster: Any, start_scheduler: Start, without_lease: None
) -> None:
    flags = ("--kubeconfig", str(cluster.plane.kubeconfig), "--scheduler-name")
    first = start_scheduler(*flags, cluster.scheduler_name)
    await first.says("msg=scheduling")
    second = start_scheduler(*flags, cluster.scheduler_name)
    await second.says("attempting to acquire leader lease")
    leader = await lease_holder(cluster)

    async def ready() -> bool:
        return (await second.fetch("/readyz", client_context(cluster)))[0] == 200

    await cluster.eventually(ready, "the replica that waits has read the cluster too")
    # Two replicas aren't to be added up.
    assert await second.fetch("/metrics/resources", client_context(cluster)) == (200, "")
    first.send(signal.SIGTERM)
    assert await first.ends() == 0
    # The lease is given back, so nobody waits the fifteen seconds for which it was taken.
    started = time.monotonic()
    await second.says("msg=scheduling")
    assert time.monotonic() - started < 10
    assert await lease_holder(cluster) not in ("", leader)


@pytest.mark.apiserver
async def test_a_lost_lease_ends_the_process(
    cluster: Any, start_scheduler: Start, without_lease: None
) -> None:
    process = start_scheduler("--kubeconfig", str(cluster.plane.kubeconfig), *QUICK_LEASE)
    await process.says("msg=scheduling")
    lease = await cluster.api.get(resources.LEASES, *LEASE)
    lease["spec"]["holderIdentity"] = "usurper"
    lease["spec"]["renewTime"] = objects.format_micro_time(time.time())
    await cluster.api.update(resources.LEASES, lease)
    assert await process.ends() == 1
    assert "lost the lease kube-system/whipstaff-scheduler" in process.lines[-1]


@pytest.mark.apiserver
async def test_a_configuration_file_counts_and_flags_win(
    cluster: Any, start_scheduler: Start, tmp_path: pathlib.Path
) -> None:
    path = configured(
        tmp_path,
        f"clientConnection: {{kubeconfig: {cluster.plane.kubeconfig}}}\n"
        "leaderElection: {leaderElect: true, resourceName: from-file}\n"
        "profiles: [{schedulerName: from-file}]\n",
    )
    process = start_scheduler(
        "--config", path, "--scheduler-name", cluster.scheduler_name, "--leader-elect=false"
    )
    await cluster.node("node-a")
    await cluster.pod("web")
    await cluster.pod("other", scheduler="from-file")
    await cluster.placed("web")
    _, shown = await process.fetch("/configz", client_context(cluster))
    election = json.loads(shown)["kubescheduler.config.k8s.io"]["leaderElection"]
    assert (election["leaderElect"], election["resourceName"]) == (False, "from-file")
    assert await cluster.node_of("other") == ""
    # The stock plugins that are still to be built are named, so that nobody counts on them.
    assert any("DynamicResources" in line for line in process.lines)


# Ending, in good order and in bad.


class Watcher:
    """Notes every node that each pod was ever seen on."""

    def __init__(self, cluster: Any) -> None:
        self.nodes: dict[str, set[str]] = collections.defaultdict(set)
        self._cluster = cluster
        self._task = asyncio.create_task(self._run())

    @property
    def bound(self) -> int:
        return len(self.nodes)

    async def _run(self) -> None:
        api = self._cluster.api
        async for event in api.watch(resources.PODS, self._cluster.namespace):
            node = (event.object.get("spec") or {}).get("nodeName")
            if node:
                self.nodes[event.object["metadata"]["name"]].add(node)

    async def reaches(self, count: int) -> None:
        async def is_reached() -> bool:
            return self.bound >= count

        await self._cluster.eventually(is_reached, f"{count} pods are bound", 40)

    def stop(self) -> None:
        self._task.cancel()


@pytest.mark.apiserver
async def test_sigterm_ends_what_was_begun_and_begins_nothing(
    cluster: Any, start_scheduler: Start, without_lease: None
) -> None:
    for number in range(10):
        await cluster.node(f"node-{number}", cpu="20", pods=110)
    await cluster.pods_of(1000)
    seen = Watcher(cluster)
    process = start_scheduler(
        "--kubeconfig", str(cluster.plane.kubeconfig), "--scheduler-name", cluster.scheduler_name
    )
    await seen.reaches(30)
    process.send(signal.SIGTERM)
    assert await process.ends() == 0
    assert await lease_holder(cluster) == ""
    listed = await cluster.api.list(resources.PODS, cluster.namespace)
    bound = {pod["metadata"]["name"] for pod in listed if pod["spec"].get("nodeName")}
    told = {
        event["regarding"]["name"]
        for event in await cluster.api.list(
            resources.EVENTS, cluster.namespace, field_selector="reason=Scheduled"
        )
    }
    seen.stop()
    assert 30 <= len(bound) < 1000
    assert told == bound
    assert not [line for line in process.lines if "given up" in line]


@pytest.mark.apiserver
async def test_a_scheduler_that_is_killed_leaves_nothing_lost_or_overfilled(
    cluster: Any, start_scheduler: Start, without_lease: None
) -> None:
    chance = random.Random(3)
    for number in range(20):
        await cluster.node(f"node-{number:02}", cpu="6", pods=60)
    await cluster.pods_of(1200, cpu="100m")
    seen = Watcher(cluster)
    flags = ("--kubeconfig", str(cluster.plane.kubeconfig), "--scheduler-name")
    for _ in range(3):
        process = start_scheduler(*flags, cluster.scheduler_name, *QUICK_LEASE)
        await seen.reaches(seen.bound + chance.randrange(20, 60))
        process.send(signal.SIGKILL)
        await process.ends()
        assert seen.bound < 1200
    start_scheduler(*flags, cluster.scheduler_name, *QUICK_LEASE)
    await seen.reaches(1200)
    used = await cluster.used()
    seen.stop()
    assert {len(nodes) for nodes in seen.nodes.values()} == {1}
    assert {node: len(pods) for node, pods in used.items()} == {
        f"node-{number:02}": 60 for number in range(20)
    }
