"""Signed notes (C2SP signed-note): the text of checkpoints and cosignatures, and their keys.

This module knows lines, key ids and raw signatures. The message that a signature of each type covers is
defined in `shared.translog.cosignature`.
"""

import base64
import binascii
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from shared.runtime.errors import Code, CounterfoilError

MAX_NOTE_BYTES = 256 * 1024
"""Room for 64 post-quantum signatures; C2SP requires verifiers to accept at least 16 signatures."""
MAX_SIGNATURES = 64
MAX_NAME_BYTES = 255
"""A cosigned message has one byte for a name's length."""
_DASH = "— "
_SECRET_PREFIX = "PRIVATE+KEY+"  # noqa: S105 - a format's marker, not a secret


class SignatureType(IntEnum):
    """Algorithm bytes of C2SP signed-note."""

    ED25519 = 0x01
    COSIGNATURE_ED25519 = 0x04
    COSIGNATURE_MLDSA44 = 0x06

    @property
    def public_key_bytes(self) -> int:
        """Length of the raw public key."""
        return 1312 if self is SignatureType.COSIGNATURE_MLDSA44 else 32

    @property
    def signature_bytes(self) -> int:
        """Length of the raw signature, without timestamp."""
        return 2420 if self is SignatureType.COSIGNATURE_MLDSA44 else 64

    @property
    def timestamped(self) -> bool:
        """Whether the signature blob begins with a u64 time."""
        return self is not SignatureType.ED25519


def check_name(name: str) -> str:
    """Return a key name or origin that notes can carry; otherwise MALFORMED."""
    bad = (
        not name
        or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES
        or any(
            ch.isspace() or ch == "+" or ord(ch) < 0x20 or 0xD800 <= ord(ch) < 0xE000 for ch in name
        )
    )
    if bad:
        raise CounterfoilError(
            Code.MALFORMED, "a key name is empty, too long, or has a space or plus"
        )
    return name


def key_id(name: str, kind: SignatureType, public_key: bytes) -> bytes:
    """Return SHA-256(name ‖ 0x0A ‖ type ‖ public key)[:4]."""
    return sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:4]


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """`— name base64(key id ‖ signature)`; `signature` is the blob after the key id."""

    name: str
    key_id: bytes
    signature: bytes

    def encode(self) -> str:
        """Return the line with its newline."""
        return f"{_DASH}{self.name} {encode_base64(self.key_id + self.signature)}\n"


def parse_signature_line(line: str) -> SignatureLine:
    """Parse a line without its newline; otherwise MALFORMED."""
    parts = line.split(" ")
    if len(parts) != 3 or f"{parts[0]} " != _DASH:
        raise CounterfoilError(Code.MALFORMED, "a signature line is not '— name base64'")
    blob = decode_base64(parts[2])
    if len(blob) < 5:
        raise CounterfoilError(Code.MALFORMED, "a signature line has no signature")
    return SignatureLine(check_name(parts[1]), blob[:4], blob[4:])


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends in a newline, and its signatures in their order."""

    text: str
    signatures: tuple[SignatureLine, ...]

    def encode(self) -> str:
        """Return the note as it is stored and sent."""
        return self.text + "\n" + "".join(line.encode() for line in self.signatures)

    def with_signatures(self, lines: tuple[SignatureLine, ...]) -> "Note":
        """Return the note with those of `lines` added that it does not have yet."""
        return Note(
            self.text, self.signatures + tuple(x for x in lines if x not in self.signatures)
        )


def decode_text(data: bytes | str, limit: int = MAX_NOTE_BYTES) -> str:
    """Return text within the limit, UTF-8, no control characters but newline; otherwise MALFORMED."""
    try:
        raw = data.encode() if isinstance(data, str) else data
        if len(raw) > limit:
            raise CounterfoilError(Code.MALFORMED, f"a note is larger than {limit} bytes")
        text = raw.decode()
    except UnicodeError as e:
        raise CounterfoilError(Code.MALFORMED, "a note is not valid UTF-8") from e
    if any(ch < " " and ch != "\n" for ch in text):
        raise CounterfoilError(Code.MALFORMED, "a note has a control character")
    return text


def parse_note(data: bytes | str) -> Note:
    """Parse a signed note with at least one signature line; every deviation is MALFORMED."""
    text = decode_text(data)
    at = text.rfind("\n\n")
    if at < 0 or not text.endswith("\n") or text.endswith("\n\n"):
        raise CounterfoilError(Code.MALFORMED, "a note has no signatures after an empty line")
    lines = text[at + 2 : -1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise CounterfoilError(Code.MALFORMED, f"a note has more than {MAX_SIGNATURES} signatures")
    return Note(text[: at + 1], tuple(parse_signature_line(line) for line in lines))


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key under a name, for one signature type."""

    name: str
    kind: SignatureType
    public_key: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.public_key) != self.kind.public_key_bytes:
            raise CounterfoilError(
                Code.MALFORMED,
                f"a {self.kind.name} key cannot be {len(self.public_key)} bytes long",
            )

    @property
    def key_id(self) -> bytes:
        """The four bytes that signature lines carry."""
        return key_id(self.name, self.kind, self.public_key)

    def vkey(self) -> str:
        """Return `name+hex key id+base64(type ‖ public key)`."""
        material = encode_base64(bytes([self.kind]) + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{material}"

    def verify_raw(self, signature: bytes, message: bytes) -> bool:
        """Return whether the raw signature covers the message."""
        if len(signature) != self.kind.signature_bytes:
            return False
        try:
            if self.kind is SignatureType.COSIGNATURE_MLDSA44:
                MLDSA44PublicKey.from_public_bytes(self.public_key).verify(signature, message)
            else:
                Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (
            InvalidSignature,
            ValueError,
        ):  # ValueError: the bytes are not a point or key at all
            return False
        return True


def parse_vkey(vkey: str) -> Verifier:
    """Parse a vkey of a type that we know; otherwise MALFORMED or UNSUPPORTED."""
    name, hex_id, material = _split_key(vkey.split("+", 2))
    kind = _kind(material)
    verifier = Verifier(check_name(name), kind, material[1:])
    if verifier.key_id.hex() != hex_id:
        raise CounterfoilError(Code.MALFORMED, "a vkey's key id does not belong to its key")
    return verifier


class RawSigner(Protocol):
    """A private key, wherever it is."""

    def sign(self, data: bytes, /) -> bytes:
        """Return the raw signature."""


class Signer:
    """A private key under a name, for one signature type."""

    def __init__(self, name: str, kind: SignatureType, seed: bytes) -> None:
        if len(seed) != 32:
            raise CounterfoilError(Code.MALFORMED, "a signing key's seed must be 32 bytes long")
        key: Ed25519PrivateKey | MLDSA44PrivateKey
        if kind is SignatureType.COSIGNATURE_MLDSA44:
            key = MLDSA44PrivateKey.from_seed_bytes(seed)
        else:
            key = Ed25519PrivateKey.from_private_bytes(seed)
        self._key: RawSigner = key
        self._seed: bytes | None = seed
        self.verifier = Verifier(name, kind, key.public_key().public_bytes_raw())

    @classmethod
    def held(cls, name: str, kind: SignatureType, public_key: bytes, key: RawSigner) -> "Signer":
        """Return a signer whose key somebody else holds."""
        signer = cls.__new__(cls)
        signer._key, signer._seed = key, None
        signer.verifier = Verifier(name, kind, public_key)
        return signer

    @classmethod
    def generate(cls, name: str, kind: SignatureType) -> "Signer":
        """Generate a key."""
        if kind is SignatureType.COSIGNATURE_MLDSA44:
            return cls(name, kind, MLDSA44PrivateKey.generate().private_bytes_raw())
        return cls(name, kind, Ed25519PrivateKey.generate().private_bytes_raw())

    def __repr__(self) -> str:
        return f"Signer({self.verifier.name!r}, {self.verifier.kind.name})"

    def secret_text(self) -> str:
        """Return `PRIVATE+KEY+name+hex id+base64(type ‖ seed)`, as Go's note package writes it; CONFLICT for a held key."""
        if self._seed is None:
            raise CounterfoilError(Code.CONFLICT, "this key is held elsewhere and not handed out")
        material = encode_base64(bytes([self.verifier.kind]) + self._seed)
        return f"{_SECRET_PREFIX}{self.verifier.name}+{self.verifier.key_id.hex()}+{material}"

    def sign_raw(self, message: bytes) -> bytes:
        """Return the raw signature (ML-DSA's is randomised, Ed25519's is not)."""
        return self._key.sign(message)


def parse_secret(text: str) -> Signer:
    """Parse what `Signer.secret_text` wrote; otherwise MALFORMED. The error never holds key material."""
    if not text.startswith(_SECRET_PREFIX):
        raise CounterfoilError(Code.MALFORMED, "this is not a note signing key")
    name, hex_id, material = _split_key(text[len(_SECRET_PREFIX) :].split("+", 2))
    signer = Signer(check_name(name), _kind(material), material[1:])
    if signer.verifier.key_id.hex() != hex_id:
        raise CounterfoilError(Code.MALFORMED, "a signing key's key id does not belong to it")
    return signer


def encode_base64(data: bytes) -> str:
    """Return RFC 4648 §4 base64."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Decode canonical base64 only (alphabet, padding and unused bits); otherwise MALFORMED."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeError) as e:
        raise CounterfoilError(Code.MALFORMED, "not valid base64") from e
    if encode_base64(data) != text:
        raise CounterfoilError(Code.MALFORMED, "not canonical base64")
    return data


def _split_key(parts: list[str]) -> tuple[str, str, bytes]:
    if len(parts) != 3 or not parts[2]:
        raise CounterfoilError(Code.MALFORMED, "a key is not 'name+id+base64'")
    return parts[0], parts[1], decode_base64(parts[2])


def _kind(material: bytes) -> SignatureType:
    try:
        return SignatureType(material[0])
    except ValueError as e:
        raise CounterfoilError(
            Code.UNSUPPORTED, f"signature type 0x{material[0]:02x} is not one of 0x01, 0x04, 0x06"
        ) from e
