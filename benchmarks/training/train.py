"""Train the shipped model from scratch: `python -m benchmarks.training.train --out FOLDER`.

Grammar, tokenizer, order of documents, initial weights and schedule depend on the seed alone, and torch
runs deterministic kernels on a fixed number of threads: the same machine makes the same file again.
"""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.training.grammar import BOS, END, MARKERS, PAD, documents
from benchmarks.training.llama import Llama, LlamaShape
from benchmarks.training.tokenizer import (
    control_id,
    encode_document,
    save_tokenizer,
    train_tokenizer,
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result."""

    seed: int = 20260
    steps: int = 2200
    batch: int = 8
    length: int = 256
    peak_rate: float = 3e-3
    final_rate: float = 3e-5
    warmup: int = 120
    weight_decay: float = 0.05
    clip: float = 1.0
    threads: int = 1
    tokenizer_documents: int = 20000


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the rate of a step: linear warm-up, then a cosine down to the final rate."""
    if step < recipe.warmup:
        return recipe.peak_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    wave = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress, dtype=torch.float64)).item())
    return recipe.final_rate + (recipe.peak_rate - recipe.final_rate) * wave


def make_tokenizer(recipe: Recipe) -> Tokenizer:
    """Learn the tokenizer from the first documents of the training stream."""
    marks = (BOS, END, *MARKERS.values())

    def plain(text: str) -> str:
        for mark in marks:
            text = text.replace(mark, "\n")
        return text

    stream = itertools.islice(documents(recipe.seed), recipe.tokenizer_documents)
    return train_tokenizer(
        part for document in stream for part in plain(document.text).split("\n") if part
    )


def batches(recipe: Recipe, tokenizer: Tokenizer) -> Iterator[Tensor]:
    """Yield ids [batch, length + 1]: documents end to end, cut without regard to their boundaries."""
    size = recipe.batch * (recipe.length + 1)
    buffer: list[int] = []
    for document in documents(recipe.seed):
        buffer.extend(encode_document(tokenizer, document.text))
        while len(buffer) >= size:
            yield torch.tensor(buffer[:size]).view(recipe.batch, recipe.length + 1)
            del buffer[:size]


class Trainer:
    """Model, optimizer and step; `step` is a pure function of the recipe and the ids seen so far."""

    def __init__(self, recipe: Recipe, shape: LlamaShape, *, compiled: bool = False) -> None:
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.model = Llama(shape)
        self._forward = torch.compile(self._loss) if compiled else self._loss
        matrices = [p for p in self.model.parameters() if p.dim() == 2]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.95),
            fused=True,
        )
        self._step = 0

    def _loss(self, ids: Tensor) -> Tensor:
        logits = self.model(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    def step(self, ids: Tensor) -> float:
        """Take one step on ids [batch, length + 1] and return the loss before it, in nats per token."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self._step)
        loss = self._forward(ids)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        return float(loss.item())


def save_checkpoint(model: Llama, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the checkpoint in Hugging Face's layout, weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
    }
    fresh = folder / "model.safetensors.new"
    save_file(tensors, str(fresh), metadata={"format": "pt"})
    fresh.chmod(0o644)
    fresh.replace(folder / "model.safetensors")  # processes that serve the old one have it mapped
    ids = {key: control_id(tokenizer, token) for key, token in
           (("bos", BOS), ("end", END), ("pad", PAD))}  # fmt: skip
    generation = {
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["end"],
        "pad_token_id": ids["pad"],
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.95,
    }
    for name, content in (
        ("config.json", model.shape.config(**ids)),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, folder)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--steps", type=click.IntRange(min=1), default=Recipe.steps, show_default=True)
@click.option("--seed", type=int, default=Recipe.seed, show_default=True)
@click.option("--save-every", type=click.IntRange(min=1), default=200, show_default=True)
def main(out: Path, steps: int, seed: int, save_every: int) -> None:
    """Train the small model and write its checkpoint, and intermediate ones every few steps."""
    recipe = Recipe(seed=seed, steps=steps)
    tokenizer = make_tokenizer(recipe)
    trainer = Trainer(recipe, LlamaShape(vocab_size=tokenizer.get_vocab_size()), compiled=True)
    started, cpu, recent = time.monotonic(), time.process_time(), 0.0
    for step, ids in enumerate(itertools.islice(batches(recipe, tokenizer), steps), start=1):
        loss = trainer.step(ids)
        recent = loss if step == 1 else 0.95 * recent + 0.05 * loss
        if step % 20 == 0 or step == steps:
            took = time.monotonic() - started
            click.echo(
                f"step {step}/{steps} loss {recent:.4f} nats/token, "
                f"{step * recipe.batch * recipe.length / took:.0f} tokens/s, "
                f"{took:.0f} s, CPU {time.process_time() - cpu:.0f} s"
            )
        if step % save_every == 0 or step == steps:
            save_checkpoint(trainer.model, tokenizer, out)


if __name__ == "__main__":
    main()
