"""Certificates: who signs what, what is kept, and what is made anew."""

import datetime
import pathlib
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from whipstaff.cluster import certificates
from whipstaff.runtime import errors

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


def read(path: pathlib.Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_front_proxy_and_etcd_have_authorities_of_their_own(tmp_path: pathlib.Path) -> None:
    pki = certificates.ensure(tmp_path, NOW)
    for signed, authority in (
        (pki.apiserver, pki.ca),
        (pki.admin, pki.ca),
        (pki.front_proxy_client, pki.front_proxy_ca),
        (pki.etcd, pki.etcd_ca),
        (pki.apiserver_etcd_client, pki.etcd_ca),
    ):
        read(signed.certificate).verify_directly_issued_by(authority.certificate)
    names = {a.certificate.subject for a in (pki.ca, pki.front_proxy_ca, pki.etcd_ca)}
    assert len(names) == 3


def test_the_apiserver_is_trusted_by_address_and_by_service_name(tmp_path: pathlib.Path) -> None:
    certificate = read(certificates.ensure(tmp_path, NOW).apiserver.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    assert {str(a) for a in names.get_values_for_type(x509.IPAddress)} >= {"127.0.0.1", "10.96.0.1"}


def test_the_administrator_is_a_master(tmp_path: pathlib.Path) -> None:
    subject = read(certificates.ensure(tmp_path, NOW).admin.certificate).subject
    assert subject.rfc4514_string() == "CN=kubernetes-admin,O=system:masters"


def test_clients_are_signed_for_with_rsa_which_costs_the_apiserver_least(
    tmp_path: pathlib.Path,
) -> None:
    pki = certificates.ensure(tmp_path, NOW)
    assert isinstance(pki.ca.certificate.public_key(), rsa.RSAPublicKey)
    assert isinstance(read(pki.admin.certificate).public_key(), ec.EllipticCurvePublicKey)


def test_an_authority_with_another_kind_of_key_is_kept(tmp_path: pathlib.Path) -> None:
    elliptic = certificates.Authority.ensure(tmp_path, "ca", NOW)
    pki = certificates.ensure(tmp_path, NOW)
    assert pki.ca.certificate == elliptic.certificate
    read(pki.admin.certificate).verify_directly_issued_by(elliptic.certificate)


def test_keys_are_their_owner_s_alone(tmp_path: pathlib.Path) -> None:
    certificates.ensure(tmp_path / "pki", NOW)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "pki").glob("*.key")}
    assert set(modes.values()) == {0o600}
    assert len(modes) == 10
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700


def test_what_is_good_is_kept(tmp_path: pathlib.Path) -> None:
    certificates.ensure(tmp_path, NOW)
    before = contents(tmp_path)
    certificates.ensure(tmp_path, NOW + datetime.timedelta(days=300))
    assert contents(tmp_path) == before


def test_what_expires_within_a_month_is_renewed_under_the_same_authority(
    tmp_path: pathlib.Path,
) -> None:
    certificates.ensure(tmp_path, NOW)
    before = contents(tmp_path)
    later = NOW + datetime.timedelta(days=340)
    pki = certificates.ensure(tmp_path, later)
    after = contents(tmp_path)
    kept = {name for name in before if before[name] == after[name]}
    assert kept == {
        *("ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key"),
        *("etcd-ca.crt", "etcd-ca.key", "sa.key", "sa.pub"),
    }
    assert certificates.expiry(pki.admin.certificate) == later + certificates.LIFETIME


def test_a_new_authority_signs_everything_anew(tmp_path: pathlib.Path) -> None:
    old = certificates.ensure(tmp_path, NOW)
    old.ca.pair.key.unlink()
    new = certificates.ensure(tmp_path, NOW)
    read(new.admin.certificate).verify_directly_issued_by(new.ca.certificate)
    read(new.apiserver.certificate).verify_directly_issued_by(new.ca.certificate)
    assert new.ca.certificate != old.ca.certificate
    assert new.etcd_ca.certificate == old.etcd_ca.certificate


def test_a_damaged_pair_is_replaced(tmp_path: pathlib.Path) -> None:
    pki = certificates.ensure(tmp_path, NOW)
    pki.admin.certificate.write_text("not a certificate")
    again = certificates.ensure(tmp_path, NOW)
    read(again.admin.certificate).verify_directly_issued_by(again.ca.certificate)


def test_an_expired_certificate_can_be_issued(tmp_path: pathlib.Path) -> None:
    pki = certificates.ensure(tmp_path, NOW)
    subject = certificates.Subject("jane", ("developers",))
    pair = pki.ca.issue(tmp_path, "jane", subject, NOW, datetime.timedelta(hours=-1))
    certificate = read(pair.certificate)
    assert certificate.not_valid_before_utc < certificate.not_valid_after_utc < NOW


def test_reading_the_certificates_of_a_cluster_changes_nothing(tmp_path: pathlib.Path) -> None:
    made = certificates.ensure(tmp_path, NOW)
    before = contents(tmp_path)
    found = certificates.load(tmp_path)
    assert (found.admin, found.service_account) == (made.admin, made.service_account)
    assert contents(tmp_path) == before


def test_reading_where_an_authority_is_missing_says_which(tmp_path: pathlib.Path) -> None:
    certificates.ensure(tmp_path, NOW).etcd_ca.pair.certificate.unlink()
    with pytest.raises(errors.ConfigurationError, match=r"etcd-ca\.crt: is missing or damaged"):
        certificates.load(tmp_path)
