"""A node asks the cluster for its certificates, and keeps them valid."""

from __future__ import annotations

import asyncio
import base64
import datetime
import pathlib
import stat
import uuid
from typing import Any

import pytest
import yaml
from cryptography import x509

from whipstaff.cluster import testing
from whipstaff.node_agent import certificates
from whipstaff.runtime import client, config, errors, resources

Object = dict[str, Any]

pytestmark = pytest.mark.apiserver


def admin(plane: testing.ControlPlane) -> client.Client:
    return client.Client(config.load(str(plane.kubeconfig)))


async def grant(api: client.Client, subject: Object, *roles: str) -> None:
    for role in roles:
        name = f"{role.rpartition(':')[2]}-{uuid.uuid4().hex[:6]}"
        body = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": role,
            },
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", **subject}],
        }
        await api.create(resources.CLUSTERROLEBINDINGS, body)


async def verdict(api: client.Client, name: str, kind: str) -> None:
    body = await api.get(resources.CERTIFICATESIGNINGREQUESTS, name)
    condition = {"type": kind, "status": "True", "reason": "Test", "message": "by a test"}
    body["status"] = {"conditions": [condition]}
    await api.update(resources.CERTIFICATESIGNINGREQUESTS, body, subresource="approval")


async def first_request(api: client.Client, signer: str) -> str:
    for _ in range(200):
        for found in await api.list(resources.CERTIFICATESIGNINGREQUESTS):
            if found["spec"]["signerName"] == signer and not found.get("status"):
                name: str = found["metadata"]["name"]
                return name
        await asyncio.sleep(0.05)
    raise AssertionError("no request came")


async def test_a_bootstrap_user_becomes_a_node(
    controller_manager: testing.ControlPlane, tmp_path: pathlib.Path
) -> None:
    plane = controller_manager
    user, name = f"boot-{uuid.uuid4().hex[:6]}", f"node-{uuid.uuid4().hex[:6]}"
    store = certificates.Store(tmp_path / "pki", "kubelet-client")
    kubeconfig = tmp_path / "agent.kubeconfig"
    async with admin(plane) as api:
        await grant(
            api,
            {"kind": "User", "name": user},
            "system:node-bootstrapper",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        )
        first = plane.issue_kubeconfig(user)
        await certificates.bootstrap(kubeconfig, first, store, name, "test")
        async with client.Client(config.load(str(kubeconfig))) as node:
            review = await node.create(
                resources.SELFSUBJECTREVIEWS,
                {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
            )
        assert review["status"]["userInfo"]["username"] == f"system:node:{name}"
        assert "system:nodes" in review["status"]["userInfo"]["groups"]
        before = store.current.readlink()
        await certificates.bootstrap(kubeconfig, first, store, name, "test")
    assert store.current.readlink() == before, "a valid certificate is kept"
    for file in (kubeconfig, store.current):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_serving_certificate_names_the_node_and_its_addresses(
    controller_manager: testing.ControlPlane, tmp_path: pathlib.Path
) -> None:
    plane = controller_manager
    name = f"node-{uuid.uuid4().hex[:6]}"
    own = plane.issue_kubeconfig(f"system:node:{name}", ["system:nodes"])
    store = certificates.Store(tmp_path, "kubelet-server")
    async with admin(plane) as api, client.Client(config.load(str(own))) as node:
        rotation = certificates.Rotation(
            node, store, lambda: certificates.serving_request(name, ["10.0.0.9"])
        )
        task = asyncio.create_task(rotation.run())
        try:
            request = await first_request(api, certificates.SERVING_SIGNER)
            await verdict(api, request, "Approved")
            await asyncio.wait_for(rotation.issued.wait(), 20)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    certificate = store.read()
    assert certificate is not None
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.9"]


async def test_a_denied_request_says_by_whom_and_why(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path
) -> None:
    name = f"node-{uuid.uuid4().hex[:6]}"
    own = apiserver.issue_kubeconfig(f"system:node:{name}", ["system:nodes"])
    store = certificates.Store(tmp_path, "kubelet-server")
    request = certificates.serving_request(name, ["10.0.0.9"])
    assert request is not None
    async with admin(apiserver) as api, client.Client(config.load(str(own))) as node:
        task = asyncio.create_task(certificates.issue(node, request, store))
        await verdict(api, await first_request(api, certificates.SERVING_SIGNER), "Denied")
        with pytest.raises(certificates.RefusedError, match="Denied: by a test"):
            await asyncio.wait_for(task, 20)
    assert store.read() is None


async def test_a_bootstrap_kubeconfig_without_rights_is_refused(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path
) -> None:
    first = apiserver.issue_kubeconfig("nobody-in-particular")
    store = certificates.Store(tmp_path / "pki", "kubelet-client")
    with pytest.raises(errors.Forbidden):
        await certificates.bootstrap(tmp_path / "kubeconfig", first, store, "node-1", "test")


def test_an_expired_certificate_is_no_reason_to_skip_the_bootstrap(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path
) -> None:
    expired = apiserver.issue_kubeconfig(
        "system:node:old", ["system:nodes"], valid_for=datetime.timedelta(seconds=-1)
    )
    user = yaml.safe_load(expired.read_text())["users"][0]["user"]
    store = certificates.Store(tmp_path, "kubelet-client")
    store.write(
        base64.b64decode(user["client-certificate-data"]),
        base64.b64decode(user["client-key-data"]),
        datetime.datetime.now(datetime.UTC),
    )
    assert not certificates._is_usable(expired, store)
