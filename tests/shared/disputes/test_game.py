"""Games between an honest party and one that is not: whoever began, the honest one wins, and one element says so."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.disputes.claim import Claim, EndKind
from shared.disputes.game import Game, Result, Step, Winner
from shared.disputes.layout import Layout
from shared.disputes.moves import MAX_CASE, Case, Chunk, Opened, Operators, Parts
from shared.disputes.player import Player
from shared.disputes.tree import cut, joined, parts_of
from shared.model.trace import ModelTrace
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tree import leaf_hash, root
from tests.shared.disputes.passes import Forged, World, at_end, play, spoiled, world

PROMPT = [(7 * place + 3) % 200 for place in range(31)]
WIDE = (("vocab_size", 267), ("intermediate_size", 160))
"""So that some rows have several chunks."""
OPERATORS = (
    *("norm_in.scale", "norm_in", "q", "k", "v", "queries", "keys", "values"),
    *("scores", "largest", "weights", "lanes", "total", "sums", "attended", "middle"),
    *("norm_out.scale", "norm_out", "gate", "up", "gated", "states"),
)


@cache
def of(dtype: str, arithmetic: str = "chain-1", temperature_ppm: int = 700_000) -> World:
    return world(dtype, arithmetic, temperature_ppm, WIDE)


@cache
def answered(dtype: str, temperature_ppm: int = 700_000) -> tuple[int, ...]:
    return tuple(of(dtype, temperature_ppm=temperature_ppm).answer(PROMPT, 4))


@cache
def honest(dtype: str = "bfloat16", temperature_ppm: int = 700_000) -> ModelTrace:
    tokens = list(answered(dtype, temperature_ppm))
    return of(dtype, temperature_ppm=temperature_ppm).trace(tokens, len(PROMPT))


def both_ways(honest_trace, liar, kind: EndKind, index: int) -> list[Result]:
    """Play a liar's receipt that an honest party challenges, and an honest receipt that the liar challenges."""
    claim = honest_trace.layout.claim
    caught = play(at_end(claim, liar, kind, index), liar, honest_trace)
    stood = play(at_end(claim, honest_trace, kind, index), honest_trace, liar)
    assert caught.winner is Winner.CHALLENGER, caught
    assert stood.winner is Winner.RESPONDENT, stood
    assert caught.place == stood.place
    return [caught, stood]


def name_of(trace, result: Result) -> str:
    place = result.place
    assert place is not None
    return str(trace.layout.operators(place.segment)[place.operator].name)


# ---- cheaper models -------------------------------------------------------------------------------------------------


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_one_row_of_weights_rounded_loses_on_either_side(data):
    trace, model = honest(), of("bfloat16")
    names = sorted(name for name, tensor in model.weights.items() if tensor.dim() > 1)
    name = data.draw(st.sampled_from([name for name in names if "embed" not in name]))
    row = data.draw(st.integers(0, len(model.weights[name]) - 1))
    liar = model.trace(list(answered("bfloat16")), len(PROMPT), spoiled(model.weights, name, row))
    end = len(trace.committed(trace.layout.segments - 1)[0]) - 1
    same = liar.committed(liar.layout.segments - 1)[0][end]
    if same == trace.committed(trace.layout.segments - 1)[0][end]:
        return  # nothing came of it, so there is nothing to dispute
    both_ways(trace, liar, EndKind.DIGEST, end)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_rounded_row_is_found_in_its_own_product(dtype):
    model, trace = of(dtype), honest(dtype)
    weights = spoiled(model.weights, "model.layers.1.mlp.up_proj.weight", 7)
    liar = model.trace(list(answered(dtype)), len(PROMPT), weights)
    for result in both_ways(trace, liar, EndKind.DIGEST, 1):
        assert name_of(trace, result) == "up"
        assert result.place is not None
        assert result.place.element == 7


def test_a_layer_that_is_skipped_loses_on_either_side():
    model, trace = of("bfloat16"), honest()
    weights = dict(model.weights)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        key = f"model.layers.1.{name}.weight"
        weights[key] = torch.zeros_like(weights[key])
    liar = model.trace(list(answered("bfloat16")), len(PROMPT), weights)
    for result in both_ways(trace, liar, EndKind.DIGEST, 0):
        assert name_of(trace, result) == "middle"


# ---- one element of one operator ------------------------------------------------------------------------------------


def forged(
    trace: ModelTrace, segment: int, operator: str, row: int, element: int, bit: int
) -> Forged:
    """Return a pass in which an element, its segment's states and the receipt's last digest are false."""
    layout = trace.layout
    liar = Forged(trace).flip(segment, operator, row, element, bit)
    if segment != layout.segments - 1:
        states = layout.operators(segment)[-1]
        if operator != states.name:
            last = len(states.widths) - 1
            liar = liar.flip(segment, states.name, last, states.widths[last] - 1)
        ends = len(layout.digests()) - 1
        liar = liar.change(layout.segments - 1, "digests", ends, 0, bytes(32))
    return liar


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("operator", OPERATORS)
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_one_false_element_of_a_layer_is_what_the_game_ends_in(operator, dtype, data):
    trace = honest(dtype)
    segment = trace.layout.at(1, 2)
    found = trace.layout.operators(segment)[trace.layout.index(segment, operator)]
    row = data.draw(st.integers(0, len(found.widths) - 1))
    element = data.draw(st.integers(0, found.widths[row] - 1))
    bit = data.draw(st.integers(0, 3))
    liar = forged(trace, segment, operator, row, element, bit)
    end = len(trace.layout.digests()) - 1
    for result in both_ways(trace, liar, EndKind.DIGEST, end):
        place = result.place
        assert place is not None
        assert (place.segment, name_of(trace, result)) == (segment, operator)
        assert (place.row, place.element) == (row, element)


@pytest.mark.parametrize("stage", [0, 3])
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_one_false_element_of_embedding_or_head_is_what_the_game_ends_in(stage, data):
    trace = honest()
    segment = trace.layout.at(1, stage)
    names = [found.name for found in trace.layout.operators(segment)]
    operator = data.draw(st.sampled_from([name for name in names if name != "draws"]))
    number = names.index(operator)
    found = trace.layout.operators(segment)[number]
    row = data.draw(st.integers(0, len(found.widths) - 1))
    element = data.draw(st.integers(0, found.widths[row] - 1))
    liar = Forged(trace).flip(segment, operator, row, element, 1)
    if stage:
        liar = liar.flip(segment, "draws", len(trace.layout.drawn(1)) - 1, 0)
    end = len(trace.layout.digests()) - 1
    liar = liar.change(trace.layout.segments - 1, "digests", end, 0, bytes(32))
    for result in both_ways(trace, liar, EndKind.DIGEST, end):
        assert name_of(trace, result) == operator
        assert result.place is not None
        assert (result.place.row, result.place.element) == (row, element)


@pytest.mark.parametrize("temperature_ppm", [0, 700_000])
@settings(max_examples=4, deadline=None)
@given(index=st.integers(0, 3), token=st.integers(0, 266))
def test_a_token_that_was_not_drawn_loses_on_either_side(temperature_ppm, index, token):
    trace = honest(temperature_ppm=temperature_ppm)
    claim = replace(trace.layout.claim, kind=EndKind.DRAW, index=index, value=bytes(4))
    end = Layout(claim).end()
    table = trace.operators(end.segment)[end.operator]
    told = token.to_bytes(4, "little")
    if table[end.row] == told:
        return
    liar = Forged(trace).change(end.segment, "draws", end.row, 0, told)
    for result in both_ways(trace, liar, EndKind.DRAW, index):
        assert name_of(trace, result) == "draws"


@pytest.mark.parametrize("arithmetic", ["pairs-32"])
def test_other_arithmetics_are_decided_by_their_own_sums(arithmetic):
    model = of("bfloat16", arithmetic)
    tokens = model.answer(PROMPT, 4)
    trace = model.trace(tokens, len(PROMPT))
    for operator in ("q", "scores", "sums", "middle", "states"):
        liar = forged(trace, trace.layout.at(1, 1), operator, 0, 0, 0)
        both_ways(trace, liar, EndKind.DIGEST, 1)


# ---- parties that change their minds --------------------------------------------------------------------------------


def test_who_computes_honestly_after_cheating_is_bound_by_the_receipt():
    trace = honest()
    claim = replace(trace.layout.claim, value=bytes(32))  # what the cheap model's receipt said
    result = play(claim, trace, Forged(trace))
    assert (result.winner, result.place) == (Winner.CHALLENGER, None)
    assert "another value there than the receipt" in result.reason
    liar = Forged(trace).change(trace.layout.segments - 1, "digests", 0, 0, bytes(32))
    result = play(claim, liar, trace)
    assert result.winner is Winner.CHALLENGER
    assert name_of(trace, result) == "digests"


def test_a_challenger_who_says_what_the_receipt_says_disputes_nothing():
    trace = honest()
    result = play(at_end(trace.layout.claim, trace, EndKind.DIGEST, 0), trace, trace)
    assert (result.winner, result.place) == (Winner.RESPONDENT, None)


@pytest.mark.parametrize(
    "step", [Step.SEGMENTS, Step.OPERATORS, Step.ROWS, Step.CHUNKS, Step.CHUNK]
)
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("committed", [True, False])
def test_who_answers_two_games_differently_loses_both(step, side, committed):
    """From one step on a party sends what belongs to another pass than before.

    Its root and what segments commit to are fixed. Operators inside of them are not before they are sent, and do not help it.
    """
    trace = honest()
    segment = trace.layout.at(1, 2)
    first = forged(trace, segment, "gate", 1, 130, 1)
    second = forged(trace, segment, "gate", 1, 130, 2)
    if committed:
        second = second.flip(segment, "states", 0, 0)
    parties = (first, trace) if side == 0 else (trace, first)
    claim = at_end(trace.layout.claim, parties[0], EndKind.DIGEST, 1)
    other = Player(claim, second)

    def change(game, moves):
        if _order(game.step) >= _order(step):
            moves[side] = other.move(game)
        return moves

    result = play(claim, *parties, change)
    assert result.winner is (Winner.CHALLENGER, Winner.RESPONDENT)[side]
    free = not committed and step in {Step.SEGMENTS, Step.OPERATORS}
    assert (result.place is not None) == free


def _order(step: Step) -> int:
    return list(Step).index(step)


def test_two_false_claims_win_nothing():
    trace = honest()
    segment = trace.layout.at(1, 2)
    one, other = (forged(trace, segment, "gate", 1, 130, bit) for bit in (1, 2))
    claim = at_end(trace.layout.claim, one, EndKind.DIGEST, 1)
    # the other one has to say something else about the end
    other = other.change(trace.layout.segments - 1, "digests", 1, 0, b"\x01")
    result = play(claim, one, other)
    assert result.winner is Winner.NEITHER


# ---- what is not a move ---------------------------------------------------------------------------------------------


def long_game() -> tuple[Claim, Forged, ModelTrace]:
    """Return a game that passes through every kind of step."""
    trace = honest()
    liar = forged(trace, trace.layout.at(1, 2), "gate", 1, 130, 1)
    return at_end(trace.layout.claim, liar, EndKind.DIGEST, 1), liar, trace


def broken(step: Step, side: int, make) -> Result:
    """Play the long game and spoil one side's first move of a kind."""
    claim, liar, trace = long_game()
    seen: list[tuple[int, int]] = []

    def change(game, moves):
        if game.step is step and not seen:
            seen.append(game.span)
            moves[side] = make(moves[side])
        return moves

    # the side that is spoiled is otherwise honest, so that nothing else can decide
    if side == 1:
        result = play(claim, liar, trace, change)
    else:
        claim = at_end(trace.layout.claim, trace, EndKind.DIGEST, 1)
        result = play(claim, trace, liar, change)
    assert seen, "the game did not come to that step"
    return result


def more(move: bytes) -> bytes:
    """Return a list of hashes with one more of them."""
    try:
        parts = Parts.from_cbor(move, max_bytes=2**16)
        return replace(parts, parts=(*parts.parts, bytes(32))).to_cbor()
    except CounterfoilError:
        sent = Operators.from_cbor(move, max_bytes=2**16)
        return replace(sent, operators=(*sent.operators, bytes(32))).to_cbor()


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("step", [step for step in Step if step is not Step.CASE])
def test_silence_and_garbage_lose_at_every_step(step, side):
    spoils = [lambda _: None, lambda move: move[:-1], lambda _: b"\xa0", lambda move: move + b"\0"]
    spoils += [lambda move: move[:-1] + bytes([move[-1] ^ 1])]
    if step not in {Step.OPEN, Step.CHUNK}:
        spoils.append(more)
    for spoil in spoils:
        result = broken(step, side, spoil)
        assert result.winner is (Winner.CHALLENGER, Winner.RESPONDENT)[side]
        assert result.place is None


def test_where_both_are_silent_the_receipt_stands():
    claim, liar, trace = long_game()
    assert play(claim, liar, trace, lambda _, __: [None, None]).winner is Winner.RESPONDENT


@settings(max_examples=25, deadline=None)
@given(data=st.data(), side=st.integers(0, 1))
def test_whatever_a_liar_sends_the_honest_party_wins(data, side):
    claim, liar, trace = long_game()
    parties = (liar, trace) if side == 0 else (trace, liar)
    if side == 1:
        claim = at_end(trace.layout.claim, trace, EndKind.DIGEST, 1)
    step = data.draw(st.sampled_from(list(Step)))
    seen: list[Step] = []

    def change(game, moves):
        seen.append(game.step)
        if game.step is step:
            move = bytearray(moves[side])
            for _ in range(data.draw(st.integers(1, 3))):
                at = data.draw(st.integers(0, len(move) - 1))
                move[at] = data.draw(st.integers(0, 255))
            moves[side] = bytes(move[data.draw(st.integers(0, 2)) :])
        return moves

    result = play(claim, *parties, change)
    assert result.winner is (Winner.CHALLENGER, Winner.RESPONDENT)[side], (step, seen)


@pytest.mark.parametrize("side", [0, 1])
def test_an_end_opened_elsewhere_or_beyond_loses(side):
    claim, liar, trace = long_game()
    del claim, liar
    changes = [
        {"row": 0},
        {"row": 2},
        {"segment": trace.layout.segments},
        {"segment": 0},
        {"operator": 1},
        {"data": bytes(31)},
        {"path": ()},
    ]
    for changed in changes:

        def spoil(move: bytes, changed=changed) -> bytes:
            sent = Opened.from_cbor(move, max_bytes=2**16)
            return replace(sent, end=replace(sent.end, **changed)).to_cbor()

        result = broken(Step.OPEN, side, spoil)
        assert result.winner is (Winner.CHALLENGER, Winner.RESPONDENT)[side]


def hashed(trace, liar: Forged, what: bytes, operator: str, row: int, element: int) -> Result:
    """Play a game in which the liar's tree really has these bytes at an element of the last layer's second block."""
    segment = trace.layout.at(1, 2)
    found = trace.layout.operators(segment)[trace.layout.index(segment, operator)]
    liar = liar.change(segment, operator, row, element * len(what), what)
    assert len(what) * found.widths[row] == found.row_bytes(row)
    return both_ways_reasons(trace, liar)


def both_ways_reasons(trace, liar) -> Result:
    claim = trace.layout.claim
    caught = play(at_end(claim, liar, EndKind.DIGEST, 1), liar, trace)
    stood = play(at_end(claim, trace, EndKind.DIGEST, 1), trace, liar)
    assert (caught.winner, stood.winner) == (Winner.CHALLENGER, Winner.RESPONDENT)
    assert caught.reason.removeprefix("the respondent: ") == stood.reason.removeprefix(
        "the challenger: "
    )
    return caught


@pytest.mark.parametrize("what", ["0000c07f", "0000807f", "000080ff", "0100807f"])
def test_numbers_that_are_not_finite_lose(what):
    trace = honest()
    liar = forged(trace, trace.layout.at(1, 2), "states", 0, 0, 0)
    result = hashed(trace, liar, bytes.fromhex(what), "gate", 1, 3)
    assert "not finite" in result.reason
    assert result.place is None


@pytest.mark.parametrize("beyond", [34, 2**32 - 1])
def test_positions_beyond_the_end_lose(beyond):
    trace = honest()
    liar = forged(trace, trace.layout.at(1, 2), "states", 0, 0, 0)
    result = hashed(trace, liar, beyond.to_bytes(4, "little"), "largest", 0, 0)
    assert "beyond the end" in result.reason


def test_a_position_outside_of_the_window_is_no_largest_one():
    model = world(changes=(("model_type", "mistral"), ("sliding_window", 9)))
    tokens = [*PROMPT, 9, 8, 7]
    trace = model.trace(tokens, len(PROMPT))
    segment = trace.layout.at(1, 2)
    seen = trace.layout.seen(segment, 0)
    assert seen.start == 24
    number = trace.layout.index(segment, "largest")
    right = int.from_bytes(trace.operators(segment)[number][0], "little")
    wrong = next(index for index in seen if index != right)
    for index, refused in ((seen.start - 1, True), (wrong, False)):
        liar = forged(trace, segment, "states", 0, 0, 0)
        liar = liar.change(segment, "largest", 0, 0, index.to_bytes(4, "little"))
        result = both_ways_reasons(trace, liar)
        assert ("beyond the end" in result.reason) == refused


def test_a_game_is_a_function_of_its_claim_and_its_moves():
    """Whoever has the moves goes on where it was, so a restart of anybody loses nothing."""
    claim, liar, trace = long_game()
    told: list[list] = []

    def note(game, moves):
        told.append([game, *moves])
        return moves

    result = play(claim, liar, trace, note)
    assert [game.step for game, *_ in told][-1] is Step.CASE
    again: Game | Result = Game(Claim.from_cbor(claim.to_cbor(), max_bytes=4096))
    for game, *moves in told:
        assert again == game
        # a party that begins anew sends the same again
        assert [Player(claim, party).move(game) for party in (liar, trace)] == moves
        assert isinstance(again, Game)
        again = again.play(*moves)
    assert again == result


def test_claims_about_what_is_beyond_the_end_are_not_claims():
    claim = honest().layout.claim
    for changed in (
        {"index": 2},
        {"kind": EndKind.DRAW, "index": 4, "value": bytes(4)},
        {"value": bytes(31)},
        {"ways": 12},
        {"kind": EndKind.DRAW, "value": bytes(4), "sampling": None},
    ):
        with pytest.raises(CounterfoilError) as caught:
            replace(claim, **changed)
        assert caught.value.code is Code.MALFORMED
    assert Claim.from_cbor(claim.to_cbor(), max_bytes=4096) == claim


# ---- the referee's input --------------------------------------------------------------------------------------------


def at_case() -> tuple[Game, Player, Player]:
    """Return a game that waits for the referee, and its liar and its honest party."""
    claim, liar, trace = long_game()
    players = Player(claim, liar), Player(claim, trace)
    game: Game | Result = Game(claim)
    while isinstance(game, Game) and game.step is not Step.CASE:
        game = game.play(*[player.move(game) for player in players])
    assert isinstance(game, Game)
    return game, *players


@pytest.mark.parametrize("size", [MAX_CASE + 1, 2**30])
def test_a_case_that_is_too_long_is_refused_before_it_is_read(size):
    game, liar, player = at_case()
    del liar
    result = game.play(bytes(size), player.move(game))
    assert isinstance(result, Result)
    assert result.winner is Winner.CHALLENGER
    result = game.play(bytes(size), None)
    assert isinstance(result, Result)
    assert f"{size} bytes exceed the limit" in result.reason


def test_whoever_hands_it_in_a_case_decides_alike():
    game, liar, player = at_case()
    for moves in ((liar.move(game), None), (None, player.move(game)), (b"", player.move(game))):
        result = game.play(*moves)
        assert isinstance(result, Result)
        assert (result.winner, result.place) == (Winner.CHALLENGER, game.place)
    nothing = game.play(None, None)
    assert isinstance(nothing, Result)
    assert nothing.winner is Winner.RESPONDENT


def test_a_case_with_other_inputs_is_not_read():
    game, liar, player = at_case()
    del liar
    case = player.case(game)
    (row,), (opening,) = case.rows, case.openings
    later = player.open(game.segment, game.operator + 1, 0, within=game.segment)
    own = player.open(game.segment, game.operator, game.row, 1, within=game.segment)
    for changed in (
        replace(case, openings=()),
        replace(case, rows=()),
        replace(case, rows=(replace(row, data=bytes(len(row.data))),)),
        replace(case, rows=(replace(row, row=row.row + 1),)),
        replace(case, rows=(replace(row, tensor="model.layers.0.mlp.gate_proj.weight"),)),
        replace(case, rows=(replace(row, tensor="lm_head.bias"),)),
        replace(case, openings=(replace(opening, data=bytes(len(opening.data))),)),
        replace(case, openings=(replace(opening, data=opening.data[:-2]),)),
        replace(case, openings=(replace(opening, row=0),)),
        replace(case, openings=(replace(opening, row=99),)),
        replace(case, openings=(replace(opening, operator=99),)),
        replace(case, openings=(replace(opening, segment=99),)),
        replace(case, openings=(opening, later)),
        replace(case, openings=(opening, own)),
    ):
        result = game.play(None, changed.to_cbor())
        assert isinstance(result, Result)
        assert result.winner is Winner.RESPONDENT, changed
        assert "nothing shows who is right" in result.reason
    assert Case.from_cbor(case.to_cbor(), max_bytes=MAX_CASE) == case


# ---- trees ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(count=st.integers(2, 70), ways=st.sampled_from([2, 4, 8, 64]))
def test_parts_make_up_the_tree_that_they_are_parts_of(count, ways):
    leaves = [leaf_hash(bytes([place]) * 32) for place in range(count)]
    span = (0, count)
    while span[1] - span[0] > 1:
        parts = parts_of(leaves, *span, ways)
        expected = root(leaves[slice(*span)])
        assert len(parts) <= ways
        assert joined(*span, ways, parts) == expected
        span = cut(*span, ways)[-1 if count % 2 else 0]


def test_a_chunk_of_another_length_is_not_accepted():
    result = broken(
        Step.CHUNK,
        0,
        lambda move: Chunk(Chunk.from_cbor(move, max_bytes=2**16).chunk[:-4]).to_cbor(),
    )
    assert result.winner is Winner.CHALLENGER
    assert "another length" in result.reason
