"""The log's own keys on disk, and the log policy that a configuration amounts to."""

from pathlib import Path
from typing import Final

from audit_layer.wiring.audit_settings import AuditSettings
from audit_layer.wiring.note_keys import create_note_key, load_note_key
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.key_store import open_store
from shared.runtime.keys import (
    FILES,
    KeyStore,
    Signer,
    load_ed25519,
    load_or_create_ed25519,
    private_folder,
)
from shared.translog.notes import SignatureType
from shared.translog.notes import Signer as NoteSigner
from shared.translog.policy import LogPolicy

LOG_KEYS: Final = (
    ("log-ed25519", SignatureType.ED25519),
    ("log-ml-dsa-44", SignatureType.COSIGNATURE_MLDSA44),
)
"""File name and type, in the order of the signature lines."""
COSE_KEY: Final = "cose-ed25519.pem"


def create_keys(folder: Path, origin: str, store: KeyStore = FILES) -> tuple[NoteSigner, ...]:
    """Return the log's signers, creating missing keys; CONFLICT when there are keys of another log."""
    private_folder(folder)
    for name, kind in LOG_KEYS:
        create_note_key(folder / name, origin, kind, store)
    load_or_create_ed25519(folder / COSE_KEY, store)
    return load_signers(folder, origin, store)


def load_signers(folder: Path, origin: str, store: KeyStore = FILES) -> tuple[NoteSigner, ...]:
    """Return the log's signers; CONFLICT when the keys belong to another log."""
    return tuple(load_note_key(folder / name, origin, kind, store) for name, kind in LOG_KEYS)


def load_cose_key(folder: Path, store: KeyStore = FILES) -> Signer:
    """Return the key that signs COSE receipts and nothing else."""
    return load_ed25519(folder / COSE_KEY, store)


def log_policy(settings: AuditSettings) -> LogPolicy:
    """Return the server's own rule for a witnessed checkpoint; CONFIGURATION while it names too few witnesses."""
    signers = load_signers(settings.keys_folder, settings.origin, open_store(settings.key_store))
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
