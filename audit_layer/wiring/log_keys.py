"""The log's own keys on disk, and the log policy that a configuration amounts to."""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_layer.wiring.audit_settings import AuditSettings
from shared.runtime.config import read_secret
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import create_private, load_ed25519, load_or_create_ed25519, private_folder
from shared.translog.notes import SignatureType, Signer, parse_secret
from shared.translog.policy import LogPolicy

LOG_KEYS: Final = (
    ("log-ed25519", SignatureType.ED25519),
    ("log-ml-dsa-44", SignatureType.COSIGNATURE_MLDSA44),
)
"""File name and type, in the order of the signature lines."""
COSE_KEY: Final = "cose-ed25519.pem"


def create_keys(folder: Path, origin: str) -> tuple[Signer, ...]:
    """Return the log's signers, creating missing keys; CONFLICT when there are keys of another log."""
    private_folder(folder)
    for name, kind in LOG_KEYS:
        path = folder / name
        if not path.exists():
            create_private(path, (Signer.generate(origin, kind).secret_text() + "\n").encode())
    load_or_create_ed25519(folder / COSE_KEY)
    return load_signers(folder, origin)


def load_signers(folder: Path, origin: str) -> tuple[Signer, ...]:
    """Return the log's signers; CONFLICT when the keys belong to another log."""
    signers = tuple(parse_secret(read_secret(folder / name)) for name, _ in LOG_KEYS)
    for signer, (name, kind) in zip(signers, LOG_KEYS, strict=True):
        if signer.verifier.name != origin or signer.verifier.kind is not kind:
            raise CounterfoilError(
                Code.CONFLICT,
                f"{folder / name} is not a {kind.name} key of the log {origin!r}",
                remedy="Use another folder: a log keeps its origin and keys for life.",
            )
    return signers


def load_cose_key(folder: Path) -> Ed25519PrivateKey:
    """Return the key that signs COSE receipts and nothing else."""
    return load_ed25519(folder / COSE_KEY)


def log_policy(settings: AuditSettings) -> LogPolicy:
    """Return the server's own rule for a witnessed checkpoint; CONFIGURATION while it names too few witnesses."""
    signers = load_signers(settings.keys_folder, settings.origin)
    vkeys = [vkey for witness in settings.witnesses for vkey in witness.vkeys]
    if not vkeys:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "the configuration names no witness, and nothing is published without one",
            remedy="Run: counterfoil audit trust --config FILE --name NAME --url URL --vkey VKEY",
        )
    return LogPolicy.from_vkeys(
        logs=[signer.verifier.vkey() for signer in signers],
        witnesses=vkeys,
        threshold=settings.quorum,
    )
