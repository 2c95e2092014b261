"""Cancellations: a tenant's signed wish that the answer to one of its orders end (protocol §4.7)."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.statements.cose import check_signing_key
from shared.statements.orders import cancel_message


def sign_cancellation(order: bytes, key: Signer) -> bytes:
    """Return the signature, 64 bytes, that has the answer to an order end; `order` is its entry, `key` its tenant's."""
    return key.sign(cancel_message(order))


def verify_cancellation(order: bytes, signature: bytes, public_key: bytes) -> None:
    """Check that `signature` is one by the order's tenant: BAD_SIGNATURE if not, UNTRUSTED_KEY for an unusable key.

    `order` is the order's entry, `public_key` the raw key (32 bytes) that signed it.
    """
    check_signing_key(public_key)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, cancel_message(order))
    except InvalidSignature as error:
        raise CounterfoilError(
            Code.BAD_SIGNATURE, "the cancellation is not signed with the key that signed the order"
        ) from error
