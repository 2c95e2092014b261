"""The identity keys of operators and tenants: a live key adds others and ends them (protocol §2.3)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.codec.hashing import framing
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer, key_id, public_bytes
from shared.statements.cose import check_signing_key, sign
from shared.statements.rules import refuse
from shared.statements.schema import Bytes32, Bytes64, Line, Ms, Name, Statement


class Holder(StrEnum):
    """Who has identity keys that it rotates itself."""

    OPERATOR = "operator"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class IdentityKey(Statement):
    """Adds a key to an identity. Signed with a key that it already has; the new key has signed `possession`."""

    TYPE: ClassVar[str] = "identity-key"

    role: Holder
    name: Name
    key: Bytes32
    possession: Bytes64
    not_before: Ms

    @property
    def subject(self) -> str:
        """The identity."""
        return identity(self.role, self.name)

    def check(self) -> None:
        """Check that the new key's signatures are binding."""
        _check_key(self.key, "identity-key.key")


@dataclass(frozen=True, slots=True)
class IdentityKeyEnd(Statement):
    """Ends one of an identity's keys. Signed with any key that it has."""

    TYPE: ClassVar[str] = "identity-key-end"

    role: Holder
    name: Name
    key: Bytes32
    at: Ms
    reason: Line

    @property
    def subject(self) -> str:
        """The identity."""
        return identity(self.role, self.name)


TYPES: Final = frozenset({IdentityKey.TYPE, IdentityKeyEnd.TYPE})
"""The statements about identities' keys."""


def identity(role: str, name: str) -> str:
    """Return the subject under which an identity's statements are found."""
    return f"{role}/{name}"


def possession_message(role: str, name: str, key: bytes, signer: bytes) -> bytes:
    """Return what a new key signs to show that its holder has it; `signer` is the key id of the key that adds it."""
    return framing("identity-key", role.encode(), name.encode(), key, signer)


def sign_identity_key(role: Holder, name: str, *, new: Signer, by: Signer, now_ms: int) -> bytes:
    """Return the statement by which the key `by` adds the key `new`."""
    key = public_bytes(new)
    proof = new.sign(possession_message(role, name, key, key_id(by)))
    return sign(IdentityKey(role, name, key, proof, now_ms), key=by, issuer=name)


def check_possession(added: IdentityKey, signer: bytes) -> None:
    """Check that the new key signed for the key with the id `signer`, in this name and role; otherwise BAD_SIGNATURE."""
    message = possession_message(added.role, added.name, added.key, signer)
    try:
        Ed25519PublicKey.from_public_bytes(added.key).verify(added.possession, message)
    except InvalidSignature as error:
        raise CounterfoilError(
            Code.BAD_SIGNATURE, "the identity-key lacks the new key's proof of possession"
        ) from error


def _check_key(key: bytes, where: str) -> None:
    try:
        check_signing_key(key)
    except CounterfoilError:
        refuse(where, "is not a usable Ed25519 key")
