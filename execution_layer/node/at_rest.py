"""Secrets of requests as a node's database keeps them: under its storage key, each bound to its order."""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.runtime.errors import Code, CounterfoilError

_NONCE_BYTES: Final = 12


class AtRest:
    """Seals and opens secrets with a node's storage key."""

    def __init__(self, storage_key: bytes) -> None:
        self._aead = AESGCM(storage_key)

    def seal(self, secret: bytes, order_entry: bytes) -> bytes:
        """Return what is stored of a secret."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, secret, order_entry)

    def open(self, data: bytes, order_entry: bytes) -> bytes:
        """Return a stored secret; CORRUPT if it is another order's, or was sealed under another key."""
        try:
            return self._aead.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], order_entry)
        except InvalidTag as error:
            raise CounterfoilError(
                Code.CORRUPT,
                "a stored transcript secret cannot be opened with the node's storage key",
                remedy="Restore the key folder that belongs to this database.",
            ) from error
