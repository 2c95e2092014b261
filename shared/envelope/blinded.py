"""What a receipt says about prompt and answer, blinded so that a guess cannot be confirmed (protocol §4.5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.envelope.body import settings_bytes
from shared.envelope.secrets import OUTPUT_SIDE, PROMPT_SIDE, TranscriptKeys
from shared.statements.request import RequestBody
from shared.translog.tree import leaf_hash, root


@dataclass(frozen=True, slots=True)
class BlindedFields:
    """The receipt's fields of the same names, 32 bytes each."""

    settings: bytes
    input: bytes
    output: bytes
    activation_root: bytes | None
    """None if there is no block to commit to: the receipt lacks the field then."""


def blinded_fields(
    keys: TranscriptKeys,
    *,
    body: RequestBody,
    seed: bytes,
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    prompt_blocks: Sequence[bytes],
    output_blocks: Sequence[bytes],
) -> BlindedFields:
    """Compute the fields. `seed` is the effective sampling seed (the body's, or the derived one)."""
    return BlindedFields(
        settings=keys.blind("settings", settings_bytes(body, seed)),
        input=keys.blind("input", token_bytes(input_tokens)),
        output=keys.blind("output", token_bytes(output_tokens)),
        activation_root=activation_root(keys, prompt_blocks, output_blocks),
    )


def activation_root(
    keys: TranscriptKeys, prompt_blocks: Sequence[bytes], output_blocks: Sequence[bytes]
) -> bytes | None:
    """Return the Merkle root over the blinded block hashes, prompt blocks first; None for no blocks."""
    sides = ((PROMPT_SIDE, prompt_blocks), (OUTPUT_SIDE, output_blocks))
    leaves = [
        leaf_hash(keys.blind_leaf(side, block, block_hash))
        for side, blocks in sides
        for block, block_hash in enumerate(blocks)
    ]
    return root(leaves) if leaves else None


def token_bytes(tokens: Sequence[int]) -> bytes:
    """Return the tokens as u32, concatenated."""
    return b"".join(token.to_bytes(4, "big") for token in tokens)
