"""COSE Receipts of inclusion (RFC 9942, verifiable data structure 1 = RFC9162_SHA256).

    18([ protected: bstr .cbor { 1: -8, 4: kid, 395: 1 },
         unprotected: { 396: { -1: [ bstr .cbor [ size, index, [* bstr] ] ] } },
         payload: nil, signature ])

The payload is detached: it is the root to which entry, index and path lead. A COSE Receipt signs a
root and nothing else, so it is issued only for checkpoint roots, with a key that does nothing
else, and it means *sequenced*, never *witnessed*. The size in it is only as good as its issuer's word:
the signature covers it only to the extent that it shapes the path. `kid` is the SHA-256 of the raw
Ed25519 public key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.codec import cbor
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.translog.proofs import root_from_inclusion, verify_inclusion
from shared.translog.tree import leaf_hash

MAX_RECEIPT_BYTES = 8192
_COSE_SIGN1 = 18
_ALG, _KID, _VDS, _VDP = 1, 4, 395, 396
_EDDSA, _RFC9162_SHA256, _INCLUSION = -8, 1, -1


@dataclass(frozen=True, slots=True)
class CoseReceipt:
    """A parsed COSE Receipt; nothing in it has been verified."""

    kid: bytes
    size: int
    index: int
    path: tuple[bytes, ...]
    protected: bytes
    signature: bytes


class ReceiptIssuer:
    """Issues COSE Receipts with one key. A root is signed once, however many entries are proved under it."""

    def __init__(self, key: Signer) -> None:
        kid = sha256(key.public_key().public_bytes_raw()).digest()
        self._key = key
        self._protected = cbor.encode({_ALG: _EDDSA, _KID: kid, _VDS: _RFC9162_SHA256})
        self._last: tuple[bytes, bytes] | None = None

    def issue(
        self, entry: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
    ) -> bytes:
        """Return a COSE Receipt for an entry under a checkpoint's root; BAD_PROOF if the path does not lead there."""
        verify_inclusion(leaf_hash(entry), index, size, path, root)
        last = self._last
        if last is None or last[0] != root:
            last = self._last = (root, self._key.sign(_signed(self._protected, root)))
        proof = cbor.encode([size, index, list(path)])
        return cbor.encode(
            cbor.Tag(_COSE_SIGN1, [self._protected, {_VDP: {_INCLUSION: [proof]}}, None, last[1]])
        )


def issue_receipt(
    entry: bytes,
    index: int,
    size: int,
    path: Sequence[bytes],
    root: bytes,
    *,
    key: Signer,
) -> bytes:
    """Return one COSE Receipt; see `ReceiptIssuer.issue`."""
    return ReceiptIssuer(key).issue(entry, index, size, path, root)


def parse_receipt(data: bytes) -> CoseReceipt:
    """Parse a COSE Receipt with exactly one inclusion proof and our header members; otherwise MALFORMED."""
    match cbor.decode(data, max_bytes=MAX_RECEIPT_BYTES):
        case cbor.Tag(
            number=18,
            value=[
                bytes(protected),
                {396: {-1: [bytes(proof)], **others}, **more},
                None,
                bytes(sig),
            ],
        ) if not others and not more:
            pass
        case _:
            raise _malformed(
                "it is not a tagged COSE_Sign1 with one inclusion proof and no payload"
            )
    match cbor.decode(protected):
        case {1: -8, 4: bytes(kid), 395: 1, **rest} if not rest and len(kid) == 32:
            pass
        case _:
            raise _malformed("its protected header is not {1: -8, 4: kid, 395: 1}")
    match cbor.decode(proof):
        case [int(size), int(index), list(path)] if not (
            isinstance(size, bool) or isinstance(index, bool)
        ) and all(isinstance(value, bytes) and len(value) == 32 for value in path):
            pass
        case _:
            raise _malformed("its inclusion proof is not [size, index, [* 32 bytes]]")
    hashes = tuple(value for value in path if isinstance(value, bytes))
    return CoseReceipt(kid, size, index, hashes, protected, sig)


def verify_receipt(data: bytes, entry: bytes, public_key: bytes) -> CoseReceipt:
    """Check that the holder of `public_key` (32 raw bytes) has signed a tree that contains the entry.

    Errors: MALFORMED, UNTRUSTED_KEY, BAD_PROOF, BAD_SIGNATURE.
    """
    receipt = parse_receipt(data)
    if receipt.kid != sha256(public_key).digest():
        raise CounterfoilError(Code.UNTRUSTED_KEY, "the COSE Receipt is signed by another key")
    root = root_from_inclusion(leaf_hash(entry), receipt.index, receipt.size, receipt.path)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(
            receipt.signature, _signed(receipt.protected, root)
        )
    except (InvalidSignature, ValueError) as e:
        raise CounterfoilError(
            Code.BAD_SIGNATURE,
            "the COSE Receipt is not a signature over the root to which it leads",
        ) from e
    return receipt


def _signed(protected: bytes, root: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, b"", root])


def _malformed(reason: str) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, f"not one of our COSE Receipts: {reason}")
