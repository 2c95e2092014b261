"""Embedding, stages and head: a chain of parts cut anywhere has the bits of the whole, and each part its own tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.envelope.boundary import row_hashes
from shared.model.backend import Cache, Rows, Span
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder, Embedding, Head, Stage
from shared.model.replay import replay
from shared.model.weights import EMBEDDING, HEAD, NORM, Weights, expected_shapes
from shared.statements.request import SamplingSettings
from tests.shared.model import tiny

BACKEND = tiny.BACKEND
DTYPES = ("bfloat16", "float16", "float32")
LAYERS = 4
SMALL = {
    "hidden_size": 48,
    "head_dim": 16,
    "intermediate_size": 80,
    "num_hidden_layers": LAYERS,
}
CASES: dict[str, dict[str, object]] = {
    "llama": {},
    "llama, tied, odd widths": {"tie_word_embeddings": True, "hidden_size": 50, "head_dim": 10},
    "mistral, windows": {"model_type": "mistral", "sliding_window": 20},
    "qwen2, bias, windows of some layers": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 20,
        "max_window_layers": 2,
        "tie_word_embeddings": True,
    },
    "qwen3, QK norm": {"model_type": "qwen3"},
}
TOKENS = [(7 * place + place * place) % 256 for place in range(90)]
OTHER = TOKENS[40:70]


def made(case: str, dtype: str) -> tuple[ModelConfig, Weights]:
    config = tiny.config(**SMALL | CASES[case], dtype=dtype)
    return config, tiny.weights(config)


def layers_of(first: int, last: int) -> tuple[str, ...]:
    return tuple(f"model.layers.{index}." for index in range(first, last))


def only(weights: Weights, *beginnings: str) -> Weights:
    return {name: tensor for name, tensor in weights.items() if name.startswith(beginnings)}


@dataclass
class Node:
    """A range of layers, the embedding before the first of them and the head after the last one."""

    config: ModelConfig
    stage: Stage
    embedding: Embedding | None
    head: Head | None
    cache: Cache
    blocks: Mapping[int, tuple[int, ...]]
    """Those of each sequence, in this node's own cache."""

    @classmethod
    def of(cls, config: ModelConfig, weights: Weights, first: int, last: int) -> "Node":
        names = list(layers_of(first, last))
        if first == 0:
            names.append(EMBEDDING)
        if last == config.layers:
            names += [NORM, EMBEDDING if config.tie_word_embeddings else HEAD]
        own = only(weights, *names)
        stage = Stage(config, own, BACKEND, first, last)
        head = Head(config, own, BACKEND) if last == config.layers else None
        embedding = Embedding(config, own, BACKEND, head=head) if first == 0 else None
        shift = first % 2
        blocks = {0: (3 + shift, 1), 1: (2, 4 - shift)}
        return cls(config, stage, embedding, head, stage.cache(4), blocks)

    def run(self, given: bytes | list[int], rows: list[tuple[int, int, int]]) -> bytes:
        """Take tokens or states from the wire; return states for it, or hidden states and logits.

        Rows are (sequence, position, count).
        """
        places = [Rows(count, position, self.blocks[which]) for which, position, count in rows]
        if isinstance(given, bytes):
            states = torch.frombuffer(bytearray(given), dtype=torch.float32)
            states = BACKEND.to_device(states.view(-1, self.config.hidden_size))
        else:
            assert self.embedding is not None
            states = self.embedding(given)
        states = self.stage(states, places, self.cache)
        if self.head is None:
            return BACKEND.to_host(states)
        hidden = self.head.hidden(states)
        return BACKEND.to_host(hidden) + BACKEND.to_host(self.head.logits(hidden))


def passes(cuts: set[int]) -> Iterator[list[tuple[int, int, int]]]:
    """Yield rows of passes: the first sequence in pieces, the second one's rows with them while there are some."""
    done = 0
    for first, last in pairwise([0, *sorted(cuts), len(TOKENS)]):
        rows = [(0, first, last - first)]
        if count := min(last - first, len(OTHER) - done):
            rows.append((1, done, count))
        done += count
        yield rows


def tokens_of(rows: list[tuple[int, int, int]]) -> list[list[int]]:
    return [(TOKENS, OTHER)[which][place : place + count] for which, place, count in rows]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None)
@given(
    cuts=st.sets(st.integers(0, LAYERS), max_size=LAYERS),
    chunks=st.sets(st.integers(1, len(TOKENS) - 1), max_size=5),
)
def test_a_chain_cut_at_any_layers_gives_the_bits_of_the_whole_in_any_chunks(
    case, dtype, cuts, chunks
):
    config, weights = made(case, dtype)
    whole = Decoder(config, weights, BACKEND)
    cache = whole.cache(4)
    chain = [
        Node.of(config, weights, first, last)
        for first, last in pairwise(sorted({0, *cuts, LAYERS}))
    ]
    for rows in passes(chunks):
        tokens = tokens_of(rows)
        spans = [
            Span(part, position, ((1, 2), (3, 4))[which])
            for part, (which, position, _) in zip(tokens, rows, strict=True)
        ]
        hidden = whole.forward(spans, cache)
        sent: bytes | list[int] = [token for part in tokens for token in part]
        for node in chain:
            sent = node.run(sent, rows)
        assert sent == BACKEND.to_host(hidden) + BACKEND.to_host(whole.logits(hidden))


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, LAYERS), max_size=LAYERS))
def test_a_pass_that_is_looked_into_has_the_same_bits_and_shows_what_parts_pass_on(case, cuts):
    config, weights = made(case, "bfloat16")
    how, output = SamplingSettings(4), TOKENS[:4]
    whole = Decoder(config, weights, BACKEND)
    looked = replay(whole, OTHER, output, how, bytes(32), cuts=cuts)
    assert replace(looked, boundaries=()) == replay(whole, OTHER, output, how, bytes(32))
    given = [*OTHER, *output[:-1]]
    shown = []
    for cut in cuts:
        stage = Stage(config, weights, BACKEND, 0, cut)
        states = Embedding(config, weights, BACKEND)(given)
        states = stage(states, [Rows(len(given), 0, (1,))], stage.cache(1))
        shown.append(tuple(row_hashes(BACKEND.to_host(states), len(given))))
    assert looked.boundaries == tuple(shown)


@pytest.mark.parametrize("case", CASES)
def test_the_chain_is_long_enough_that_a_layer_left_out_or_taken_twice_shows(case):
    config, weights = made(case, "float32")
    rows = [(0, 0, len(TOKENS))]

    def run(*ranges: tuple[int, int]) -> bytes:
        sent: bytes | list[int] = TOKENS
        for first, last in ranges:
            sent = Node.of(config, weights, first, last).run(sent, rows)
        assert isinstance(sent, bytes)
        return sent

    whole = run((0, LAYERS))
    assert run((0, 1), (2, LAYERS)) != whole
    assert run((0, 2), (1, LAYERS)) != whole
    assert run((0, 2), (2, LAYERS)) == whole


@dataclass
class Watched(Mapping[str, Tensor]):
    """Weights that note which of them are read."""

    weights: Weights
    read: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


@pytest.mark.parametrize("case", CASES)
def test_each_part_reads_its_own_tensors_and_together_they_read_all(case):
    config, weights = made(case, "float32")
    tied = config.tie_word_embeddings

    def read_by(make) -> set[str]:
        watched = Watched(weights)
        make(watched)
        return watched.read

    assert read_by(lambda seen: Embedding(config, seen, BACKEND)) == {EMBEDDING}
    assert read_by(lambda seen: Head(config, seen, BACKEND)) == {NORM, EMBEDDING if tied else HEAD}
    for first, last in ((0, LAYERS), (0, 1), (1, 3), (3, LAYERS), (2, 2)):
        read = read_by(lambda seen, a=first, b=last: Stage(config, seen, BACKEND, a, b))
        assert read == set(only(weights, *layers_of(first, last)) if first < last else ())
    assert read_by(lambda seen: Decoder(config, seen, BACKEND)) == set(expected_shapes(config))


def test_tied_weights_are_kept_once_and_an_untied_table_is_not_copied():
    config, weights = made("qwen2, bias, windows of some layers", "bfloat16")
    tied = Decoder(config, weights, BACKEND)
    assert tied._embedding._table is tied._head.matrix
    config, weights = made("llama", "bfloat16")
    table = Decoder(config, weights, BACKEND)._embedding._table
    assert isinstance(table, Tensor)
    assert table.data_ptr() == weights[EMBEDDING].data_ptr()
