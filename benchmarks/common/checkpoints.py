"""Random weights in a checkpoint folder's layout."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

TEXT = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
"""What a folder holds besides configuration and weights."""


def save_random(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, seed: int = 0
) -> None:
    """Write `model.safetensors`: ones for a norm, and matrices like those with which training begins."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: _random(shape, generator).to(dtype) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) * 0.02
