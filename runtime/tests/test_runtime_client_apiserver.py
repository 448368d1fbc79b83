"""The client against a stock kube-apiserver."""

import asyncio
import datetime
import pathlib
import re
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

from whipstaff.cluster import testing
from whipstaff.runtime import client, config, errors, resources

pytestmark = pytest.mark.apiserver

CONFIGMAPS = resources.CONFIGMAPS


@pytest.fixture
async def api(apiserver: testing.ControlPlane) -> AsyncIterator[client.Client]:
    async with client.Client(config.load(apiserver.kubeconfig)) as api:
        yield api


def configmap(name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"of": "test"}},
        "data": data,
    }


def pod(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}]},
    }


# ---- verbs -----------------------------------------------------------------------------------


async def test_an_object_from_create_to_delete(api: client.Client, namespace: str) -> None:
    made = await api.create(CONFIGMAPS, configmap("a", x="1"), namespace)
    assert made["metadata"]["namespace"] == namespace
    assert await api.get(CONFIGMAPS, "a", namespace) == made
    made["data"]["x"] = "2"
    changed = await api.update(CONFIGMAPS, made)
    assert changed["data"] == {"x": "2"}
    gone = await api.delete(CONFIGMAPS, "a", namespace)
    assert gone["status"] == "Success"
    with pytest.raises(errors.NotFound, match='configmaps "a" not found') as caught:
        await api.get(CONFIGMAPS, "a", namespace)
    assert caught.value.details["name"] == "a"


async def test_fields_that_nobody_knows_here_survive(api: client.Client, namespace: str) -> None:
    body = configmap("a") | {"immutable": False, "binaryData": {"b": "AAEC/w=="}}
    made = await api.create(CONFIGMAPS, body, namespace)
    assert (await api.update(CONFIGMAPS, made))["binaryData"] == {"b": "AAEC/w=="}


async def test_a_dry_run_is_validated_and_not_stored(api: client.Client, namespace: str) -> None:
    made = await api.create(CONFIGMAPS, configmap("a"), namespace, dry_run=True)
    assert made["metadata"]["uid"]
    with pytest.raises(errors.Invalid):
        await api.create(CONFIGMAPS, configmap("A_"), namespace, dry_run=True)
    with pytest.raises(errors.NotFound):
        await api.get(CONFIGMAPS, "a", namespace)


async def test_an_answer_can_be_asked_for_without_the_content(
    api: client.Client, namespace: str
) -> None:
    made = await api.create(CONFIGMAPS, configmap("a", x="1"), namespace, metadata_only=True)
    assert made["kind"] == "PartialObjectMetadata"
    assert "data" not in made
    whole = await api.get(CONFIGMAPS, "a", namespace)
    assert whole["data"] == {"x": "1"}
    assert made["metadata"] == whole["metadata"]


@pytest.mark.parametrize("page_size", [1, 3, 7, 500, 0])
async def test_a_list_is_the_same_in_pages_of_any_size(
    api: client.Client, namespace: str, page_size: int
) -> None:
    names = [f"n{i}" for i in range(7)]
    await asyncio.gather(*(api.create(CONFIGMAPS, configmap(n), namespace) for n in names))
    found = await api.list(CONFIGMAPS, namespace, page_size=page_size)
    assert [o["metadata"]["name"] for o in found] == names
    assert {(o["apiVersion"], o["kind"]) for o in found} == {("v1", "ConfigMap")}
    assert int(found.resource_version) >= int(found.items[-1]["metadata"]["resourceVersion"])


async def test_selectors_choose(api: client.Client, namespace: str) -> None:
    plain = configmap("b")
    plain["metadata"]["labels"] = {"of": "something, else"[:9]}
    await api.create(CONFIGMAPS, configmap("a"), namespace)
    await api.create(CONFIGMAPS, plain, namespace)
    by_label = await api.list(CONFIGMAPS, namespace, label_selector="of in (test, other)")
    by_field = await api.list(CONFIGMAPS, namespace, field_selector="metadata.name!=a")
    assert [o["metadata"]["name"] for o in by_label] == ["a"]
    assert [o["metadata"]["name"] for o in by_field] == ["b"]
    await api.delete_collection(CONFIGMAPS, namespace, label_selector="of=test")
    assert [o["metadata"]["name"] for o in await api.list(CONFIGMAPS, namespace)] == ["b"]


async def test_all_namespaces_are_one_list(api: client.Client, namespace: str) -> None:
    await api.create(CONFIGMAPS, configmap("everywhere"), namespace)
    found = await api.list(CONFIGMAPS, field_selector="metadata.name=everywhere")
    assert [o["metadata"]["namespace"] for o in found] == [namespace]


# ---- patches ---------------------------------------------------------------------------------


async def test_a_merge_patch_replaces_lists(api: client.Client, namespace: str) -> None:
    await api.create(CONFIGMAPS, configmap("a", x="1", y="2"), namespace)
    changed = await api.patch(CONFIGMAPS, "a", {"data": {"x": None, "z": "3"}}, namespace)
    assert changed["data"] == {"y": "2", "z": "3"}


async def test_a_strategic_patch_merges_lists_by_key(api: client.Client, namespace: str) -> None:
    await api.create(resources.PODS, pod("p"), namespace)
    patch = {"spec": {"containers": [{"name": "c", "image": "busybox"}]}}
    changed = await api.patch(resources.PODS, "p", patch, namespace, kind="strategic")
    (container,) = changed["spec"]["containers"]
    assert container["image"] == "busybox"
    assert container["ports"][0]["containerPort"] == 80


async def test_a_json_patch_can_test_before_it_changes(api: client.Client, namespace: str) -> None:
    await api.create(CONFIGMAPS, configmap("a", x="1"), namespace)
    for expected, outcome in (("2", None), ("1", {"x": "9"})):
        patch = [
            {"op": "test", "path": "/data/x", "value": expected},
            {"op": "replace", "path": "/data/x", "value": "9"},
        ]
        if outcome is None:
            with pytest.raises(errors.Invalid):
                await api.patch(CONFIGMAPS, "a", patch, namespace, kind="json")
        else:
            changed = await api.patch(CONFIGMAPS, "a", patch, namespace, kind="json")
            assert changed["data"] == outcome


async def test_server_side_apply_keeps_to_its_fields(api: client.Client, namespace: str) -> None:
    async def apply(manager: str, *, force: bool = False, **data: str) -> dict[str, Any]:
        body = {"data": data}
        changed = await api.patch(
            CONFIGMAPS, "a", body, namespace, kind="apply", field_manager=manager, force=force
        )
        stored: dict[str, Any] = changed["data"]
        return stored

    assert await apply("first", x="1") == {"x": "1"}
    assert await apply("second", y="2") == {"x": "1", "y": "2"}
    with pytest.raises(errors.Conflict, match="conflict"):
        await apply("second", x="9", y="2")
    assert await apply("second", force=True, x="9", y="2") == {"x": "9", "y": "2"}
    assert await apply("second", x="9") == {"x": "9"}


# ---- subresources ----------------------------------------------------------------------------


async def test_a_binding_puts_a_pod_on_a_node(api: client.Client, namespace: str) -> None:
    await api.create(resources.PODS, pod("p"), namespace)
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"},
    }
    await api.create(resources.PODS, binding, namespace, name="p", subresource="binding")
    assert (await api.get(resources.PODS, "p", namespace))["spec"]["nodeName"] == "n1"
    with pytest.raises(errors.Conflict, match="already assigned to node"):
        await api.create(resources.PODS, binding, namespace, name="p", subresource="binding")


async def test_status_is_written_apart_from_the_rest(api: client.Client, namespace: str) -> None:
    made = await api.create(resources.PODS, pod("p"), namespace)
    status = {"status": {"phase": "Running", "podIP": "10.0.0.1"}}
    await api.patch(resources.PODS, "p", status, namespace, subresource="status")
    made = await api.get(resources.PODS, "p", namespace)
    assert made["status"]["phase"] == "Running"
    made["status"]["phase"] = "Succeeded"
    made["spec"]["containers"][0]["image"] = "ignored-here"
    written = await api.update(resources.PODS, made, subresource="status")
    assert written["status"]["phase"] == "Succeeded"
    assert written["spec"]["containers"][0]["image"] == "nginx"


async def test_raw_requests(api: client.Client) -> None:
    assert (await api.request("GET", "/version"))["major"] == "1"
    assert await api.request("GET", "/readyz") == "ok"
    assert "readyz check passed" in await api.request("GET", "/readyz", query={"verbose": ""})


# ---- refusals --------------------------------------------------------------------------------


async def test_refusals_have_their_types(
    api: client.Client, apiserver: testing.ControlPlane, namespace: str
) -> None:
    made = await api.create(CONFIGMAPS, configmap("a"), namespace)
    with pytest.raises(errors.AlreadyExists):
        await api.create(CONFIGMAPS, configmap("a"), namespace)
    await api.patch(CONFIGMAPS, "a", {"data": {"x": "1"}}, namespace)
    with pytest.raises(errors.Conflict, match="the object has been modified"):
        await api.update(CONFIGMAPS, made)
    with pytest.raises(errors.Conflict, match="precondition"):
        await api.delete(CONFIGMAPS, "a", namespace, uid="of another")
    with pytest.raises(errors.Conflict, match="precondition"):
        await api.delete(CONFIGMAPS, "a", namespace, resource_version="1")
    with pytest.raises(errors.BadRequest):
        await api.list(CONFIGMAPS, namespace, label_selector="a in b")
    with pytest.raises(errors.MethodNotAllowed):
        await api.request("PATCH", f"/api/v1/namespaces/{namespace}/configmaps", body={})
    with pytest.raises(errors.Invalid) as invalid:
        await api.create(resources.PODS, {"metadata": {"name": "p"}, "spec": {}}, namespace)
    assert invalid.value.details["causes"][0]["field"] == "spec.containers"
    nobody = config.load(apiserver.issue_kubeconfig("nobody"))
    async with client.Client(nobody) as other:
        with pytest.raises(errors.Forbidden, match='User "nobody" cannot get resource'):
            await other.get(CONFIGMAPS, "a", namespace)


async def test_an_eviction_that_a_budget_forbids_is_the_callers_to_repeat(
    api: client.Client, namespace: str
) -> None:
    body = pod("p")
    body["metadata"]["labels"] = {"app": "p"}
    await api.create(resources.PODS, body, namespace)
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await api.patch(resources.PODS, "p", {"status": status}, namespace, subresource="status")
    budget = {
        "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "p"}}},
    }
    await api.create(resources.PODDISRUPTIONBUDGETS, budget, namespace)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    began = time.monotonic()
    with pytest.raises(errors.TooManyRequests) as caught:
        await api.create(resources.PODS, eviction, namespace, name="p", subresource="eviction")
    assert caught.value.retry_after
    assert time.monotonic() - began < 5


# ---- watches ---------------------------------------------------------------------------------


async def test_a_watch_sees_changes_from_a_version_on(api: client.Client, namespace: str) -> None:
    start = (await api.list(CONFIGMAPS, namespace)).resource_version
    await api.create(CONFIGMAPS, configmap("a"), namespace)
    await api.patch(CONFIGMAPS, "a", {"data": {"x": "1"}}, namespace)
    await api.delete(CONFIGMAPS, "a", namespace)
    seen = []
    watch = api.watch(CONFIGMAPS, namespace, resource_version=start)
    async for event in watch:
        seen.append((event.type, event.object.get("data")))
        if event.type == "DELETED":
            break
    await watch.aclose()
    assert seen == [("ADDED", None), ("MODIFIED", {"x": "1"}), ("DELETED", {"x": "1"})]


async def test_a_streaming_list_ends_with_its_bookmark(api: client.Client, namespace: str) -> None:
    await api.create(CONFIGMAPS, configmap("a"), namespace)
    watch = api.watch(CONFIGMAPS, namespace, send_initial_events=True)
    first, end = await anext(watch), await anext(watch)
    assert (first.type, first.object["metadata"]["name"]) == ("ADDED", "a")
    assert end.ends_initial_events
    assert not first.ends_initial_events
    await watch.aclose()


async def test_objects_of_a_megabyte_come_through_a_watch(
    api: client.Client, namespace: str
) -> None:
    start = (await api.list(CONFIGMAPS, namespace)).resource_version
    big = "x" * (1000 * 1000)
    await api.create(CONFIGMAPS, configmap("big", x=big), namespace)
    watch = api.watch(CONFIGMAPS, namespace, resource_version=start)
    assert (await anext(watch)).object["data"] == {"x": big}
    await watch.aclose()


async def test_a_version_of_the_future_is_refused(api: client.Client, namespace: str) -> None:
    with pytest.raises(errors.ServerError, match="Too large resource version") as caught:
        await api.list(CONFIGMAPS, namespace, resource_version="999999999")
    assert caught.value.reason == "Timeout"


# ---- tokens ----------------------------------------------------------------------------------


class Account:
    """A service account that may read ConfigMaps, and tokens of it."""

    def __init__(self, api: client.Client, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    async def create(self) -> None:
        await self.api.create(
            resources.SERVICEACCOUNTS, {"metadata": {"name": "reader"}}, self.namespace
        )

    async def grant(self) -> None:
        role = {
            "metadata": {"name": "reader"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}],
        }
        binding = {
            "metadata": {"name": "reader"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": "reader",
            },
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": self.namespace}],
        }
        await self.api.create(resources.ROLES, role, self.namespace)
        await self.api.create(resources.ROLEBINDINGS, binding, self.namespace)

    async def token(self) -> str:
        answer = await self.api.create(
            resources.SERVICEACCOUNTS,
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
            self.namespace,
            name="reader",
            subresource="token",
        )
        return str(answer["status"]["token"])

    async def revoke(self) -> None:
        """Every token given so far is worth nothing from now on: they name the account's uid."""
        await self.api.delete(resources.SERVICEACCOUNTS, "reader", self.namespace)
        await self.create()


@pytest.fixture
async def account(api: client.Client, namespace: str) -> Account:
    account = Account(api, namespace)
    await account.create()
    await account.grant()
    return account


def kubeconfig(
    plane: testing.ControlPlane, folder: pathlib.Path, user: dict[str, Any]
) -> pathlib.Path:
    content = yaml.safe_load(plane.kubeconfig.read_text())
    content["users"][0]["user"] = user
    content["clusters"][0]["cluster"] = {
        "server": plane.server,
        "certificate-authority": str(plane.ca),
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return file


async def until_refused(api: client.Client, token: str) -> None:
    """Wait until the server's cache of good tokens has forgotten this one."""
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token},
    }
    for _ in range(100):
        answer = await api.create(resources.TOKENREVIEWS, review)
        if not answer["status"].get("authenticated"):
            return
        await asyncio.sleep(0.2)
    raise AssertionError("a revoked token is still good after 20 s")


PLUGIN = """#!{python}
import datetime, json, pathlib
here = pathlib.Path({folder!r})
with (here / "runs").open("a") as runs:
    runs.write("x")
expiry = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds={seconds})
print(json.dumps({{
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": {{
        "token": (here / "token").read_text(),
        "expirationTimestamp": expiry.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }},
}}))
"""


def plugin(folder: pathlib.Path, seconds: int) -> dict[str, Any]:
    """A user whose plugin prints a file's token, good for some seconds, and counts its runs."""
    script = folder / "get-token"
    script.write_text(PLUGIN.format(python=sys.executable, folder=str(folder), seconds=seconds))
    script.chmod(0o755)
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": "./get-token"}}


async def test_revoked_tokens_are_replaced_where_there_are_new_ones(
    api: client.Client, apiserver: testing.ControlPlane, account: Account, tmp_path: pathlib.Path
) -> None:
    token = tmp_path / "token"
    old = await account.token()
    token.write_text(old)
    users = ({"tokenFile": "token"}, plugin(tmp_path, 3600), {"token": old})
    readers = [client.Client(config.load(kubeconfig(apiserver, tmp_path, u))) for u in users]
    for reader in readers:
        assert len(await reader.list(CONFIGMAPS, account.namespace)) == 0
    await account.revoke()
    token.write_text(await account.token())
    await until_refused(api, old)
    by_file, by_plugin, for_good = readers
    # Both were read a moment ago; the refusal makes the client look again, also before a write.
    await by_file.create(CONFIGMAPS, configmap("a"), account.namespace)
    writes = (by_plugin.create(CONFIGMAPS, configmap(n), account.namespace) for n in "bcdef")
    await asyncio.gather(*writes)
    assert len((tmp_path / "runs").read_text()) == 2
    with pytest.raises(errors.Unauthorized):
        await for_good.list(CONFIGMAPS, account.namespace)
    for reader in readers:
        await reader.close()


async def test_a_plugin_runs_again_when_its_token_expires(
    apiserver: testing.ControlPlane, account: Account, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "token").write_text(await account.token())
    connection = config.load(kubeconfig(apiserver, tmp_path, plugin(tmp_path, 3)))
    async with client.Client(connection) as reader:
        await asyncio.gather(*(reader.list(CONFIGMAPS, account.namespace) for _ in range(9)))
        assert len((tmp_path / "runs").read_text()) == 1
        await asyncio.sleep(3)
        await asyncio.gather(*(reader.list(CONFIGMAPS, account.namespace) for _ in range(9)))
        assert len((tmp_path / "runs").read_text()) == 2


async def test_a_renewed_client_certificate_is_shown_on_new_connections(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adopt(file: pathlib.Path) -> None:
        certificate = config.load(file).certificate
        assert certificate is not None
        (tmp_path / "crt").write_bytes(certificate.pem)
        (tmp_path / "key").write_bytes(certificate.key)

    async def who(api: client.Client) -> str:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await api.create(resources.SELFSUBJECTREVIEWS, review)
        return str(answer["status"]["userInfo"]["username"])

    monkeypatch.setattr(config, "FILE_PERIOD", 0.1)
    adopt(apiserver.issue_kubeconfig("first", valid_for=datetime.timedelta(hours=1)))
    user = {"client-certificate": "crt", "client-key": "key"}
    async with client.Client(config.load(kubeconfig(apiserver, tmp_path, user))) as api:
        assert await who(api) == "first"
        adopt(apiserver.issue_kubeconfig("second", valid_for=datetime.timedelta(hours=1)))
        await asyncio.sleep(0.15)
        assert await who(api) == "second"


async def test_a_pods_service_account_works(
    apiserver: testing.ControlPlane,
    account: Account,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "token").write_text(await account.token())
    (tmp_path / "ca.crt").write_bytes(apiserver.ca.read_bytes())
    (tmp_path / "namespace").write_text(account.namespace)
    monkeypatch.setattr(config, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(apiserver.port))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    connection = config.load()
    async with client.Client(connection) as reader:
        assert len(await reader.list(CONFIGMAPS, connection.namespace)) == 0


# ---- load ------------------------------------------------------------------------------------


async def test_many_writes_at_once_are_each_done_once(
    apiserver: testing.ControlPlane, namespace: str
) -> None:
    async with client.Client(config.load(apiserver.kubeconfig), max_connections=20) as api:
        made = await asyncio.gather(
            *(api.create(CONFIGMAPS, configmap(f"n{i}"), namespace) for i in range(200))
        )
        assert len({m["metadata"]["uid"] for m in made}) == 200
        assert len(await api.list(CONFIGMAPS, namespace, page_size=50)) == 200


async def test_a_rate_limit_holds(apiserver: testing.ControlPlane) -> None:
    connection = config.load(apiserver.kubeconfig)
    async with client.Client(connection, qps=50, burst=10) as api:
        began = time.monotonic()
        await asyncio.gather(*(api.request("GET", "/version") for _ in range(30)))
        assert time.monotonic() - began > 20 / 50


async def test_cancelled_requests_leave_a_client_that_works(
    api: client.Client, namespace: str
) -> None:
    async def create(i: int) -> None:
        await api.create(CONFIGMAPS, configmap(f"n{i}"), namespace)

    tasks = [asyncio.create_task(create(i)) for i in range(50)]
    await asyncio.sleep(0.01)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[1::2] == [None] * 25
    names = {o["metadata"]["name"] for o in await api.list(CONFIGMAPS, namespace)}
    assert names >= {f"n{i}" for i in range(1, 50, 2)}


async def test_an_api_server_that_is_killed_is_unreachable_and_comes_back(
    own_apiserver: testing.ControlPlane,
) -> None:
    async with client.Client(config.load(own_apiserver.kubeconfig)) as api:
        await api.get(resources.NAMESPACES, "default")
        own_apiserver.stop_apiserver(grace=0)
        for request in (
            api.get(resources.NAMESPACES, "default"),
            api.create(resources.NAMESPACES, {"metadata": {"name": "x"}}),
        ):
            with pytest.raises(errors.Unreachable, match=re.escape(own_apiserver.server)):
                await request
        own_apiserver.start_apiserver()
        assert (await api.get(resources.NAMESPACES, "default"))["kind"] == "Namespace"
