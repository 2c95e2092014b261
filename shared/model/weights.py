"""Loads a checkpoint's tensors and checks them against its configuration."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from shared.model.config import ModelConfig
from shared.model.root import weight_files
from shared.runtime.errors import Code, CounterfoilError

Weights = Mapping[str, Tensor]
WeightsLoader = Callable[[Path, ModelConfig], Weights]


def dtype_of(config: ModelConfig) -> torch.dtype:
    """Return the dtype that the configuration names."""
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor's name (Hugging Face's) and shape."""
    width, inner = config.hidden_size, config.intermediate_size
    attention = config.heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, width),
        "model.norm.weight": (width,),
    }
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, width)
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (width,),
            prefix + "post_attention_layernorm.weight": (width,),
            prefix + "self_attn.q_proj.weight": (attention, width),
            prefix + "self_attn.k_proj.weight": (config.kv_width, width),
            prefix + "self_attn.v_proj.weight": (config.kv_width, width),
            prefix + "self_attn.o_proj.weight": (width, attention),
            prefix + "mlp.gate_proj.weight": (inner, width),
            prefix + "mlp.up_proj.weight": (inner, width),
            prefix + "mlp.down_proj.weight": (width, inner),
        }
    return shapes


def load_weights(folder: Path, config: ModelConfig) -> Weights:
    """Load all tensors; CORRUPT or MALFORMED names the file or tensor that is not as it must be."""
    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            found |= load_file(path)
        except FileNotFoundError as error:
            raise CounterfoilError(Code.CONFIGURATION, f"{path} is missing") from error
        except (SafetensorError, OSError, ValueError) as error:
            raise CounterfoilError(
                Code.CORRUPT, f"{path} cannot be read as safetensors", remedy="Fetch it again."
            ) from error
    check_weights(found, config)
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
        if not torch.isfinite(tensor).all():
            raise CounterfoilError(
                Code.CORRUPT, f"tensor {name} holds values that are not finite numbers"
            )
    surplus = sorted(set(found) - set(expected))
    if surplus:
        raise CounterfoilError(Code.MALFORMED, f"the checkpoint has a surplus tensor {surplus[0]}")
