"""SHA-256, HMAC and HKDF under labels (protocol §1).

A label keeps a hash made for one purpose from being used for another. Every part is framed by its
length: two different lists of parts never give the same bytes.
"""

import hashlib
import hmac
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

PREFIX: Final = "counterfoil/v1/"
HASH_BYTES: Final = 32


def framing(label: str, *parts: bytes) -> bytes:
    """Return F(label, parts…) = u8 len(L) ‖ L ‖ (u32 len(part) ‖ part)…, L = prefix + label."""
    name = (PREFIX + label).encode("ascii")
    framed = [len(name).to_bytes(1, "big"), name]
    for part in parts:
        framed += (len(part).to_bytes(4, "big"), part)
    return b"".join(framed)


def sha256(*parts: bytes) -> bytes:
    """Return the SHA-256 of the plain concatenation of `parts`, where a standard requires it."""
    return hashlib.sha256(b"".join(parts)).digest()


def labelled_hash(label: str, *parts: bytes) -> bytes:
    """Return H(label, parts…) of protocol §1: 32 bytes."""
    return hashlib.sha256(framing(label, *parts)).digest()


def labelled_mac(key: bytes, label: str, *parts: bytes) -> bytes:
    """Return MAC(key, label, parts…) of protocol §1: HMAC-SHA-256, 32 bytes."""
    return hmac.digest(key, framing(label, *parts), "sha256")


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    """Return HKDF-Extract (RFC 5869 §2.2) with SHA-256: a pseudorandom key of 32 bytes."""
    return HKDF.extract(hashes.SHA256(), salt, ikm)


def hkdf_expand(prk: bytes, label: str, length: int, *context: bytes) -> bytes:
    """Return Expand(prk, label, length, context…) of protocol §1: HKDF-Expand (RFC 5869 §2.3)."""
    return HKDFExpand(hashes.SHA256(), length, framing(label, *context)).derive(prk)
