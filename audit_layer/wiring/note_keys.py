"""The keys with which logs and witnesses sign checkpoints, in any key store."""

from pathlib import Path
from typing import Final

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Algorithm, KeyStore
from shared.translog.notes import SignatureType, Signer, parse_secret

ALGORITHMS: Final = {
    SignatureType.ED25519: Algorithm.ED25519,
    SignatureType.COSIGNATURE_ED25519: Algorithm.ED25519,
    SignatureType.COSIGNATURE_MLDSA44: Algorithm.MLDSA44,
}


def create_note_key(path: Path, name: str, kind: SignatureType, store: KeyStore) -> Signer:
    """Return the key at `path`, creating it on first use."""
    if (held := store.held(path, ALGORITHMS[kind], create=True)) is not None:
        return Signer.held(name, kind, held.public_bytes, held)
    if not path.exists():
        secret = Signer.generate(name, kind).secret_text() + "\n"
        store.create_secret(path, secret.encode())
    return load_note_key(path, name, kind, store)


def load_note_key(path: Path, name: str, kind: SignatureType, store: KeyStore) -> Signer:
    """Return the key at `path`; CONFLICT if it is one of another name or type."""
    if (held := store.held(path, ALGORITHMS[kind])) is not None:
        return Signer.held(name, kind, held.public_bytes, held)
    try:
        text = store.secret(path).decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} cannot be read as text") from error
    signer = parse_secret(text)
    if signer.verifier.name != name or signer.verifier.kind is not kind:
        raise CounterfoilError(
            Code.CONFLICT,
            f"{path} is not a {kind.name} key of {name!r}",
            remedy="Use another folder: a log or a witness keeps its name and keys for life.",
        )
    return signer
