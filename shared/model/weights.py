"""Loads a checkpoint's tensors and checks them against its configuration."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared.model.config import ModelConfig
from shared.model.root import check_shard, weight_files
from shared.runtime.errors import Code, CounterfoilError

Weights = Mapping[str, Tensor]
WeightsLoader = Callable[[Path, ModelConfig], Weights]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PIECE = 1 << 24
"""Values looked at together: what is only checked is not copied whole."""


def dtype_of(config: ModelConfig) -> torch.dtype:
    """Return the dtype that the configuration names."""
    return DTYPES[config.dtype]


def compute_dtype(config: ModelConfig) -> torch.dtype:
    """Return the dtype of products' inputs, hidden states, keys and values; float16 weights are computed in float32."""
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor's name (Hugging Face's) and shape."""
    width, inner = config.hidden_size, config.intermediate_size
    attention = config.heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, width),
        "model.norm.weight": (width,),
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
    """Map all tensors from their files, without a copy; CORRUPT or MALFORMED names the file or tensor that is not as it must be.

    The files must stay as they are while the tensors are in use. A tied checkpoint may hold the output head as well; it must
    equal the embedding, and is not returned.
    """
    found: dict[str, Tensor] = {}
    for path, assigned in weight_files(folder).items():
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                check_shard(path, names, assigned)
                found |= {name: file.get_tensor(name) for name in names}
        except FileNotFoundError as error:
            raise CounterfoilError(Code.CONFIGURATION, f"{path} is missing") from error
        except (SafetensorError, OSError, ValueError) as error:
            raise CounterfoilError(
                Code.CORRUPT, f"{path} cannot be read as safetensors", remedy="Fetch it again."
            ) from error
    head = found.pop(HEAD, None) if config.tie_word_embeddings else None
    check_weights(found, config)
    if head is not None and not _same(head, found[EMBEDDING]):
        raise CounterfoilError(
            Code.MALFORMED,
            f"tensor {HEAD} is not the embedding, although tie_word_embeddings says that it is",
        )
    return found


def check_weights(found: Weights, config: ModelConfig) -> None:
    """Raise MALFORMED unless these are exactly the configuration's tensors, CORRUPT unless all values are finite."""
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name not in found:
            raise CounterfoilError(Code.MALFORMED, f"the checkpoint has no tensor {name}")
        tensor = found[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype_of(config):
            raise CounterfoilError(
                Code.MALFORMED,
                f"tensor {name} is {tuple(tensor.shape)} {tensor.dtype}, "
                f"not {shape} {dtype_of(config)}",
            )
    surplus = sorted(set(found) - set(expected))
    if surplus:
        raise CounterfoilError(Code.MALFORMED, f"the checkpoint has a surplus tensor {surplus[0]}")
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
