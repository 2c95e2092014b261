"""Under time slots, the sizes of records follow from what an observer sees anyway."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.envelope.secrets import TranscriptKeys
from shared.envelope.shape import CLASSES, MAX_FINAL, TAG, Shape, frame_class
from shared.envelope.stream import FinalRecord, FrameOpener, FrameSealer, StreamContext
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.receipts import EnergyQuality, Finish, Usage
from shared.statements.request import SLOT_SIZES, SamplingSettings, Slots
from tests.vectors.samples import octets

CTX = octets("ctx")
KEYS = TranscriptKeys.derive(octets("ts"), CTX)
CONTEXT = StreamContext(CTX, KEYS.kc, octets("bundle"), octets("nonce"), 0)
SHAPE = Shape(Slots(50, 256), request=512)
USAGE = Usage(input=1, cached=0, output=0, energy_quality=EnergyQuality.UNMEASURED)
FINAL = FinalRecord((), "", USAGE, Finish.LENGTH, b"receipt")


@pytest.mark.parametrize(
    ("frames", "filled"),
    [(0, 16), (1, 16), (16, 16), (17, 32), (32, 32), (33, 64), (1000, 1024), (1025, 2048)],
)
def test_answers_are_filled_up_to_a_class(frames, filled):
    assert frame_class(frames) == filled


def test_all_frames_have_one_size_and_open_under_no_other():
    sealer, opener = FrameSealer(KEYS, CONTEXT, SHAPE), FrameOpener(KEYS, CONTEXT, SHAPE)
    frames = [sealer.seal(*words)[0] for words in (((), ""), ((1, 2), "a"), ((5,) * 60, "é" * 50))]
    assert {len(frame) for frame in frames} == {256 + TAG}
    for other in (CLASSES, replace(SHAPE, slots=Slots(50, 512))):
        with pytest.raises(CounterfoilError) as caught:
            FrameOpener(KEYS, CONTEXT, other).open(frames[0])
        assert caught.value.code is Code.UNREADABLE
    assert [opener.open(frame).text for frame in frames] == ["", "a", "é" * 50]


def test_a_frame_of_another_size_does_not_open_under_slots():
    plain, _ = FrameSealer(KEYS, CONTEXT).seal((1,), "a")
    with pytest.raises(CounterfoilError) as caught:
        FrameOpener(KEYS, CONTEXT, SHAPE).open(plain)
    assert caught.value.code is Code.UNREADABLE


def test_what_does_not_fit_into_a_slot_is_not_sealed():
    sealer = FrameSealer(KEYS, CONTEXT, SHAPE)
    with pytest.raises(CounterfoilError) as caught:
        sealer.seal((), "x" * 256)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert sealer.frames == 0


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 2**17), max_size=300),
    text=st.text(max_size=600),
    frames=st.sampled_from([16, 32]),
)
def test_a_final_record_tells_no_more_than_the_number_of_frames(tokens, text, frames):
    """Whatever fits into these frames, however it is divided between tokens and text."""
    sealer, opener = FrameSealer(KEYS, CONTEXT, SHAPE), FrameOpener(KEYS, CONTEXT, SHAPE)
    for _ in range(frames):
        opener.open(sealer.seal((), "")[0])
    record = replace(FINAL, tokens=tuple(tokens), text=text, evidence=bytes(5 * len(tokens) + 1000))
    sealed = sealer.seal_final(record)
    assert len(sealed) == (16_384 if frames == 16 else 32_768) + TAG
    assert opener.open_final(sealed) == record


@pytest.mark.parametrize("size", sorted(SLOT_SIZES))
def test_no_final_record_grows_beyond_what_a_client_takes(size):
    shape = Shape(Slots(20, size), 2**20)
    assert shape.final(1000, shape.most_frames(1)) <= MAX_FINAL - TAG


@pytest.mark.parametrize(
    ("ms", "size"), [(19, 256), (10_001, 256), (50, 255), (50, 2**17), (50, 0)]
)
def test_slots_have_bounds(ms, size):
    with pytest.raises(CounterfoilError) as caught:
        Slots(ms, size)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_slots_need_a_deadline_and_room_for_log_probabilities():
    plain, told = SamplingSettings(8), SamplingSettings(8, logprobs=0)
    Slots(50, 256).check(plain, 50 * 2**15)
    Slots(50, 2**16).check(told, 50 * 2**8)
    for slots, asked, max_ms in (
        (Slots(50, 256), plain, None),
        (Slots(50, 256), plain, 50 * 2**15 + 1),
        (Slots(50, 2**16), plain, 50 * 2**8 + 1),
        (Slots(50, 512), told, 1000),
    ):
        with pytest.raises(CounterfoilError) as caught:
            slots.check(asked, max_ms)
        assert caught.value.code is Code.INVALID_ARGUMENT
