"""A trace is the decoder's own pass, and every element of it follows from those before it."""

from dataclasses import replace

import pytest

from shared.disputes.layout import Layout
from shared.model.config import ModelConfig
from shared.model.replay import replay
from shared.model.trace import ModelTrace, definition_of, weights_at_hand
from shared.model.weights import load_weights
from shared.model.weights_root import weight_tree
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import SamplingSettings
from tests.shared.disputes.passes import SEED, SMALL, World, world
from tests.shared.model import tiny

WORLDS = {
    "bfloat16": ("bfloat16", "chain-1", ()),
    "float32": ("float32", "chain-1", ()),
    "float16 weights": ("float16", "chain-1", (("tie_word_embeddings", True),)),
    "pairs-32": ("bfloat16", "pairs-32", ()),
    "padded widths": (
        "bfloat16",
        "chain-1",
        (("hidden_size", 20), ("intermediate_size", 26), ("num_attention_heads", 2)),
    ),
    "window": (
        "bfloat16",
        "chain-1",
        (("model_type", "mistral"), ("sliding_window", 9)),
    ),
    "biases": (
        "float32",
        "chain-1",
        (
            ("model_type", "qwen2"),
            ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ),
    ),
    "norms of heads": ("bfloat16", "chain-1", (("model_type", "qwen3"), ("head_dim", 16))),
}
PROMPT = [(7 * place + 3) % 200 for place in range(31)]


@pytest.mark.parametrize("name", WORLDS)
def test_what_segments_commit_to_is_what_their_elements_make_and_what_the_decoder_computes(name):
    dtype, arithmetic, changes = WORLDS[name]
    of = World(dtype, arithmetic, 700_000, **dict(changes))
    tokens = [*PROMPT, 9, 8, 7]
    trace = of.trace(tokens, len(PROMPT))
    layout = trace.layout
    assert layout.blocks == 2
    for segment in range(layout.segments):
        made = trace.operators(segment)
        for number, table in zip(layout.committed(segment), trace.committed(segment), strict=True):
            assert list(made[number]) == list(table), layout.operators(segment)[number].name
        for operator, table in zip(layout.operators(segment), made, strict=True):
            assert [len(row) for row in table] == [
                operator.row_bytes(row) for row in range(len(operator.widths))
            ]
    settings = SamplingSettings(3, temperature_ppm=700_000)
    judged = replay(of.decoder, PROMPT, tokens[len(PROMPT) :], settings, SEED)
    assert tuple(trace.committed(layout.segments - 1)[0]) == judged.activations.leaves()
    heads = [layout.at(block, layout.stages - 1) for block in range(layout.blocks)]
    drawn = [row for head in heads for row in [*trace.committed(head), []][1]]
    assert tuple(int.from_bytes(token, "little") for token in drawn) == judged.chosen


def test_a_pass_without_sampling_has_neither_logits_nor_draws():
    of = world()
    claim = of.claim([*PROMPT, 1], len(PROMPT), sampling=None)
    names = {found.name for found in Layout(claim).operators(3)}
    assert names == {"norm.scale", "hidden"}


def test_a_definition_is_not_made_for_an_arithmetic_that_is_not_decided():
    with pytest.raises(CounterfoilError) as caught:
        definition_of(tiny.config(**SMALL, dtype="bfloat16"), "fused-16")
    assert caught.value.code is Code.UNSUPPORTED


def test_draws_behind_a_prefix_are_those_of_the_replay():
    of = world()
    delivered, output = 2, [9, 8, 7]
    sampling = replace(of.sampling, delivered=delivered, choice=3)
    claim = of.claim([*PROMPT, *output], len(PROMPT), sampling=sampling)
    trace = ModelTrace(of.decoder, of.weights, of.tree, claim, [*PROMPT, *output])
    ways = SamplingSettings(3, temperature_ppm=700_000)
    judged = replay(of.decoder, PROMPT, output, ways, SEED, choice=3, delivered=delivered)
    heads = [trace.layout.at(block, trace.layout.stages - 1) for block in range(2)]
    drawn = [row for head in heads for row in [*trace.committed(head), []][1]]
    assert tuple(int.from_bytes(token, "little") for token in drawn) == judged.chosen


def test_weights_in_memory_have_the_root_of_the_folder_that_holds_them(tmp_path):
    folder = tiny.write_folder(tmp_path / "model", **SMALL)
    config = ModelConfig.from_folder(folder)
    found = weight_tree(folder)
    assert (
        weights_at_hand(config, load_weights(folder, config), found.model_root).root == found.root
    )
