"""The models that are measured: the shipped one, and random ones of a given shape."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from shared.model.config import ModelConfig
from shared.model.weights import dtype_of, expected_shapes
from shared.runtime.up.layout import MODEL

Checkpoint = Callable[[Path], Path]
"""Given an empty folder, returns the folder of a checkpoint."""
TEXT = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def random_llama(
    *, width: int, layers: int, heads: int, kv_heads: int, inner: int, seed: int = 0
) -> Checkpoint:
    """Return what writes a random bf16 Llama that has the shipped model's vocabulary and tokenizer."""

    def write(folder: Path) -> Path:
        raw: dict[str, Any] = json.loads((MODEL / "config.json").read_text(encoding="utf-8")) | {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": width // heads,
            "intermediate_size": inner,
        }
        (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
        for name in TEXT:
            shutil.copyfile(MODEL / name, folder / name)
        config = ModelConfig.from_folder(folder)
        generator = torch.Generator().manual_seed(seed)
        weights = {
            name: _random(shape, generator).to(dtype_of(config))
            for name, shape in expected_shapes(config).items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return write


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return a norm's ones, or a matrix as training would begin with."""
    if len(shape) == 1:
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) * 0.02


MODELS: dict[str, Checkpoint] = {
    "shipped": lambda _folder: MODEL,
    "wide": random_llama(width=768, layers=12, heads=12, kv_heads=4, inner=2048),
    "tiny": random_llama(width=64, layers=1, heads=2, kv_heads=1, inner=64),
}
