"""The tests' own timestamp authority: `openssl ts` with certificates made here."""

import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
OPENSSL = shutil.which("openssl") or "openssl"
CONFIGURATION = """
[tsa]
default_tsa = authority
[authority]
serial = {folder}/serial
signer_cert = {folder}/signer.pem
signer_key = {folder}/signer.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = {digests}
accuracy = secs:1
ordering = no
tsa_name = no
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


@dataclass(frozen=True)
class OpensslAuthority:
    """Answers queries with `openssl ts -reply`; `anchor` is the root to which its replies lead."""

    folder: Path
    anchor: x509.Certificate

    def reply(self, query: bytes) -> bytes:
        asked, answered = self.folder / "query.tsq", self.folder / "reply.tsr"
        asked.write_bytes(query)
        answered.unlink(missing_ok=True)
        subprocess.run(
            [OPENSSL, "ts", "-reply", "-config", self.folder / "tsa.cnf", "-section", "authority",
             "-queryfile", asked, "-out", answered],
            check=True,
            capture_output=True,
        )  # fmt: skip
        return answered.read_bytes()

    def verify(self, reply: bytes, text: str) -> bool:
        """Return the result of `openssl ts -verify`, an independent verifier."""
        (self.folder / "shown.tsr").write_bytes(reply)
        (self.folder / "shown.txt").write_text(text)
        done = subprocess.run(
            [OPENSSL, "ts", "-verify", "-in", self.folder / "shown.tsr",
             "-data", self.folder / "shown.txt", "-CAfile", self.folder / "anchor.pem"],
            check=False,
            capture_output=True,
        )  # fmt: skip
        return done.returncode == 0


def make_authority(
    folder: Path, *, digests: str = "sha256", days: int = 30, between: bool = False
) -> OpensslAuthority:
    """Make an authority. `days` below zero: its certificate has expired. `between`: an intermediate
    signs its certificate, and comes with its replies.
    """
    folder.mkdir()
    keys: dict[str, Key] = {
        # A long signature on the intermediate's certificate makes it the longer one; so openssl, which
        # writes the signer's first, happens to write the set in the order of DER.
        "root": rsa.generate_private_key(65537, 2048),
        "middle": ec.generate_private_key(ec.SECP256R1()),
        "signer": ec.generate_private_key(ec.SECP256R1()),
    }
    root = _certificate("Test root", keys["root"], "Test root", keys["root"], ca=True)
    issuer, issuer_key = "Test root", keys["root"]
    more = ""
    if between:
        issuer, issuer_key = "Test intermediate", keys["middle"]
        middle = _certificate(issuer, keys["middle"], "Test root", keys["root"], ca=True)
        (folder / "middle.pem").write_bytes(middle.public_bytes(Encoding.PEM))
        more = f"certs = {folder}/middle.pem\n"
    signer = _certificate("Test authority", keys["signer"], issuer, issuer_key, ca=False, days=days)
    (folder / "anchor.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "signer.pem").write_bytes(signer.public_bytes(Encoding.PEM))
    (folder / "signer.key").write_bytes(
        keys["signer"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "serial").write_text("01\n")
    (folder / "tsa.cnf").write_text(CONFIGURATION.format(folder=folder, digests=digests) + more)
    return OpensslAuthority(folder, root)


def _certificate(
    subject: str,
    key: Key,
    issuer: str,
    issuer_key: Key,
    *,
    ca: bool,
    days: int = 30,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=90))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    for identifier in (
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
    ):
        builder = builder.add_extension(identifier, critical=False)
    if not ca:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, SHA256())
