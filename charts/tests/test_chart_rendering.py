"""What the chart makes of values."""

import pathlib

import pytest
import yaml

from charts import rendering
from charts.rendering import CHART, CI, Helm, Object

PRIVILEGED = {"DaemonSet/demo-whipstaff-node-agent"}


@pytest.fixture(params=CI, ids=lambda path: path.name.removesuffix("-values.yaml"))
def values(request: pytest.FixtureRequest) -> pathlib.Path:
    path: pathlib.Path = request.param
    return path


def arguments_of(pod: Object, container: int = 0) -> list[str]:
    found: list[str] = pod["containers"][container]["args"]
    return found


def test_lint_has_nothing_to_say(helm: Helm, values: pathlib.Path) -> None:
    helm.run("lint", "--strict", str(CHART), "--values", str(values))


def test_every_object_says_what_it_belongs_to(helm: Helm, values: pathlib.Path) -> None:
    objects = helm.render(values=values)
    places = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in objects
    ]
    assert len(set(places)) == len(places)
    for each in objects:
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "whipstaff"
        assert labels["app.kubernetes.io/instance"] == rendering.RELEASE
        assert labels["app.kubernetes.io/component"]
        assert len(each["metadata"]["name"]) <= 63


def test_selectors_never_change_with_the_version(helm: Helm, values: pathlib.Path) -> None:
    for each in rendering.of_kind(
        helm.render(values=values), "Deployment", "StatefulSet", "DaemonSet"
    ):
        selector = each["spec"]["selector"]["matchLabels"]
        assert selector.keys() == {
            f"app.kubernetes.io/{k}" for k in ("name", "instance", "component")
        }
        assert selector.items() <= each["spec"]["template"]["metadata"]["labels"].items()


def test_only_the_twin_has_more_rights_on_its_machine_than_anybody(
    helm: Helm, values: pathlib.Path
) -> None:
    pods = rendering.pod_specs(helm.render(values=values))
    assert pods
    for name in pods.keys() - PRIVILEGED:
        pod = pods[name]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert not any("hostPath" in volume for volume in pod.get("volumes", ())), name
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_every_component_is_watched_over(helm: Helm, values: pathlib.Path) -> None:
    for each in rendering.of_kind(
        helm.render(values=values), "Deployment", "StatefulSet", "DaemonSet"
    ):
        pod = each["spec"]["template"]["spec"]
        container = pod["containers"][-1]
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert {"name": "https"}.items() <= container["ports"][0].items()
        assert pod["priorityClassName"].startswith("system-")
        assert container["resources"]["requests"]


def test_the_scheduler_is_a_second_one_by_default(helm: Helm) -> None:
    objects = helm.render()
    (deployment,) = rendering.of_kind(objects, "Deployment")
    arguments = arguments_of(deployment["spec"]["template"]["spec"])
    assert [each for each in arguments if "scheduler-name" in each] == [
        "--scheduler-name=whipstaff"
    ]
    assert deployment["spec"]["replicas"] == 2
    (budget,) = rendering.of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert not rendering.of_kind(objects, "ServiceMonitor", "NetworkPolicy", "StatefulSet")


def test_the_scheduler_can_be_the_default_one(helm: Helm) -> None:
    (deployment,) = rendering.of_kind(helm.render("--set", "scheduler.default=true"), "Deployment")
    arguments = arguments_of(deployment["spec"]["template"]["spec"])
    assert {"--scheduler-name=whipstaff", "--scheduler-name=default-scheduler"} <= set(arguments)


def test_profiles_name_the_schedulers_themselves(helm: Helm, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("scheduler: {config: {profiles: [{schedulerName: mine}]}}")
    objects = helm.render(values=file)
    (deployment,) = rendering.of_kind(objects, "Deployment")
    arguments = arguments_of(deployment["spec"]["template"]["spec"])
    assert not [each for each in arguments if "scheduler-name" in each]
    config = yaml.safe_load(
        rendering.named(objects, "ConfigMap", "-scheduler")["data"]["scheduler.yaml"]
    )
    assert config == {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "profiles": [{"schedulerName": "mine"}],
    }


def test_a_new_configuration_rolls_the_scheduler_out(helm: Helm) -> None:
    def mark(share: int) -> str:
        objects = helm.render("--set", f"scheduler.config.percentageOfNodesToScore={share}")
        (deployment,) = rendering.of_kind(objects, "Deployment")
        found: str = deployment["spec"]["template"]["metadata"]["annotations"][
            "whipstaff.io/config"
        ]
        return found

    assert mark(1) == mark(1) != mark(2)


def test_plugins_are_on_the_path_of_python(helm: Helm) -> None:
    objects = helm.render(values=CHART / "ci" / "default-scheduler-values.yaml")
    (deployment,) = rendering.of_kind(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    environment = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    folders = environment["PYTHONPATH"].split(":")
    assert folders == [
        "/plugins/configmap-placement-policy",
        "/plugins/image-spread",
        "/plugins/image-gang/src",
    ]
    mounted = [each["mountPath"] for each in pod["containers"][0]["volumeMounts"]]
    assert all(any(folder.startswith(mount) for mount in mounted) for folder in folders)
    (copying,) = pod["initContainers"]
    assert copying["command"] == ["cp", "-r", "/plugins/.", "/target"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["image-gang"]["image"]["reference"] == "example.com/gang:1"


def test_the_controllers_come_up_without_a_deployment_controller(helm: Helm) -> None:
    objects = helm.render("--set", "controllers.enabled=true,scheduler.enabled=false")
    (workload,) = rendering.of_kind(objects, "StatefulSet", "Deployment")
    assert workload["kind"] == "StatefulSet"
    assert workload["spec"]["podManagementPolicy"] == "Parallel"
    assert rendering.named(objects, "Service", workload["spec"]["serviceName"])


def test_controllers_that_look_on_may_write_nothing(helm: Helm) -> None:
    objects = helm.render(values=CHART / "ci" / "shadow-values.yaml")
    rules = [
        rule for role in rendering.of_kind(objects, "Role", "ClusterRole") for rule in role["rules"]
    ]
    written = {
        (resource, verb)
        for rule in rules
        for resource in rule["resources"]
        for verb in set(rule["verbs"]) - {"get", "list", "watch"}
    }
    assert written == {("tokenreviews", "create"), ("subjectaccessreviews", "create")}


def test_a_lease_goes_with_its_release(helm: Helm) -> None:
    objects = helm.render("--set", "controllers.enabled=true")
    leases = {each["metadata"]["name"]: each for each in rendering.of_kind(objects, "Lease")}
    names = set()
    for each in rendering.pod_specs(objects).values():
        for argument in each["containers"][0].get("args", ()):
            if argument.startswith("--leader-elect-resource-name="):
                names.add(argument.partition("=")[2])
    assert leases.keys() == names == {"demo-whipstaff-scheduler", "demo-whipstaff-controllers"}
    assert all("spec" not in each for each in leases.values())


def test_only_pods_are_hooks_of_tests(helm: Helm, values: pathlib.Path) -> None:
    # `helm test --logs` asks for a log of each.
    hooks = [
        each["kind"]
        for each in helm.render(values=values)
        if each["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"
    ]
    assert set(hooks) <= {"Pod"}
    assert not rendering.of_kind(helm.render("--set", "tests.enabled=false", values=values), "Pod")


def test_a_fleet_is_divided_among_its_replicas(helm: Helm) -> None:
    objects = helm.render(values=CHART / "ci" / "replacement-values.yaml")
    fleet = rendering.named(objects, "StatefulSet", "node-agent")
    arguments = arguments_of(fleet["spec"]["template"]["spec"])
    assert {"--nodes=10", "--node-name=demo-whipstaff-$(REPLICA)"} <= set(arguments)
    assert fleet["spec"]["replicas"] == 2
    refusal = helm.refusal(
        "--set", "nodeAgent.enabled=true,nodeAgent.simulated.nodes=5,nodeAgent.simulated.replicas=2"
    )
    assert "nodeAgent.simulated.nodes: 5 nodes can't be divided equally among 2" in refusal


def test_twins_keep_away_from_what_stock_nodes_run(helm: Helm) -> None:
    objects = helm.render(values=CHART / "ci" / "twin-values.yaml")
    settings = yaml.safe_load(
        rendering.named(objects, "ConfigMap", "-node-agent")["data"]["agent.yaml"]
    )
    assert settings["nodes"]["addressType"] == "ExternalIP"
    assert settings["healthzPort"] == 0, "the kubelet has the port"
    assert settings["nodes"]["labels"]["kubernetes.io/os"] != "linux"
    assert settings["nodes"]["taints"][0]["effect"] == "NoSchedule"
    assert settings["nodes"]["reserved"] == {"cpu": "1", "memory": "1Gi"}
    (twin,) = rendering.of_kind(objects, "DaemonSet")
    pod = twin["spec"]["template"]["spec"]
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchExpressions"] == [{"key": "whipstaff.io/mode", "operator": "DoesNotExist"}]
    arguments = arguments_of(pod)
    assert {each for each in arguments if "--port" in each} == {"--port=10350"}
    copied = [each for each in arguments if "--copy-image" in each]
    assert copied[0] == f"--copy-image={pod['containers'][0]['image']}"
    assert copied[1] == "--copy-image=docker.io/library/busybox:1.37"
    (memory,) = (each for each in pod["volumes"] if each["name"] == "run")
    assert memory["emptyDir"] == {"medium": "Memory"}


def test_images_are_of_the_charts_version_unless_told(helm: Helm) -> None:
    def image(*settings: str) -> str:
        (deployment,) = rendering.of_kind(helm.render(*settings), "Deployment")
        found: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        return found

    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert image() == f"ghcr.io/whipstaff/scheduler:{version}"
    assert image("--set", "image.tag=v9") == "ghcr.io/whipstaff/scheduler:v9"
    assert image("--set", "image.registry=localhost,scheduler.image.tag=v8").startswith(
        "localhost/"
    )
    digest = "sha256:" + "0" * 64
    assert image("--set", f"scheduler.image.digest={digest}").endswith(f"scheduler@{digest}")


def test_a_release_in_kube_system_has_one_role_there(helm: Helm) -> None:
    objects = helm.render("--set", "controllers.enabled=true", namespace="kube-system")
    roles = [
        (each["metadata"]["namespace"], each["metadata"]["name"])
        for each in rendering.of_kind(objects, "Role")
        if not each["metadata"]["name"].endswith("-test")
    ]
    assert sorted(roles) == [
        ("kube-system", "demo-whipstaff-controllers"),
        ("kube-system", "demo-whipstaff-scheduler"),
    ]
