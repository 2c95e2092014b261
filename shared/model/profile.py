"""The numeric profile: everything that fixes the bits of a forward pass, with a probe that is run, not declared.

The kernels define every operation (native/tile.h, native/vector.h), so neither the instruction set nor the number of threads nor
the version of a library is part of the profile. The probe holds the process to that: one pass of a small decoder over weights
made from SHA-256, which depends on no random generator, file or served model, with tables and functions at many places. A
processor or a compiler that computes anything else has another probe, hence another profile.
"""

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
import torch

from shared.codec import cbor
from shared.codec.cbor import Value
from shared.model import functions
from shared.model.backend import Backend, Span, blocks_for
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder
from shared.model.sampler import Sampler
from shared.model.weights import dtype_of, expected_shapes
from shared.statements.request import SamplingSettings

PROBE_TOKENS = 80
"""More than one block of keys, and not a multiple of a tile."""
PROBE_POINTS = 4096

Profile = Mapping[str, str | int]


def numeric_profile(dtype: str, backend: Backend) -> dict[str, str | int]:
    """Return this process's profile for a checkpoint's dtype on a backend. Runs the probe; errors are the backend's."""
    return {
        "device": backend.device,
        "architecture": backend.architecture,
        "dtype": dtype,
        "kernels": backend.arithmetic,
        "probe": probe(dtype, backend),
    }


def profile_id(profile: Profile) -> bytes:
    """Return the hash under which key bundles and receipts name a profile (32 bytes)."""
    value: dict[int | str, Value] = dict(profile.items())
    return sha256(cbor.encode(value)).digest()


def probe(dtype: str, backend: Backend) -> str:
    """Run the fixed pass and return the hash of its states and sampled tokens, in hex."""
    config = ModelConfig(
        vocab_size=256,
        hidden_size=192,
        layers=2,
        heads=6,
        kv_heads=2,
        head_dim=32,
        intermediate_size=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        max_positions=128,
        dtype=dtype,
        eos_token_ids=(),
    )
    weights = {n: _tensor(n, s, config) for n, s in expected_shapes(config).items()}
    decoder = Decoder(config, weights, backend)
    blocks = range(1, blocks_for(PROBE_TOKENS, backend.block) + 1)
    tokens = [7 * place % 256 for place in range(PROBE_TOKENS)]
    hidden = decoder.forward([Span(tokens, 0, blocks)], decoder.cache(len(blocks)))
    sampler = Sampler(SamplingSettings(1, top_p_ppm=900_000), bytes(32))
    logits = decoder.logits(hidden).numpy()
    chosen = [sampler.choose(row, place) for place, row in enumerate(logits)]
    return sha256(backend.to_host(hidden) + bytes(chosen) + _functions()).hexdigest()


def _functions() -> bytes:
    """Return what the tables and functions give at places spread over their range."""
    spread = np.arange(1, PROBE_POINTS + 1, dtype=np.uint64) * np.uint64(2654435761) % 2**32
    points = spread.astype(np.float64) / 2.0**32
    cosines, sines = functions.angles(points[:8] * 40.0, PROBE_POINTS)
    values = functions.ln(points).tobytes() + functions.exp(-40.0 * points).tobytes()
    return values + cosines.tobytes() + sines.tobytes()


def _tensor(name: str, shape: tuple[int, ...], config: ModelConfig) -> torch.Tensor:
    """Make a weight whose entries are uniform in [-1, 1) over sqrt(fan-in); norms are near one."""
    count = int(np.prod(shape))
    chunks = [sha256(f"{name}:{index}".encode()).digest() for index in range(-(-count * 2 // 32))]
    raw = np.frombuffer(b"".join(chunks)[: 2 * count], dtype="<u2").astype(np.float32)
    values = raw / np.float32(32768.0) - np.float32(1.0)
    if len(shape) == 1:
        values = np.float32(1.0) + values / np.float32(8.0)
    else:
        values = values / np.float32(shape[1] ** 0.5)
    return torch.from_numpy(values.reshape(shape)).to(dtype_of(config))
