"""Loads a checkpoint's tensors and checks them against its configuration."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from shared.model.config import ModelConfig
from shared.model.shards import Entry, read_headers
from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import shown

Weights = Mapping[str, Tensor]
WeightsLoader = Callable[[Path, ModelConfig], Weights]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""As safetensors names them."""
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
PIECE = 1 << 24
"""Values checked at once: what is only checked is not copied whole."""


def dtype_of(config: ModelConfig) -> torch.dtype:
    """Return the dtype that the configuration names."""
    return DTYPES[config.dtype]


def compute_dtype(config: ModelConfig) -> torch.dtype:
    """Return the dtype of products' inputs, hidden states, keys and values."""
    return computed_in(config.dtype)


def computed_in(dtype: str) -> torch.dtype:
    """Return the dtype in which a checkpoint's dtype is computed: float16 weights in float32."""
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor's name (Hugging Face's) and shape."""
    width, inner = config.hidden_size, config.intermediate_size
    attention = config.heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, width),
        NORM: (width,),
    }
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, width)
    projections = {"q": attention, "k": config.kv_width, "v": config.kv_width}
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (width,),
            prefix + "post_attention_layernorm.weight": (width,),
            prefix + "self_attn.o_proj.weight": (width, attention),
            prefix + "mlp.gate_proj.weight": (inner, width),
            prefix + "mlp.up_proj.weight": (inner, width),
            prefix + "mlp.down_proj.weight": (width, inner),
        }
        for name, out in projections.items():
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (out, width)
            if config.qkv_bias:
                shapes[f"{prefix}self_attn.{name}_proj.bias"] = (out,)
        if config.qk_norm:
            shapes[prefix + "self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[prefix + "self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


def load_weights(folder: Path, config: ModelConfig) -> Weights:
    """Map all tensors from their files, without a copy; CORRUPT or MALFORMED names the file or tensor that is wrong.

    The files must stay as they are while the tensors are in use. A tied checkpoint may hold the output head as well; it must
    equal the embedding, and is not returned.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  # a model that is made has no files

    shards = read_headers(folder)
    entries = {name: entry for tensors in shards.values() for name, entry in tensors.items()}
    check_entries(entries, config)
    found: dict[str, Tensor] = {}
    for path, tensors in shards.items():
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in tensors}
        except (SafetensorError, OSError, ValueError) as error:
            raise CounterfoilError(
                Code.CORRUPT, f"{path} cannot be read as safetensors", remedy="Fetch it again."
            ) from error
    head = found.pop(HEAD, None) if config.tie_word_embeddings else None
    _check_finite(found)
    if head is not None and not _same(head, found[EMBEDDING]):
        raise CounterfoilError(
            Code.MALFORMED,
            f"tensor {HEAD} is not the embedding, although tie_word_embeddings says that it is",
        )
    return found


def check_entries(entries: Mapping[str, Entry], config: ModelConfig) -> None:
    """Raise MALFORMED unless these are exactly the configuration's tensors, CONFIGURATION unless they fit in memory."""
    expected = expected_shapes(config)
    if config.tie_word_embeddings and HEAD in entries:
        expected[HEAD] = expected[EMBEDDING]
    for name, shape in expected.items():
        if name not in entries:
            raise CounterfoilError(Code.MALFORMED, f"the checkpoint has no tensor {name}")
        entry = entries[name]
        if entry.shape != shape or entry.dtype != NAMES[config.dtype]:
            raise CounterfoilError(
                Code.MALFORMED,
                f"tensor {name} is {entry.shape} {entry.dtype}, not {shape} {NAMES[config.dtype]}",
            )
    for name in sorted(entries.keys() - expected.keys())[:1]:
        raise CounterfoilError(Code.MALFORMED, f"the checkpoint has a surplus tensor {shown(name)}")
    needed = compute_dtype(config).itemsize * sum(map(math.prod, expected.values()))
    if needed > memory_bytes():
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the model takes {needed / 2**30:.1f} GiB of memory, "
            f"and this machine has {memory_bytes() / 2**30:.1f} GiB",
        )


def memory_bytes() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _check_finite(found: Weights) -> None:
    """Raise CORRUPT unless all values are finite."""
    for name, tensor in found.items():
        if not all(torch.isfinite(piece).all() for piece in tensor.reshape(-1).split(PIECE)):
            raise CounterfoilError(
                Code.CORRUPT, f"tensor {name} holds values that are not finite numbers"
            )


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    pieces = zip(one.reshape(-1).split(PIECE), other.reshape(-1).split(PIECE), strict=True)
    return all(torch.equal(a, b) for a, b in pieces)
