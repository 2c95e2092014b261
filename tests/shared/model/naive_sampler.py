"""The sampler as protocol §7.3 defines it, step by step in plain Python: what the fast one is compared with."""

import math
from collections import Counter
from hashlib import sha256

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from shared.statements.request import PPM

LARGEST = float.fromhex("0x1.fffffep+127")


def keystream(seed, choice, position, words):
    """Return x_0 … of the noise."""
    key = sha256(b"counterfoil/v1/sampling-noise" + seed).digest()
    counter = choice.to_bytes(4, "big") + position.to_bytes(8, "big") + bytes(4)
    cipher = Cipher(algorithms.AES256(key), modes.CTR(counter))
    stream = cipher.encryptor().update(bytes(4 * words))
    return [int.from_bytes(stream[4 * i : 4 * i + 4], "big") for i in range(words)]


def understood(logits):
    """Return the logits as float64, NaN and +∞ as the protocol defines them."""
    values = [float(z) for z in logits]
    return [-math.inf if math.isnan(z) else LARGEST if z == math.inf else z for z in values]


def penalised(logits, how, prompt, output):
    """Step 1."""
    z = understood(logits)
    if how.repetition_penalty_ppm is not None:
        r = how.repetition_penalty_ppm / PPM
        for token in set(prompt) | set(output):
            z[token] = z[token] / r if z[token] > 0 else z[token] * r
    for token, count in Counter(output).items():
        flat, each = how.presence_penalty_ppm or 0, how.frequency_penalty_ppm or 0
        z[token] -= (count * each + flat) / PPM
    return z


def kept(y, how):
    """Steps 3 to 5."""
    order = sorted(range(len(y)), key=lambda i: (-y[i], i))
    if how.top_k:
        order = order[: how.top_k]
    if how.top_p_ppm < PPM:
        running, total = [], 0.0
        for i in order:
            total += math.exp(y[i] - y[order[0]])
            running.append(total)
        bar = total * (how.top_p_ppm / PPM)
        order = order[: next(n for n, value in enumerate(running) if value >= bar) + 1]
    if how.min_p_ppm is not None:
        least = how.min_p_ppm / PPM
        order = [i for i in order if math.exp(y[i] - y[order[0]]) >= least]
    return order


def defined(logits, how, seed, choice, position, prompt=(), output=()):
    """Return the token."""
    z = penalised(logits, how, prompt, output)
    if how.temperature_ppm == 0:
        return max(range(len(z)), key=lambda i: (z[i], -i))
    y = [v * (PPM / how.temperature_ppm) for v in z]
    if max(y) == -math.inf:
        return 0
    noise = [-math.log((x + 0.5) / 2**32) for x in keystream(seed, choice, position, len(z))]
    return max(kept(y, how), key=lambda i: (y[i] - math.log(noise[i]), -i))


def logprobs(logits, token, alternatives):
    """Return (own, [(token, value), …]) in micro-nats."""
    z = understood(logits)
    m = max(z)
    if m == -math.inf:
        values = [-(10**9)] * len(z)
    else:
        total = math.fsum(math.exp(v - m) for v in z)
        values = [round(max(((v - m) - math.log(total)) * 10**6, -(10**9))) for v in z]
    order = sorted(range(len(z)), key=lambda i: (-z[i], i))[:alternatives]
    return values[token], [(i, values[i]) for i in order]
