"""Small passes to dispute: models, claims about what they answered, and the traces of honest parties."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from hashlib import sha256

import torch

from shared.disputes.claim import Claim, EndKind, Sampling
from shared.disputes.game import Game, Move, Result
from shared.disputes.layout import BYTES, Layout, Place
from shared.disputes.player import Player, Trace
from shared.disputes.tree import Table
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend
from shared.model.decoder import Decoder
from shared.model.trace import ModelTrace, definition_of, tokens_root, weights_at_hand
from shared.model.weights import Weights
from shared.model.weights_root import WeightTree
from tests.shared.model import tiny

Change = Callable[[Game, list[Move]], list[Move]]
MODEL_ROOT = sha256(b"model").digest()
SEED = sha256(b"seed").digest()
SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
}


class World:
    """A model, and everything that a claim about it says."""

    def __init__(self, dtype: str, arithmetic: str, temperature_ppm: int, **changes) -> None:
        self.config: ModelConfig = tiny.config(**{**SMALL, "dtype": dtype, **changes})
        self.weights: Weights = tiny.weights(self.config)
        self.backend = CpuBackend(arithmetic=arithmetic)
        self.decoder = Decoder(self.config, self.weights, self.backend)
        self.tree: WeightTree = weights_at_hand(self.config, self.weights, MODEL_ROOT)
        self.sampling = Sampling(temperature_ppm, SEED, 0, 0)

    def claim(self, tokens: list[int], prompt: int, **changes) -> Claim:
        """Return a claim about the first block of states; its value is not that of any."""
        return Claim(
            **{
                "definition": definition_of(self.config, self.backend.arithmetic),
                "weights": self.tree.root,
                "tokens": tokens_root(tokens),
                "prompt": prompt,
                "output": len(tokens) - prompt,
                "ways": 8,
                "kind": EndKind.DIGEST,
                "index": 0,
                "value": bytes(32),
                "sampling": self.sampling,
                **changes,
            }
        )

    def trace(self, tokens: list[int], prompt: int, weights: Weights | None = None) -> ModelTrace:
        """Return a pass, by other weights if they are given."""
        claim = self.claim(tokens, prompt)
        if weights is None:
            return ModelTrace(self.decoder, self.weights, self.tree, claim, tokens)
        decoder = Decoder(self.config, weights, self.backend)
        return ModelTrace(decoder, weights, self.tree, claim, tokens)

    def answer(self, prompt: list[int], count: int) -> list[int]:
        """Return prompt and output, each token as the model chooses it."""
        tokens = list(prompt)
        for _ in range(count):
            # the last output token is asked of a claim that already has one there
            given = self.trace([*tokens, 0], len(prompt))
            last = given.layout.at(given.layout.blocks - 1, given.layout.stages - 1)
            tokens.append(int.from_bytes(given.committed(last)[1][-1], "little"))
        return tokens


@cache
def world(
    dtype: str = "bfloat16",
    arithmetic: str = "chain-1",
    temperature_ppm: int = 700_000,
    changes: tuple[tuple[str, object], ...] = (),
) -> World:
    """Return one shared world."""
    return World(dtype, arithmetic, temperature_ppm, **dict(changes))


def spoiled(weights: Weights, tensor: str, row: int) -> Weights:
    """Return weights with one row rounded to few bits."""
    found = dict(weights)
    changed = found[tensor].clone()
    changed[row] = (changed[row].float() * 4).round().to(changed.dtype) / 4
    assert not torch.equal(changed, found[tensor])
    found[tensor] = changed
    return found


def at_end(claim: Claim, trace: "ModelTrace | Forged", kind: EndKind, index: int) -> Claim:
    """Return the claim about another end, where the receipt says what a trace has there."""
    value = bytes(4 if kind is EndKind.DRAW else 32)
    found = replace(claim, kind=kind, index=index, value=value)
    end = Layout(found).end()
    numbers = trace.layout.committed(end.segment)
    table = trace.committed(end.segment)[numbers.index(end.operator)]
    return replace(found, value=table[end.row])


class Forged:
    """A pass of which some rows are others; everything else is as an honest party has it."""

    def __init__(self, trace: ModelTrace) -> None:
        self.base, self.layout = trace, trace.layout
        self.rows: dict[tuple[int, int, int], bytes] = {}
        self.tokens = trace.tokens
        self.weight, self.open_weight = trace.weight, trace.open_weight

    def change(self, segment: int, operator: str, row: int, at: int, to: bytes) -> "Forged":
        """Return the pass with other bytes at a place of a row."""
        number = self.layout.index(segment, operator)
        data = self._changed(segment, number, self.base.operators(segment)[number])[row]
        found = data[:at] + to + data[at + len(to) :]
        assert found != data
        assert len(found) == len(data)
        other = Forged(self.base)
        other.rows = {**self.rows, (segment, number, row): found}
        return other

    def flip(self, segment: int, operator: str, row: int, element: int, bit: int = 0) -> "Forged":
        """Return the pass with one bit of one element changed, or another index that can be there."""
        number = self.layout.index(segment, operator)
        size = BYTES[self.layout.operators(segment)[number].dtype]
        own = bytearray(self.base.operators(segment)[number][row][element * size :][:size])
        choices = self.layout.choices(Place(segment, number, row, element))
        if choices is None:
            own[bit // 8] ^= 1 << (bit % 8)
        else:
            at = choices.index(int.from_bytes(own, "little")) + 1 + bit
            own = bytearray(choices[at % len(choices)].to_bytes(4, "little"))
        return self.change(segment, operator, row, element * size, bytes(own))

    def committed(self, segment: int) -> list[Table]:
        """Return what the segment commits to."""
        numbers = self.layout.committed(segment)
        tables = zip(numbers, self.base.committed(segment), strict=True)
        return [self._changed(segment, number, table) for number, table in tables]

    def operators(self, segment: int) -> list[Table]:
        """Return all of the segment."""
        tables = enumerate(self.base.operators(segment))
        return [self._changed(segment, number, table) for number, table in tables]

    def _changed(self, segment: int, number: int, table: Table) -> Table:
        return [self.rows.get((segment, number, row), data) for row, data in enumerate(table)]


def play(
    claim: Claim, respondent: Trace, challenger: Trace, change: Change | None = None
) -> Result:
    """Play a game to its end; `change` may replace moves on their way."""
    game: Game | Result = Game(claim)
    players = Player(claim, respondent), Player(claim, challenger)
    while isinstance(game, Game):
        moves: list[Move] = [player.move(game) for player in players]
        if change is not None:
            moves = change(game, moves)
        game = game.play(*moves)
    return game
