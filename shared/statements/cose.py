"""Signed statements: COSE_Sign1 (RFC 9052 §4.2) over deterministic CBOR, protocol §2.

18([ << { 1: -8, 3: content-type, 4: key id, 15: { 1: issuer, 2: subject } } >>, {}, payload, signature ])
"""

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType
from typing import ClassVar, Protocol, Self, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.codec import cbor
from shared.codec.cbor import Tag, Value
from shared.codec.ids import NAME
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer, key_id
from shared.statements.rules import Text

COSE_SIGN1 = 18
"""CBOR tag."""
ALG, CONTENT_TYPE, KID, CWT_CLAIMS = 1, 3, 4, 15
EDDSA = -8
ISSUER, SUBJECT = 1, 2
RECEIPTS = 394
"""Unprotected header parameter that carries transparency receipts (RFC 9942)."""
MAX_STATEMENT = 65_536
LONG_TYPES = frozenset({"draw", "epoch-seal"})
MAX_LONG_STATEMENT = 2**20
"""Draws and seals list an epoch's contents."""
MAX_RECEIPTS = 8
MAX_ITEMS: Mapping[str, int] = MappingProxyType({"draw": 2**18 + 256, "epoch-seal": 3 * 2**13 + 64})
"""CBOR items that the payload of a long type may have; `MAX_STATEMENT_ITEMS` for every other type."""
MAX_STATEMENT_ITEMS = 8192
MAX_STATEMENT_NESTED = 2048
"""Arrays and maps among them, for every type."""
_OUTSIDE_ITEMS, _HEADER_ITEMS = 64, 32

_CLAIM = Text(256, 1, line=True)
_SIGNATURE1 = b"\x84\x6aSignature1"
_PREFIX, _SUFFIX = "application/vnd.counterfoil.", "+cbor"

# Encodings of the points of small order, sign bit cleared: anyone can make signatures that verify under such a
# key, so its owner could disown anything it signed.
_SMALL_ORDER = frozenset(
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


class Payload(Protocol):
    """What the statement classes share."""

    TYPE: ClassVar[str]

    @property
    def subject(self) -> str:
        """What the statement is about, derived from its fields."""

    def to_payload(self) -> dict[str, Value]:
        """Return the payload map."""

    @classmethod
    def from_payload(cls, payload: Mapping[str, Value], *, new: bool = False) -> Self:
        """Read a payload map by the rule for extending statements (protocol §2.2)."""


P = TypeVar("P", bound=Payload)


@dataclass(frozen=True)
class SignedStatement:
    """A statement whose outer structure was parsed. Its signature is verified only once `verify_signature` has returned.
    Its payload is decoded by `read`, once it is known whether its signer deserves the work.
    """

    raw: bytes
    type: str
    kid: bytes
    """SHA-256 of the signer's public key."""
    issuer: str
    subject: str
    """As in the header; `read` refuses it if the payload gives another."""
    body: bytes
    """The payload's encoding."""
    entry: bytes
    """SHA-256 of `raw`: the log entry."""
    signed: bytes
    """The Sig_structure that the signature covers."""
    signature: bytes

    @cached_property
    def payload(self) -> Mapping[str, Value]:
        """The payload as a map; MALFORMED if it is not one. Prefer `read`, which checks the fields too."""
        payload = cbor.decode(
            self.body,
            max_bytes=len(self.body),
            max_items=MAX_ITEMS.get(self.type, MAX_STATEMENT_ITEMS),
            max_nested=MAX_STATEMENT_NESTED,
        )
        if not isinstance(payload, dict):
            raise _malformed("has a payload that is not a map with text keys")
        fields = {name: value for name, value in payload.items() if isinstance(name, str)}
        if len(fields) != len(payload):
            raise _malformed("has a payload that is not a map with text keys")
        return MappingProxyType(fields)

    def read(self, cls: builtins.type[P], *, new: bool = False) -> P:
        """Return the payload as its class (steps 6 and 7 of protocol §2); MALFORMED on any deviation.

        `new` is for intake: it refuses fields that this version does not know, and requires those that are now
        mandatory. Otherwise unknown fields are ignored, or UNSUPPORTED if they are critical (§2.2).
        """
        if self.type != cls.TYPE:
            raise _malformed(f"is of type {self.type!r} but {cls.TYPE!r} is expected")
        value = cls.from_payload(self.payload, new=new)  # (6)
        if self.subject != value.subject:  # (7)
            raise _malformed(
                f"is about {value.subject[:80]!r}, but its header says {self.subject[:80]!r}"
            )
        return value


def sign_statement(
    content: str,
    payload: Mapping[str, Value],
    *,
    key: Signer,
    issuer: str,
    subject: str,
) -> bytes:
    """Sign a payload map as a statement of type `content`; the same arguments give the same bytes."""
    if not NAME.fullmatch(content):
        raise CounterfoilError(Code.MALFORMED, "the statement's type is not a name")
    _CLAIM.check(issuer, "the statement's issuer")
    _CLAIM.check(subject, "the statement's subject")
    kid = key_id(key)
    protected = _encode_protected(content, kid, issuer, subject)
    body = cbor.encode(dict(payload))
    signature = key.sign(_sig_structure(protected, body))
    raw = _join(protected, {}, body, signature)
    _check_size(content, len(raw), None)
    return raw


def parse_statement(
    raw: bytes, *, expected: str | None = None, max_bytes: int | None = None
) -> SignedStatement:
    """Parse the outer structure strictly (steps 1 to 3 of protocol §2); MALFORMED on any deviation.

    No signature is checked and the payload is not decoded: that is `SignedStatement.read`. `max_bytes` defaults
    to what the type permits. A statement with transparency receipts attached is refused: `detach` removes them.
    """
    most = max_bytes or (MAX_STATEMENT if expected and expected not in LONG_TYPES else None)
    protected, unprotected, body, signature = _split(raw, most or MAX_LONG_STATEMENT)  # (1)
    if unprotected:
        raise _malformed("has an unprotected header")
    content, kid, issuer, subject = _parse_protected(protected)  # (2)
    _check_size(content, len(raw), max_bytes)
    if expected is not None and content != expected:  # (3)
        raise _malformed(f"is of type {content!r} but {expected!r} is expected")
    if len(signature) != 64:
        raise _malformed("has a signature that is not 64 bytes long")
    return SignedStatement(
        raw=bytes(raw),
        type=content,
        kid=kid,
        issuer=issuer,
        subject=subject,
        body=body,
        entry=sha256(raw).digest(),
        signed=_sig_structure(protected, body),
        signature=signature,
    )


def verify_signature(statement: SignedStatement, public_key: bytes) -> None:
    """Perform steps 4 and 5 of protocol §2: UNTRUSTED_KEY for another key, or BAD_SIGNATURE."""
    if key_id(public_key) != statement.kid:  # (4)
        raise CounterfoilError(
            Code.UNTRUSTED_KEY,
            f"the {statement.type} is not signed with the key that is trusted for it",
        )
    check_signing_key(public_key)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(
            statement.signature, statement.signed
        )  # (5)
    except InvalidSignature as error:
        raise CounterfoilError(
            Code.BAD_SIGNATURE, f"the signature of the {statement.type} does not verify"
        ) from error


def check_signing_key(public_key: bytes) -> None:
    """Raise UNTRUSTED_KEY unless these are the 32 bytes of an Ed25519 key of large order."""
    if len(public_key) != 32 or _without_sign(public_key) in _SMALL_ORDER:
        raise CounterfoilError(Code.UNTRUSTED_KEY, "these bytes are not a usable Ed25519 key")


def sign(value: Payload, *, key: Signer, issuer: str, subject: str | None = None) -> bytes:
    """Sign one of the statement dataclasses; with a `subject` other than the value's own, every reader refuses the result."""
    return sign_statement(
        value.TYPE,
        value.to_payload(),
        key=key,
        issuer=issuer,
        subject=value.subject if subject is None else subject,
    )


def open_as(
    cls: type[P], raw: bytes, public_key: bytes | None, *, new: bool = False
) -> tuple[P, SignedStatement]:
    """Parse a statement of this class, and verify it if a key is given (protocol §2, all steps).

    `new`: see `SignedStatement.read`.
    """
    statement = parse_statement(raw, expected=cls.TYPE)
    if public_key is not None:
        verify_signature(statement, public_key)
    return statement.read(cls, new=new), statement


def read_as(cls: type[P], raw: bytes) -> P:
    """Return a statement's payload without verification, from bytes that were verified on arrival."""
    return open_as(cls, raw, None)[0]


def entry_of(raw: bytes) -> bytes:
    """Return the log entry: SHA-256 of the statement with an empty unprotected header."""
    return sha256(detach(raw)[0]).digest()


def attach(raw: bytes, receipts: Sequence[bytes]) -> bytes:
    """Return the statement with transparency receipts attached (COSE Receipts, RFC 9942)."""
    protected, _, body, signature = _split(raw, MAX_LONG_STATEMENT)
    header: dict[int, Value] = {RECEIPTS: list(receipts)} if receipts else {}
    return _join(protected, header, body, signature)


def detach(raw: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the statement with an empty unprotected header, and the transparency receipts that were in it."""
    protected, unprotected, body, signature = _split(raw, 2 * MAX_LONG_STATEMENT)
    if not unprotected:
        return bytes(raw), ()
    found = unprotected.get(RECEIPTS)
    receipts = (
        tuple(item for item in found if isinstance(item, bytes)) if isinstance(found, list) else ()
    )
    if len(unprotected) != 1 or not isinstance(found, list) or not 0 < len(found) <= MAX_RECEIPTS:
        raise _malformed("has an unprotected header other than transparency receipts")
    if len(receipts) != len(found):
        raise _malformed("carries a transparency receipt that is not a byte string")
    return _join(protected, {}, body, signature), receipts


def _join(
    protected: bytes, unprotected: Mapping[int, Value], body: bytes, signature: bytes
) -> bytes:
    return cbor.encode(Tag(COSE_SIGN1, [protected, unprotected, body, signature]))


def _split(raw: bytes, max_bytes: int) -> tuple[bytes, dict[int, Value], bytes, bytes]:
    tagged = cbor.decode(raw, max_bytes=max_bytes, max_items=_OUTSIDE_ITEMS)
    if not isinstance(tagged, Tag) or tagged.number != COSE_SIGN1:
        raise _malformed("does not carry the tag of COSE_Sign1")
    parts = tagged.value
    if not isinstance(parts, list) or len(parts) != 4:
        raise _malformed("is not an array of four members")
    protected, unprotected, body, signature = parts
    if not (isinstance(protected, bytes) and isinstance(unprotected, dict)):
        raise _malformed("has headers of the wrong type for COSE_Sign1")
    if not (isinstance(body, bytes) and isinstance(signature, bytes)):
        raise _malformed("has a payload or signature that is not a byte string")
    return protected, unprotected, body, signature


def _parse_protected(protected: bytes) -> tuple[str, bytes, str, str]:
    header = cbor.decode(protected, max_bytes=1024, max_items=_HEADER_ITEMS)
    if not isinstance(header, dict) or set(header) != {ALG, CONTENT_TYPE, KID, CWT_CLAIMS}:
        raise _malformed("has missing or unknown protected members")
    content, kid, claims = header[CONTENT_TYPE], header[KID], header[CWT_CLAIMS]
    if (
        not isinstance(content, str)
        or not content.startswith(_PREFIX)
        or not content.endswith(_SUFFIX)
    ):
        raise _malformed("has a content type that is not Counterfoil's")
    kind = content[len(_PREFIX) : -len(_SUFFIX)]
    if not NAME.fullmatch(kind):
        raise _malformed("has a content type that is not Counterfoil's")
    if not isinstance(kid, bytes) or len(kid) != 32:
        raise _malformed("has a key id that is not 32 bytes long")
    if not isinstance(claims, dict) or set(claims) != {ISSUER, SUBJECT}:
        raise _malformed("has claims other than issuer and subject")
    issuer, subject = claims[ISSUER], claims[SUBJECT]
    _CLAIM.check(issuer, "the statement's issuer")
    _CLAIM.check(subject, "the statement's subject")
    assert isinstance(issuer, str)
    assert isinstance(subject, str)
    if type(header[ALG]) is not int or header[ALG] != EDDSA:
        raise _malformed("is not signed with EdDSA")
    return kind, kid, issuer, subject


def _encode_protected(content: str, kid: bytes, issuer: str, subject: str) -> bytes:
    return cbor.encode(
        {
            ALG: EDDSA,
            CONTENT_TYPE: f"{_PREFIX}{content}{_SUFFIX}",
            KID: kid,
            CWT_CLAIMS: {ISSUER: issuer, SUBJECT: subject},
        }
    )


def _check_size(content: str, size: int, max_bytes: int | None) -> None:
    limit = max_bytes or (MAX_LONG_STATEMENT if content in LONG_TYPES else MAX_STATEMENT)
    if size > limit:
        raise _malformed(f"is {size} bytes long, more than {limit}")


def _sig_structure(protected: bytes, body: bytes) -> bytes:
    """Return the bytes that are signed (RFC 9052 §4.4): ["Signature1", protected, h'', payload]."""
    return b"".join((_SIGNATURE1, cbor.encode(protected), b"\x40", cbor.encode(body)))


def _without_sign(public_key: bytes) -> bytes:
    return public_key[:31] + bytes([public_key[31] & 0x7F])


def _malformed(problem: str) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, f"the statement {problem}")
