"""Training: reproducible to the bit, and a Llama that looks only backwards."""

import itertools

import pytest
import torch

from benchmarks.training.llama import Llama, LlamaShape
from benchmarks.training.tokenizer import train_tokenizer
from benchmarks.training.train import Recipe, Trainer, batches, learning_rate

SHAPE = LlamaShape(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
RECIPE = Recipe(seed=4, steps=4, batch=2, length=32, warmup=2, threads=1, tokenizer_documents=20)


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


def _weights_after_two_steps(recipe: Recipe) -> tuple[list[float], dict[str, torch.Tensor]]:
    tokenizer = train_tokenizer(["der Fuchs lebt im Wald"] * 3, vocabulary=300)
    trainer = Trainer(recipe, SHAPE)
    losses = [trainer.step(ids) for ids in itertools.islice(batches(recipe, tokenizer), 2)]
    return losses, trainer.model.state_dict()


def test_the_same_seed_makes_the_same_weights_to_the_bit():
    losses, weights = _weights_after_two_steps(RECIPE)
    again, same = _weights_after_two_steps(RECIPE)
    assert losses == again
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_another_seed_makes_other_weights():
    _, weights = _weights_after_two_steps(RECIPE)
    _, other = _weights_after_two_steps(Recipe(**{**RECIPE.__dict__, "seed": 5}))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(weights[name], other[name])


def test_the_rate_warms_up_and_comes_down():
    recipe = Recipe()
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    assert max(rates) == pytest.approx(recipe.peak_rate)
    assert rates.index(max(rates)) in {recipe.warmup - 1, recipe.warmup}
    assert recipe.final_rate < rates[-1] < 1.01 * recipe.final_rate + 1e-7


def test_a_position_depends_on_nothing_after_it():
    torch.manual_seed(0)
    model = Llama(SHAPE).eval()
    ids = torch.randint(0, 300, (1, 12))
    changed = ids.clone()
    changed[0, 8:] = (changed[0, 8:] + 1) % 300
    before, after = model(ids), model(changed)
    assert torch.allclose(before[0, :8], after[0, :8], atol=1e-6)
    assert not torch.allclose(before[0, 8:], after[0, 8:], atol=1e-4)
