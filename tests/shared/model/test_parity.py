"""The decoder against the program that trained the shipped checkpoint: another author's Llama, in float32.

The two share no code: batched heads and torch's own attention there, tiles and paged keys here. Both sum 256 to 640 products of
float32 in their own order, over six layers; 5e-4 is ten times the largest difference seen in a logit, and far below that of
any wrong constant, head order or rotation.
"""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks.training.llama import Llama, LlamaShape
from shared.model.backend import Span, blocks_for
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder
from shared.model.rope import Rope
from shared.model.weights import load_weights
from tests.shared.model import tiny
from tests.shared.text.backends import SAMPLES, SHIPPED, tokenizer

TOLERANCE = 5e-4
CONFIG = replace(ModelConfig.from_folder(SHIPPED), dtype="float32")
TEXTS = {
    "one block": "What is a receipt?",
    "several blocks": " ".join(SAMPLES),
    "raw ids": None,
}


@pytest.fixture(scope="module")
def both() -> tuple[Decoder, Llama]:
    loaded = load_weights(SHIPPED, ModelConfig.from_folder(SHIPPED))
    weights = {name: tensor.float() for name, tensor in loaded.items()}
    shape = LlamaShape.from_config(json.loads((SHIPPED / "config.json").read_text("utf-8")))
    model = Llama(shape)
    model.load_state_dict(weights)
    return Decoder(CONFIG, weights, tiny.BACKEND), model.eval()


def ours(decoder: Decoder, ids: list[int], passes: int = 1) -> torch.Tensor:
    blocks = range(1, blocks_for(len(ids), decoder.backend.block) + 1)
    cache = decoder.cache(len(blocks))
    edges = [len(ids) * part // passes for part in range(passes + 1)]
    hidden = [decoder.forward([Span(ids[a:b], a, blocks)], cache) for a, b in pairwise(edges)]
    return decoder.logits(torch.cat(hidden))


@pytest.mark.parametrize("name", TEXTS)
def test_logits_of_the_shipped_model_are_the_trainers(both, name):
    decoder, model = both
    text = TEXTS[name]
    ids = list(tokenizer("shipped").encode(text)) if text else list(range(0, 2000, 9))
    with torch.inference_mode():
        theirs = model(torch.tensor([ids]))[0]
    assert (len(ids) > 64) == (name != "one block")
    for passes in (1, 3):
        assert (ours(decoder, ids, passes) - theirs).abs().max() < TOLERANCE


def test_the_tolerance_is_narrow_enough_to_see_a_wrong_constant(both):
    _, model = both
    ids = list(range(6, 46))
    with torch.inference_mode():
        theirs = model(torch.tensor([ids]))[0]
    weights = dict(model.state_dict())
    for wrong in (
        replace(CONFIG, rope=Rope(10_100.0)),
        replace(CONFIG, rms_norm_eps=1e-3),
        replace(CONFIG, heads=CONFIG.heads // 2, kv_heads=CONFIG.kv_heads // 2, head_dim=64),
    ):
        assert (ours(Decoder(wrong, weights, tiny.BACKEND), ids) - theirs).abs().max() > TOLERANCE
