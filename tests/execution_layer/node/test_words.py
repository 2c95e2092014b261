"""What waits for a frame, and what a frame of one size takes of it; and when frames are due."""

from hypothesis import given, settings
from hypothesis import strategies as st

from execution_layer.engine.protocol import TokenChunk
from execution_layer.node.slot_clock import SlotClock
from execution_layer.node.words import Waiting
from shared.envelope.stream import Frame
from shared.statements.logprobs import TokenLogprobs

TOLD = TokenLogprobs(-(10**9), tuple(range(2**32 - 20, 2**32)), (-(10**9),) * 20)
"""The longest entry that there is."""
CHUNKS = st.lists(
    st.tuples(st.lists(st.integers(0, 2**32 - 1), max_size=5), st.text(max_size=400)), max_size=12
)


def frames_of(waiting, size):
    frames = []
    while waiting:
        words = waiting.take_within(size)
        frame = Frame(tuple(words.tokens), words.text, tuple(words.logprobs) or None)
        assert words.tokens or words.text
        assert len(frame.to_cbor()) < size
        frames.append(frame)
    return frames


@settings(max_examples=100, deadline=None)
@given(chunks=CHUNKS, size=st.sampled_from([256, 1024]), told=st.booleans())
def test_frames_of_one_size_take_everything_in_order_and_text_never_runs_ahead(chunks, size, told):
    told = told and size >= 1024
    waiting = Waiting()
    for tokens, text in chunks:
        waiting.add(TokenChunk(tuple(tokens), text, (TOLD,) * (len(tokens) if told else 0)))
    assert waiting.tokens == [token for tokens, _ in chunks for token in tokens]
    settled = {0: ""}
    """How much text may have been shown after so many tokens."""
    for tokens, text in chunks:
        settled[max(settled) + len(tokens)] = settled[max(settled)] + text
    tokens, text = [], ""
    for frame in frames_of(waiting, size):
        tokens += frame.tokens
        text += frame.text
        known = max(count for count in settled if count <= len(tokens))
        assert settled[known].startswith(text)
        assert len(frame.logprobs or ()) == (len(frame.tokens) if told else 0)
    assert (tokens, text) == ([t for own, _ in chunks for t in own], "".join(t for _, t in chunks))


def test_everything_at_once_is_what_was_added():
    waiting = Waiting()
    waiting.add(TokenChunk((1, 2), "ab", ()))
    waiting.add(TokenChunk((), "c"))
    assert len(waiting) == 3
    words = waiting.take()
    assert (words.tokens, words.text) == ([1, 2], "abc")
    assert not waiting
    assert not waiting.take_within(256).tokens


def test_slots_that_were_missed_are_left_out_and_none_comes_twice():
    clock = SlotClock(100.0, 0.5)
    assert clock.wait(100.0) == 0.5
    assert not clock.due(100.49)
    assert clock.due(100.5)
    assert not clock.due(100.6)
    assert clock.due(103.26)  # several are over: one frame is due, and the next one on the grid
    assert clock.next_at == 103.5
    assert not clock.due(103.4)
    assert clock.due(103.5)
    assert clock.next_at == 104.0
