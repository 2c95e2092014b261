"""Accountable chains: every place commits to what passed through it, whatever company it had; nothing without an order."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from execution_layer.engine.protocol import FinishReason
from execution_layer.pipeline import sealed
from execution_layer.pipeline.sealed import AGAIN, Tracks
from shared.proto.counterfoil.execution.v1 import stages_pb2
from shared.runtime.errors import Code, CounterfoilError
from tests.execution_layer.engine.traffic import Mix, Served, fixed, mixes, serve
from tests.execution_layer.pipeline.sealed_line import (
    KnownParts,
    SealedChain,
    honest,
    order,
    settle,
)
from tests.execution_layer.pipeline.test_chain import cuts, dying, few, model, stages


async def served(chain: SealedChain, mix: Mix, seen: Counter[str] | None = None) -> list[Served]:
    everyone = await serve(model(), mix, seen, chain)
    await settle(chain)
    return everyone


def names(mix: Mix) -> list[str]:
    return [str(place) for place in range(len(mix.arrivals))]


def check(chain: SealedChain, everyone: Sequence[Served]) -> None:
    """Each place commits to the states that one machine computes; each root is known to both sides."""
    for request, one in zip(chain.requests, everyone, strict=True):
        output = one.end.output_ids
        if not output:
            continue
        tokens = [*one.prompt, *output[:-1]]
        roots = chain.roots(request, len(tokens))
        expected = honest(model(), chain.stages, request, tokens, own=chain.own)
        assert [its.sent for its in roots] == expected
        assert [its.received for its in roots] == [expected[-1], *expected[:-1]]


@few
@given(mix=mixes(), where=cuts(), depth=st.integers(1, 7), own=st.booleans())
def test_every_place_commits_to_what_one_machine_computes(mix, where, depth, own):
    parts = stages(where)
    chain = SealedChain(model(), parts, names(mix), own=own and len(parts) > 1, depth=depth)
    seen = Counter[str]()
    everyone = asyncio.run(served(chain, mix, seen))
    assert not chain.errors
    assert chain.steps is not None
    tally = chain.steps.tally
    assert len(tally.stages_s) == (len(parts) if tally.steps else 0)
    assert (tally.rows, tally.under_way) == (0, 0)
    assert tally.tokens == sum(len(one.end.output_ids) for one in everyone)
    check(chain, everyone)
    event("hits" if seen["hits"] else "no hits")
    event("preemptions" if seen["preemptions"] else "no preemptions")


class Rounding:
    """A stage that rounds the states of one row of the prompt, and of nothing else."""

    def __init__(self, honest):
        self.first, self.last, self.cache = honest.first, honest.last, honest.cache
        self._honest = honest

    def __call__(self, states, rows, cache):
        states = self._honest(states, rows, cache)
        if rows[0].position <= 3 < rows[0].position + rows[0].count:
            row = 3 - rows[0].position
            states[row] = states[row].bfloat16().float()
        return states


@pytest.mark.parametrize("cheat", [0, 1, 2])
async def test_of_a_stage_that_computes_something_else_the_roots_name_the_place(cheat):
    parts = stages([2, 3])
    cheating = [Rounding(part) if at == cheat else part for at, part in enumerate(parts)]
    mix = Mix(tuple(fixed(1, prompt=40)))
    chain = SealedChain(model(), cheating, names(mix))
    [one] = await served(chain, mix)
    tokens = [*one.prompt, *one.end.output_ids[:-1]]
    roots = chain.roots("0", len(tokens))
    expected = honest(model(), parts, "0", tokens, own=False)
    assert [its.sent == root for its, root in zip(roots, expected, strict=True)] == [
        place <= cheat for place in range(4)
    ]
    assert all(its.received == before.sent for before, its in pairwise(roots))


async def test_after_a_break_everything_is_committed_to_once():
    mix = Mix(tuple(fixed(3, tokens=12)))
    chain = SealedChain(model(), stages([2, 3]), names(mix), breaks=[dying(4), dying(9)])
    everyone = await served(chain, mix)
    assert chain.connected == 3
    check(chain, everyone)
    assert chain.steps is not None
    tally = chain.steps.tally
    assert (tally.connections, tally.breaks, tally.last_break) == (3, 2, "a stage has died")
    assert (tally.rows, tally.under_way) == (0, 0)


async def failed(chain: SealedChain, code: Code) -> str:
    """Return why a chain broke. The request fails once nothing can be connected; here it is connected once more."""
    mix = Mix(tuple(fixed(1, tokens=3)))
    await served(chain, mix)
    [error] = chain.errors
    assert isinstance(error, CounterfoilError)
    assert error.code is code
    return error.detail


def once(place: int, change):
    """Change the second step in front of a place, once."""
    seen = Counter[int]()

    def changed(at: int, step: stages_pb2.StageStep) -> stages_pb2.StageStep:
        seen[at] += 1
        return change(step) if at == place and seen[at] == 2 else step

    return changed


def flipped(step):
    span = step.spans[0]
    span.sealed = bytes([span.sealed[0] ^ 1]) + span.sealed[1:]
    return step


def moved(step):
    step.spans[0].position += 1
    return step


def unsealed(step):
    step.states = bytes(512)
    return step


def stranger(step):
    step.spans[0].slot += 1
    return step


def short(step):
    step.spans[0].sealed = step.spans[0].sealed[:-1]
    return step


def wide(step):
    step.spans[0].sealed += bytes(1000)
    return step


def empty(step):
    step.spans[0].count = 0
    return step


def begun_twice(step):
    step.begun.add(slot=0, orders=[order("0", 1)], hop_nonce=bytes(32))
    return step


def nothing(step):
    del step.spans[:]
    return step


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (flipped, Code.UNREADABLE),
        (moved, Code.UNREADABLE),
        (unsealed, Code.MALFORMED),
        (stranger, Code.MALFORMED),
        (short, Code.UNREADABLE),
        (wide, Code.MALFORMED),
        (empty, Code.MALFORMED),
        (begun_twice, Code.MALFORMED),
        (nothing, Code.MALFORMED),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_whatever_was_altered_on_the_way_ends_the_connection(place, change, code):
    chain = SealedChain(model(), stages([2]), ["0"], changed=once(place, change))
    await failed(chain, code)
    assert chain.connected == 2


async def test_nothing_is_computed_without_an_order_or_beyond_it():
    for parts, code, words in (
        (KnownParts(1), Code.NO_ORDER, "no order"),
        (KnownParts(1, head="acme/another"), Code.FORBIDDEN, "acme/another"),
        (KnownParts(1, positions=10), Code.INVALID_ARGUMENT, "position 19"),
    ):
        chain = SealedChain(model(), stages([]), ["0"])
        if code is not Code.NO_ORDER:
            parts.note("0")
        right = chain.parts[0]

        def put_right(_place, step, chain=chain, right=right):
            chain.parts[0] = right  # for the next connection
            return step

        chain.changed = put_right
        chain.open()
        chain.parts[0] = parts
        chain.open = lambda: None
        assert words in await failed(chain, code)


def test_one_order_does_not_pay_for_a_head_s_whole_trade(monkeypatch):
    parts, tracks = KnownParts(1, positions=10), Tracks()
    for request in ("0", "1", "2"):
        parts.note(request)
    part, other, third = (parts.known[order(request, 1)] for request in ("0", "1", "2"))
    tracks.count(part, AGAIN * 10 - 1)
    tracks.count(part, 1)
    tracks.forget(part.order)  # closing it makes no difference
    tracks.count(other, 1)
    with pytest.raises(CounterfoilError) as caught:
        tracks.count(part, 1)
    assert caught.value.code is Code.QUOTA
    monkeypatch.setattr(sealed, "COUNTED", 2)
    tracks.count(third, 1)  # the oldest count, which is `other`'s, gives way
    with pytest.raises(CounterfoilError):
        tracks.count(part, 1)


async def test_rows_may_not_follow_what_was_computed_behind_other_rows():
    """A head whose own states say nothing of what came before could otherwise have an honest stage convicted."""

    def elsewhere(step):
        step.spans[0].blocks[0] = 30
        return step

    chain = SealedChain(model(), stages([2]), ["0"], changed=once(1, elsewhere))
    assert "begin where no block does" in await failed(chain, Code.MALFORMED)


async def test_nothing_is_committed_to_that_was_not_computed():
    mix = Mix(tuple(fixed(1)))
    chain = SealedChain(model(), stages([2]), names(mix))
    [one] = await served(chain, mix)
    computed = len(one.prompt) + len(one.end.output_ids) - 1
    for positions in (0, computed + 1):
        part = chain.parts[0].find(order("0", 1))
        assert part is not None
        with pytest.raises(CounterfoilError, match=f"not {positions}") as caught:
            chain.tracks[0].roots(part, positions)
        assert caught.value.code is Code.CONFLICT
        with pytest.raises(CounterfoilError):
            Tracks().roots(part, computed)
    with pytest.raises(CounterfoilError, match="have come back"):
        chain.answers.roots("0", computed + 1)


async def test_a_connection_keeps_nothing_of_requests_that_are_over():
    mix = Mix(tuple(fixed(3)))
    chain = SealedChain(model(), stages([2]), names(mix))
    await served(chain, mix)
    hops = chain.answers._hops
    assert hops is not None
    assert len(hops._going) == len(hops._coming) == 3
    for request in chain.requests[:2]:
        chain.answers.forget(request)
    kept = order("2", 0)
    assert ([*hops._going], [*hops._coming], [*hops._out._slots]) == (["2"], [kept], [kept])
    assert [carried.part.order for carried, _ in hops._in._slots.values()] == [kept]


async def test_a_row_takes_four_bytes_a_number_and_at_most_a_hundred_more():
    sizes = []

    def measured(_place, step):
        if len(step.spans) == 8 and all(span.count == 1 for span in step.spans):
            sizes.append(step.ByteSize() / 8)
        return step

    mix = Mix(tuple(fixed(8, tokens=20)))
    chain = SealedChain(model(), stages([2]), names(mix), depth=1, changed=measured)
    assert all(one.end.finish_reason is FinishReason.LENGTH for one in await served(chain, mix))
    assert sizes
    assert max(sizes) <= 4 * model().config.hidden_size + 100
