"""What a KubeSchedulerConfiguration says, and how a wrong one is refused."""

import pathlib
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from whipstaff.runtime import errors, flags
from whipstaff.scheduler import configuration, plugin_arguments, plugin_sets, strict

Load = Callable[..., configuration.Configuration]

HEADER = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"


@pytest.fixture
def load(tmp_path: pathlib.Path) -> Load:
    def load(text: str, header: str = HEADER, **settings: Any) -> configuration.Configuration:
        path = tmp_path / "scheduler.yaml"
        path.write_text(header + textwrap.dedent(text))
        return configuration.load(str(path), **settings)

    return load


@pytest.fixture
def problem(load: Load, tmp_path: pathlib.Path) -> Callable[..., str]:
    def problem(text: str, header: str = HEADER) -> str:
        with pytest.raises(errors.ConfigurationError) as caught:
            load(text, header)
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(f"{tmp_path}/scheduler.yaml: ")
        return message.removeprefix(f"{tmp_path}/scheduler.yaml: ")

    return problem


# Files that load.


def test_an_empty_configuration_is_upstreams_default(load: Load) -> None:
    settings = load("")
    [profile] = settings.profiles
    assert profile.scheduler_name == "default-scheduler"
    assert profile.plugins["multiPoint"].enabled == plugin_sets.DEFAULT_PLUGINS
    assert settings.pod_initial_backoff == 1
    assert settings.pod_max_backoff == 10
    assert settings.leader_election == flags.LeaderElection(
        True, 15, 10, 2, "whipstaff-scheduler", "kube-system"
    )


def test_without_a_file_the_scheduler_runs_beside_the_stock_one() -> None:
    [profile] = configuration.Configuration().profiles
    assert profile.scheduler_name == "whipstaff"


def test_the_client_is_limited_only_when_the_file_says_so(load: Load) -> None:
    assert load("").client_connection == configuration.ClientConnection(None, None, None)
    limited = load("clientConnection: {qps: 50, burst: 100, kubeconfig: /etc/kubeconfig}")
    assert limited.client_connection == configuration.ClientConnection("/etc/kubeconfig", 50, 100)
    assert load("clientConnection: {qps: -1, burst: 100}").client_connection.qps is None


def test_a_file_written_out_by_the_stock_scheduler_loads(load: Load) -> None:
    settings = load("""
        clientConnection:
          acceptContentTypes: ""
          burst: 100
          contentType: application/vnd.kubernetes.protobuf
          kubeconfig: ""
          qps: 50
        delayCacheUntilActive: false
        enableContentionProfiling: true
        enableProfiling: true
        extenders: null
        leaderElection:
          leaderElect: true
          leaseDuration: 15s
          renewDeadline: 10s
          resourceLock: leases
          resourceName: kube-scheduler
          resourceNamespace: kube-system
          retryPeriod: 2s
        parallelism: 16
        percentageOfNodesToScore: 0
        podInitialBackoffSeconds: 1
        podMaxBackoffSeconds: 10
        profiles:
        - pluginConfig:
          - args:
              apiVersion: kubescheduler.config.k8s.io/v1
              kind: DefaultPreemptionArgs
              minCandidateNodesAbsolute: 100
              minCandidateNodesPercentage: 10
            name: DefaultPreemption
          - args:
              apiVersion: kubescheduler.config.k8s.io/v1
              bindingTimeout: 10m0s
              filterTimeout: 10s
              kind: DynamicResourcesArgs
            name: DynamicResources
          - args:
              apiVersion: kubescheduler.config.k8s.io/v1
              hardPodAffinityWeight: 1
              ignorePreferredTermsOfExistingPods: false
              kind: InterPodAffinityArgs
            name: InterPodAffinity
          - args:
              apiVersion: kubescheduler.config.k8s.io/v1
              kind: NodeAffinityArgs
            name: NodeAffinity
          - args:
              apiVersion: kubescheduler.config.k8s.io/v1
              kind: NodeResourcesBalancedAllocationArgs
              resources:
              - {name: cpu, weight: 1}
              - {name: memory, weight: 1}
            name: NodeResourcesBalancedAllocation
          - args:
              apiVersion: kubescheduler.config.k8s.io/v1
              kind: NodeResourcesFitArgs
              scoringStrategy:
                resources:
                - {name: cpu, weight: 1}
                - {name: memory, weight: 1}
                type: LeastAllocated
            name: NodeResourcesFit
          - args:
              apiVersion: kubescheduler.config.k8s.io/v1
              defaultingType: System
              kind: PodTopologySpreadArgs
            name: PodTopologySpread
          - args:
              apiVersion: kubescheduler.config.k8s.io/v1
              bindTimeoutSeconds: 600
              kind: VolumeBindingArgs
            name: VolumeBinding
          plugins:
            bind: {}
            filter: {}
            multiPoint:
              enabled:
              - {name: SchedulingGates, weight: 0}
              - {name: PrioritySort, weight: 0}
              - {name: NodeUnschedulable, weight: 0}
              - {name: NodeName, weight: 0}
              - {name: TaintToleration, weight: 3}
              - {name: NodeAffinity, weight: 2}
              - {name: NodePorts, weight: 0}
              - {name: NodeResourcesFit, weight: 1}
              - {name: VolumeRestrictions, weight: 0}
              - {name: NodeVolumeLimits, weight: 0}
              - {name: VolumeBinding, weight: 0}
              - {name: VolumeZone, weight: 0}
              - {name: PodTopologySpread, weight: 2}
              - {name: InterPodAffinity, weight: 2}
              - {name: DynamicResources, weight: 2}
              - {name: DefaultPreemption, weight: 0}
              - {name: NodeResourcesBalancedAllocation, weight: 1}
              - {name: ImageLocality, weight: 1}
              - {name: DefaultBinder, weight: 0}
              - {name: NodeDeclaredFeatures, weight: 0}
            permit: {}
            score: {}
          schedulerName: default-scheduler
        """)
    assert settings.leader_election.resource_name == "kube-scheduler"
    [profile] = settings.profiles
    assert profile.plugins["multiPoint"].enabled == plugin_sets.DEFAULT_PLUGINS
    assert profile.arguments == configuration.Profile("x").arguments


def test_several_profiles_each_with_its_own_scoring(load: Load) -> None:
    settings = load("""
        profiles:
        - schedulerName: spread
        - schedulerName: pack
          pluginConfig:
          - name: NodeResourcesFit
            args:
              scoringStrategy:
                type: MostAllocated
                resources: [{name: cpu, weight: 3}, {name: memory}]
        """)
    spread, pack = settings.profiles
    assert spread.arguments["NodeResourcesFit"]["scoringStrategy"]["type"] == "LeastAllocated"
    assert pack.arguments["NodeResourcesFit"]["scoringStrategy"] == {
        "type": "MostAllocated",
        "resources": [{"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}],
    }


def test_json_is_yaml(load: Load) -> None:
    header = ""
    settings = load(
        '{"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",'
        ' "podMaxBackoffSeconds": 20}',
        header,
    )
    assert settings.pod_max_backoff == 20


def test_a_plugin_from_a_package_may_be_named(load: Load) -> None:
    text = """
        profiles:
        - plugins: {score: {enabled: [{name: Mine, weight: 4}]}}
          pluginConfig: [{name: Mine, args: {a: [1]}}]
        """
    [profile] = load(text, external=["Mine"]).profiles
    assert profile.plugins["score"].enabled == (("Mine", 4),)
    assert profile.arguments["Mine"] == {"a": [1]}
    [profile] = load(text.replace("Mine", "'my.package:Mine'")).profiles
    assert profile.plugins["score"].enabled == (("my.package:Mine", 4),)


# Files that don't.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("podMaxBackofSeconds: 3", "podMaxBackofSeconds: unknown field (known: kind, apiVersion,"),
        ("parallelism: 0", "parallelism: 0 is not at least 1"),
        ("parallelism: many", "parallelism: expected a whole number, found the text 'many'"),
        ("parallelism: true", "parallelism: expected a whole number, found true"),
        ("parallelism: 1.5", "parallelism: expected a whole number, found the value 1.5"),
        ("percentageOfNodesToScore: 101", "percentageOfNodesToScore: 101 is not between 0 and 100"),
        ("podInitialBackoffSeconds: 0", "podInitialBackoffSeconds: 0 is not at least 1"),
        (
            "podInitialBackoffSeconds: 5\npodMaxBackoffSeconds: 2",
            "podMaxBackoffSeconds: must not be less than podInitialBackoffSeconds",
        ),
        ("extenders: [{urlPrefix: ''}]", "extenders[0].urlPrefix: must not be empty"),
        ("profiles: {}", "profiles: expected a list, found a mapping"),
        ("profiles: [web]", "profiles[0]: expected a mapping, found the text 'web'"),
        ("profiles: [{schedulerName: a}, {}]", "profiles[1].schedulerName: is required"),
        (
            "profiles: [{schedulerName: a}, {schedulerName: a}]",
            "profiles[1].schedulerName: a is given twice",
        ),
        (
            "profiles: [{plugins: {score: {enabled: [{nmae: NodeAffinity}]}}}]",
            (
                "profiles[0].plugins.score.enabled[0].name: is required; "
                "profiles[0].plugins.score.enabled[0].nmae: unknown field (known: name, weight)"
            ),
        ),
        (
            "profiles: [{plugins: {scores: {}}}]",
            "profiles[0].plugins.scores: unknown field (known: multiPoint, preEnqueue,",
        ),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: NodeAfinity}]}}}]",
            (
                "profiles[0].plugins.filter.enabled[0].name: unknown plugin NodeAfinity: neither"
                " one of"
                " Kubernetes' nor found in an installed package"
            ),
        ),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: EBSLimits}]}}}]",
            (
                "profiles[0].plugins.filter.enabled[0].name: EBSLimits was removed from"
                " kubescheduler.config.k8s.io/v1"
            ),
        ),
        (
            "profiles: [{plugins: {score: {enabled: [{name: NodeAffinity, weight: heavy}]}}}]",
            (
                "profiles[0].plugins.score.enabled[0].weight: expected a whole number, found the"
                " text"
                " 'heavy'"
            ),
        ),
        (
            (
                "profiles: [{schedulerName: a},"
                " {schedulerName: b, plugins: {queueSort: {disabled: [{name: '*'}]}}}]"
            ),
            "profiles[1].plugins.queueSort: must be the same for all profiles",
        ),
        (
            (
                "profiles: [{pluginConfig: [{name: NodeResourcesFit,"
                " args: {scoringStrategy: {type: Best}}}]}]"
            ),
            (
                "profiles[0].pluginConfig[0].args.scoringStrategy.type: expected one of"
                " LeastAllocated,"
                " MostAllocated, RequestedToCapacityRatio, found the text 'Best'"
            ),
        ),
        (
            (
                "profiles: [{pluginConfig: [{name: NodeAffinity,"
                " args: {kind: NodeResourcesFitArgs}}]}]"
            ),
            (
                "profiles[0].pluginConfig[0].args.kind: expected NodeAffinityArgs, found"
                " NodeResourcesFitArgs"
            ),
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeName}, {name: NodeName}]}]",
            "profiles[0].pluginConfig[1].name: NodeName is configured twice",
        ),
        (
            "leaderElection: {leaseDuration: 15}",
            "leaderElection.leaseDuration: expected a duration such as 15s, found the value 15",
        ),
        (
            "leaderElection: {leaseDuration: soon}",
            "leaderElection.leaseDuration: 'soon' is not a duration such as 15s or 1m30s",
        ),
        (
            "leaderElection: {leaseDuration: 5s}",
            "leaderElection.leaseDuration: must be greater than renewDeadline",
        ),
        (
            "leaderElection: {resourceLock: endpoints}",
            "leaderElection.resourceLock: must be leases",
        ),
        ("leaderElection: {leaderElect: maybe}", "leaderElection.leaderElect: expected true or"),
        (
            "clientConnection: {qps: fast}",
            "clientConnection.qps: expected a number, found the text",
        ),
        ("clientConnection: {burst: -1}", "clientConnection.burst: -1 is not at least 0"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(
    problem: Callable[..., str], text: str, message: str
) -> None:
    assert problem(text).startswith(message)


def test_every_wrong_field_is_named_at_once(problem: Callable[..., str]) -> None:
    assert problem("parallelism: 0\nparalelism: 3\nprofiles: [{schedulerNam: x}]") == (
        "parallelism: 0 is not at least 1; "
        "profiles[0].schedulerNam: unknown field (known: schedulerName, percentageOfNodesToScore,"
        " plugins, pluginConfig); "
        "paralelism: unknown field (known: kind, apiVersion, parallelism, percentageOfNodesToScore,"
        " enableProfiling, enableContentionProfiling, podInitialBackoffSeconds,"
        " podMaxBackoffSeconds, extenders, profiles, leaderElection, clientConnection,"
        " delayCacheUntilActive)"
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "kind: KubeSchedulerConfiguration\n",
            "apiVersion: expected kubescheduler.config.k8s.io/v1",
        ),
        (
            "apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n",
            (
                "apiVersion: expected kubescheduler.config.k8s.io/v1, found"
                " kubescheduler.config.k8s.io/v1beta3"
            ),
        ),
        (
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: Pod\n",
            "kind: expected KubeSchedulerConfiguration, found Pod",
        ),
        ("- a\n- b\n", "expected a mapping, found a list"),
        ("", "expected a mapping, found nothing"),
        ("a: 1\na: 2\n", "line 2, column 1: the field 'a' is given twice"),
        ("a: [1\n", "line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: but found another document"),
    ],
)
def test_a_file_that_is_something_else_is_refused(
    problem: Callable[..., str], header: str, message: str
) -> None:
    assert problem("", header).startswith(message)


def test_a_file_that_cannot_be_read_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"absent.yaml: No such file or directory"):
        configuration.load(str(tmp_path / "absent.yaml"))
    with pytest.raises(errors.ConfigurationError, match="Is a directory"):
        configuration.load(str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(errors.ConfigurationError, match="not UTF-8 text"):
        configuration.load(str(tmp_path / "binary"))


# Arguments of plugins.


@pytest.mark.parametrize(
    ("plugin", "args", "message"),
    [
        (
            "DefaultPreemption",
            {"minCandidateNodesPercentage": 101},
            "minCandidateNodesPercentage: 101",
        ),
        (
            "DefaultPreemption",
            {"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": 0},
            "minCandidateNodesPercentage: must not be zero at the same time",
        ),
        ("InterPodAffinity", {"hardPodAffinityWeight": -1}, "hardPodAffinityWeight: -1 is not"),
        ("NodeResourcesFit", {"ignoredResources": ["a b"]}, "ignoredResources[0]: 'a b' is not"),
        (
            "NodeResourcesFit",
            {"ignoredResourceGroups": ["a/b"]},
            "ignoredResourceGroups[0]: must not contain a '/'",
        ),
        (
            "NodeResourcesFit",
            {"scoringStrategy": {"resources": [{"name": "cpu", "weight": 101}]}},
            "scoringStrategy.resources[0].weight: 101 is not between 0 and 100",
        ),
        (
            "NodeResourcesFit",
            {"scoringStrategy": {"type": "RequestedToCapacityRatio"}},
            "scoringStrategy.requestedToCapacityRatio.shape: must have at least one point",
        ),
        (
            "NodeResourcesFit",
            {"scoringStrategy": {"requestedToCapacityRatio": {"shape": []}}},
            "scoringStrategy.requestedToCapacityRatio: must be absent when type is LeastAllocated",
        ),
        (
            "NodeResourcesFit",
            {
                "scoringStrategy": {
                    "type": "RequestedToCapacityRatio",
                    "requestedToCapacityRatio": {
                        "shape": [
                            {"utilization": 50, "score": 1},
                            {"utilization": 50, "score": 11},
                        ]
                    },
                }
            },
            (
                "scoringStrategy.requestedToCapacityRatio.shape[1].score: 11 is not between 0"
                " and 10;"
                " scoringStrategy.requestedToCapacityRatio.shape[1].utilization: must be higher"
            ),
        ),
        (
            "NodeResourcesBalancedAllocation",
            {"resources": [{"name": "cpu", "weight": 2}]},
            "resources[0].weight: 2 is not between 0 and 1",
        ),
        (
            "NodeResourcesBalancedAllocation",
            {"resources": [{"name": "cpu"}, {"name": "cpu"}]},
            "resources[1].name: cpu is given twice",
        ),
        (
            "NodeAffinity",
            {"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}},
            "addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: must",
        ),
        (
            "NodeAffinity",
            {
                "addedAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "weight": 1,
                            "preference": {"matchExpressions": [{"key": "a", "operator": "In"}]},
                        }
                    ]
                }
            },
            (
                "addedAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference"
                ".matchExpressions[0].values: must not be empty for operator In"
            ),
        ),
        (
            "PodTopologySpread",
            {
                "defaultConstraints": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
                ]
            },
            "defaultingType: must be List when defaultConstraints is not empty",
        ),
        (
            "PodTopologySpread",
            {"defaultingType": "List", "defaultConstraints": [{"topologyKey": "zone"}]},
            "defaultConstraints[0].maxSkew: is required; defaultConstraints[0].whenUnsatisfiable:",
        ),
        ("VolumeBinding", {"bindTimeoutSeconds": -1}, "bindTimeoutSeconds: -1 is not at least 0"),
        ("VolumeBinding", {"shape": []}, "shape: needs the feature gate StorageCapacityScoring"),
        ("DynamicResources", {"bindingTimeout": "10ms"}, "bindingTimeout: must be at least 1s"),
        (
            "NodeAffinity",
            {"addedAfinity": {}},
            "addedAfinity: unknown field (known: kind, apiVersion",
        ),
    ],
)
def test_wrong_arguments_are_named(plugin: str, args: dict[str, Any], message: str) -> None:
    problems = []
    plugin_arguments.read(plugin, strict.Fields(args, "", problems), configuration.API_VERSION)
    assert "; ".join(problems).startswith(message)


def test_arguments_have_upstreams_defaults() -> None:
    assert plugin_arguments.defaults("NodeResourcesFit") == {
        "ignoredResources": [],
        "ignoredResourceGroups": [],
        "scoringStrategy": {
            "type": "LeastAllocated",
            "resources": [{"name": "cpu", "weight": 1}, {"name": "memory", "weight": 1}],
        },
    }
    assert plugin_arguments.defaults("InterPodAffinity")["hardPodAffinityWeight"] == 1
    assert plugin_arguments.defaults("DynamicResources") == {
        "filterTimeout": 10,
        "bindingTimeout": 600,
    }
    assert plugin_arguments.defaults("PrioritySort") == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15s", 15),
        ("1m30s", 90),
        ("1h", 3600),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("0", 0),
        ("-2s", -2),
    ],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert strict.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "15", "1 s", "1m 30s", "1d", "--1s"])
def test_what_go_refuses_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        strict.duration(text)


# Which plugins run where.

IMPLEMENTS = {
    "SchedulingGates": {"preEnqueue"},
    "PrioritySort": {"queueSort"},
    "NodeAffinity": {"preFilter", "filter", "preScore", "score"},
    "TaintToleration": {"filter", "preScore", "score"},
    "NodeResourcesFit": {"preFilter", "filter", "preScore", "score"},
    "ImageLocality": {"score"},
    "Mine": {"filter", "score"},
}


def expand(**sets: Any) -> plugin_sets.Expansion:
    merged = plugin_sets.merge(
        {point: plugin_sets.PluginSet(*group) for point, group in sets.items()}
    )
    return plugin_sets.expand(merged, lambda name, point: point in IMPLEMENTS.get(name, ()))


def test_the_default_set_reaches_every_point_in_upstreams_order() -> None:
    expansion = expand()
    assert expansion.points["filter"] == ("TaintToleration", "NodeAffinity", "NodeResourcesFit")
    assert expansion.points["score"] == (
        "TaintToleration",
        "NodeAffinity",
        "NodeResourcesFit",
        "ImageLocality",
    )
    assert expansion.points["preEnqueue"] == ("SchedulingGates",)
    assert expansion.weights == {
        "TaintToleration": 3,
        "NodeAffinity": 2,
        "NodeResourcesFit": 1,
        "ImageLocality": 1,
    }


def test_a_plugin_enabled_at_a_point_with_a_weight_goes_first_there() -> None:
    expansion = expand(score=((("ImageLocality", 50),),))
    assert expansion.points["score"] == (
        "ImageLocality",
        "TaintToleration",
        "NodeAffinity",
        "NodeResourcesFit",
    )
    assert expansion.weights["ImageLocality"] == 50


def test_a_plugin_can_be_switched_off_at_one_point_or_at_all() -> None:
    one = expand(score=((), ("NodeAffinity",)))
    assert "NodeAffinity" not in one.points["score"]
    assert "NodeAffinity" in one.points["filter"]
    everywhere = expand(multiPoint=((), ("NodeAffinity",)))
    assert not any("NodeAffinity" in names for names in everywhere.points.values())
    none = expand(score=((("ImageLocality", 0),), ("*",)))
    assert none.points["score"] == ("ImageLocality",)
    assert none.weights == {"ImageLocality": 1}


def test_a_plugin_of_ones_own_comes_after_the_defaults() -> None:
    expansion = expand(multiPoint=((("Mine", 7),),))
    assert expansion.points["filter"][-1] == "Mine"
    assert expansion.weights["Mine"] == 7


def test_configuring_a_default_plugin_anew_keeps_its_place() -> None:
    expansion = expand(multiPoint=((("NodeAffinity", 9),),))
    assert expansion.points["filter"] == ("TaintToleration", "NodeAffinity", "NodeResourcesFit")
    assert expansion.weights["NodeAffinity"] == 9


def test_disabling_and_enabling_reorders() -> None:
    expansion = expand(multiPoint=((("NodeAffinity", 2),), ("NodeAffinity",)))
    assert expansion.points["filter"] == ("TaintToleration", "NodeResourcesFit", "NodeAffinity")


def test_a_plugin_at_a_point_that_it_does_not_implement_is_refused() -> None:
    with pytest.raises(ValueError, match="plugin ImageLocality does not extend filter"):
        expand(filter=((("ImageLocality", 0),),))


def test_weights_that_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match="could overflow"):
        expand(score=((("ImageLocality", 2**62),),))


# Names from the command line.


def test_scheduler_names_from_the_command_line_replace_the_files(load: Load) -> None:
    settings = load(
        "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 7}}]}]"
    )
    renamed = configuration.effective(settings, ["a", "b", "a"])
    assert [profile.scheduler_name for profile in renamed.profiles] == ["a", "b"]
    for profile in renamed.profiles:
        assert profile.arguments["InterPodAffinity"]["hardPodAffinityWeight"] == 7
    assert configuration.effective(settings, []) is settings


def test_names_for_several_profiles_come_from_the_file(load: Load) -> None:
    settings = load("profiles: [{schedulerName: a}, {schedulerName: b}]")
    with pytest.raises(errors.ConfigurationError, match=r"--scheduler-name: .* has 2 profiles"):
        configuration.effective(settings, ["c"])


@pytest.mark.parametrize("name", ["", "Upper", "under_score", "-dash"])
def test_a_scheduler_name_is_a_subdomain(name: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="is not a scheduler name"):
        configuration.effective(configuration.Configuration(), [name])


def test_the_extenders_of_a_file_are_shown_as_they_are_in_effect(load: Load) -> None:
    settings = load(
        """
        extenders:
        - urlPrefix: http://127.0.0.1:8888/
          filterVerb: filter
          managedResources:
          - {name: example.com/gpu, ignoredByScheduler: true}
          - {name: example.com/tpu}
        """
    )
    [shown] = configuration.describe(settings)["extenders"]
    assert (shown["urlPrefix"], shown["filterVerb"]) == ("http://127.0.0.1:8888/", "filter")
    assert shown["managedResources"] == [
        {"name": "example.com/gpu", "ignoredByScheduler": True},
        {"name": "example.com/tpu", "ignoredByScheduler": False},
    ]


def test_what_is_shown_of_the_configuration_is_a_file_that_gives_the_same(load: Load) -> None:
    settings = load(
        """
        podMaxBackoffSeconds: 20
        profiles:
        - schedulerName: packing
          plugins:
            multiPoint: {enabled: [{name: ImageLocality, weight: 7}]}
            score: {disabled: [{name: NodeAffinity}]}
          pluginConfig:
          - name: NodeResourcesFit
            args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}
          - name: DynamicResources
            args: {filterTimeout: 3s}
        """
    )
    again = configuration.of_document(configuration.describe(settings), settings.source)
    assert again == settings
