"""The sampler: a token is a pure function of (logits, settings, seed, choice, position).

Definition. Let z be the float32 logits, converted to float64, and V their number.

1. Temperature 0: the token is the index of the largest z, the lowest index among equals. Otherwise y = z / T,
   computed as z · (10^6 / temperature_ppm).
2. Order: indexes sorted by falling y, the lower index first among equals (a stable sort).
3. top_k > 0 keeps the first top_k of the order.
4. top_p_ppm < 10^6: with running sums of exp(y − max y) over what is kept, in the order of step 2, keep the shortest
   beginning of the order whose running sum reaches (last running sum) · (top_p_ppm / 10^6).
5. Noise: the AES-256-CTR keystream of key SHA-256("counterfoil/v1/sampling-noise" ‖ seed) and initial counter block
   u32 choice ‖ u64 position ‖ u32 0, read as V big-endian u32 x_i; u_i = (x_i + 1/2) / 2^32 and E_i = −ln u_i, so E_i is
   exponentially distributed.
6. The token is the kept index with the largest y_i − ln E_i, the lowest index among equals: argmax p_i / E_i.

`position` counts output tokens from 0; `choice` tells apart several answers to one request.
"""

from hashlib import sha256

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from shared.statements.request import PPM, SamplingSettings

NOISE_LABEL = b"counterfoil/v1/sampling-noise"


class Sampler:
    """Chooses the tokens of one sequence."""

    def __init__(self, settings: SamplingSettings, seed: bytes, choice: int = 0) -> None:
        self._settings = settings
        self._key = sha256(NOISE_LABEL + seed).digest()
        self._choice = choice

    def choose(self, logits: NDArray[np.float32], position: int) -> int:
        """Return the token for output position `position`; `logits` has shape (V,)."""
        settings = self._settings
        if settings.temperature_ppm == 0:
            return int(np.argmax(logits))
        y = logits.astype(np.float64) * (PPM / settings.temperature_ppm)
        kept = _kept(y, settings)
        score = y - np.log(self.noise(position, len(y)))
        if kept is None:
            return int(np.argmax(score))
        kept = np.sort(kept)
        return int(kept[np.argmax(score[kept])])

    def noise(self, position: int, count: int) -> NDArray[np.float64]:
        """Return E_0 … E_{count-1} for one output position."""
        counter = self._choice.to_bytes(4, "big") + position.to_bytes(8, "big") + bytes(4)
        stream = Cipher(AES256(self._key), CTR(counter)).encryptor().update(bytes(4 * count))
        x = np.frombuffer(stream, dtype=">u4").astype(np.float64)
        exponential: NDArray[np.float64] = -np.log((x + 0.5) / 2.0**32)
        return exponential


def _kept(y: NDArray[np.float64], settings: SamplingSettings) -> NDArray[np.int64] | None:
    """Return the indexes that the filters keep, or None for all."""
    narrow = 0 < settings.top_k < len(y)
    if not narrow and settings.top_p_ppm == PPM:
        return None
    order = np.argsort(-y, kind="stable")
    if narrow:
        order = order[: settings.top_k]
    if settings.top_p_ppm < PPM:
        weights = np.exp(y[order] - y[order[0]])
        running = np.cumsum(weights)
        enough = running >= running[-1] * (settings.top_p_ppm / PPM)
        order = order[: int(np.argmax(enough)) + 1]
    return order
