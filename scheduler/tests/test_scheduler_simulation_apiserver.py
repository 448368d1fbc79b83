"""Simulations of a live cluster: nothing is written, and the scheduler does what they say."""

import asyncio
import contextlib
import json
import pathlib
from typing import Any

import click.testing
import pytest
import yaml

from whipstaff.runtime import client, config, errors, resources
from whipstaff.scheduler import offline, simulate_command, simulation, testing
from whipstaff.scheduler.simulation import clusters

Object = dict[str, Any]

pytestmark = pytest.mark.apiserver

ZONE = "topology.kubernetes.io/zone"


async def read_only(cluster: Any, folder: pathlib.Path) -> str:
    """A kubeconfig of a ServiceAccount that may list what a simulation reads, and nothing else."""
    name, namespace = "simulates", cluster.namespace
    await cluster.api.create(resources.SERVICEACCOUNTS, {"metadata": {"name": name}}, namespace)
    role = f"{name}-{namespace}"
    rules = [
        {"apiGroups": [each.group], "resources": [each.plural], "verbs": ["list"]}
        for each in (*offline.RESOURCES, *clusters.MORE)
    ]
    await cluster.api.create(resources.CLUSTERROLES, {"metadata": {"name": role}, "rules": rules})
    await cluster.api.create(
        resources.CLUSTERROLEBINDINGS,
        {
            "metadata": {"name": role},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": role,
            },
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    )
    answer = await cluster.api.create(
        resources.SERVICEACCOUNTS,
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        namespace,
        name=name,
        subresource="token",
    )
    return with_token(cluster.plane.kubeconfig, answer["status"]["token"], folder)


def with_token(kubeconfig: pathlib.Path, token: str, folder: pathlib.Path) -> str:
    content = yaml.safe_load(pathlib.Path(kubeconfig).read_text())
    content["users"] = [
        {"name": user["name"], "user": {"token": token}} for user in content["users"]
    ]
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return str(path)


async def clean(cluster: Any) -> None:
    role = f"simulates-{cluster.namespace}"
    await cluster.api.delete(resources.CLUSTERROLEBINDINGS, role)
    await cluster.api.delete(resources.CLUSTERROLES, role)


async def versions(cluster: Any) -> dict[str, str]:
    """The version of everything that a simulation looks at."""
    found = {}
    for resource in (*offline.RESOURCES, *clusters.MORE):
        for obj in (await cluster.api.list(resource)).items:
            metadata = obj["metadata"]
            key = f"{resource.name} {metadata.get('namespace')}/{metadata['name']}"
            found[key] = metadata["resourceVersion"]
    return found


async def test_who_may_only_list_can_simulate_and_nothing_changes(
    cluster: Any, tmp_path: pathlib.Path
) -> None:
    await cluster.node("node-a", cpu="2")
    await cluster.node("node-b", cpu="2")
    await cluster.pod("there", cpu="1")
    await cluster.bind("there", "node-a")
    await cluster.pod("waits", cpu="1")
    kubeconfig = await read_only(cluster, tmp_path)
    try:
        async with client.Client(config.load(kubeconfig)) as api:
            listed = await offline.read(api, clusters.MORE)
            assert listed.unread == {}
            with pytest.raises(Exception, match="cannot create"):
                await api.create(resources.PODS, testing.pod("x"), cluster.namespace)
        manifest = tmp_path / "big.yaml"
        manifest.write_text(yaml.safe_dump(testing.pod("big", {"cpu": "2"}, priority=None)))
        before = await versions(cluster)
        commands = [
            ["place", "-f", str(manifest), "--pending"],
            ["place", "--anew"],
            ["drain", "node-a", "--force"],
            ["fit", "-f", str(manifest)],
        ]
        for arguments in commands:
            text = await asyncio.to_thread(run, [*arguments, "--kubeconfig", kubeconfig])
            assert text
        assert await versions(cluster) == before
    finally:
        await clean(cluster)


def run(arguments: list[str]) -> str:
    runner = click.testing.CliRunner()
    result = runner.invoke(simulate_command.simulate, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_a_notebook_reads_the_cluster_while_its_loop_runs(cluster: Any) -> None:
    await cluster.node("node-a")
    simulated = simulation.Cluster.connect(str(cluster.plane.kubeconfig))
    assert simulation.fit(simulated, testing.pod("one", {"cpu": "1"})).total == 4


async def test_what_may_not_be_read_is_told(cluster: Any, tmp_path: pathlib.Path) -> None:
    await cluster.node("node-a")
    kubeconfig = await read_only(cluster, tmp_path)
    try:
        role = await cluster.api.get(resources.CLUSTERROLES, f"simulates-{cluster.namespace}")
        role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["services"]]
        await cluster.api.update(resources.CLUSTERROLES, role)
        simulated: simulation.Cluster | None = None

        async def noted() -> bool:
            nonlocal simulated
            simulated = await asyncio.to_thread(simulation.Cluster.connect, kubeconfig)
            return bool(simulated.notes)

        await cluster.eventually(noted, "services can't be read any more")
        assert simulated is not None
        assert simulated.notes[0].startswith("services couldn't be read: ")
    finally:
        await clean(cluster)


async def test_the_scheduler_does_what_was_simulated(cluster: Any, tmp_path: pathlib.Path) -> None:
    for index in range(7):
        await cluster.node(f"node-{index}", cpu=str(2 + index % 3), labels={ZONE: "ab"[index % 2]})
    await cluster.pod("there", cpu="1500m")
    await cluster.bind("there", "node-4")
    spread = [
        {
            "maxSkew": 1,
            "topologyKey": ZONE,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "spread"}},
        }
    ]
    wanted = []
    for index in range(48):
        kind = ("plain", "spread", "zoned")[index % 3]
        spec: Object = {"schedulerName": cluster.scheduler_name, "terminationGracePeriodSeconds": 0}
        if kind == "spread":
            spec["topologySpreadConstraints"] = spread
        if kind == "zoned":
            spec["nodeSelector"] = {ZONE: "a"}
        pod = testing.pod(
            f"pod-{index:02}",
            {"cpu": f"{300 + 100 * (index % 5)}m"},
            namespace=cluster.namespace,
            labels={"app": kind},
            **spec,
        )
        del pod["metadata"]["uid"], pod["status"]
        pod["spec"]["containers"][0]["image"] = "registry.k8s.io/pause:3.10"
        wanted.append(pod)
    path = tmp_path / "pods.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted}))
    simulated = await asyncio.to_thread(simulation.Cluster.connect, str(cluster.plane.kubeconfig))
    # A scheduler decides between equals by a generator whose seed is its name.
    placement = simulation.place(simulated, path, seed=cluster.scheduler_name)
    assert len(placement.placed) > 15
    assert placement.pending
    for pod in wanted:
        await cluster.api.create(resources.PODS, pod, cluster.namespace)
    async with cluster.scheduling():
        names = [found.pod.partition("/")[2] for found in placement.placed]
        nodes = await cluster.placed(*names)
        assert nodes == [found.node for found in placement.placed]
        for found in placement.pending:
            condition = await cluster.refused(found.pod.partition("/")[2])
            assert condition["message"].startswith(found.message.partition(". ")[0])


async def test_the_scheduler_evicts_who_was_simulated_to_go(cluster: Any) -> None:
    high = f"high-{cluster.namespace}"
    await cluster.api.create(resources.PRIORITYCLASSES, {"metadata": {"name": high}, "value": 1000})
    for node, cpus in (("node-a", ("900m", "1")), ("node-b", ("500m", "1500m"))):
        await cluster.node(node, cpu="2")
        for index, cpu in enumerate(cpus):
            name = f"low-{node}-{index}"
            await cluster.pod(name, cpu=cpu, scheduler="somebody-else")
            await cluster.bind(name, node)
    try:
        simulated = await asyncio.to_thread(
            simulation.Cluster.connect, str(cluster.plane.kubeconfig)
        )
        pod = testing.pod("new", {"cpu": "1"}, namespace=cluster.namespace, priorityClassName=high)
        placement = simulation.place(simulated, pod, seed=cluster.scheduler_name)
        [outcome] = placement.placed
        victims = [victim.partition("/")[2] for victim in outcome.evicts]
        assert victims
        everybody = {f"low-{node}-{index}" for node in ("node-a", "node-b") for index in (0, 1)}

        async def is_made() -> bool:
            # Admission learns of a priority class a moment after it was made.
            with contextlib.suppress(errors.Forbidden):
                await cluster.pod("new", cpu="1", priorityClassName=high)
                return True
            return False

        await cluster.eventually(is_made, "the pod can be made")
        async with cluster.scheduling():
            assert await cluster.placed("new") == [outcome.node]
            left = {pod["metadata"]["name"] for pod in await cluster.api.list(resources.PODS)}
            assert everybody - left == set(victims)
    finally:
        await cluster.api.delete(resources.PRIORITYCLASSES, high)
