"""The keys of witnesses and custodians, and what others must know of them. Imports no server."""

from pathlib import Path

from audit_layer.wiring.note_keys import create_note_key
from shared.envelope.hpke import load_or_create_hpke_key
from shared.runtime.keys import (
    FILES,
    KeyStore,
    load_or_create_ed25519,
    private_folder,
    public_bytes,
)
from shared.translog.notes import SignatureType, Signer

COSIGNATURES = (SignatureType.COSIGNATURE_ED25519, SignatureType.COSIGNATURE_MLDSA44)


def cosigners(keys: Path, name: str, store: KeyStore = FILES) -> list[Signer]:
    """Return the witness's cosigning keys, creating them at first use."""
    private_folder(keys)
    paths = {kind: keys / f"{kind.name.lower().replace('_', '-')}.key" for kind in COSIGNATURES}
    return [create_note_key(path, name, kind, store) for kind, path in paths.items()]


def witness_identity(keys: Path, name: str, store: KeyStore = FILES) -> dict[str, object]:
    """Return what others must know about a witness; creates its keys."""
    vkeys = [signer.verifier.vkey() for signer in cosigners(keys, name, store)]
    signing = load_or_create_ed25519(keys / "sign.pem", store)
    return {"name": name, "vkeys": vkeys, "signing_key": public_bytes(signing)}


def custodian_identity(keys: Path, name: str, store: KeyStore = FILES) -> dict[str, object]:
    """Return what others must know about a custodian; creates its keys."""
    private_folder(keys)
    hpke = load_or_create_hpke_key(keys / "hpke.key", store)
    signing = load_or_create_ed25519(keys / "sign.pem", store)
    return {
        "name": name,
        "hpke_key": hpke.public_bytes,
        "hpke_key_id": hpke.key_id,
        "signing_key": public_bytes(signing),
    }
