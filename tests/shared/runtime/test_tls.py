import ssl
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from shared.runtime.errors import CounterfoilError
from shared.runtime.tls import (
    AUTHORITY_LIFE,
    LIFE,
    LocalCA,
    TlsFiles,
    client_context,
    server_context,
)

NOW = datetime.now(UTC)


def certificate(files: TlsFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.cert.read_bytes())


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str | None:
    """Perform a handshake in memory; return the negotiated version."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname=host)
    far = server.wrap_bio(up, down, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (near, far):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            return near.version()
    raise AssertionError("the handshake did not end")


def test_a_server_certificate_is_trusted_by_name_and_address_over_tls_1_3(tmp_path):
    authority = LocalCA.load_or_create(tmp_path)
    files = authority.issue("node-a", ["localhost", "127.0.0.1"])
    for host in ("localhost", "127.0.0.1"):
        agreed = handshake(server_context(files), client_context(files.ca), host)
        assert agreed == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(files), client_context(files.ca), "other.example")


def test_strict_x509_rules_are_met(tmp_path):
    files = LocalCA.load_or_create(tmp_path).issue("node-a")
    strict = client_context(files.ca)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    assert handshake(server_context(files), strict, "localhost")


def test_another_authority_s_certificate_is_refused(tmp_path):
    files = LocalCA.load_or_create(tmp_path / "one").issue("node-a")
    other = LocalCA.load_or_create(tmp_path / "two")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(files), client_context(other.ca_file), "localhost")


def test_tls_1_2_is_refused(tmp_path):
    files = LocalCA.load_or_create(tmp_path).issue("node-a")
    old = ssl.create_default_context(cafile=str(files.ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        handshake(server_context(files), old, "localhost")


def test_keys_are_private_files(tmp_path):
    files = LocalCA.load_or_create(tmp_path / "ca").issue("node-a", folder=tmp_path / "node")
    for path in (files.key, tmp_path / "ca" / "ca.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files.key.chmod(0o644)
    with pytest.raises(CounterfoilError, match="chmod 600"):
        server_context(files)


def test_issuing_again_keeps_a_good_certificate(tmp_path):
    first = certificate(LocalCA.load_or_create(tmp_path).issue("node-a"))
    again = certificate(LocalCA.load_or_create(tmp_path).issue("node-a"))
    assert first == again


@pytest.mark.parametrize(("days", "renewed"), [(59, False), (61, True), (400, True)])
def test_a_certificate_is_renewed_in_its_last_third(tmp_path, days, renewed):
    authority = LocalCA.load_or_create(tmp_path)
    first = certificate(authority.issue("node-a"))
    later = datetime.now(UTC) + timedelta(days=days)
    files = authority.issue("node-a", now=later)
    assert (certificate(files) != first) == renewed
    assert certificate(files).not_valid_after_utc > later
    assert timedelta(days=90) == LIFE


def test_other_hosts_or_a_lost_key_mean_a_new_certificate(tmp_path):
    authority = LocalCA.load_or_create(tmp_path)
    first = certificate(authority.issue("node-a", ["localhost"]))
    files = authority.issue("node-a", ["localhost", "node-a.example"])
    second = certificate(files)
    assert second != first
    files.key.unlink()
    assert certificate(authority.issue("node-a", ["localhost", "node-a.example"])) != second


def test_an_authority_in_its_last_third_is_replaced_and_so_is_what_it_signed(tmp_path):
    first = LocalCA.load_or_create(tmp_path)
    issued = certificate(first.issue("node-a"))
    later = NOW + AUTHORITY_LIFE * 3 / 4
    second = LocalCA.load_or_create(tmp_path, now=later)
    assert second.certificate.subject != first.certificate.subject
    renewed = certificate(second.issue("node-a", now=later))
    assert renewed != issued
    renewed.verify_directly_issued_by(second.certificate)


def test_a_certificate_never_outlives_its_authority(tmp_path):
    authority = LocalCA.load_or_create(tmp_path)
    late = authority.certificate.not_valid_after_utc - timedelta(days=10)
    issued = certificate(authority.issue("node-a", now=late))
    assert issued.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_hosts_that_cannot_be_hosts_are_refused(tmp_path):
    with pytest.raises(CounterfoilError, match="host name"):
        LocalCA.load_or_create(tmp_path).issue("node-a", ["n\u00f6de"])


def test_files_that_are_no_certificates_are_configuration_errors(tmp_path):
    files = LocalCA.load_or_create(tmp_path).issue("node-a")
    with pytest.raises(CounterfoilError, match="authority"):
        client_context(tmp_path / "absent.pem")
    files.cert.write_text("nonsense")
    with pytest.raises(CounterfoilError, match="certificate"):
        server_context(files)
