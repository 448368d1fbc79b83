"""Extenders behind HTTPS: whom the scheduler believes, and who it says it is."""

import datetime
import pathlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from whipstaff.runtime import errors
from whipstaff.scheduler import extender_settings, extenders, pods

RAW = {
    "metadata": {"name": "pod", "namespace": "default", "uid": "uid"},
    "spec": {"containers": []},
    "status": {},
}


def issue(name: str) -> tuple[bytes, bytes]:
    """A certificate that signs itself, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


CERTIFICATE, KEY = issue("extender.example")
OURS, OUR_KEY = issue("scheduler.example")


@pytest.fixture
async def url(tmp_path: pathlib.Path) -> AsyncIterator[str]:
    """An extender that lets every node pass, for those who show our certificate."""

    async def handle(request: web.Request) -> web.Response:
        return web.json_response({"NodeNames": (await request.json())["NodeNames"]})

    (tmp_path / "pem").write_bytes(CERTIFICATE + KEY)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=OURS.decode())
    context.load_cert_chain(tmp_path / "pem")
    context.verify_mode = ssl.CERT_REQUIRED
    application = web.Application()
    application.router.add_post("/filter", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def refused(url: str, tls: extender_settings.Tls) -> dict[str, Any]:
    settings = extender_settings.ExtenderSettings(
        url, "filter", enable_https=True, tls=tls, node_cache_capable=True
    )
    extender = extenders.Extender(settings)
    try:
        return dict(await extender.filter(pods.PodInfo.from_object(RAW), {"a": {}}))
    finally:
        await extender.close()


async def test_an_extender_that_the_ca_vouches_for_is_believed(url: str) -> None:
    tls = extender_settings.Tls(
        server_name="extender.example", ca_data=CERTIFICATE, cert_data=OURS, key_data=OUR_KEY
    )
    assert await refused(url, tls) == {}


async def test_certificates_may_be_in_files(url: str, tmp_path: pathlib.Path) -> None:
    for name, data in {"ca": CERTIFICATE, "crt": OURS, "key": OUR_KEY}.items():
        (tmp_path / name).write_bytes(data)
    ca, crt, key = (str(tmp_path / name) for name in ("ca", "crt", "key"))
    tls = extender_settings.Tls(
        server_name="extender.example", ca_file=ca, cert_file=crt, key_file=key
    )
    assert await refused(url, tls) == {}


async def test_an_extender_without_a_ca_is_believed(url: str) -> None:
    assert await refused(url, extender_settings.Tls(cert_data=OURS, key_data=OUR_KEY)) == {}


@pytest.mark.parametrize(
    "tls",
    [
        extender_settings.Tls(ca_data=CERTIFICATE, cert_data=OURS, key_data=OUR_KEY),
        extender_settings.Tls(
            server_name="extender.example", ca_data=OURS, cert_data=OURS, key_data=OUR_KEY
        ),
    ],
    ids=["another name", "another ca"],
)
async def test_other_extenders_are_not_believed(url: str, tls: extender_settings.Tls) -> None:
    with pytest.raises(extenders.ExtenderError, match="certificate verify failed"):
        await refused(url, tls)


@pytest.mark.parametrize(
    "tls",
    [
        extender_settings.Tls(ca_data=b"nothing"),
        extender_settings.Tls(ca_file="/nowhere"),
        extender_settings.Tls(cert_data=OURS, key_data=KEY),
    ],
)
def test_certificates_that_can_not_be_used_are_told(tls: extender_settings.Tls) -> None:
    settings = extender_settings.ExtenderSettings("https://x", tls=tls)
    with pytest.raises(errors.ConfigurationError, match="extender https://x: tlsConfig: "):
        extenders.Extender(settings)
