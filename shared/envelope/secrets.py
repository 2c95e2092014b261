"""Everything derived from one attempt's transcript secret, each under a label of its own (protocol §3, §4)."""

from dataclasses import dataclass
from typing import Self

from shared.codec.hashing import hkdf_expand, hkdf_extract, labelled_mac
from shared.runtime.errors import Code, CounterfoilError

SECRET_BYTES = 32
PROMPT_SIDE, OUTPUT_SIDE = 0, 1


@dataclass(frozen=True, slots=True, repr=False)
class TranscriptKeys:
    """The keys of (transcript secret, ctx). Derived on demand; nothing is cached."""

    prk: bytes

    @classmethod
    def derive(cls, ts: bytes, ctx: bytes) -> Self:
        """Extract the pseudorandom key from a 32-byte transcript secret under its header's hash."""
        if len(ts) != SECRET_BYTES:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "a transcript secret must be 32 bytes long"
            )
        return cls(hkdf_extract(ctx, ts))

    @property
    def kc(self) -> bytes:
        """The key commitment, 32 bytes, public."""
        return hkdf_expand(self.prk, "key-commitment", 32)

    @property
    def request_key(self) -> bytes:
        """AES-256-GCM key of the sealed body."""
        return hkdf_expand(self.prk, "request-key", 32)

    @property
    def request_nonce(self) -> bytes:
        """Its nonce, 12 bytes; the key seals only one body."""
        return hkdf_expand(self.prk, "request-nonce", 12)

    @property
    def response_secret(self) -> bytes:
        """Input of the response key."""
        return hkdf_expand(self.prk, "response-secret", 32)

    @property
    def sampling_seed(self) -> bytes:
        """The sampling seed if the body sets none, 32 bytes."""
        return hkdf_expand(self.prk, "sampling-seed", 32)

    def response_key(self, bundle: bytes, node_nonce: bytes, attempt: int) -> bytes:
        """AES-256-GCM key of one response's frames and final record."""
        salt = stream_salt(bundle, node_nonce, attempt)
        return hkdf_expand(hkdf_extract(salt, self.response_secret), "response-key", 32)

    def evidence_key(self, bundle: bytes, node_nonce: bytes, attempt: int) -> bytes:
        """AES-256-GCM key of one response's evidence."""
        context = stream_salt(bundle, node_nonce, attempt)
        return hkdf_expand(self.prk, "evidence-key", 32, context)

    def blind(self, field: str, data: bytes) -> bytes:
        """Return the blinded commitment to a field's data, 32 bytes."""
        return labelled_mac(self._blinding_key(field), "blinded", data)

    def blind_leaf(self, side: int, block: int, block_hash: bytes) -> bytes:
        """Return the activation tree's leaf entry of one block (side 0: prompt, 1: output)."""
        place = side.to_bytes(1, "big") + block.to_bytes(4, "big")
        return labelled_mac(self._blinding_key("activation"), "activation", place, block_hash)

    def _blinding_key(self, field: str) -> bytes:
        return hkdf_expand(self.prk, "blind", 32, field.encode("ascii"))

    def __repr__(self) -> str:
        return "TranscriptKeys(…)"


def stream_salt(bundle: bytes, node_nonce: bytes, attempt: int) -> bytes:
    """Return bundle ‖ node nonce ‖ u32 attempt: what makes one response's keys its own."""
    return bundle + node_nonce + attempt.to_bytes(4, "big")
