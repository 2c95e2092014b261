"""Putting a passphrase on a key file, changing it, and taking it off: the file is replaced whole, so that a crash at any
moment leaves one that holds the key.
"""

import os
import re
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shared.runtime import age
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.held_keys import reference_in
from shared.runtime.key_store import FILE, PASSPHRASE, unsealed
from shared.runtime.keys import read_key_file, write_private

_SECRETS: Final = re.compile(rb"[0-9a-f]{64}\n?|PRIVATE\+KEY\+[!-~]+\n?")
"""Seeds in hex, and keys of signed notes."""
_RAW: Final = 32
"""Bytes of a beacon's secret."""


def kind_of(data: bytes) -> str:
    """Return the kind of the key store that reads a key file with this content."""
    if age.is_sealed(data):
        return PASSPHRASE
    reference = reference_in(data)
    return FILE if reference is None else reference.store


def protect(path: Path, passphrase: bytes, *, current: bytes | None = None) -> bool:
    """Put a passphrase on a key file, in place of the `current` one if it has one; return whether the file was changed.

    Without `current`, a file that opens with the passphrase already is left as it is. CONFIGURATION or CONFLICT otherwise.
    """
    real, data = _read(path)
    if age.is_sealed(data):
        secret = unsealed(path, data, passphrase if current is None else current)
        if current is None:
            return False
    else:
        secret = data
        _check_secret(path, secret)
    sealed = age.seal(secret, passphrase)
    if age.unseal(sealed, passphrase) != secret:
        raise CounterfoilError(Code.INTERNAL, "what was sealed does not open")
    fault_point("key.sealed")
    write_private(real, sealed)
    fault_point("key.protected")
    return True


def unprotect(path: Path, passphrase: bytes) -> bool:
    """Take the passphrase off a key file; return whether it had one. CONFIGURATION if it is another."""
    real, data = _read(path)
    if not age.is_sealed(data):
        _check_secret(path, data)
        return False
    write_private(real, unsealed(path, data, passphrase))
    return True


def _read(path: Path) -> tuple[Path, bytes]:
    """Return the file behind a link, and its content."""
    return Path(os.path.realpath(path)), read_key_file(path)


def _check_secret(path: Path, data: bytes) -> None:
    """Refuse what no key store reads: certificates' keys, tokens and other files would be of use to nobody then."""
    if _SECRETS.fullmatch(data) or len(data) == _RAW or _is_ed25519(data):
        return
    held = reference_in(data)
    what = "refers to a key that a plug-in holds" if held else "is not a key of a key store"
    raise CounterfoilError(
        Code.CONFLICT,
        f"{path} {what}",
        remedy="Only keys that a party signs and opens with can have a passphrase; the keys of TLS certificates cannot.",
    )


def _is_ed25519(data: bytes) -> bool:
    try:
        return isinstance(load_pem_private_key(data, password=None), Ed25519PrivateKey)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
