"""Nobody gets anything from a node without credentials and the rights that go with them.

Tokens, certificates and rights are those of a real API server.
"""

import asyncio
import contextlib
import datetime
import ipaddress
import pathlib
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Iterable

import aiohttp
import node_agent_builders as builders
import node_agent_parts
import pytest
import yarl
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import oid

from whipstaff.cluster import testing
from whipstaff.node_agent import server
from whipstaff.runtime import client, config, resources, serving

pytestmark = pytest.mark.apiserver

AuthorityKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

PATHS = (
    "/pods",
    "/runningpods/",
    "/stats/summary",
    "/metrics",
    "/metrics/resource",
    "/metrics/cadvisor",
    "/metrics/probes",
    "/configz",
    "/healthz",
    "/healthz/syncloop",
    "/livez",
    "/readyz",
    "/logs/",
    "/logs/syslog",
    "/logs/?query=kubelet",
    "/nodes/node-0/pods",
    "/nodes/node-0/stats/summary",
    "/containerLogs/shop/web/app",
    "/exec/shop/web/app?command=id&output=1",
    "/attach/shop/web/app?output=1",
    "/portForward/shop/web",
    "/nowhere",
    "/",
)
STREAM = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}


class Node:
    """A node's server, and ways to ask it."""

    def __init__(self, served: serving.Server, parts: node_agent_parts.Parts) -> None:
        self.served = served
        self.parts = parts

    def trust(self, certificate: pathlib.Path | None = None) -> ssl.SSLContext:
        assert self.served.tls is not None
        assert self.served.tls.self_signed is not None
        context = ssl.create_default_context(cadata=self.served.tls.self_signed.decode())
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context

    async def ask(
        self,
        path: str,
        token: str = "",
        *,
        certificate: pathlib.Path | None = None,
        method: str = "GET",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        connector = aiohttp.TCPConnector(ssl=self.trust(certificate))
        url = yarl.URL(self.served.url + path, encoded=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, url, headers=sent) as answer,
        ):
            return answer.status, await answer.text()


@pytest.fixture
async def api(apiserver: testing.ControlPlane) -> AsyncIterator[client.Client]:
    async with client.Client(config.load(str(apiserver.kubeconfig))) as found:
        yield found


@pytest.fixture
async def node(
    apiserver: testing.ControlPlane, api: client.Client, tmp_path: pathlib.Path
) -> AsyncIterator[Node]:
    parts = node_agent_parts.Parts()
    log = tmp_path / "0.log"
    log.write_bytes(b"2026-01-02T03:04:05Z stdout F secret\n")
    node_logs = tmp_path / "log"
    node_logs.mkdir()
    (node_logs / "syslog").write_bytes(b"secret\n")
    status = {"name": "app", "containerID": "test://app-0", "state": {"running": {}}}
    parts.add(
        builders.pod(),
        builders.run(log_path=str(log)),
        status={"containerStatuses": [status]},
    )
    made = server.make(
        parts,
        api,
        bind_address="127.0.0.1",
        port=0,
        client_ca=str(apiserver.ca),
        sources=server.Sources(
            configuration=lambda: {"kind": "KubeletConfiguration"},
            logs=server.LogSettings(str(node_logs)),
        ),
    )
    async with made:
        yield Node(made, parts)


class Rights:
    """ServiceAccounts of a namespace, and what they may do with nodes."""

    def __init__(self, api: client.Client, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._names: list[str] = []

    async def account(
        self,
        name: str,
        subresources: Iterable[str] = (),
        verbs: Iterable[str] = ("get",),
        *,
        nodes: Iterable[str] = (),
    ) -> str:
        """A token that may do something with subresources of (these) nodes."""
        metadata = {"name": name, "namespace": self._namespace}
        await self._api.create(resources.SERVICEACCOUNTS, {"metadata": metadata})
        rule = {
            "apiGroups": [""],
            "resources": [f"nodes/{subresource}" for subresource in subresources],
            "verbs": list(verbs),
        }
        if nodes:
            rule["resourceNames"] = list(nodes)
        if rule["resources"]:
            full = f"{self._namespace}-{name}"
            self._names.append(full)
            await self._api.create(
                resources.CLUSTERROLES, {"metadata": {"name": full}, "rules": [rule]}
            )
            await self._api.create(
                resources.CLUSTERROLEBINDINGS,
                {
                    "metadata": {"name": full},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "ClusterRole",
                        "name": full,
                    },
                    "subjects": [
                        {"kind": "ServiceAccount", "name": name, "namespace": self._namespace}
                    ],
                },
            )
            # The API server's authorizer learns of it by a watch.
            await asyncio.sleep(0.5)
        answer = await self._api.create(
            resources.SERVICEACCOUNTS, {"spec": {}}, self._namespace, name=name, subresource="token"
        )
        token: str = answer["status"]["token"]
        return token

    async def close(self) -> None:
        for name in self._names:
            await self._api.delete(resources.CLUSTERROLEBINDINGS, name)
            await self._api.delete(resources.CLUSTERROLES, name)


@pytest.fixture
async def rights(api: client.Client, namespace: str) -> AsyncIterator[Rights]:
    made = Rights(api, namespace)
    yield made
    await made.close()


# Without credentials, or with wrong ones.


async def test_nobody_without_credentials_gets_anything(node: Node) -> None:
    for path in PATHS:
        for method in ("GET", "POST", "HEAD", "PUT"):
            headers = STREAM if method == "POST" else {}
            status, text = await node.ask(path, method=method, headers=headers)
            assert status == 401, (method, path)
            assert "secret" not in text
    assert (await node.ask("/run/shop/web/app?cmd=id", method="POST"))[0] == 401


@pytest.mark.parametrize(
    "header",
    [
        "Bearer nonsense",
        "Bearer ",
        "Basic YWRtaW46YWRtaW4=",
        "bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06bWFzdGVycyJ9.",
    ],
)
async def test_wrong_credentials_are_none(node: Node, header: str) -> None:
    assert (await node.ask("/pods", headers={"Authorization": header}))[0] == 401


async def test_a_token_of_another_time_or_another_signer_is_none(
    node: Node, rights: Rights
) -> None:
    token = await rights.account("reader", ["pods"])
    assert (await node.ask("/pods", token))[0] == 200
    head, body, signature = token.split(".")
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    assert (await node.ask("/pods", f"{head}.{body}.{flipped}"))[0] == 401


async def test_who_one_claims_to_be_in_a_header_is_ignored(node: Node, rights: Rights) -> None:
    token = await rights.account("nobody")
    headers = {
        "X-Remote-User": "admin",
        "X-Remote-Group": "system:masters",
        "Impersonate-User": "admin",
        "Impersonate-Group": "system:masters",
    }
    assert (await node.ask("/pods", headers=headers))[0] == 401
    assert (await node.ask("/pods", token, headers=headers))[0] == 403


# Certificates.


def certificate(
    folder: pathlib.Path,
    authority: tuple[x509.Certificate, AuthorityKey] | None = None,
    *,
    days: tuple[int, int] = (-1, 1),
    usage: x509.ObjectIdentifier = oid.ExtendedKeyUsageOID.CLIENT_AUTH,
) -> pathlib.Path:
    """A file with a certificate of an administrator, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(oid.NameOID.ORGANIZATION_NAME, "system:masters"),
            x509.NameAttribute(oid.NameOID.COMMON_NAME, "kubernetes-admin"),
        ]
    )
    issuer, signer = (authority[0].subject, authority[1]) if authority else (name, key)
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    path = folder / f"{made.serial_number:x}.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def clusters_authority(
    apiserver: testing.ControlPlane,
) -> tuple[x509.Certificate, AuthorityKey]:
    key = serialization.load_pem_private_key(
        (apiserver.ca.parent / "ca.key").read_bytes(), password=None
    )
    assert isinstance(key, AuthorityKey)
    return x509.load_pem_x509_certificate(apiserver.ca.read_bytes()), key


async def test_a_certificate_of_the_clusters_ca_counts_until_it_expires(
    apiserver: testing.ControlPlane, node: Node, tmp_path: pathlib.Path
) -> None:
    authority = clusters_authority(apiserver)
    good = certificate(tmp_path, authority)
    assert (await node.ask("/pods", certificate=good))[0] == 200
    assert "secret" in (await node.ask("/containerLogs/shop/web/app", certificate=good))[1]
    for days in ((-2, -1), (1, 2)):
        with pytest.raises(aiohttp.ClientError):
            await node.ask("/pods", certificate=certificate(tmp_path, authority, days=days))


async def test_a_certificate_of_another_ca_is_turned_away(
    apiserver: testing.ControlPlane, node: Node, tmp_path: pathlib.Path
) -> None:
    own = certificate(tmp_path)
    # Another CA of the same name: only the key tells them apart.
    impostor = (clusters_authority(apiserver)[0], ec.generate_private_key(ec.SECP256R1()))
    for wrong in (own, certificate(tmp_path, impostor)):
        with pytest.raises(aiohttp.ClientError):
            await node.ask("/pods", certificate=wrong)


async def test_a_servers_certificate_is_no_clients(
    apiserver: testing.ControlPlane, node: Node, tmp_path: pathlib.Path
) -> None:
    made = certificate(
        tmp_path, clusters_authority(apiserver), usage=oid.ExtendedKeyUsageOID.SERVER_AUTH
    )
    with pytest.raises(aiohttp.ClientError):
        await node.ask("/pods", certificate=made)


async def test_nothing_is_served_in_the_clear_or_by_old_tls(node: Node) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.served.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        assert b"ok" not in await reader.read(-1)
    writer.close()
    old = node.trust()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", node.served.port, ssl=old)


# Rights.


async def test_a_token_without_rights_is_refused_everything(node: Node, rights: Rights) -> None:
    token = await rights.account("nobody")
    for path in PATHS:
        status, text = await node.ask(path, token)
        assert status == 403, path
        assert "secret" not in text
    status, text = await node.ask("/pods", token)
    assert text.endswith("verb=get, resource=nodes, subresource(s)=[pods proxy])\n")
    assert text.startswith("Forbidden (user=system:serviceaccount:")


@pytest.mark.parametrize(
    ("subresource", "paths"),
    [
        ("pods", {"/pods", "/runningpods/", "/nodes/node-0/pods"}),
        ("stats", {"/stats/summary", "/nodes/node-0/stats/summary"}),
        ("metrics", {"/metrics", "/metrics/resource", "/metrics/cadvisor", "/metrics/probes"}),
        ("configz", {"/configz"}),
        ("healthz", {"/healthz", "/healthz/syncloop", "/livez", "/readyz"}),
        ("log", {"/logs/", "/logs/syslog", "/logs/?query=kubelet"}),
    ],
)
async def test_each_right_opens_its_own_paths_only(
    node: Node, rights: Rights, subresource: str, paths: set[str]
) -> None:
    token = await rights.account(subresource, [subresource])
    for path in PATHS:
        status, _ = await node.ask(path, token)
        assert status == (200 if path in paths else 403), path


async def test_the_right_to_the_proxy_opens_what_has_none_of_its_own(
    node: Node, rights: Rights
) -> None:
    token = await rights.account("proxy", ["proxy"])
    refused = {path for path in PATHS if (await node.ask(path, token))[0] == 403}
    assert refused == {
        "/stats/summary", "/metrics", "/metrics/resource", "/metrics/cadvisor", "/metrics/probes",
        "/nodes/node-0/stats/summary", "/logs/", "/logs/syslog", "/logs/?query=kubelet",
        # To read isn't to run, whatever the method.
        "/exec/shop/web/app?command=id&output=1", "/attach/shop/web/app?output=1",
        "/portForward/shop/web",
    }  # fmt: skip
    for path in ("/exec/shop/web/app?output=1", "/run/shop/web/app?cmd=id"):
        assert (await node.ask(path, token, method="POST", headers=STREAM))[0] == 403
    maker = await rights.account("maker", ["proxy"], ["create"])
    for method in ("GET", "POST"):
        status, text = await node.ask("/exec/shop/web/app?output=1", maker, method=method)
        assert (status, text) == (500, "Upgrade request required")


async def test_rights_to_another_node_are_none_to_this_one(node: Node, rights: Rights) -> None:
    token = await rights.account("elsewhere", ["proxy", "pods"], nodes=["node-1"])
    for path in ("/pods", "/pods?node=node-1", "/nodes/node-1/pods", "/containerLogs/shop/web/app"):
        assert (await node.ask(path, token))[0] == 403, path


# Paths.


@pytest.mark.parametrize(
    "path",
    [
        "/stats/../pods",
        "/stats/%2e%2e/pods",
        "/stats/..%2fpods",
        "/metrics/../containerLogs/shop/web/app",
        "/metrics/%2e%2e/containerLogs/shop/web/app",
        "//containerLogs/shop/web/app",
        "/metrics//../containerLogs/shop/web/app",
        "/stats/summary/../../containerLogs/shop/web/app",
        "/stats/summary;/containerLogs/shop/web/app",
        "/nodes/node-0/../../containerLogs/shop/web/app",
        "/nodes/stats/containerLogs/shop/web/app",
    ],
)
async def test_a_path_cannot_be_authorized_as_one_and_served_as_another(
    node: Node, rights: Rights, path: str
) -> None:
    token = await rights.account("scraper", ["stats", "metrics"])
    request = f"GET {path} HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {token}\r\n\r\n"
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", node.served.port, ssl=node.trust(), server_hostname="localhost"
    )
    writer.write(request.encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.split()[1] in {b"403", b"404", b"400"}
    writer.close()
    assert b"secret" not in answer


@pytest.mark.parametrize(
    "path",
    [
        "..%2f..%2fetc/web/app",
        "shop/..%2fweb/app",
        "shop/web/..%2f..%2f0.log",
        "shop/web/%2fetc%2fpasswd",
        "shop/web/app%00",
        "shop/./app",
        "shop%2fweb/app",
    ],
)
async def test_names_in_paths_are_names_and_not_paths(
    apiserver: testing.ControlPlane, node: Node, tmp_path: pathlib.Path, path: str
) -> None:
    admin = certificate(tmp_path, clusters_authority(apiserver))
    status, text = await node.ask(f"/containerLogs/{path}", certificate=admin)
    assert status == 404
    assert "root:" not in text


async def test_a_log_that_a_pod_has_made_a_link_of_is_not_shown(
    apiserver: testing.ControlPlane, node: Node, tmp_path: pathlib.Path
) -> None:
    admin = certificate(tmp_path, clusters_authority(apiserver))
    (worker,) = node.parts.crew
    log = pathlib.Path(worker.life.runtime.containers[0].log_path)
    log.unlink()  # noqa: ASYNC240 (a moment)
    log.symlink_to("/etc/passwd")  # noqa: ASYNC240 (a moment)
    status, text = await node.ask("/containerLogs/shop/web/app", certificate=admin)
    assert status == 400
    assert "root:" not in text


async def test_what_would_show_how_the_agent_works_is_not_served(
    apiserver: testing.ControlPlane, node: Node, tmp_path: pathlib.Path
) -> None:
    admin = certificate(tmp_path, clusters_authority(apiserver))
    for path in ("/logs/nothing", "/debug/pprof/", "/debug/flags/v", "/checkpoint/a/b/c"):
        assert (await node.ask(path, certificate=admin))[0] == 404


async def test_who_asks_too_much_is_cut_off(node: Node) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", node.served.port, ssl=node.trust(), server_hostname="localhost"
    )
    writer.write(b"GET /pods HTTP/1.1\r\nHost: node\r\nX-Long: " + b"a" * 1_000_000 + b"\r\n\r\n")
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        answer = await reader.read(-1)
    assert answer == b"" or answer.split()[1] == b"400"
    writer.close()
    assert (await node.ask("/healthz"))[0] == 401


# Elsewhere.


async def test_a_self_signed_certificate_is_for_this_host_only(node: Node) -> None:
    assert node.served.tls is not None
    assert node.served.tls.self_signed is not None
    found = x509.load_pem_x509_certificate(node.served.tls.self_signed)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.IPAddress)) <= {
        ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"),
    }  # fmt: skip
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", socket.gethostname()}
