"""Finding the server and the credentials, and what is said when that can't be done."""

import asyncio
import base64
import datetime
import json
import math
import pathlib
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from whipstaff.runtime import config, connections, errors

SERVER = "https://127.0.0.1:6443"


def issue(name: str = "tester", days: int = 1) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7)
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def kubeconfig(
    cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **context: Any
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", **context}}],
        "clusters": [{"name": "c", "cluster": {"server": SERVER, **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "kubeconfig"


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """No kubeconfig, pod or proxy of the machine that runs the tests."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def write(file: pathlib.Path, content: dict[str, Any]) -> config.Connection:
    file.write_text(yaml.safe_dump(content))
    return config.load(file)


def plugin(folder: pathlib.Path, body: str) -> pathlib.Path:
    """An exec plugin: a script that prints an ExecCredential with the status of `body`."""
    script = folder / "plugin"
    script.write_text(
        f"#!{sys.executable}\nimport datetime, json, os, pathlib, sys, time\n"
        f"status = {{}}\nhere = pathlib.Path({str(folder)!r})\n{body}\n"
        'print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1",'
        ' "kind": "ExecCredential", "status": status}))\n'
    )
    script.chmod(0o755)
    return script


def exec_user(command: str, **more: Any) -> dict[str, Any]:
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": command, **more}}


# ---- where to look ---------------------------------------------------------------------------


def test_a_kubeconfig_says_where_and_as_whom(file: pathlib.Path) -> None:
    connection = write(file, kubeconfig({"tls-server-name": "api"}, {"token": "t"}, namespace="ns"))
    assert (connection.server, connection.namespace) == (SERVER, "ns")
    assert connection.server_hostname == "api"
    assert connection.source == f"kubeconfig {file} context 'here'"
    assert connection.loopback
    assert connection.tls is not None
    assert connection.tls.verify_mode == ssl.CERT_REQUIRED


def test_what_a_kubeconfig_says_beside_that_is_kept(file: pathlib.Path) -> None:
    entries = [{"name": "whipstaff", "extension": {"scheduler": "https://127.0.0.1:1"}}, "junk"]
    connection = write(file, kubeconfig({"extensions": entries}))
    assert connection.extensions == {"whipstaff": {"scheduler": "https://127.0.0.1:1"}}
    assert write(file, kubeconfig({"extensions": "junk"})).extensions == {}


def test_another_context_can_be_asked_for(file: pathlib.Path) -> None:
    content = kubeconfig()
    content["contexts"].append({"name": "there", "context": {"cluster": "d"}})
    content["clusters"].append({"name": "d", "cluster": {"server": "http://far.example/k8s/"}})
    write(file, content)
    connection = config.load(file, "there")
    assert connection.server == "http://far.example/k8s"
    assert connection.tls is None
    assert not connection.loopback


def test_the_variable_comes_before_the_home_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / ".kube" / "config"
    home.parent.mkdir(parents=True)
    home.write_text(yaml.safe_dump(kubeconfig({"server": "https://home.example"})))
    assert config.load().server == "https://home.example"
    assert config.load().source == f"kubeconfig {home} context 'here'"
    first, second = tmp_path / "first", tmp_path / "second"
    contexts = {"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "z"}}]}
    first.write_text(yaml.safe_dump(contexts))
    second.write_text(
        yaml.safe_dump({"clusters": [{"name": "z", "cluster": {"server": "https://z.example"}}]})
    )
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}:{tmp_path / 'not there'}")
    assert config.load().server == "https://z.example"


def test_nothing_anywhere_says_where_it_looked() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"\$KUBECONFIG is empty, .*/\.kube/config"):
        config.load()


# ---- what can be wrong -----------------------------------------------------------------------

PEM, KEY = issue()
OTHER_PEM, OTHER_KEY = issue("another")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", r"isn't YAML: .*line 1"),
        ("", r"isn't a kubeconfig"),
        ("- a", r"isn't a kubeconfig"),
        ({"kind": "Config"}, r"current-context is empty"),
        (kubeconfig() | {"current-context": "x"}, r"no context 'x' \(there are: here\)"),
        (kubeconfig() | {"clusters": []}, r"context 'here': no cluster 'c' \(there are: none\)"),
        (kubeconfig() | {"users": []}, r"context 'here': no user 'u' \(there are: none\)"),
        (kubeconfig() | {"clusters": "c"}, r"no cluster 'c' \(there are: none\)"),
        (
            kubeconfig() | {"clusters": [{"name": "c", "cluster": "x"}]},
            r"cluster 'c': cluster: isn't a mapping",
        ),
        (kubeconfig({"server": ""}), r"cluster 'c': server: '' isn't an http"),
        (kubeconfig({"server": "far.example:1"}), r"server: 'far.example:1' isn't an http"),
        (kubeconfig({"server": "https://x:port"}), r"server: 'https://x:port' isn't an http"),
        (kubeconfig({"proxy-url": "socks5://x"}), r"proxy-url: 'socks5://x': only HTTP proxies"),
        (
            kubeconfig({"certificate-authority": "ca.crt"}),
            r"cluster 'c': certificate-authority: cannot read .*/ca.crt: No such file",
        ),
        (
            kubeconfig({"certificate-authority-data": "%%%"}),
            r"cluster 'c': certificate-authority-data: isn't base64",
        ),
        (
            kubeconfig({"certificate-authority-data": base64_of(b"hello")}),
            r"certificate-authority: no usable certificate in certificate-authority-data of",
        ),
        (
            kubeconfig(user={"client-certificate-data": base64_of(PEM)}),
            r"user 'u': client-key: is missing",
        ),
        (
            kubeconfig(user={"client-key-data": base64_of(KEY)}),
            r"user 'u': client-certificate: is missing",
        ),
        (
            kubeconfig(
                user={
                    "client-certificate-data": base64_of(PEM),
                    "client-key-data": base64_of(OTHER_KEY),
                }
            ),
            r"client-certificate-data of user 'u' in .*: its key belongs to another certificate",
        ),
        (
            kubeconfig(
                user={
                    "client-certificate-data": base64_of(b"hello"),
                    "client-key-data": base64_of(KEY),
                }
            ),
            r"client-certificate-data of user 'u' in .*: the certificate or its key isn't usable",
        ),
        (
            kubeconfig(user={"tokenFile": "gone"}),
            r"user 'u': tokenFile: cannot read .*/gone: No such file",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_its_name(
    file: pathlib.Path, content: Any, message: str
) -> None:
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(errors.ConfigurationError, match=message) as caught:
        config.load(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(file: pathlib.Path) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"kubeconfig {file}: no such file"):
        config.load(file)


def test_an_encrypted_key_asks_nobody_for_a_password(file: pathlib.Path) -> None:
    loaded = serialization.load_pem_private_key(KEY, None)
    encrypted = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    user = {"client-certificate-data": base64_of(PEM), "client-key-data": base64_of(encrypted)}
    with pytest.raises(errors.ConfigurationError, match="its key is encrypted"):
        write(file, kubeconfig(user=user))


# ---- TLS -------------------------------------------------------------------------------------


def test_the_authority_alone_is_trusted(file: pathlib.Path) -> None:
    (file.parent / "ca.crt").write_bytes(PEM)
    connection = write(file, kubeconfig({"certificate-authority": "ca.crt"}))
    assert connection.tls is not None
    assert connection.tls.cert_store_stats()["x509"] == 1
    # Go, and so every cluster's own certificates, don't live up to this.
    assert not connection.tls.verify_flags & ssl.VERIFY_X509_STRICT


def test_verification_can_be_switched_off(file: pathlib.Path) -> None:
    connection = write(file, kubeconfig({"insecure-skip-tls-verify": True}))
    assert connection.tls is not None
    assert connection.tls.verify_mode == ssl.CERT_NONE
    assert not connection.tls.check_hostname


def test_private_keys_are_left_in_no_file(
    file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    modes = []
    touch = pathlib.Path.touch

    def note(path: pathlib.Path, mode: int = 0o666, exist_ok: bool = True) -> None:
        touch(path, mode, exist_ok)
        modes.append(stat.S_IMODE(path.stat().st_mode))

    monkeypatch.setattr(pathlib.Path, "touch", note)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    user = {"client-certificate-data": base64_of(PEM), "client-key-data": base64_of(KEY)}
    connection = write(file, kubeconfig(user=user))
    assert connection.certificate is not None
    assert connection.certificate.where == f"client-certificate-data of user 'u' in {file}"
    assert modes == [0o600]
    assert list(scratch.iterdir()) == []


async def test_a_certificate_renewed_in_its_file_is_used(
    file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, key = file.parent / "tls.crt", file.parent / "tls.key"
    pem.write_bytes(PEM)
    key.write_bytes(KEY)
    connection = write(
        file, kubeconfig(user={"client-certificate": "tls.crt", "client-key": "tls.key"})
    )
    first, certificate = await connection.headers(), connection.certificate
    assert certificate == config.Certificate(str(pem), PEM, KEY)
    pass_time(monkeypatch, config.FILE_PERIOD)
    assert await connection.headers() is first
    assert connection.certificate is certificate
    pem.write_bytes(OTHER_PEM)
    key.write_bytes(OTHER_KEY)
    assert await connection.headers() is first
    pass_time(monkeypatch, 2 * config.FILE_PERIOD)
    assert await connection.headers() is not first
    assert connection.certificate == config.Certificate(str(pem), OTHER_PEM, OTHER_KEY)


async def test_a_half_written_certificate_is_not_used(
    file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, key = file.parent / "tls.crt", file.parent / "tls.key"
    pem.write_bytes(PEM)
    key.write_bytes(KEY)
    connection = write(
        file, kubeconfig(user={"client-certificate": "tls.crt", "client-key": "tls.key"})
    )
    first = await connection.headers()
    pem.write_bytes(OTHER_PEM)
    pass_time(monkeypatch, config.FILE_PERIOD)
    assert await connection.headers() is first
    assert connection.certificate == config.Certificate(str(pem), PEM, KEY)
    key.write_bytes(OTHER_KEY)
    pass_time(monkeypatch, config.FILE_PERIOD + connections.RENEWAL_PAUSE)
    assert await connection.headers() is not first


# ---- tokens ----------------------------------------------------------------------------------


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let `seconds` pass since the test began, as far as the module can see."""
    monkeypatch.setattr(time, "monotonic", lambda: _MONOTONIC() + seconds)


_MONOTONIC = time.monotonic


@pytest.mark.parametrize(
    ("user", "headers"),
    [
        ({}, {}),
        ({"token": "abc"}, {"Authorization": "Bearer abc"}),
        ({"username": "a", "password": "b"}, {"Authorization": "Basic YTpi"}),
        (
            {"token": "abc", "as": "jane", "as-uid": "7", "as-groups": ["g"]},
            {
                "Authorization": "Bearer abc",
                "Impersonate-User": "jane",
                "Impersonate-Uid": "7",
                "Impersonate-Group": "g",
            },
        ),
    ],
)
async def test_credentials_that_stay(
    file: pathlib.Path, user: dict[str, Any], headers: dict[str, str]
) -> None:
    connection = write(file, kubeconfig(user=user))
    sent = await connection.headers()
    assert dict(sent) == headers
    assert await connection.headers() is sent
    assert not await connection.rejected(sent)


async def test_an_auth_provider_issues_the_token(file: pathlib.Path) -> None:
    claims = json.dumps({"exp": int(time.time()) + 3600}).encode()
    token = f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.sig"
    user = {"auth-provider": {"name": "oidc", "config": {"id-token": token}}}
    connection = write(file, kubeconfig(user=user))
    assert dict(await connection.headers()) == {"Authorization": f"Bearer {token}"}


async def test_every_group_to_impersonate_is_sent(file: pathlib.Path) -> None:
    user = {"as": "jane", "as-groups": ["g", "h"], "as-user-extra": {"a/b": ["1", "2"]}}
    headers = await write(file, kubeconfig(user=user)).headers()
    assert list(headers.items())[1:] == [
        ("Impersonate-Group", "g"),
        ("Impersonate-Group", "h"),
        ("Impersonate-Extra-a%2Fb", "1"),
        ("Impersonate-Extra-a%2Fb", "2"),
    ]


async def test_a_token_file_is_read_again(
    file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = file.parent / "token"
    token.write_text("one\n")
    connection = write(file, kubeconfig(user={"tokenFile": "token"}))
    assert dict(await connection.headers()) == {"Authorization": "Bearer one"}
    token.write_text("two\n")
    assert dict(await connection.headers()) == {"Authorization": "Bearer one"}
    pass_time(monkeypatch, config.FILE_PERIOD)
    assert dict(await connection.headers()) == {"Authorization": "Bearer two"}


async def test_a_rejected_token_is_read_again_at_once(
    file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = file.parent / "token"
    token.write_text("one")
    connection = write(file, kubeconfig(user={"tokenFile": "token"}))
    first = await connection.headers()
    token.write_text("two")
    assert await connection.rejected(first)
    second = await connection.headers()
    assert dict(second) == {"Authorization": "Bearer two"}
    # Another request in flight had the old one too: it just goes again.
    assert await connection.rejected(first)
    # Nothing new to be had: that is so for a while, whoever asks.
    assert not await connection.rejected(second)
    token.write_text("three")
    assert not await connection.rejected(second)
    pass_time(monkeypatch, connections.RENEWAL_PAUSE)
    assert await connection.rejected(second)


async def test_a_token_file_that_vanishes_leaves_the_old_token(
    file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = file.parent / "token"
    token.write_text("one")
    connection = write(file, kubeconfig(user={"tokenFile": "token"}))
    first = await connection.headers()
    token.unlink()
    pass_time(monkeypatch, config.FILE_PERIOD)
    assert await connection.headers() is first
    assert "cannot read" in capsys.readouterr().err
    pass_time(monkeypatch, config.FILE_PERIOD + connections.RENEWAL_PAUSE)
    with pytest.raises(errors.Unreachable, match="tokenFile: cannot read"):
        await connection.rejected(first)


# ---- plugins ---------------------------------------------------------------------------------


async def test_a_plugin_is_run_once_until_its_token_expires(
    file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(
        file.parent,
        """
count = len(list(here.glob("run-*")))
(here / f"run-{count}").touch()
expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
status = {"token": f"t{count}", "expirationTimestamp": expiry.isoformat()}
""",
    )
    connection = write(file, kubeconfig(user=exec_user("./plugin")))
    assert not list(file.parent.glob("run-*"))
    assert dict(await connection.headers()) == {"Authorization": "Bearer t0"}
    assert dict(await connection.headers()) == {"Authorization": "Bearer t0"}
    pass_time(monkeypatch, 3595)
    assert dict(await connection.headers()) == {"Authorization": "Bearer t1"}
    assert len(list(file.parent.glob("run-*"))) == 2


async def test_a_plugin_runs_once_for_all_who_wait(file: pathlib.Path) -> None:
    plugin(file.parent, '(here / f"run-{os.getpid()}").touch(); status = {"token": "t"}')
    connection = write(file, kubeconfig(user=exec_user("./plugin")))
    given = await asyncio.gather(*(connection.headers() for _ in range(5)))
    assert len(list(file.parent.glob("run-*"))) == 1
    assert all(headers is given[0] for headers in given)


async def test_a_plugin_learns_what_the_file_says(file: pathlib.Path) -> None:
    plugin(
        file.parent,
        """
spec = json.loads(os.environ["KUBERNETES_EXEC_INFO"])["spec"]
status = {"token": "-".join([*sys.argv[1:], os.environ["WHO"], spec["cluster"]["server"]])}
""",
    )
    user = exec_user(
        "./plugin",
        args=["a", "b"],
        env=[{"name": "WHO", "value": "me"}],
        provideClusterInfo=True,
    )
    connection = write(file, kubeconfig(user=user))
    assert dict(await connection.headers()) == {"Authorization": f"Bearer a-b-me-{SERVER}"}


async def test_a_plugin_may_issue_a_certificate(file: pathlib.Path) -> None:
    (file.parent / "pem").write_bytes(PEM)
    (file.parent / "key").write_bytes(KEY)
    script = plugin(
        file.parent,
        'status = {"clientCertificateData": (here / "pem").read_text(),'
        ' "clientKeyData": (here / "key").read_text()}',
    )
    connection = write(file, kubeconfig(user=exec_user("./plugin")))
    assert dict(await connection.headers()) == {}
    where = f"the certificate that {script} issued"
    assert connection.certificate == config.Certificate(where, PEM, KEY)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('please\\nlog in')", r"exec: .*/plugin: .*process returned 1. please log in"),
        ("print('hello')", r"exec: .*/plugin: .*failed to decode"),
        ("pass", r"exec: .*/plugin issued neither a token nor a certificate"),
        ("status = {'clientCertificateData': 'x'}", r"issued neither a token nor a certificate"),
        ("status = {'token': 'x', 'expirationTimestamp': 'soon'}", r"expirationTimestamp 'soon'"),
    ],
)
async def test_a_plugin_that_fails_is_one_line_with_its_reason(
    file: pathlib.Path, body: str, message: str
) -> None:
    plugin(file.parent, body)
    connection = write(file, kubeconfig(user=exec_user("./plugin")))
    with pytest.raises(errors.Unreachable, match=message) as caught:
        await connection.headers()
    assert str(caught.value).startswith(f"{file}: user 'u': ")
    assert "\n" not in str(caught.value)


async def test_a_plugin_that_is_not_installed_gives_its_hint(file: pathlib.Path) -> None:
    user = exec_user("no-such-plugin-here", installHint="Get it from\n  the shop.")
    connection = write(file, kubeconfig(user=user))
    with pytest.raises(errors.Unreachable) as caught:
        await connection.headers()
    expected = "exec: no-such-plugin-here: No such file or directory. Get it from the shop"
    assert str(caught.value) == f"{file}: user 'u': {expected}"


async def test_a_plugin_that_hangs_is_left_behind(
    file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(file.parent, "time.sleep(0.3)")
    connection = write(file, kubeconfig(user=exec_user("./plugin")))
    monkeypatch.setattr(connections, "PLUGIN_TIMEOUT", 0.05)
    with pytest.raises(errors.Unreachable, match="no credentials were issued within"):
        await connection.headers()


# ---- pods ------------------------------------------------------------------------------------


@pytest.fixture
def pod(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """What a pod finds of its service account."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("one")
    (folder / "ca.crt").write_bytes(PEM)
    (folder / "namespace").write_text("shop\n")
    monkeypatch.setattr(config, "SERVICE_ACCOUNT", folder)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return folder


async def test_a_pod_uses_its_service_account(
    pod: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = config.load()
    assert (connection.server, connection.namespace) == ("https://[fd00::1]:443", "shop")
    assert connection.source == f"service account in {pod}"
    assert dict(await connection.headers()) == {"Authorization": "Bearer one"}
    (pod / "token").write_text("two")
    pass_time(monkeypatch, config.FILE_PERIOD)
    assert dict(await connection.headers()) == {"Authorization": "Bearer two"}


@pytest.mark.parametrize("name", ["token", "ca.crt", "namespace"])
def test_a_service_account_without_its_files_is_one_line(pod: pathlib.Path, name: str) -> None:
    (pod / name).unlink()
    with pytest.raises(errors.ConfigurationError, match=str(pod)):
        config.load()


# ---- proxies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "proxy"),
    [
        ({"server": "https://far.example"}, "http://proxy.example:3128"),
        ({"server": "https://near.example"}, None),
        ({"server": "https://localhost:6443"}, None),
        ({"server": SERVER}, None),
        ({"server": SERVER, "proxy-url": "http://own.example"}, "http://own.example"),
    ],
)
def test_proxies(
    file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, cluster: dict[str, str], proxy: str | None
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "near.example")
    assert write(file, kubeconfig(cluster)).proxy == proxy


# ---- weight ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["no file", "a file", "a pod"])
def test_the_official_client_is_not_imported_before_it_is_needed(
    pod: pathlib.Path, file: pathlib.Path, source: str
) -> None:
    user = {"client-certificate-data": base64_of(PEM), "client-key-data": base64_of(KEY)}
    file.write_text(yaml.safe_dump(kubeconfig(user=user)))
    load = {
        "no file": "",
        "a file": f"config.load({str(file)!r})",
        "a pod": f"config.SERVICE_ACCOUNT = pathlib.Path({str(pod)!r}); config.load()",
    }[source]
    code = (
        "import pathlib, sys; from whipstaff.runtime import client, config, informer, preflight\n"
        f"{load}\n"
        "print([m for m in sys.modules if m.startswith('kubernetes')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"


def test_what_never_changes_is_never_due() -> None:
    assert config.Credentials().lifetime == math.inf
