"""What a user reads when a component can't start: one line that says what to mend."""

import base64
import datetime
import pathlib
import threading
import time
from typing import Any

import orjson
import pytest
import yaml

from whipstaff.cluster import testing
from whipstaff.runtime import client, config, errors, preflight, resources

NEEDS = (
    preflight.Access("list", resources.NODES),
    preflight.Access("watch", resources.NODES),
    preflight.Access("create", resources.PODS, "binding"),
    preflight.Access("update", resources.DEPLOYMENTS, "status", namespace="shop"),
    preflight.Access("get", resources.LEASES, namespace="kube-system", name="whipstaff"),
)


async def refused(connection: config.Connection, wait: float = 0.2) -> str:
    """The line that a start with this connection ends with."""
    async with client.Client(connection, timeout=5) as api:
        with pytest.raises(errors.StartupError) as caught:
            await preflight.check(api, NEEDS, wait=wait)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_user(
    plane: testing.ControlPlane, folder: pathlib.Path, user: dict[str, Any], **cluster: Any
) -> config.Connection:
    """A connection to the server with this user's fields."""
    content = yaml.safe_load(plane.kubeconfig.read_text())
    content["users"][0]["user"] = user
    fields = content["clusters"][0]["cluster"]
    fields.pop("certificate-authority-data", None)
    fields["certificate-authority"] = str(plane.ca)
    fields |= cluster
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return config.load(file)


def jwt(**claims: Any) -> str:
    parts: tuple[dict[str, Any], ...] = ({"alg": "none"}, claims, {})
    return ".".join(
        base64.urlsafe_b64encode(orjson.dumps(part)).decode().rstrip("=") for part in parts
    )


# ---- without a server ------------------------------------------------------------------------


async def test_nobody_there(unused_tcp_port: int) -> None:
    server = f"https://127.0.0.1:{unused_tcp_port}"
    began = time.monotonic()
    line = await refused(config.Connection(server, "kubeconfig /k context 'c'"))
    assert line == (
        f"cannot reach the API server: {server}: connection refused (kubeconfig /k context 'c')"
    )
    assert time.monotonic() - began < 2


@pytest.mark.usefixtures("no_names")
async def test_no_such_host() -> None:
    line = await refused(config.Connection("https://no-such-host.invalid:1", "kubeconfig /k"))
    assert "cannot resolve the name 'no-such-host.invalid' (kubeconfig /k)" in line


async def test_a_plugin_that_issues_nothing() -> None:
    def fail() -> config.Credentials:
        raise errors.ConfigurationError("/k: user 'u': exec: get-token: please log in")

    connection = config.Connection("https://127.0.0.1:1", "kubeconfig /k", authenticate=fail)
    assert await refused(connection) == (
        "no credentials: /k: user 'u': exec: get-token: please log in"
    )


def test_rights_are_called_what_rbac_calls_them() -> None:
    assert [right.target for right in NEEDS] == [
        "nodes",
        "nodes",
        "pods/binding",
        "deployments/status.apps in namespace shop",
        "leases.coordination.k8s.io 'whipstaff' in namespace kube-system",
    ]


# ---- with one --------------------------------------------------------------------------------


@pytest.mark.apiserver
async def test_everything_there(apiserver: testing.ControlPlane) -> None:
    async with client.Client(config.load(apiserver.kubeconfig)) as api:
        await preflight.check(api, NEEDS)


@pytest.mark.apiserver
async def test_an_expired_client_certificate(apiserver: testing.ControlPlane) -> None:
    file = apiserver.issue_kubeconfig("late", valid_for=datetime.timedelta(hours=-3))
    connection = config.load(file)
    assert connection.certificate is not None
    line = await refused(connection)
    assert line.startswith(f"the client certificate {connection.certificate.where} expired on 20")
    assert line.endswith(" UTC")


@pytest.mark.apiserver
async def test_a_client_certificate_of_the_future(apiserver: testing.ControlPlane) -> None:
    certificate = config.load(apiserver.kubeconfig).certificate
    assert certificate is not None
    with pytest.raises(errors.StartupError, match="is the clock right"):
        preflight.check_certificate(
            certificate, datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1000)
        )


@pytest.mark.apiserver
async def test_a_server_that_another_authority_signed(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path
) -> None:
    other = str(apiserver.etcd.ca)
    connection = with_user(apiserver, tmp_path, {"token": "x"}, **{"certificate-authority": other})
    began = time.monotonic()
    line = await refused(connection, wait=30)
    assert line.startswith(
        f"cannot trust the API server {apiserver.server}: its certificate isn't trusted: "
    )
    assert line.endswith(f"({connection.source})")
    assert time.monotonic() - began < 5


@pytest.mark.apiserver
async def test_a_server_by_another_name(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path
) -> None:
    user = {"token": "x"}
    connection = with_user(apiserver, tmp_path, user, **{"tls-server-name": "api.example"})
    assert "certificate is not valid for 'api.example'" in await refused(connection)


@pytest.mark.apiserver
async def test_an_expired_token(apiserver: testing.ControlPlane, tmp_path: pathlib.Path) -> None:
    expiry = datetime.datetime(2020, 2, 29, 12, 0, tzinfo=datetime.UTC).timestamp()
    connection = with_user(apiserver, tmp_path, {"token": jwt(exp=expiry)})
    assert await refused(connection) == (
        f"{apiserver.server} doesn't accept our credentials: the token of {connection.source} "
        "expired on 2020-02-29 at 12:00:00 UTC"
    )


@pytest.mark.apiserver
@pytest.mark.parametrize("token", ["made-up", jwt(sub="x"), "a.%%%.c"])
async def test_a_token_that_nobody_knows(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path, token: str
) -> None:
    connection = with_user(apiserver, tmp_path, {"token": token})
    line = await refused(connection)
    assert line.endswith(
        f"the token of {connection.source} is expired, revoked or meant for another server"
    )


@pytest.mark.apiserver
async def test_a_certificate_that_another_authority_signed(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path
) -> None:
    file, key = str(apiserver.etcd.certificate), str(apiserver.etcd.key)
    connection = with_user(apiserver, tmp_path, {"client-certificate": file, "client-key": key})
    line = await refused(connection)
    assert line.endswith(f"its authority didn't sign the client certificate {file}")


@pytest.mark.apiserver
async def test_no_credentials_at_all(
    apiserver: testing.ControlPlane, tmp_path: pathlib.Path
) -> None:
    connection = with_user(apiserver, tmp_path, {})
    line = await refused(connection)
    assert f"there are none in {connection.source}" in line or line.endswith(
        f"there are no credentials in {connection.source}"
    )


@pytest.mark.apiserver
async def test_every_missing_right_is_named(apiserver: testing.ControlPlane) -> None:
    connection = config.load(apiserver.issue_kubeconfig("nobody-in-particular"))
    assert await refused(connection) == (
        "user 'nobody-in-particular' needs rights that RBAC doesn't grant: list, watch nodes; "
        "create pods/binding; update deployments/status.apps in namespace shop; "
        "get leases.coordination.k8s.io 'whipstaff' in namespace kube-system"
    )


@pytest.mark.apiserver
async def test_a_server_that_is_just_starting_is_waited_for(
    own_apiserver: testing.ControlPlane,
) -> None:
    own_apiserver.stop_apiserver(grace=0)
    starter = threading.Thread(target=own_apiserver.start_apiserver)
    async with client.Client(config.load(own_apiserver.kubeconfig)) as api:
        with pytest.raises(errors.StartupError, match="connection refused"):
            await preflight.check(api, wait=0.2)
        starter.start()
        await preflight.check(api, NEEDS, wait=60)
    starter.join()
