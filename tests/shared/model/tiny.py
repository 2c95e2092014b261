"""A tiny Llama with weights made from SHA-256, and a byte-level tokenizer, as a Hugging Face folder."""

import json
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend
from shared.model.decoder import Decoder, load_decoder
from shared.model.weights import Weights, dtype_of, expected_shapes

SPECIALS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("a", "n"), ("Ġ", "a"), ("S", "T"))
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BACKEND = CpuBackend()
VOCABULARY = 256 + len(MERGES) + len(SPECIALS)
END = VOCABULARY - 1


def tokenizer_json() -> str:
    """Every byte, a few merges, four special tokens at the end of the vocabulary."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in MERGES]
    backend = Tokenizer(
        models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=list(MERGES))
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return str(backend.to_str())


def config_json(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 256,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "eos_token_id": END,
        **changes,
    }


def config(**changes: Any) -> ModelConfig:
    return ModelConfig.from_json(config_json(**changes))


def weights(of: ModelConfig) -> Weights:
    return {name: _tensor(name, shape, of) for name, shape in expected_shapes(of).items()}


def _tensor(name: str, shape: tuple[int, ...], of: ModelConfig) -> Tensor:
    """Make a weight whose entries are uniform in [-1, 1) over sqrt(fan-in); norms and biases are near one."""
    count = int(np.prod(shape))
    chunks = [sha256(f"{name}:{index}".encode()).digest() for index in range(-(-count * 2 // 32))]
    raw = np.frombuffer(b"".join(chunks)[: 2 * count], dtype="<u2").astype(np.float32)
    values = raw / np.float32(32768.0) - np.float32(1.0)
    if len(shape) == 1:
        values = np.float32(1.0) + values / np.float32(8.0)
    else:
        values = values / np.float32(shape[1] ** 0.5)
    return torch.from_numpy(values.reshape(shape)).to(dtype_of(of))


@cache
def decoder(dtype: str, *, tied: bool = False) -> Decoder:
    """One shared decoder for each dtype; it keeps no state but its counter of passes."""
    of = config(dtype=dtype, tie_word_embeddings=tied)
    return Decoder(of, weights(of), BACKEND)


def load(folder: Path) -> Decoder:
    return load_decoder(folder, backend=BACKEND)


def endless(dtype: str) -> Decoder:
    """A decoder of its own (its weights are shared), for tests that break or count it."""
    base = decoder(dtype)
    copy = object.__new__(Decoder)
    copy.__dict__.update(base.__dict__)
    copy.config = replace(base.config)
    copy.forward_passes = 0
    return copy


def write_folder(folder: Path, **changes: Any) -> Path:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(**changes)))
    save_file(dict(weights(config(**changes))), folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": TEMPLATE, "bos_token": None, "eos_token": "<|end|>"})
    )
    return folder
