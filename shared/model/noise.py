"""The sampler's noise: words of an AES-256-CTR keystream, all of a row's or only those requested (protocol §7.3)."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from numpy.typing import NDArray

from shared.model.functions import ln

NOISE_LABEL: Final = b"counterfoil/v1/sampling-noise"
WORDS: Final = 4
"""u32 words in a block of AES."""
CHUNK: Final = 2**14
ZEROS: Final = memoryview(bytes(4 * CHUNK))


class Noise:
    """The noise of one seed and choice."""

    def __init__(self, seed: bytes, choice: int) -> None:
        self._key = AES256(sha256(NOISE_LABEL + seed).digest())
        self._choice = choice

    def blocks(self, position: int, count: int) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        """Yield x_0 … x_{count-1} for one output position in parts that fit in a cache, each after its first index."""
        stream = Cipher(self._key, CTR(self._prefix(position) + bytes(4))).encryptor()
        for first in range(0, count, CHUNK):
            yield first, _integers(stream.update(ZEROS[: 4 * min(CHUNK, count - first)]))

    def words(self, position: int, count: int) -> NDArray[np.uint32]:
        """Return x_0 … x_{count-1} for one output position."""
        return np.concatenate([words for _, words in self.blocks(position, count)])

    def words_at(self, position: int, indexes: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return x_i for the given i alone: the keystream's block j is AES(initial counter block + j)."""
        blocks, places = np.unique(indexes // WORDS, return_inverse=True)
        counters = np.empty((len(blocks), 4), dtype=">u4")
        counters[:, :3] = np.frombuffer(self._prefix(position), dtype=">u4")
        counters[:, 3] = blocks  # fewer than 2^32 blocks, so nothing is carried
        # Counter mode by hand: the blocks are counters, all different, not a message.
        cipher = Cipher(self._key, ECB())  # noqa: S305
        stream = _integers(cipher.encryptor().update(counters.tobytes()))
        return stream.reshape(-1, WORDS)[places.reshape(-1), indexes % WORDS]

    @staticmethod
    def exponential(words: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Return E = −ln((x + ½) / 2^32) for every word."""
        energies: NDArray[np.float64] = -ln((words.astype(np.float64) + 0.5) / 2.0**32)
        return energies

    def _prefix(self, position: int) -> bytes:
        return self._choice.to_bytes(4, "big") + position.to_bytes(8, "big")


def _integers(stream: bytes) -> NDArray[np.uint32]:
    words: NDArray[np.uint32] = np.frombuffer(stream, dtype=np.uint32)
    return words.byteswap() if np.little_endian else words
