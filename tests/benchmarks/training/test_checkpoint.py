"""The shipped checkpoint is what its card says: files, shapes, size and quality."""

import hashlib
import itertools
import json
from pathlib import Path

import torch
from safetensors import safe_open

from benchmarks.training.evaluate import (
    HELD_OUT_SEED,
    generate,
    guess_language,
    held_out_loss,
    load_model,
)
from benchmarks.training.grammar import END, Grammar, documents
from benchmarks.training.llama import Llama, LlamaShape
from benchmarks.training.tokenizer import control_id, encode_document

FOLDER = Path(__file__).parents[3] / "shared/model/checkpoints/counterfoil-mini"
CONFIG = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))


def test_the_folder_has_exactly_its_files_and_at_most_twelve_megabytes():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= 12_000_000


def test_tensors_are_bfloat16_with_the_names_and_shapes_that_the_config_implies():
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in Llama(LlamaShape.from_config(CONFIG)).state_dict().items()
    }
    with safe_open(str(FOLDER / "model.safetensors"), framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        kinds = {file.get_slice(name).get_dtype() for name in found}
    assert found == expected
    assert kinds == {"BF16"}
    assert "model.layers.0.self_attn.q_proj.weight" in found
    assert "lm_head.weight" not in found


def test_config_and_tokenizer_agree_on_size_and_control_tokens():
    _, tokenizer = load_model(FOLDER)
    generation = json.loads((FOLDER / "generation_config.json").read_text(encoding="utf-8"))
    assert tokenizer.get_vocab_size() == CONFIG["vocab_size"]
    assert CONFIG["eos_token_id"] == generation["eos_token_id"] == control_id(tokenizer, END)


def test_the_card_names_the_weights_by_their_hash():
    digest = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_held_out_loss_is_near_the_entropy_and_never_far_below_it():
    model, tokenizer = load_model(FOLDER)
    loss = held_out_loss(model, tokenizer, list(itertools.islice(documents(HELD_OUT_SEED), 48)))
    # The card gives the figure over 1000 documents; these bounds leave room for so few.
    assert loss.entropy - 0.02 < loss.loss < loss.entropy + MARGIN
    assert loss.assistant_entropy - 0.02 < loss.assistant_loss < loss.assistant_entropy + MARGIN


MARGIN = 0.1
"""Nats per token above the grammar's entropy."""


def test_the_likeliest_answers_are_in_their_language_and_mostly_the_grammars_own():
    """The card says how often the strict check fails; an untrained checkpoint always fails it."""
    questions = {
        "en": "What is a receipt?",
        "de": "Wo lebt der Fuchs?",
        "fr": "Combien coûtent 3 bougies ?",
        "es": "¿Dónde vive el zorro?",
    }
    model, tokenizer = load_model(FOLDER)
    prompts = [f"<|bos|><|user|>{text}<|end|><|assistant|>" for text in questions.values()]
    answers = generate(
        model,
        [encode_document(tokenizer, prompt) for prompt in prompts],
        end=control_id(tokenizer, END),
        temperature=1e-4,
        limit=48,
        generator=torch.Generator().manual_seed(0),
    )
    texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in answers]
    assert [guess_language(text) for text in texts] == list(questions)
    both = zip(prompts, texts, strict=True)
    own = sum(next(Grammar().parse(prompt + text), None) is not None for prompt, text in both)
    assert own >= 3, texts
