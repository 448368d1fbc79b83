"""What the agent is told: every mistake is one line that names file or flag, and field."""

from __future__ import annotations

import pathlib
import textwrap

import click.testing
import pytest

from whipstaff.node_agent import app, command, configuration, loading, machine, nodes, provider
from whipstaff.node_agent.images import pulling as images
from whipstaff.runtime import errors

HEAD = "apiVersion: whipstaff.io/v1alpha1\nkind: NodeAgentConfiguration\n"


@pytest.fixture
def file(tmp_path: pathlib.Path):  # noqa: ANN201
    def write(body: str, head: str = HEAD) -> str:
        path = tmp_path / "agent.yaml"
        path.write_text(head + textwrap.dedent(body))
        return str(path)

    return write


def test_without_a_file_there_are_defaults() -> None:
    settings = configuration.load(None)
    plan = app.Plan(("node-1",), settings, ("10.0.0.1",))
    assert plan.template().capacity == configuration.DEFAULT_CAPACITY
    assert settings.timing.lease_duration == 40
    assert (settings.healthz_bind_address, settings.healthz_port) == ("127.0.0.1", 10248)
    assert (settings.logs.enabled, settings.logs.query) == (True, False)


def test_a_node_on_this_machine_has_what_the_machine_has() -> None:
    settings = configuration.Settings(capacity={"example.com/gpu": "4"})
    plan = app.Plan(("node-1",), settings, ("10.0.0.1",))
    real = machine.read("/")
    capacity = plan.template(real).capacity
    assert capacity["cpu"] == str(real.cpus)
    assert capacity["pods"] == "110"
    assert capacity["example.com/gpu"] == "4"
    declared = plan.template(real).declared
    assert "InPlacePodLevelResourcesVerticalScaling" in declared
    assert "ExtendWebSocketsToKubelet" not in declared, "the runtime's streams don't speak it"
    assert plan.template().declared == ("RestartAllContainersOnContainerExits",)


def test_everything_can_be_said(file) -> None:  # noqa: ANN001
    settings = configuration.load(
        file("""
        nodes:
          capacity: {cpu: 8, pods: 250, example.com/gpu: "4"}
          reserved: {memory: 1Gi}
          labels: {disk: ssd, topology.kubernetes.io/zone: [a, b]}
          annotations: {note: hello}
          taints: [{key: sim, value: "yes", effect: NoSchedule}]
          providerID: sim://{name}
          addressType: ExternalIP
        heartbeats: {leaseDurationSeconds: 20, renewIntervalSeconds: 5, statusReportSeconds: 60}
        events: {qps: 5, burst: 7}
        statusWriters: 8
        provider: {jobSeconds: 9}
        cgroups: {root: /nodes/a, driver: systemd}
        podLogsDir: /srv/logs
        resolvConf: /run/resolv.conf
        images: {maxParallelPulls: 2, registryPullQPS: 1, registryBurst: 3}
        healthzPort: 0
        healthzBindAddress: "::1"
        enableSystemLogHandler: true
        enableSystemLogQuery: true
        """)
    )
    assert settings.capacity == {"cpu": "8", "pods": "250", "example.com/gpu": "4"}
    assert (settings.cgroup_root, settings.cgroup_driver) == ("/nodes/a", "systemd")
    assert settings.address_type == "ExternalIP"
    assert (settings.pod_logs, settings.resolv_conf) == ("/srv/logs", "/run/resolv.conf")
    assert settings.pulls == images.Limits(parallel=2, qps=1, burst=3)
    assert settings.pods_per_node == 250
    assert settings.labels == {"disk": ["ssd"], "topology.kubernetes.io/zone": ["a", "b"]}
    assert (settings.event_qps, settings.event_burst, settings.status_writers) == (5, 7, 8)
    assert settings.timing.lease_interval == 5
    assert settings.provider == {"jobSeconds": 9}
    assert (settings.healthz_bind_address, settings.healthz_port) == ("::1", 0)
    assert settings.logs.query


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("nods: {}", "nods: unknown field"),
        ("nodes: {capcity: {}}", "nodes.capcity: unknown field (known: capacity,"),
        ("nodes: {capacity: {cpu: lots}}", "nodes.capacity.cpu: 'lots' is not a quantity"),
        ("nodes: {capacity: {cpu: -1}}", "nodes.capacity.cpu: -1 is negative"),
        ("nodes: {capacity: [1]}", "nodes.capacity: must be a mapping"),
        ("nodes: {reserved: {gpu: 1}}", "nodes.reserved.gpu: is not part of nodes.capacity"),
        ("nodes: {labels: {'a b': c}}", "nodes.labels.a b: label key"),
        ("nodes: {labels: {zone: []}}", "nodes.labels.zone: [] is no text or list of texts"),
        ("nodes: {taints: [{key: a, effect: Never}]}", "nodes.taints[0]: effect 'Never' is none"),
        ("nodes: {taints: [{kee: a}]}", "nodes.taints[0].kee: unknown field"),
        ("nodes: {annotations: {a: 1}}", "nodes.annotations.a: 1 is not a text"),
        ("heartbeats: {leaseDurationSeconds: 0}", "heartbeats.leaseDurationSeconds: 0 is not"),
        ("heartbeats: {renewIntervalSeconds: 50}", "must be less than leaseDurationSeconds (40)"),
        ("events: {qps: true}", "events.qps: True is not a number"),
        ("cgroups: {driver: docker}", "cgroups.driver: 'docker' is neither cgroupfs nor systemd"),
        ("nodes: {addressType: Hostname}", "nodes.addressType: 'Hostname' is neither InternalIP"),
        ("images: {maxParallelPulls: -1}", "images.maxParallelPulls: -1 is not a number from 0"),
        ("statusWriters: none", "statusWriters: 'none' is not a number from 1 up"),
        ("healthzPort: 70000", "healthzPort: 70000 is no port"),
        ("healthzBindAddress: here", "healthzBindAddress: 'here' does not appear to be an IP"),
        ("enableSystemLogHandler: 1", "enableSystemLogHandler: 1 is neither true nor false"),
        (
            "enableSystemLogHandler: false\nenableSystemLogQuery: true",
            "enableSystemLogQuery: enableSystemLogHandler is required for it",
        ),
        ("- 1", "agent.yaml: "),
        ("a: [", "agent.yaml: "),
    ],
)
def test_a_mistake_in_the_file_is_named(file, body: str, complaint: str) -> None:  # noqa: ANN001
    path = file(body, head="" if body.startswith("- ") else HEAD)
    with pytest.raises(errors.ConfigurationError) as caught:
        configuration.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_for_something_else_is_refused(file) -> None:  # noqa: ANN001
    with pytest.raises(errors.ConfigurationError, match=r"kind: must be NodeAgentConfiguration"):
        configuration.load(file("", head="apiVersion: whipstaff.io/v1alpha1\nkind: Other\n"))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(errors.ConfigurationError, match="/no/such/file: No such file"):
        configuration.load("/no/such/file")


def test_labels_are_dealt_out_in_turn() -> None:
    template = nodes.Template(
        capacity=configuration.DEFAULT_CAPACITY, labels={"zone": ["a", "b"], "disk": ["ssd"]}
    )
    fleet = nodes.make(["n-0", "n-1", "n-2"], template)
    labels = [nodes.initial(node, template, 0)["metadata"]["labels"] for node in fleet.values()]
    assert [found["zone"] for found in labels] == ["a", "b", "a"]
    assert {found["disk"] for found in labels} == {"ssd"}


def test_what_is_reserved_is_not_allocatable() -> None:
    template = nodes.Template(
        capacity={"cpu": "4", "memory": "8Gi", "hugepages-2Mi": "1Gi"},
        reserved={"cpu": "500m", "memory": "1Gi"},
    )
    assert template.allocatable == {"cpu": "3500m", "memory": "6Gi", "hugepages-2Mi": "1Gi"}


def test_labels_and_taints_come_as_flags() -> None:
    assert configuration.parse_labels("a=b, example.com/c=") == {"a": ["b"], "example.com/c": [""]}
    assert configuration.parse_taints("a=b:NoSchedule,c:NoExecute") == [
        {"key": "a", "effect": "NoSchedule", "value": "b"},
        {"key": "c", "effect": "NoExecute"},
    ]


# The command.


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(command.command, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--provider", "docker"), "--provider docker: must be cri, simulated or MODULE:ATTRIBUTE"),
        (("--provider", "nosuchmodule:x"), "nosuchmodule can't be imported: ModuleNotFoundError"),
        (("--provider", "json:nope"), "--provider json:nope: module json has no nope"),
        (("--node-labels", "a"), "--node-labels: 'a' is not key=value"),
        (("--node-labels", "a=b c"), "--node-labels: label 'a': value 'b c' must be"),
        (("--register-with-taints", "a=b"), "--register-with-taints a=b: effect"),
        (("--config", "/no/such"), "/no/such: No such file or directory"),
        (("--healthz-bind-address", "here"), "--healthz-bind-address: 'here' is not an IP address"),
        (("--node-name", "A_b"), "--node-name: 'A_b' can't be the name of a node"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments: tuple[str, ...], complaint: str) -> None:
    if "--provider" not in arguments:
        arguments = ("--provider", "simulated", *arguments)
    found = invoke(*arguments)
    assert isinstance(found.exception, errors.ConfigurationError)
    assert complaint in str(found.exception)
    assert "\n" not in str(found.exception)


def test_a_provider_of_one_s_own_is_found_in_the_working_directory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_provider.py").write_text(
        textwrap.dedent("""
        from whipstaff.node_agent import provider

        class Half(provider.Provider):
            async def list(self, uid=None):
                return []

        class Not:
            def __init__(self, options):
                pass
        """)
    )
    monkeypatch.chdir(tmp_path)
    options = provider.Options(("n",))
    with pytest.raises(errors.ConfigurationError, match="abstract"):
        loading.find("my_own_provider:Half")(options)
    with pytest.raises(errors.ConfigurationError, match="is no provider: it has no ensure_sandbox"):
        loading.find("my_own_provider:Not")(options)
    with pytest.raises(errors.ConfigurationError, match="has no Missing"):
        loading.find("my_own_provider:Missing")
