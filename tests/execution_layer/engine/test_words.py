"""The text of honest frames: however a sequence ends and its chunks are gathered, frames say what their tokens say."""

from hypothesis import given, settings
from hypothesis import strategies as st

from execution_layer.engine.protocol import FinishReason, GenerationRequest
from execution_layer.engine.sequence import SequenceState
from shared.commitments.exact import ActivationHasher
from shared.model.sampler import Sampler
from shared.statements.request import SamplingSettings
from shared.text.stream import TextStream, frames_say
from tests.shared.model import tiny
from tests.shared.text.backends import byte_tokens, tokenizer

OUTSIDE = (FinishReason.CANCELLED, FinishReason.DEADLINE, FinishReason.FAILED)
TOKENS = st.lists(
    st.one_of(
        st.integers(0, tiny.VOCABULARY + 20),
        st.sampled_from(byte_tokens("tiny", b"\xc3\xe2\xf0\x9f\x98\x80\xa9\xffthe an")),
    ),
    min_size=1,
    max_size=40,
)
STOPS = st.lists(st.sampled_from(("a", "the", "an t", "😀", "é", "\ufffd")), max_size=3)


@settings(max_examples=300, deadline=None)
@given(tokens=TOKENS, stop=STOPS, stop_ids=st.sets(st.integers(0, 300), max_size=2), data=st.data())
def test_honest_frames_say_what_their_tokens_say(tokens, stop, stop_ids, data):
    settings = SamplingSettings(
        data.draw(st.integers(1, 40)), stop=tuple(stop), stop_token_ids=tuple(sorted(stop_ids))
    )
    chosen = tokenizer("tiny")
    sequence = SequenceState(
        request=GenerationRequest("r", "a", (1,), settings, bytes(32)),
        stream=TextStream(chosen, settings.stop, settings.stop_token_ids),
        hasher=ActivationHasher(1, 8),
        sampler=Sampler(settings, bytes(32)),
    )
    chunks: list[tuple[tuple[int, ...], str]] = []
    for token in tokens:
        chunks.append(((token,), sequence.take(token)))
        if sequence.ended is not None:
            break
    if sequence.ended is None:
        sequence.ended = data.draw(st.sampled_from(OUTSIDE))
    if rest := sequence.rest():
        chunks.append(((), rest))
    ended = sequence.ended in {FinishReason.STOP, FinishReason.LENGTH}
    frames = [((), "")]
    for taken, text in chunks:
        if data.draw(st.booleans()):
            frames.append(((), ""))
        frames[-1] = ((*frames[-1][0], *taken), frames[-1][1] + text)
    assert frames_say(chosen, frames, settings.stop, settings.stop_token_ids, ended=ended)
    spoiled = data.draw(st.integers(0, len(frames) - 1))
    frames[spoiled] = (frames[spoiled][0], "x" + frames[spoiled][1])
    said = "".join(text for _, text in frames)
    if said != sequence.stream.text[: len(said)]:
        assert not frames_say(chosen, frames, settings.stop, settings.stop_token_ids, ended=ended)
