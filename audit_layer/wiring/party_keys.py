"""The keys of witnesses and custodians, and what others must know of them. Imports no server."""

from pathlib import Path

from shared.envelope.hpke import generate_hpke_key, load_hpke_key, save_hpke_key
from shared.runtime.config import read_secret
from shared.runtime.keys import create_private, load_or_create_ed25519, private_folder, public_bytes
from shared.translog.notes import SignatureType, Signer, parse_secret

COSIGNATURES = (SignatureType.COSIGNATURE_ED25519, SignatureType.COSIGNATURE_MLDSA44)


def cosigners(keys: Path, name: str) -> list[Signer]:
    """Return the witness's cosigning keys, creating them at first use."""
    private_folder(keys)
    signers = []
    for kind in COSIGNATURES:
        path = keys / f"{kind.name.lower().replace('_', '-')}.key"
        create_private(path, Signer.generate(name, kind).secret_text().encode() + b"\n")
        signers.append(parse_secret(read_secret(path)))
    return signers


def witness_identity(keys: Path, name: str) -> dict[str, object]:
    """Return what others must know about a witness; creates its keys."""
    vkeys = [signer.verifier.vkey() for signer in cosigners(keys, name)]
    signing = load_or_create_ed25519(keys / "sign.pem")
    return {"name": name, "vkeys": vkeys, "signing_key": public_bytes(signing)}


def custodian_identity(keys: Path, name: str) -> dict[str, object]:
    """Return what others must know about a custodian; creates its keys."""
    private_folder(keys)
    path = keys / "hpke.key"
    if not path.exists():
        save_hpke_key(path, generate_hpke_key())
    hpke, signing = load_hpke_key(path), load_or_create_ed25519(keys / "sign.pem")
    return {
        "name": name,
        "hpke_key": hpke.public_bytes,
        "hpke_key_id": hpke.key_id,
        "signing_key": public_bytes(signing),
    }
