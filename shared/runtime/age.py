"""Small secrets under a passphrase, in the age format (C2SP age, v1, armored; one scrypt recipient), as `age -d` reads it.

scrypt makes a guess at the passphrase cost memory and time; the header's MAC and the sealed payload make a changed file
unreadable. Pure.
"""

import base64
import binascii
import os
import re
from hashlib import sha256
from hmac import compare_digest, digest
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

BEGIN: Final = "-----BEGIN AGE ENCRYPTED FILE-----"
END: Final = "-----END AGE ENCRYPTED FILE-----"
WORK: Final = 17
"""log2 of scrypt's N: 128 MiB for each guess."""
MOST_WORK: Final = 20
"""More than 1 GiB is not spent on a file that somebody may have put there."""
MOST_BYTES: Final = 65_536
"""One chunk of the format's stream."""
_COLUMNS: Final = 64
_VERSION: Final = "age-encryption.org/v1"
_SALT: Final = b"age-encryption.org/v1/scrypt"
_LAST_CHUNK: Final = bytes(11) + b"\x01"
_HEADER: Final = re.compile(
    rb"(age-encryption\.org/v1\n-> scrypt ([A-Za-z0-9+/]{22}) ([1-9][0-9]?)\n([A-Za-z0-9+/]{43})\n---) "
    rb"([A-Za-z0-9+/]{43})\n(.*)",
    re.DOTALL,
)


class WrongPassphraseError(Exception):
    """The passphrase does not open the file, or the stanza that it opens was changed: the two look alike."""


class DamagedError(Exception):
    """It is no such file, or it was changed."""


def is_sealed(data: bytes) -> bool:
    """Whether a file says that it is in this format."""
    return data.lstrip().startswith(BEGIN.encode())


def seal(secret: bytes, passphrase: bytes) -> bytes:
    """Return the armored file that holds at most 65,536 bytes of `secret`."""
    if len(secret) > MOST_BYTES:
        raise ValueError("more than one chunk")
    work = WORK
    salt, file_key, nonce = os.urandom(16), os.urandom(16), os.urandom(16)
    wrapped = ChaCha20Poly1305(_wrapping(passphrase, salt, work)).encrypt(bytes(12), file_key, None)
    header = f"{_VERSION}\n-> scrypt {_encoded(salt)} {work}\n{_encoded(wrapped)}\n---".encode()
    payload = ChaCha20Poly1305(_derived(file_key, nonce, b"payload")).encrypt(
        _LAST_CHUNK, secret, None
    )
    whole = header + f" {_encoded(_mac(file_key, header))}\n".encode() + nonce + payload
    text = base64.b64encode(whole).decode("ascii")
    lines = [text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS)]
    return "\n".join([BEGIN, *lines, END, ""]).encode()


def unseal(data: bytes, passphrase: bytes) -> bytes:
    """Return the secret in an armored file; WrongPassphraseError or DamagedError."""
    found = _HEADER.fullmatch(_dearmored(data))
    if found is None:
        raise DamagedError("it is not an age file with one passphrase")
    header, salt, work, wrapped, mac, rest = found.groups()
    if int(work) > MOST_WORK:
        raise DamagedError(f"it asks for more work than 2^{MOST_WORK}")
    try:
        file_key = ChaCha20Poly1305(_wrapping(passphrase, _decoded(salt), int(work))).decrypt(
            bytes(12), _decoded(wrapped), None
        )
    except InvalidTag as error:
        raise WrongPassphraseError from error
    if not compare_digest(_mac(file_key, header), _decoded(mac)):
        raise DamagedError("its header was changed")
    try:
        key = _derived(file_key, rest[:16], b"payload")
        return ChaCha20Poly1305(key).decrypt(_LAST_CHUNK, rest[16:], None)
    except (InvalidTag, ValueError) as error:
        raise DamagedError("its content was changed") from error


def _wrapping(passphrase: bytes, salt: bytes, work: int) -> bytes:
    return Scrypt(salt=_SALT + salt, length=32, n=2**work, r=8, p=1).derive(passphrase)


def _derived(file_key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(file_key)


def _mac(file_key: bytes, header: bytes) -> bytes:
    return digest(_derived(file_key, b"", b"header"), header, sha256)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii").rstrip("=")


def _decoded(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4))


def _dearmored(data: bytes) -> bytes:
    lines = data.decode("ascii", "replace").strip().splitlines()
    if len(lines) < 3 or (lines[0], lines[-1]) != (BEGIN, END):
        raise DamagedError("its first or last line is missing")
    try:
        return base64.b64decode("".join(lines[1:-1]).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise DamagedError("it is not base64") from error
