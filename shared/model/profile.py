"""The numeric profile: everything that fixes the bits of a forward pass, with a probe that is run, not declared.

The probe is one pass of a small decoder over weights made from SHA-256, so it depends on no random generator, file or served
model. Processes whose profiles are equal compute the same bits; a processor limited to fewer instructions fails
the probe even where every label is the same.
"""

import platform
from collections.abc import Mapping
from hashlib import sha256

import numpy as np
import torch

from shared.codec import cbor
from shared.codec.cbor import Value
from shared.model.arithmetic import KERNELS
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder, Row, state_bytes
from shared.model.kv import KVCache, blocks_for
from shared.model.sampler import Sampler
from shared.model.weights import dtype_of, expected_shapes
from shared.statements.request import SamplingSettings

PROBE_TOKENS = 80
"""More than one block of keys, and not a multiple of a tile."""

Profile = Mapping[str, str | int]


def numeric_profile(dtype: str) -> dict[str, str | int]:
    """Return this process's profile for a dtype (`bfloat16` or `float32`). Runs the probe."""
    return {
        "device": "cpu",
        "architecture": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "dtype": dtype,
        "kernels": KERNELS,
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
        "threads": torch.get_num_threads(),
        "onednn": int(torch.backends.mkldnn.is_available()),
        "mkl": int(torch.backends.mkl.is_available()),
        "probe": probe(dtype),
    }


def profile_id(profile: Profile) -> bytes:
    """Return the hash under which key bundles and receipts name a profile (32 bytes)."""
    value: dict[int | str, Value] = dict(profile.items())
    return sha256(cbor.encode(value)).digest()


def probe(dtype: str) -> str:
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
    decoder = Decoder(
        config, {n: _tensor(n, s, config) for n, s in expected_shapes(config).items()}
    )
    blocks = range(1, blocks_for(PROBE_TOKENS) + 1)
    rows = [Row(7 * place % 256, place, blocks) for place in range(PROBE_TOKENS)]
    hidden = decoder.forward(rows, KVCache(config, len(blocks)))
    sampler = Sampler(SamplingSettings(1, top_p_ppm=900_000), bytes(32))
    logits = decoder.logits(hidden).numpy()
    chosen = [sampler.choose(row, place) for place, row in enumerate(logits)]
    return sha256(state_bytes(hidden) + bytes(chosen)).hexdigest()


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
