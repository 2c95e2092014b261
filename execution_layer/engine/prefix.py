"""The prefix cache: which full KV blocks hold the keys and values of which beginning of a sequence.

A block's contents follow from all tokens up to its end, so its key is a chain:

    key_0 = MAC(secret, "prefix-tenant", tenant)        key_i = H("prefix-block", key_{i−1}, tokens of block i as u32)

The secret is drawn by each engine at its start and never leaves it: a key also stands for the engine's model and numeric
profile, and no tenant can hit, or time, what another's requests left behind.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from shared.codec.hashing import labelled_hash, labelled_mac
from shared.envelope.blinded import token_bytes


@dataclass(frozen=True, slots=True)
class CachedBlock:
    """A KV block, and the hashes of its commitment blocks."""

    block: int
    hashes: tuple[bytes, ...]


class PrefixCache:
    """An index of blocks by the tokens that lead to their end; it does not know who holds them."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._entries: dict[bytes, CachedBlock] = {}
        self._keys: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def root(self, tenant: str) -> bytes:
        """Return key_0: where a tenant's sequences begin."""
        return labelled_mac(self._secret, "prefix-tenant", tenant.encode())

    def child(self, parent: bytes, tokens: Sequence[int]) -> bytes:
        """Return the key of the block of `tokens` that follows the block of key `parent`."""
        return labelled_hash("prefix-block", parent, token_bytes(tokens))

    def get(self, key: bytes) -> CachedBlock | None:
        """Return the block with this key's contents."""
        return self._entries.get(key)

    def put(self, key: bytes, block: int, hashes: tuple[bytes, ...]) -> None:
        """Remember a full block; of two with the same contents the first one stays."""
        if key in self._entries:
            return
        assert block not in self._keys
        self._entries[key] = CachedBlock(block, hashes)
        self._keys[block] = key

    def forget(self, block: int) -> None:
        """Drop a block whose contents are about to be overwritten."""
        del self._entries[self._keys.pop(block)]

    def clear(self) -> None:
        """Drop all blocks."""
        self._entries.clear()
        self._keys.clear()
