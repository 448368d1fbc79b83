"""Rights: each component runs with those that the chart gives it, and needs every one of them.

The components run as processes with the arguments of their pods and the tokens of their accounts,
on an API server with RBAC, beside the stock controllers. Its audit log says what they asked for.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import shlex
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import pytest

from charts import rendering
from charts.rendering import CHART, NAMESPACE, RELEASE, Helm, Object
from whipstaff.cluster import envtest, ports
from whipstaff.runtime import errors

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

Right: TypeAlias = tuple[str, str, str]
"""API group, resource (with its subresource) and verb."""

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  resources: [{group: authorization.k8s.io, resources: [selfsubjectaccessreviews]}]
- level: Metadata
"""
REPEATED = ("events.k8s.io", "events", "patch")
"""An event that is repeated for minutes becomes a series."""

AWAITED = ("certificates.k8s.io", "certificatesigningrequests", "watch")
"""A certificate that isn't there at once."""

OF_TWINS = {
    # What the controller that approves certificates looks for.
    ("certificates.k8s.io", "certificatesigningrequests/nodeclient", "create"),
    # The twin's end, by `whipstaff twin`.
    ("", "nodes", "patch"),
    ("", "nodes", "delete"),
    ("", "pods", "list"),
    ("", "pods", "delete"),
}

VALUES = """
scheduler: {default: true}
controllers: {enabled: true}
nodeAgent: {enabled: true, simulated: {nodes: 2}}
tests: {timeoutSeconds: 60}
"""
RBAC = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
}


@dataclasses.dataclass
class Bed:
    """An API server with an audit log, and processes in the place of pods."""

    plane: envtest.ControlPlane
    folder: pathlib.Path
    audit: pathlib.Path
    running: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    def make(self, objects: Sequence[Object]) -> None:
        """Create accounts, roles and bindings; what is there already stays."""
        for each in rendering.of_kind(objects, *RBAC):
            path = PATHS[each["kind"]].format(each["metadata"].get("namespace", ""))
            with contextlib.suppress(errors.AlreadyExists):
                self.plane.request("POST", path, each)

    def account(self, name: str) -> pathlib.Path:
        """What a pod of an account has in /var/run/secrets, and a kubeconfig beside it."""
        folder = self.folder / f"account-{name}"
        folder.mkdir(exist_ok=True)
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = self.plane.request("POST", path, body)["status"]["token"]
        (folder / "token").write_text(token)
        (folder / "ca.crt").write_bytes(self.plane.ca.read_bytes())
        cluster = {"server": self.plane.server, "certificate-authority": str(folder / "ca.crt")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "current-context": "it",
        }
        (folder / "kubeconfig").write_text(json.dumps(config))
        return folder

    def files(self, config_map: Object) -> pathlib.Path:
        """What a ConfigMap is as a volume."""
        folder = self.folder / f"config-{config_map['metadata']['name']}"
        folder.mkdir(exist_ok=True)
        for name, text in config_map["data"].items():
            (folder / name).write_text(text)
        return folder

    def environment(self, account: pathlib.Path) -> dict[str, str]:
        """Variables of a pod that knows its API server."""
        host, _, port = self.plane.server.removeprefix("https://").partition(":")
        return {
            **os.environ,
            "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
            "ACCOUNT": str(account),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
        }

    def start(self, name: str, command: Sequence[str], environ: dict[str, str]) -> pathlib.Path:
        """Start a process; gives its log."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            self.running.append(
                subprocess.Popen(command, env=environ, stdout=output, stderr=subprocess.STDOUT)
            )
        return log

    def stop(self) -> list[int]:
        """End all processes as Kubernetes does; gives how they ended."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(30) for process in self.running]
        self.running.clear()
        return codes

    def entries(self, user: str) -> list[dict[str, Any]]:
        """What a user asked for, by the audit log."""
        lines = self.audit.read_text().splitlines()
        found = (json.loads(line) for line in lines if line.endswith("}"))
        return [each for each in found if each["user"].get("username") == user]

    def forbidden(self, user: str) -> list[tuple[str, str]]:
        """The requests that a user had no right to."""
        return [
            (each["verb"], each["requestURI"])
            for each in self.entries(user)
            if each.get("responseStatus", {}).get("code") in {401, 403}
        ]


@pytest.fixture(scope="module")
def bed(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("rights")
    audit = folder / "audit.log"
    (folder / "policy.yaml").write_text(POLICY)
    flags = (
        f"--audit-policy-file={folder / 'policy.yaml'}",
        f"--audit-log-path={audit}",
        "--enable-admission-plugins=NodeRestriction",
    )
    with envtest.ControlPlane(apiserver_flags=flags) as plane:
        plane.start_controller_manager(
            "--controllers=*,-deployment-controller,-replicaset-controller"
        )
        plane.create_namespace(NAMESPACE)
        made = Bed(plane, folder, audit)
        try:
            yield made
        finally:
            for process in made.running:
                process.kill()
                process.wait()


def container(objects: Sequence[Object], kind: str, name: str) -> Object:
    found: Object = rendering.pod_specs(objects)[f"{kind}/{RELEASE}-whipstaff-{name}"]
    return found["containers"][-1]


def user_of(account: str) -> str:
    return f"system:serviceaccount:{NAMESPACE}:{account}"


def command_of(bed: Bed, part: Object, account: pathlib.Path, **variables: str) -> list[str]:
    """A container's arguments, for a process on this machine: other ports, other folders."""
    port = ports.scratch(1)[0]
    arguments = []
    for argument in part["args"]:
        text = re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], argument)
        text = re.sub(r"^(--secure-port|--port)=.*", rf"\1={port}", text)
        text = text.replace("/etc/whipstaff", variables.get("CONFIG", ""))
        arguments.append(text.replace("--root-dir=/tmp", f"--root-dir={bed.folder}"))
    given = [*arguments, f"--kubeconfig={account / 'kubeconfig'}", "--bind-address=127.0.0.1"]
    return [sys.executable, "-m", "whipstaff.runtime.commands", *given]


def granted(bed: Bed, name: str) -> set[Right]:
    """What the roles of a name allow."""
    group = "/apis/rbac.authorization.k8s.io/v1"
    roles = [bed.plane.request("GET", f"{group}/clusterroles/{name}")]
    everywhere = bed.plane.request("GET", f"{group}/roles")["items"]
    roles += [role for role in everywhere if role["metadata"]["name"] == name]
    return {
        right
        for role in roles
        for rule in role["rules"]
        for right in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


def needed(bed: Bed, user: str) -> set[Right]:
    """What a user asked for, and what it asked at its start whether it may."""
    found = set()
    for entry in bed.entries(user):
        place = entry.get("objectRef", {})
        if place.get("resource") == "selfsubjectaccessreviews":
            place = entry["requestObject"]["spec"]["resourceAttributes"]
            found.add(right_of(place, place["verb"]))
        elif place:
            found.add(right_of(place, entry["verb"]))
    return found


def right_of(place: Object, verb: str) -> Right:
    resource = "/".join(filter(None, (place["resource"], place.get("subresource"))))
    return place.get("group") or place.get("apiGroup") or "", resource, verb


def eventually(what: Callable[[], Any], seconds: float, log: pathlib.Path | None = None) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {log.read_text()[-3000:] if log else ''}")
        time.sleep(0.2)
    return found


def read_metrics(command: Sequence[str], account: pathlib.Path) -> int:
    """Ask for metrics with a token that is valid, but has no right to them; gives the status."""
    (port,) = (
        argument.partition("=")[2]
        for argument in command
        if argument.startswith(("--secure-port=", "--port="))
    )
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(
        f"https://127.0.0.1:{port}/metrics",
        headers={"Authorization": f"Bearer {(account / 'token').read_text()}"},
    )
    try:
        with urllib.request.urlopen(request, context=context) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def run_script(bed: Bed, part: Object, account: pathlib.Path, folder: pathlib.Path) -> str:
    """Run what a pod of Helm's would, and get what it says."""
    variables = {each["name"]: each["value"] for each in part["env"]}
    command = [
        sys.executable,
        *(each.replace("/scripts", str(folder)) for each in part["command"][1:]),
    ]
    done = subprocess.run(
        command,
        env={**bed.environment(account), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def test_each_component_works_with_its_rights_and_needs_them_all(
    helm: Helm, bed: Bed, tmp_path: pathlib.Path
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(VALUES)
    place = ("--kubeconfig", str(bed.plane.kubeconfig), "-n", NAMESPACE)
    helm.run("install", RELEASE, str(CHART), "--values", str(values), *place)
    objects = helm.render(values=values)
    bed.make(objects)
    # A node that was there before is taken over, with the labels that it must have.
    name = f"{RELEASE}-whipstaff-0-0"
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    bed.plane.request("POST", "/api/v1/nodes", node)

    config = bed.files(rendering.named(objects, "ConfigMap", "-node-agent"))
    kinds = {"scheduler": "Deployment", "controllers": "StatefulSet", "node-agent": "StatefulSet"}
    variables = {"REPLICA": "0", "POD_IP": "127.0.0.1", "CONFIG": str(config)}
    logs, commands = {}, {}
    for component, kind in kinds.items():
        account = bed.account(f"{RELEASE}-whipstaff-{component}")
        part = container(objects, kind, component)
        commands[component] = command_of(bed, part, account, **variables)
        logs[component] = bed.start(component, commands[component], bed.environment(account))

    nodes = f"/api/v1/nodes?labelSelector=whipstaff.io/release={NAMESPACE}.{RELEASE}"
    eventually(lambda: len(bed.plane.request("GET", nodes)["items"]) == 2, 30, logs["node-agent"])
    scripts = bed.files(rendering.named(objects, "ConfigMap", "-test"))
    tester = bed.account(f"{RELEASE}-whipstaff-test")
    said = [
        run_script(bed, pod["containers"][0], tester, scripts)
        for key, pod in rendering.pod_specs(objects).items()
        if key.startswith("Pod/")
    ]
    assert any("the scheduler whipstaff places a pod" in text for text in said)
    assert any("it is rolled out anew" in text for text in said)
    assert any("ends well" in text for text in said)
    for component, command in commands.items():
        assert read_metrics(command, tester) == 403, component

    for component, log in logs.items():
        account_name = f"{RELEASE}-whipstaff-{component}"
        user = user_of(account_name)
        assert bed.forbidden(user) == [], component
        assert "forbidden" not in log.read_text().lower(), component
        assert granted(bed, account_name) - needed(bed, user) - {REPEATED} == set(), component
    assert bed.forbidden(user_of(f"{RELEASE}-whipstaff-test")) == []
    tested = f"{RELEASE}-whipstaff-test"
    assert granted(bed, tested) - needed(bed, user_of(tested)) == {("", "pods/log", "get")}

    addresses = bed.plane.request("GET", f"/api/v1/nodes/{name}")["status"]["addresses"]
    assert [each["type"] for each in addresses] == ["ExternalIP", "Hostname"]
    check_cleanup(bed, objects)


def check_cleanup(bed: Bed, objects: Sequence[Object]) -> None:
    """What Helm does before and after it deletes: no node is left, and no pod on one."""
    pods = rendering.pod_specs(objects)
    nodes = f"/api/v1/nodes?labelSelector=whipstaff.io/release={NAMESPACE}.{RELEASE}"
    for step in ("end", "forget"):
        name = f"{RELEASE}-whipstaff-cleanup-{step}"
        folder = bed.files(rendering.named(objects, "ConfigMap", f"-cleanup-{step}"))
        part = pods[f"Job/{name}"]["containers"][0]
        said = run_script(bed, part, bed.account(name), folder)
        assert said in {"2 nodes are empty\n", "2 nodes are gone\n"}
        assert bed.forbidden(user_of(name)) == []
        if step == "end":
            assert len(bed.plane.request("GET", nodes)["items"]) == 2
            assert bed.stop() == [0, 0, 0]
    assert bed.plane.request("GET", nodes)["items"] == []


def test_a_twin_gets_a_nodes_rights_and_no_others(helm: Helm, bed: Bed) -> None:
    values = CHART / "ci" / "twin-values.yaml"
    objects = helm.render("--set", "fullnameOverride=twins", values=values)
    bed.make(objects)
    name = "twins-node-agent"
    account = bed.account(name)
    config = bed.files(rendering.named(objects, "ConfigMap", "-node-agent"))
    data = bed.folder / "twin"
    arguments = rendering.pod_specs(objects)[f"DaemonSet/{name}"]["containers"][0]["args"]
    agents = arguments[arguments.index("--") + 1 :]
    places = {
        "$(HOST_IP)": "127.0.0.1",
        "/etc/whipstaff": str(config),
        "/var/lib/whipstaff-twin": str(data),
        "/var/run/secrets/kubernetes.io/serviceaccount": str(account),
        "https://10.96.0.1:443": bed.plane.server,
    }
    command = [
        *(sys.executable, "-m", "whipstaff.runtime.commands", "node-agent"),
        *("--provider=simulated", "--node-name=stock-twin", f"--root-dir={data}"),
        *(f"--port={ports.scratch(1)[0]}", "--config=/etc/whipstaff/agent.yaml", *agents),
    ]
    bootstrap = config / "bootstrap.kubeconfig"
    text = bootstrap.read_text()
    for there, here in places.items():
        command = [each.replace(there, here) for each in command]
        text = text.replace(there, here)
    bootstrap.write_text(text)
    log = bed.start("twin", command, bed.environment(account))

    def ready() -> bool:
        with contextlib.suppress(errors.NotFound):
            node = bed.plane.request("GET", "/api/v1/nodes/stock-twin")
            conditions = node["status"].get("conditions", ())
            return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return False

    eventually(ready, 60, log)
    assert bed.stop() == [0]
    node = bed.plane.request("GET", "/api/v1/nodes/stock-twin")
    assert node["metadata"]["labels"]["kubernetes.io/os"] == "whipstaff"
    assert {"key": "whipstaff.io/node", "value": "true", "effect": "NoSchedule"} in node["spec"][
        "taints"
    ]
    assert bed.forbidden(user_of(name)) == []
    assert bed.forbidden("system:node:stock-twin") == []
    assert granted(bed, name) - needed(bed, user_of(name)) - {AWAITED} == OF_TWINS


def test_a_component_without_its_rights_says_so_in_one_line(helm: Helm, bed: Bed) -> None:
    objects = helm.render("--set", "controllers.enabled=true")
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    with contextlib.suppress(errors.AlreadyExists):
        bed.plane.request("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", body)
    account = bed.account("nobody")
    for component, kind in (("scheduler", "Deployment"), ("controllers", "StatefulSet")):
        command = command_of(bed, container(objects, kind, component), account)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode != 0
        last = done.stderr.strip().splitlines()[-1]
        assert f"user '{user_of('nobody')}' needs rights that RBAC doesn't grant:" in last
        assert re.search(r"list, watch[^;]* pods;", last)
