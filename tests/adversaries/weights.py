"""Other weights than those that the receipt's model root stands for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from execution_layer.wiring import stage
from shared.model.config import ModelConfig
from shared.model.cut import Cut
from shared.model.decoder import load_decoder
from shared.model.weights import Weights, load_weights
from shared.statements.verdicts import Reason
from tests.adversaries.adversary import Adversary

Alter = Callable[[Weights], Weights]
STATES = frozenset({Reason.ACTIVATIONS})


@contextmanager
def weights_altered(alter: Alter) -> Iterator[None]:
    """Load every checkpoint with its weights altered; config, tokenizer and model root stay those of the folder."""

    def load(folder: Path, config: ModelConfig, cut: Cut | None = None) -> Weights:
        return alter(load_weights(folder, config, cut))

    with (
        mock.patch.dict(load_decoder.__kwdefaults__, weights_loader=load),
        mock.patch.object(stage, "load_weights", load),  # of a stage of a chain
    ):
        yield


def rounded(weights: Weights, levels: int) -> Weights:
    """Round every row of every matrix to 2 · levels + 1 values, symmetric about zero, as weight-only quantisation does."""

    def coarse(weight: Tensor) -> Tensor:
        if weight.dim() != 2:
            return weight
        scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / levels
        return ((weight.float() / scale).round() * scale).to(weight.dtype)

    return {name: coarse(weight) for name, weight in weights.items()}


def to_int8(weights: Weights) -> Weights:
    """Round to 255 levels."""
    return rounded(weights, 127)


def to_int4(weights: Weights) -> Weights:
    """Round to 15 levels: what it saves most, and the cheap model of every adversary that uses a second one."""
    return rounded(weights, 7)


def one_matrix(weights: Weights) -> Weights:
    """Scale a single matrix by 1 %."""
    name = "model.layers.0.mlp.down_proj.weight"
    return {**weights, name: (weights[name].float() * 1.01).to(weights[name].dtype)}


def fine_tuned(weights: Weights) -> Weights:
    """Add a low-rank update to every query projection, as a merged LoRA adapter (arXiv 2106.09685) does."""
    changed = dict(weights)
    for name, weight in weights.items():
        if name.endswith("q_proj.weight"):
            made = torch.Generator().manual_seed(len(name))
            rows, columns = weight.shape
            left = torch.randn(rows, 4, generator=made) * 0.02
            right = torch.randn(4, columns, generator=made) * 0.5
            changed[name] = (weight.float() + left @ right).to(weight.dtype)
    return changed


def without(layers: range) -> Alter:
    """Return a change under which layers leave every state as it is: what they would add is zero."""

    def alter(weights: Weights) -> Weights:
        silent = {
            f"model.layers.{layer}.{part}.weight"
            for layer in layers
            for part in ("self_attn.o_proj", "mlp.down_proj")
        }
        return {
            name: torch.zeros_like(weight) if name in silent else weight
            for name, weight in weights.items()
        }

    return alter


def _layers_of(weights: Weights) -> int:
    return 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("model.layers."))


def first_half(weights: Weights) -> Weights:
    """Keep the first half of the layers: a smaller model."""
    count = _layers_of(weights)
    return without(range(count - count // 2, count))(weights)


def every_third(weights: Weights) -> Weights:
    """Skip every third layer."""
    return without(range(1, _layers_of(weights), 3))(weights)


ADVERSARIES = tuple(
    Adversary(name, summary, partial(weights_altered, alter), STATES)
    for name, summary, alter in (
        ("int8", "serves the weights rounded to 8 bits", to_int8),
        ("int4", "serves the weights rounded to 4 bits", to_int4),
        ("one-matrix", "serves one weight matrix scaled by 1 %", one_matrix),
        ("fine-tuned", "serves a model fine-tuned by a low-rank update", fine_tuned),
        ("smaller-model", "serves a model with half of the layers", first_half),
        ("layers-skipped", "skips every third layer", every_third),
    )
)
