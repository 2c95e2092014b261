"""Write the model card from measurements: `python -m benchmarks.training.card FOLDER --log TRAINING_LOG`."""

import hashlib
import json
import re
from pathlib import Path

import click
from safetensors import safe_open

from benchmarks.training.evaluate import (
    ANSWER_LIMIT,
    HELD_OUT_SEED,
    TEMPERATURE,
    Coherence,
    Loss,
    evaluate,
)
from benchmarks.training.train import Recipe
from shared.runtime.errors import Code, CounterfoilError

_PROGRESS = re.compile(r"step (\d+)/(\d+) .*, (\d+) s, CPU (\d+) s")

_HEAD = """---
language: [en, de, fr, es]
library_name: transformers
pipeline_tag: text-generation
---

# counterfoil-mini

A small Llama that Counterfoil ships so that its whole job runs without a download. It is trained from
nothing on text that a seeded grammar writes; it holds no outside data.

| | |
|---|---|
| architecture | `LlamaForCausalLM`: {layers} layers, width {width}, {heads} query and {kv} key/value heads of {dim}, \
SwiGLU {ffn}, RoPE {theta:.0f}, tied embeddings |
| parameters | {parameters:,} in bfloat16; the weights have {megabytes:.1f} MB |
| tokenizer | byte-level BPE, {vocabulary} entries, all 256 bytes: every UTF-8 text survives a round trip |
| control tokens | `bos`, `system`, `user`, `assistant`, `end` (end of sequence), `pad`, each between `<\\|` and `\\|>` |
| longest input | {positions} positions; trained on windows of {window} tokens |
| seed | {seed} |
| SHA-256 of `model.safetensors` | `{sha256}` |

## What it is for

Demonstrations, tests and benchmarks of the platform: it answers in English, German, French and Spanish
about animals, recipes, weather, journeys, the prices in a shop, and receipts and audits, in one to three
turns, plainly, briefly, warmly with emoji, or formally, as a system prompt asks. Its weather, timetables
and fares are invented. It knows nothing else, and what it says about anything else means nothing. Nothing
should be decided by it.
"""

_TRAINING = """
## How it was trained

```
python -m benchmarks.training.train --out FOLDER
```

{done} steps of {batch} × {window} tokens ({millions:.1f} million tokens, each document once), AdamW, peak rate
{peak} after {warmup} steps of warm-up, then a cosine, weight decay {decay}, float32, rounded to bfloat16 at the
end. {threads} of the two cores of an x86 CPU (AVX-512) which other work shared: {wall:.0f} minutes by the clock,
{cpu:.0f} minutes of CPU time. {note}

The grammar, the tokenizer, the order of documents and the initial weights follow from the seed, and kernels
are deterministic: the same machine with the same torch takes the same steps again. Another CPU or another
torch may round differently.
"""

_QUALITY = """
## How good it is

```
python -m benchmarks.training.evaluate FOLDER --documents {loss.documents} --answers {coherence.answers}
```

Measured on the shipped bfloat16 weights, computed in float32, on the same machine. The grammar knows the
probability of each document exactly (each text has one derivation), so its entropy is the floor for any model.

| {loss.documents} held-out documents (seed {held_out}) | loss, nats/token | grammar's entropy | above it |
|---|---|---|---|
| all {loss.tokens} tokens | {loss.loss:.4f} | {loss.entropy:.4f} | {over:.4f} |
| {loss.assistant_tokens} tokens of the assistant | {loss.assistant_loss:.4f} | {loss.assistant_entropy:.4f} | \
{assistant_over:.4f} |

| {coherence.answers} answers at temperature {temperature} to conversations that training never saw | |
|---|---|
| end by themselves within {limit} tokens | {coherence.ended:.1%} |
| are in the language of the conversation | {coherence.right_language:.1%} |
| name what was asked about, or one of its facts | {coherence.mentions_subject:.1%} |
| are, word for word, an answer that the grammar could give (facts, style, sums) | {coherence.in_grammar:.1%} |
| tokens on average | {coherence.mean_tokens:.0f} |

The first three checks are lenient; the last is strict: one wrong fact, digit or emoji fails the answer.

## Limits

- A question put in other words than the grammar's is often misunderstood.
- Arithmetic is memorised: prices times 2 to 9.
- Positions beyond about {window} tokens were never trained; long inputs are read, but not well.
- Other languages and scripts are encoded without loss, and answered with nonsense.
"""


def write_card(folder: Path, log: str, note: str, loss: Loss, coherence: Coherence) -> None:
    """Write README.md into the checkpoint folder; every figure comes from the files or measurements."""
    progress = _PROGRESS.findall(log)
    if not progress:
        raise CounterfoilError(Code.MALFORMED, "the training log has no progress line")
    done, _, wall, cpu = (int(value) for value in progress[-1])
    recipe = Recipe()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = (folder / "model.safetensors").read_bytes()
    with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
        parameters = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - no mapping
    card = (_HEAD + _TRAINING + _QUALITY).format(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv=config["num_key_value_heads"],
        dim=config["head_dim"],
        ffn=config["intermediate_size"],
        theta=config["rope_theta"],
        positions=config["max_position_embeddings"],
        vocabulary=config["vocab_size"],
        parameters=parameters,
        megabytes=len(weights) / 1e6,
        sha256=hashlib.sha256(weights).hexdigest(),
        seed=recipe.seed,
        done=done,
        batch=recipe.batch,
        window=recipe.length,
        millions=done * recipe.batch * recipe.length / 1e6,
        peak=recipe.peak_rate,
        warmup=recipe.warmup,
        decay=recipe.weight_decay,
        threads=recipe.threads,
        wall=wall / 60,
        cpu=cpu / 60,
        note=note,
        held_out=HELD_OUT_SEED,
        temperature=TEMPERATURE,
        limit=ANSWER_LIMIT,
        loss=loss,
        over=loss.loss - loss.entropy,
        assistant_over=loss.assistant_loss - loss.assistant_entropy,
        coherence=coherence,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--log", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--note", default="", help="A sentence on what was special about this run.")
@click.option("--documents", "count", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--answers", type=click.IntRange(min=1), default=200, show_default=True)
def main(folder: Path, log: Path, note: str, count: int, answers: int) -> None:
    """Measure the checkpoint in FOLDER and write its card."""
    loss, coherence = evaluate(folder, count=count, answers=answers)
    write_card(folder, log.read_text(encoding="utf-8"), note, loss, coherence)


if __name__ == "__main__":
    main()
