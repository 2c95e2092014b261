"""HPKE (RFC 9180): base mode, single shot, X-Wing (MLKEM768-X25519), HKDF-SHA256, AES-256-GCM.

A private key is stored as X-Wing's 32-byte seed: SHAKE256(seed, 96) gives the ML-KEM seed (64 bytes) and
the X25519 key (32 bytes). A public key is ML-KEM's 1184 bytes, then X25519's 32.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from shared.envelope.opaque import unreadable
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import FILES, Algorithm, HeldKey, KeyStore, key_id

SEED_BYTES = 32
PUBLIC_BYTES = 1216
OVERHEAD = 1120 + 16
"""Bytes that sealing adds: the encapsulated key and the tag."""
_MLKEM_PUBLIC = 1184
_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class Opener(Protocol):
    """A recipient's key, wherever its private half is."""

    @property
    def public_bytes(self) -> bytes:
        """1216 raw bytes."""

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the public key."""

    def open(self, info: bytes, data: bytes, /) -> bytes:
        """Return the plaintext of `enc ‖ ciphertext`; UNREADABLE whatever the failure."""


@dataclass(frozen=True, slots=True, repr=False)
class HpkePrivateKey:
    """A recipient's key in this process."""

    seed: bytes
    _key: hpke.MLKEM768X25519PrivateKey
    public_bytes: bytes
    """1216 raw bytes."""

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Derive the key from an X-Wing seed of 32 bytes."""
        if len(seed) != SEED_BYTES:
            raise CounterfoilError(Code.CONFIGURATION, "an HPKE private key is a seed of 32 bytes")
        expanded = hashlib.shake_256(seed).digest(96)
        post_quantum = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        classical = x25519.X25519PrivateKey.from_private_bytes(expanded[64:])
        return cls(
            seed,
            hpke.MLKEM768X25519PrivateKey(post_quantum, classical),
            post_quantum.public_key().public_bytes_raw()
            + classical.public_key().public_bytes_raw(),
        )

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the public key."""
        return hpke_key_id(self.public_bytes)

    def open(self, info: bytes, data: bytes) -> bytes:
        """Return the plaintext; UNREADABLE whatever the failure."""
        try:
            return _SUITE.decrypt(data, self._key, info)
        except (InvalidTag, ValueError) as error:
            raise unreadable() from error

    def __repr__(self) -> str:
        return f"HpkePrivateKey({self.key_id.hex()[:16]}…)"


@dataclass(frozen=True, slots=True)
class HeldOpener:
    """A recipient's key that its key store holds."""

    held: HeldKey

    @property
    def public_bytes(self) -> bytes:
        """1216 raw bytes."""
        return self.held.public_bytes

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the public key."""
        return hpke_key_id(self.public_bytes)

    def open(self, info: bytes, data: bytes) -> bytes:
        """Return the plaintext; UNREADABLE whatever is wrong with the data."""
        return self.held.open(info, data)


def generate_hpke_key() -> HpkePrivateKey:
    """Generate a key."""
    return HpkePrivateKey.from_seed(os.urandom(SEED_BYTES))


def hpke_key_id(public_key: bytes) -> bytes:
    """Return the SHA-256 of a raw public key."""
    return key_id(public_key)


def check_hpke_public_key(public_key: bytes) -> None:
    """Raise MALFORMED unless something can be sealed to these 1216 bytes."""
    _load_public(public_key)


def seal(public_key: bytes, info: bytes, plaintext: bytes) -> bytes:
    """Return enc ‖ ciphertext for a raw public key; MALFORMED if it is not one."""
    try:
        return _SUITE.encrypt(plaintext, _load_public(public_key), info)
    except ValueError as error:  # an X25519 point of small order shows only here
        raise CounterfoilError(Code.MALFORMED, "the HPKE public key is degenerate") from error


def open_sealed(private_key: Opener, info: bytes, data: bytes) -> bytes:
    """Return the plaintext; UNREADABLE whatever the failure."""
    return private_key.open(info, data)


def load_or_create_hpke_key(path: Path, store: KeyStore = FILES) -> Opener:
    """Return the key at `path`, creating it on first use; two concurrent processes get the same key."""
    if (held := store.held(path, Algorithm.HPKE, create=True)) is not None:
        return HeldOpener(held)
    if not path.exists():
        save_hpke_key(path, generate_hpke_key(), store)
    return load_hpke_seed(path, store)


def load_hpke_key(path: Path, store: KeyStore = FILES) -> Opener:
    """Return the key at `path`; CONFIGURATION if it is absent, open to others or not a key file."""
    if (held := store.held(path, Algorithm.HPKE)) is not None:
        return HeldOpener(held)
    return load_hpke_seed(path, store)


def save_hpke_key(path: Path, key: HpkePrivateKey, store: KeyStore = FILES) -> bool:
    """Store a key's seed, as hexadecimal text, unless there is a file; return whether it was stored."""
    return store.create_secret(path, key.seed.hex().encode("ascii") + b"\n")


def load_hpke_seed(path: Path, store: KeyStore = FILES) -> HpkePrivateKey:
    """Read a key that is in a file in any store; CONFIGURATION as for `load_hpke_key`."""
    try:
        seed = bytes.fromhex(store.secret(path).decode("ascii").strip())
    except ValueError as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{path} does not hold an HPKE private key"
        ) from error
    return HpkePrivateKey.from_seed(seed)


def _load_public(public_key: bytes) -> hpke.MLKEM768X25519PublicKey:
    if len(public_key) != PUBLIC_BYTES:
        raise CounterfoilError(
            Code.MALFORMED,
            f"an HPKE public key is {PUBLIC_BYTES} bytes long, not {len(public_key)}",
        )
    try:
        return hpke.MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(public_key[:_MLKEM_PUBLIC]),
            x25519.X25519PublicKey.from_public_bytes(public_key[_MLKEM_PUBLIC:]),
        )
    except ValueError as error:
        raise CounterfoilError(Code.MALFORMED, "the HPKE public key is not valid") from error
