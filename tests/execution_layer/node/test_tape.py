"""Readers of one response: each gets every frame once and in order, however far behind it is."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution_layer.node.drafts import ReceiptSigner
from execution_layer.node.tape import NEWEST, FinalEvent, FrameEvent, StreamSigner, Tape
from shared.envelope.stream import StreamContext, next_hash
from shared.runtime.errors import Code, CounterfoilError
from tests.vectors.samples import signing_key

CONTEXT = StreamContext(b"c" * 32, b"k" * 32, b"b" * 32, b"n" * 32, 0)
SIGNER = StreamSigner(CONTEXT, ReceiptSigner(signing_key("node"), "honest/node-1"))
FINAL = FinalEvent(b"final", b"signature")


class FakeFrames:
    """A double of the store: frames of one request, and how often they were read."""

    def __init__(self):
        self.ciphertexts = []
        self.reads = 0
        self.journal = self

    def read(self, query):
        self.reads += 1
        return query(self)

    def execute(self, _query, values):
        _, after, limit = values
        rows = list(enumerate(self.ciphertexts, start=1))[after : after + limit]
        found = [{"position": place, "ciphertext": data} for place, data in rows]
        return SimpleNamespace(fetchall=lambda: found)


class Growing:
    """A response that grows."""

    def __init__(self, before=0):
        self.store = FakeFrames()
        self.h = CONTEXT.h_0
        self.events = [SIGNER.accepted()]
        for _ in range(before):
            self._store()
        self.tape = Tape(self.store, 1, SIGNER, before)

    def _store(self):
        data = b"frame %d" % len(self.events)
        self.store.ciphertexts.append(data)
        self.h = next_hash(self.h, data)
        self.events.append(SIGNER.frame(len(self.events), data, self.h))

    def grow(self):
        self._store()
        self.tape.add(self.events[-1])


async def readers_of(growing, steps, readers):
    """Let a response grow by `steps`, 0 meaning a pause; readers are (after, pauses before each event)."""

    async def read(after, pauses):
        found = []
        async for event in growing.tape.read(after):
            found.append(event)
            for _ in range(pauses):
                await asyncio.sleep(0)
        return found

    tasks = [asyncio.create_task(read(*reader)) for reader in readers]
    for count in steps:
        for _ in range(count):
            growing.grow()
        await asyncio.sleep(0)
    growing.tape.end(FINAL)
    return await asyncio.wait_for(asyncio.gather(*tasks), 30)


@settings(max_examples=80, deadline=None)
@given(
    before=st.integers(0, 90),
    steps=st.lists(st.integers(0, 40), max_size=12),
    readers=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 3)), min_size=1, max_size=4),
)
def test_every_reader_gets_what_it_lacks_once_in_order_and_signed(before, steps, readers):
    growing = Growing(before)
    found = asyncio.run(readers_of(growing, steps, readers))
    for (after, _), events in zip(readers, found, strict=True):
        accepted, *frames = growing.events
        assert events == [accepted, *frames[after:], FINAL]


async def test_what_nobody_reads_costs_a_few_frames_of_memory_and_who_keeps_up_reads_no_store():
    growing = Growing()
    reading = asyncio.create_task(readers_of(growing, [1] * 500, [(0, 0)]))
    await reading
    assert len(growing.tape._newest) == NEWEST
    assert growing.store.reads == 0


async def test_a_reader_that_is_not_wanted_any_more_ends_at_once():
    growing = Growing(3)
    wanted = True
    reading = growing.tape.read(1, lambda: wanted)
    found = [await anext(reading) for _ in range(3)]
    assert found == [growing.events[0], *growing.events[2:4]]
    waiting = asyncio.create_task(anext(reading, None))
    await asyncio.sleep(0.01)
    wanted = False
    growing.tape.wake()
    assert await asyncio.wait_for(waiting, 5) is None


async def test_a_response_whose_frames_are_removed_meanwhile_is_not_found():
    growing = Growing(3)
    growing.store.ciphertexts.clear()
    with pytest.raises(CounterfoilError) as caught:
        async for _ in growing.tape.read():
            pass
    assert caught.value.code is Code.NOT_FOUND


def test_a_frame_is_announced_in_its_place_only():
    growing = Growing(3)
    with pytest.raises(AssertionError):
        growing.tape.add(FrameEvent(3, b"again", b""))
