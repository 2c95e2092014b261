"""The checkpoints that are measured. None has an end-of-sequence token, so every side generates as many tokens as requested."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.common.checkpoints import save_random
from shared.installation.layout import MODEL

COMMON: Mapping[str, Any] = MappingProxyType(
    {
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
)


def _llama(
    width: int, layers: int, heads: int, kv_heads: int, inner: int, **more: Any
) -> dict[str, Any]:
    return {
        **COMMON,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 2048,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width // heads,
        "intermediate_size": inner,
        "tie_word_embeddings": True,
        **more,
    }


MODELS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "wide": _llama(768, 12, 12, 4, 2048),
        "tiny": _llama(64, 1, 2, 1, 64),
        "qwen06": _llama(1024, 28, 16, 8, 3072)
        | {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": 151936,
            "head_dim": 128,
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-6,
        },
    }
)
"""Random ones: 77 and 596 million parameters, and one for tests. `shipped` is the trained one, of 5 million."""
NAMES = ("shipped", *MODELS)
WORD = "t"
STOPS = ("eos_token_id", "bos_token_id", "pad_token_id")


def make(name: str, work: Path) -> Path:
    """Return a model's folder, which is made unless `work` has it from an earlier run."""
    folder = work / name
    done = folder / "model.safetensors"
    if not done.exists():
        making = work / f"{name}.making"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        if name == "shipped":
            _without_end(making)
        else:
            _random(MODELS[name], making)
        making.rename(folder)
    return folder


def facts(folder: Path) -> dict[str, Any]:
    """Return shape, parameters, and the bytes of weights that one decoding step reads."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shapes = _shapes(folder)
    every = sum(_size(shape) for shape in shapes.values())
    looked_up = 0 if raw["tie_word_embeddings"] else raw["vocab_size"] * raw["hidden_size"]
    return {
        "shape": (
            f"{raw['model_type']}, {raw['hidden_size']} wide, {raw['num_hidden_layers']} layers, "
            f"{raw['num_attention_heads']}/{raw['num_key_value_heads']} heads, FFN "
            f"{raw['intermediate_size']}, vocabulary {raw['vocab_size']}, bf16"
        ),
        "vocabulary": raw["vocab_size"],
        "positions": raw["max_position_embeddings"],
        "parameters": every,
        "step_bytes": 2 * (every - looked_up),
    }


def _without_end(folder: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(MODEL / name, folder / name)
    raw = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    kept = {field: value for field, value in raw.items() if field not in STOPS}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")


def _random(raw: Mapping[str, Any], folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(dict(raw)), encoding="utf-8")
    words = {f"{WORD}{token} ": token for token in range(raw["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=f"{WORD}0 "))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    save_random(folder, _shapes(folder), torch.bfloat16)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return every tensor's name and shape, of any family that transformers knows."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
