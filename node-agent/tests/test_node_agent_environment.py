"""What a container is started with: its variables, in the order in which they win."""

from __future__ import annotations

import base64
import pathlib
from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import references
from whipstaff.node_agent.environment import expansion, services
from whipstaff.node_agent.environment import files as env_files
from whipstaff.node_agent.environment import resolver as environment
from whipstaff.runtime import errors

Object = dict[str, Any]

ALLOCATABLE = {"cpu": 2000, "memory": 4 << 30, "ephemeral-storage": 10 << 30}


class Objects:
    """ConfigMaps and Secrets; whatever else is asked for doesn't exist."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.asked: list[tuple[str, str, str, str]] = []
        self.error = ""

    def config_map(self, name: str, **data: str) -> None:
        self.objects["ConfigMap", name] = {"metadata": {"name": name}, "data": data}

    def secret(self, name: str, **data: bytes) -> None:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self.objects["Secret", name] = {"metadata": {"name": name}, "data": encoded}

    async def get(self, uid: str, kind: str, namespace: str, name: str) -> Object | None:
        self.asked.append((uid, kind, namespace, name))
        if self.error:
            raise references.UnreadableError(self.error)
        return self.objects.get((kind, name))


class Links:
    """The Services' variables, once they are known."""

    def __init__(self) -> None:
        self.known = True
        self.found = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}

    async def wait(self, timeout: float | None = None) -> None:
        if not self.known:
            raise errors.Unreachable("no answer yet")

    def variables(self, namespace: str, enable_links: bool) -> dict[str, str]:
        more = {"WEB_SERVICE_HOST": "10.96.0.9"} if enable_links else {}
        return self.found | more


class Bench:
    def __init__(self, root: pathlib.Path) -> None:
        self.objects = Objects()
        self.links = Links()
        self.root = root
        self.environment = environment.Environment(
            self.objects,  # type: ignore[arg-type]
            self.links,  # type: ignore[arg-type]
            lambda: ALLOCATABLE,
            root,
        )

    async def resolve(self, spec: Object | None = None, **fields: Any) -> environment.Resolved:
        definition = make.container("app", **fields)
        pod = make.pod(containers=[definition], **(spec or {}))
        return await self.environment.resolve(pod, definition, ["10.0.0.7"], ["192.168.0.1"])

    async def env(self, spec: Object | None = None, **fields: Any) -> dict[str, str]:
        found = (await self.resolve(spec, **fields)).env
        return {name: value for name, value in found.items() if "SERVICE_HOST" not in name}

    async def fails(self, **fields: Any) -> str:
        with pytest.raises(environment.UnresolvableError) as caught:
            await self.resolve(**fields)
        return str(caught.value)


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Bench:
    return Bench(tmp_path)


def variable(name: str, value: str) -> Object:
    return {"name": name, "value": value}


def from_key(kind: str, name: str, key: str, **more: Any) -> Object:
    return {"name": "VALUE", "valueFrom": {kind: {"name": name, "key": key, **more}}}


async def test_variables_refer_to_those_before_them_and_to_services(bench: Bench) -> None:
    env = [
        variable("A", "1"),
        variable("B", "$(A)-$(C)-$(KUBERNETES_SERVICE_HOST)"),
        variable("C", "$$(A)"),
        variable("A", "2"),
        variable("D", "$(A)$(C)"),
        {"name": "EMPTY"},
    ]
    assert await bench.env(env=env) == {
        "A": "2",
        "B": "1-$(C)-10.96.0.1",
        "C": "$(A)",
        "D": "2$(A)",
        "EMPTY": "",
    }


async def test_commands_and_arguments_refer_to_everything(bench: Bench) -> None:
    found = await bench.resolve(
        env=[variable("WHO", "world")],
        command=["sh", "-c", "echo $(WHO) $(NOBODY) $$(WHO)"],
        args=["$(WEB_SERVICE_HOST)"],
    )
    assert found.command == ("sh", "-c", "echo world $(NOBODY) $(WHO)")
    assert found.args == ("10.96.0.9",)


async def test_service_links_can_be_declined_and_overridden(bench: Bench) -> None:
    found = await bench.resolve({"enableServiceLinks": False})
    assert found.env == {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    found = await bench.resolve(env=[variable("WEB_SERVICE_HOST", "mine")])
    assert found.env["WEB_SERVICE_HOST"] == "mine"


async def test_nothing_starts_before_services_are_known_but_static_pods(bench: Bench) -> None:
    bench.links.known = False
    assert await bench.fails() == (
        "services have not yet been read at least once, cannot construct envvars"
    )
    await bench.resolve({"annotations": {environment.CONFIG_SOURCE: "file"}})


async def test_env_from_takes_all_and_the_last_wins(bench: Bench) -> None:
    bench.objects.config_map("settings", color="red", size="1")
    bench.objects.secret("keys", color=b"gold", token=b"t")
    env_from = [
        {"configMapRef": {"name": "settings"}},
        {"secretRef": {"name": "keys"}},
        {"configMapRef": {"name": "settings"}, "prefix": "S_"},
        {"configMapRef": {"name": "none", "optional": True}},
        {"secretRef": {"name": "none", "optional": True}},
    ]
    env = [variable("size", "2"), variable("both", "$(color)/$(S_color)")]
    assert await bench.env(envFrom=env_from, env=env) == {
        "color": "gold",
        "size": "2",
        "token": "t",
        "S_color": "red",
        "S_size": "1",
        "both": "gold/red",
    }
    asked = [(kind, name) for _, kind, _, name in bench.objects.asked]
    assert asked.count(("ConfigMap", "settings")) == 1, "one state of an object for a container"
    assert {entry[0] for entry in bench.objects.asked} == {"uid-web"}


async def test_a_key_gives_its_value(bench: Bench) -> None:
    bench.objects.config_map("settings", color="red")
    bench.objects.secret("keys", color="größer".encode())
    assert await bench.env(env=[from_key("configMapKeyRef", "settings", "color")]) == {
        "VALUE": "red"
    }
    assert await bench.env(env=[from_key("secretKeyRef", "keys", "color")]) == {"VALUE": "größer"}


async def test_what_is_optional_and_missing_is_left_out(bench: Bench) -> None:
    bench.objects.config_map("settings", color="red")
    for name in ("settings", "none"):
        reference = from_key("configMapKeyRef", name, "shape", optional=True)
        assert await bench.env(env=[reference]) == {}
    reference = from_key("secretKeyRef", "none", "shape", optional=True)
    assert await bench.env(env=[reference]) == {}


async def test_what_is_missing_is_named(bench: Bench) -> None:
    bench.objects.config_map("settings", color="red")
    bench.objects.secret("keys", binary=b"\xff\x00")
    fails = bench.fails
    assert await fails(env=[from_key("configMapKeyRef", "settings", "shape")]) == (
        "couldn't find key shape in ConfigMap shop/settings"
    )
    assert await fails(env=[from_key("secretKeyRef", "keys", "shape")]) == (
        "couldn't find key shape in Secret shop/keys"
    )
    assert await fails(env=[from_key("configMapKeyRef", "none", "shape")]) == (
        'configmap "none" not found'
    )
    assert await fails(envFrom=[{"secretRef": {"name": "none"}}]) == 'secret "none" not found'
    assert await fails(env=[from_key("secretKeyRef", "keys", "binary")]) == (
        "the value of key binary in Secret shop/keys is not valid UTF-8"
    )
    bad = {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.wrong"}}}
    assert await fails(env=[bad]) == "field label not supported: spec.wrong"
    bench.objects.error = "failed to sync secret cache: forbidden"
    assert await fails(env=[from_key("secretKeyRef", "keys", "x", optional=True)]) == (
        "failed to sync secret cache: forbidden"
    )


async def test_a_pod_learns_of_itself(bench: Bench) -> None:
    def of(name: str, kind: str, **reference: str) -> Object:
        return {"name": name, "valueFrom": {kind: reference}}

    env = [
        of("NAME", "fieldRef", fieldPath="metadata.name", apiVersion="v1"),
        of("IP", "fieldRef", fieldPath="status.podIP"),
        of("HOST", "fieldRef", fieldPath="status.hostIP"),
        of("CPU", "resourceFieldRef", resource="limits.cpu"),
        variable("ALL", "$(NAME)@$(IP)"),
    ]
    assert await bench.env(env=env) == {
        "NAME": "web",
        "IP": "10.0.0.7",
        "HOST": "192.168.0.1",
        "CPU": "2",
        "ALL": "web@10.0.0.7",
    }


# Variables from files.


def file_key(key: str, path: str = "app.env", **more: Any) -> Object:
    reference = {"volumeName": "made", "path": path, "key": key, **more}
    return {"name": "VALUE", "valueFrom": {"fileKeyRef": reference}}


def volume(root: pathlib.Path) -> pathlib.Path:
    found = root / "pods/uid-web/volumes/kubernetes.io~empty-dir/made"
    found.mkdir(parents=True)
    return found


VOLUMES = {"volumes": [{"name": "made", "emptyDir": {}}]}


async def test_a_file_gives_values(bench: Bench) -> None:
    (volume(bench.root) / "app.env").write_text("A='1'\nB='x\ny'\n")
    assert await bench.env(VOLUMES, env=[file_key("B")]) == {"VALUE": "x\ny"}
    assert await bench.env(VOLUMES, env=[file_key("C", optional=True)]) == {}


async def test_a_file_that_cannot_be_used_is_an_error(bench: Bench) -> None:
    where = volume(bench.root)
    (where / "app.env").write_text("A='1'\n")
    (where / "bad.env").write_text("A=1\n")
    key = 'environment variable key "C" not found in file "'
    assert (await bench.fails(spec=VOLUMES, env=[file_key("C")])).startswith(key)
    for path in ("bad.env", "none.env", "."):
        text = await bench.fails(spec=VOLUMES, env=[file_key("A", path)])
        assert text == "couldn't parse env file", "no more is told: it may be about the machine"
    assert await bench.fails(env=[file_key("A")]) == (
        'cannot find the volume "made" referenced by FileKeyRef'
    )


@pytest.mark.parametrize("path", ["../../../../../secret", "up", "abs", "far/../../secret", "dir"])
def test_no_path_leads_out_of_the_volume(tmp_path: pathlib.Path, path: str) -> None:
    root = tmp_path / "a/b/volume"
    root.mkdir(parents=True)
    (tmp_path / "secret").write_text("KEY='stolen'\n")
    (root / "secret").write_text("KEY='own'\n")
    (root / "far").mkdir()
    (root / "up").symlink_to("../../../secret")
    (root / "abs").symlink_to(tmp_path / "secret")
    (root / "dir").symlink_to(tmp_path)
    try:
        assert env_files.read(root, path, "KEY") == "own"
    except (OSError, env_files.MalformedError):
        assert path in {"abs", "dir"}


def test_links_inside_the_volume_are_followed_and_loops_end(tmp_path: pathlib.Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/real").write_text("KEY='1'")
    (tmp_path / "link").symlink_to("data/../data/real")
    (tmp_path / "rooted").symlink_to("/data/real")
    (tmp_path / "loop").symlink_to("loop")
    assert env_files.read(tmp_path, "link", "KEY") == "1"
    assert env_files.read(tmp_path, "rooted", "KEY") == "1"
    with pytest.raises(OSError, match="too many levels"):
        env_files.read(tmp_path, "loop", "KEY")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("KEY='v'", "v"),
        ("  \tKEY='v'  # why\n", "v"),
        ("# KEY='no'\n\n \nKEY='yes'", "yes"),
        ("KEY='a b=c \"d\" $(X)'", 'a b=c "d" $(X)'),
        ("KEY='1'\nKEY='2'", "1"),
        ("KEY= 'v'\nKEY='w'", ""),
        ("OTHER= 'v'\nKEY='w'", "w"),
        ("OTHER='a\nKEY=b\n'\nKEY='c'\r\n", "c"),
        ("KEY='v'\nnonsense", "v"),
        ("", ""),
    ],
)
def test_a_files_text_is_understood(text: str, value: str) -> None:
    assert env_files.value(text, "KEY") == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("KEY", "at line 1: missing '='"),
        ("\n ='v'", "at line 2: empty variable name"),
        ("KEY ='v'", "at line 1: whitespace before '=' is not allowed"),
        ("KEY=v", "at line 1: value must be enclosed in single quotes"),
        ("KEY=", "at line 1: value must be enclosed in single quotes"),
        ("A='1'\nKEY='v\nw", "starting at line 2: unclosed single quote"),
        ("KEY='v\nw' x", "at line 2: unexpected content after closing quote"),
    ],
)
def test_a_file_of_something_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(env_files.MalformedError) as caught:
        env_files.value(text, "KEY")
    assert str(caught.value) == f"invalid environment variable format {why}"


# Expansion.


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("___$(A)___", "___1___"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$(NONE)", "$(NONE)"),
        ("$(EMPTY)x", "x"),
        ("$(A", "$(A"),
        ("$A $", "$A $"),
        ("$(A)$(B)", "12"),
        ("$($(A)", "$($(A)"),
        ("$()", "$()"),
        ("$(A\n)", "newline"),
        ("\u00e9$\u00e9$(A)", "\u00e9$\u00e91"),
        ("foo$$bar", "foo$bar"),
    ],
)
def test_references_are_replaced_as_upstream_replaces_them(text: str, expanded: str) -> None:
    first = {"A": "1", "EMPTY": "", "A\n": "newline"}
    assert expansion.expand(text, first, {"A": "9", "B": "2"}) == expanded


def test_where_each_variable_is_needed_those_missing_are_named() -> None:
    env = {"POD": "web", "EMPTY": ""}
    assert expansion.expand_all("$(POD)/logs", env) == "web/logs"
    with pytest.raises(expansion.MissingError, match="missing value for EMPTY, NONE"):
        expansion.expand_all("$(NONE)/$(EMPTY)/$(NONE)/$(POD)", env)


# Services.


def test_a_service_becomes_variables() -> None:
    service = {
        "metadata": {"name": "my-web"},
        "spec": {
            "clusterIP": "10.96.0.9",
            "ports": [
                {"name": "http-alt", "port": 80},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        },
    }
    assert services.variables([service]) == {
        "MY_WEB_SERVICE_HOST": "10.96.0.9",
        "MY_WEB_SERVICE_PORT": "80",
        "MY_WEB_SERVICE_PORT_HTTP_ALT": "80",
        "MY_WEB_SERVICE_PORT_DNS": "53",
        "MY_WEB_PORT": "tcp://10.96.0.9:80",
        "MY_WEB_PORT_80_TCP": "tcp://10.96.0.9:80",
        "MY_WEB_PORT_80_TCP_PROTO": "tcp",
        "MY_WEB_PORT_80_TCP_PORT": "80",
        "MY_WEB_PORT_80_TCP_ADDR": "10.96.0.9",
        "MY_WEB_PORT_53_UDP": "udp://10.96.0.9:53",
        "MY_WEB_PORT_53_UDP_PROTO": "udp",
        "MY_WEB_PORT_53_UDP_PORT": "53",
        "MY_WEB_PORT_53_UDP_ADDR": "10.96.0.9",
    }


def test_an_ipv6_service_is_in_brackets() -> None:
    service = {
        "metadata": {"name": "web"},
        "spec": {"clusterIP": "fd00::9", "ports": [{"port": 80}]},
    }
    found = services.variables([service])
    assert found["WEB_PORT"] == "tcp://[fd00::9]:80"
    assert found["WEB_PORT_80_TCP_ADDR"] == found["WEB_SERVICE_HOST"] == "fd00::9"
