"""The models that are measured: the shipped one, and random ones of a given shape."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common.checkpoints import TEXT, save_random
from shared.installation.layout import MODEL
from shared.model.config import ModelConfig
from shared.model.weights import dtype_of, expected_shapes

Checkpoint = Callable[[Path], Path]
"""Given an empty folder, returns the folder of a checkpoint."""


def random_llama(
    *, width: int, layers: int, heads: int, kv_heads: int, inner: int, seed: int = 0
) -> Checkpoint:
    """Return a function that writes a random bf16 Llama with the shipped model's vocabulary and tokenizer."""

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
        save_random(folder, expected_shapes(config), dtype_of(config), seed)
        return folder

    return write


MODELS: dict[str, Checkpoint] = {
    "shipped": lambda _folder: MODEL,
    "wide": random_llama(width=768, layers=12, heads=12, kv_heads=4, inner=2048),
    "tiny": random_llama(width=64, layers=1, heads=2, kv_heads=1, inner=64),
}
