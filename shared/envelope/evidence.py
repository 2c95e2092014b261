"""The sealed evidence: what an auditor needs to check a receipt's blinded fields (protocol §4.4)."""

from dataclasses import dataclass
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.envelope.opaque import opening, unreadable
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.shape import MAX_FINAL
from shared.envelope.stream import StreamContext, Tokens
from shared.statements.rules import Count, Text
from shared.statements.schema import Bytes32, Record

MAX_EVIDENCE = MAX_FINAL
_NONCE = bytes(12)  # the key is fresh for every response and seals one message
_Blocks = Annotated[tuple[Bytes32, ...], Count(0, 2**16)]


@dataclass(frozen=True, slots=True, repr=False)
class Evidence(Record):
    """Tokens, block hashes (32 bytes each) and the text of one response."""

    input_tokens: Tokens
    output_tokens: Tokens
    prompt_blocks: _Blocks
    output_blocks: _Blocks
    text: Annotated[str, Text(MAX_EVIDENCE)]


def seal_evidence(evidence: Evidence, keys: TranscriptKeys, context: StreamContext) -> bytes:
    """Seal; once per response. The receipt carries the SHA-256 of the result."""
    plaintext = evidence.to_cbor()
    return _aead(keys, context).encrypt(_NONCE, plaintext, context.ctx + context.kc)


def open_evidence(data: bytes, keys: TranscriptKeys, context: StreamContext) -> Evidence:
    """Open; UNREADABLE whatever the failure."""
    try:
        plaintext = _aead(keys, context).decrypt(_NONCE, data, context.ctx + context.kc)
    except (InvalidTag, ValueError) as error:
        raise unreadable() from error
    with opening():
        return Evidence.from_cbor(plaintext, max_bytes=MAX_EVIDENCE)


def _aead(keys: TranscriptKeys, context: StreamContext) -> AESGCM:
    return AESGCM(keys.evidence_key(context.bundle, context.node_nonce, context.attempt))
