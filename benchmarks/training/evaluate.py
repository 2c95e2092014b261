"""Measure a checkpoint against the grammar: `python -m benchmarks.training.evaluate FOLDER`.

Held-out loss is compared with the grammar's own log-probability of the same documents, which no model
can beat on average. Coherence is measured on answers to conversations that training never saw.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import click
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.training.derivation import Derivation
from benchmarks.training.grammar import (
    ASSISTANT,
    END,
    LANGUAGES,
    PAD,
    Grammar,
    Subject,
    documents,
    load_world,
)
from benchmarks.training.llama import Llama, LlamaShape
from benchmarks.training.tokenizer import control_id, encode_document, load_tokenizer
from benchmarks.training.train import Recipe

T = TypeVar("T")
HELD_OUT_SEED = 977
TEMPERATURE = 0.7
ANSWER_LIMIT = 320
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Loss:
    """Nats per token over all tokens and over the assistant's, next to the grammar's own."""

    documents: int
    tokens: int
    loss: float
    entropy: float
    assistant_tokens: int
    assistant_loss: float
    assistant_entropy: float


@dataclass(frozen=True, slots=True)
class Coherence:
    """Shares (0 to 1) of generated answers that pass each check."""

    answers: int
    ended: float
    right_language: float
    mentions_subject: float
    in_grammar: float
    mean_tokens: float


def load_model(folder: Path) -> tuple[Llama, Tokenizer]:
    """Return the float32 model and the tokenizer of a checkpoint folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Llama(LlamaShape.from_config(config))
    tensors = load_file(str(folder / "model.safetensors"))
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval(), load_tokenizer(folder)


def _assistant_mask(ids: Sequence[int], start: int, end: int) -> list[bool]:
    """Return for each target ids[1:] whether the assistant writes it, including its end."""
    mask, inside = [], False
    for before, now in itertools.pairwise(ids):
        inside = inside or before == start
        mask.append(inside)
        inside = inside and now != end
    return mask


@torch.inference_mode()
def held_out_loss(
    model: Llama, tokenizer: Tokenizer, held_out: Sequence[Derivation], *, batch: int = 16
) -> Loss:
    """Return the loss on whole documents, each read from its beginning."""
    start, end, pad = (control_id(tokenizer, token) for token in (ASSISTANT, END, PAD))
    encoded = sorted((encode_document(tokenizer, d.text) for d in held_out), key=len)
    total = assistant_total = 0.0
    tokens = assistant_tokens = 0
    for group in _groups(encoded, batch):
        width = len(group[-1])
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in group])
        nats = F.cross_entropy(
            model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        ).view(len(group), -1)
        for row, values in zip(group, nats.double(), strict=True):
            mine = values[: len(row) - 1]
            mask = torch.tensor(_assistant_mask(row, start, end))
            total += mine.sum().item()
            tokens += len(mine)
            assistant_total += mine[mask].sum().item()
            assistant_tokens += int(mask.sum().item())
    return Loss(
        documents=len(held_out),
        tokens=tokens,
        loss=total / tokens,
        entropy=-sum(d.logp for d in held_out) / tokens,
        assistant_tokens=assistant_tokens,
        assistant_loss=assistant_total / assistant_tokens,
        assistant_entropy=-sum(d.by_part.get("assistant", 0.0) for d in held_out)
        / assistant_tokens,
    )


@torch.inference_mode()
def generate(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    *,
    end: int,
    temperature: float,
    limit: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """Return the continuation of every prompt, including its end token if that was reached."""
    rows = [list(prompt) for prompt in prompts]
    live = list(range(len(rows)))
    for _ in range(limit):
        width = max(len(rows[index]) for index in live)
        ids = torch.tensor([rows[i] + [end] * (width - len(rows[i])) for i in live])
        last = torch.tensor([len(rows[i]) - 1 for i in live])
        logits: Tensor = model(ids)[torch.arange(len(live)), last]
        chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        for index, token in zip(live, chosen.flatten().tolist(), strict=True):
            rows[index].append(token)
        live = [index for index in live if rows[index][-1] != end]
        if not live:
            break
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


def prompts_of(text: str) -> Iterator[str]:
    """Yield the prefixes of the document that an assistant would be asked to continue."""
    for match in re.finditer(re.escape(ASSISTANT), text):
        yield text[: match.end()]


def seen_in_training(recipe: Recipe, tokenizer: Tokenizer) -> set[str]:
    """Return every prompt in the training documents."""
    wanted = recipe.steps * recipe.batch * (recipe.length + 1)
    seen: set[str] = set()
    for document in documents(recipe.seed):
        if wanted <= 0:
            return seen
        wanted -= len(encode_document(tokenizer, document.text))
        seen.update(prompts_of(document.text))
    return seen


def _strings(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            if key != "columns":
                yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)


@functools.cache
def _vocabulary(language: str) -> frozenset[str]:
    texts = _strings(load_world(language))
    return frozenset(word.lower() for text in texts for word in _WORD.findall(text))


def guess_language(text: str) -> str:
    """Return the language whose vocabulary covers most of the text's words."""
    words = [word.lower() for word in _WORD.findall(text)]
    score = {name: sum(word in _vocabulary(name) for word in words) for name in LANGUAGES}
    return max(score, key=lambda language: score[language])


def mentions(answer: str, subject: Subject) -> bool:
    """Return whether an answer names its subject, or one of the subject's facts."""
    low = answer.lower()
    return any(
        re.search(rf"(?<!\w){re.escape(value.lower())}(?!\w)", low) is not None
        for name in ("e", "f")
        for value in subject.bound.get(name, {}).values()
    )


def measure_coherence(
    model: Llama,
    tokenizer: Tokenizer,
    *,
    answers: int,
    seen: set[str],
    seed: int = HELD_OUT_SEED,
    temperature: float = TEMPERATURE,
    limit: int = ANSWER_LIMIT,
) -> Coherence:
    """Generate answers to the last question of unseen conversations and check each by the grammar."""
    grammar = Grammar()
    asked = []
    for document in documents(seed + 1, grammar):
        prompts = list(prompts_of(document.text))
        if prompts and prompts[-1] not in seen:
            asked.append((document, prompts[-1]))
        if len(asked) == answers:
            break
    end = control_id(tokenizer, END)
    generator = torch.Generator().manual_seed(seed)
    ended = language = about = about_of = sound = tokens = 0
    for group in _groups(asked, 25):
        encoded = [encode_document(tokenizer, prompt) for _, prompt in group]
        written = generate(
            model, encoded, end=end, temperature=temperature, limit=limit, generator=generator
        )
        for (document, prompt), ids in zip(group, written, strict=True):
            tokens += len(ids)
            finished = ids[-1] == end
            text = tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=False)
            subject = grammar.subjects(document)[-1]
            ended += finished
            language += guess_language(text) == grammar.language_of(document)
            if subject.bound.get("e"):
                about_of += 1
                about += mentions(text, subject)
            start = document.choices[: subject.choices_before_answer]
            whole = f"{prompt}{text}{END}"
            sound += finished and next(grammar.parse(whole, start), None) is not None
    return Coherence(
        answers=answers,
        ended=ended / answers,
        right_language=language / answers,
        mentions_subject=about / about_of,
        in_grammar=sound / answers,
        mean_tokens=tokens / answers,
    )


def _groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def evaluate(folder: Path, *, count: int, answers: int) -> tuple[Loss, Coherence]:
    """Measure a checkpoint on `count` held-out documents and `answers` generated answers."""
    recipe = Recipe()
    torch.set_num_threads(recipe.threads)
    model, tokenizer = load_model(folder)
    held_out = list(itertools.islice(documents(HELD_OUT_SEED), count))
    loss = held_out_loss(model, tokenizer, held_out)
    seen = seen_in_training(recipe, tokenizer)
    return loss, measure_coherence(model, tokenizer, answers=answers, seen=seen)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--documents", "count", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--answers", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(folder: Path, count: int, answers: int, as_json: bool) -> None:
    """Print held-out loss, the grammar's entropy and the coherence of generated answers."""
    loss, coherence = evaluate(folder, count=count, answers=answers)
    if as_json:
        click.echo(json.dumps({"loss": asdict(loss), "coherence": asdict(coherence)}))
        return
    for title, facts in (("held-out loss", asdict(loss)), ("coherence", asdict(coherence))):
        click.echo(title)
        for name, value in facts.items():
            click.echo(
                f"  {name:20} {value:.4f}" if isinstance(value, float) else f"  {name:20} {value}"
            )


if __name__ == "__main__":
    main()
