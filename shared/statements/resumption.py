"""Resuming a stream: a tenant's signed wish to have the rest of the response to one of its orders (protocol §4.9)."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.codec.hashing import framing
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.statements.cose import check_signing_key


def resume_message(order: bytes, frames: int, at: int) -> bytes:
    """Return what a tenant signs to have what follows the first `frames` frames of the response to an order.

    `order` is the order's entry, `at` the tenant's time (ms since 1970); both numbers are u64.
    """
    return framing("resume-signature", order, frames.to_bytes(8, "big"), at.to_bytes(8, "big"))


def sign_resumption(order: bytes, frames: int, at: int, key: Signer) -> bytes:
    """Return the signature, 64 bytes, by a key of the tenant."""
    return key.sign(resume_message(order, frames, at))


def verify_resumption(
    order: bytes, frames: int, at: int, signature: bytes, public_key: bytes
) -> None:
    """Check that `signature` is one by the order's tenant: BAD_SIGNATURE if not, UNTRUSTED_KEY for an unusable key."""
    check_signing_key(public_key)
    try:
        message = resume_message(order, frames, at)
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature as error:
        raise CounterfoilError(
            Code.BAD_SIGNATURE,
            "the wish to resume is not signed with this key of the order's tenant",
        ) from error
