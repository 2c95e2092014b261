"""Response frames: one order, one reading, one response; and evidence bound to it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.hashing import labelled_hash
from shared.envelope.evidence import Evidence, open_evidence, seal_evidence
from shared.envelope.opaque import unreadable
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.stream import (
    FinalRecord,
    Frame,
    FrameOpener,
    FrameSealer,
    StreamContext,
    stream_hash,
    stream_signature_message,
)
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.logprobs import TokenLogprobs
from shared.statements.receipts import EnergyQuality, Finish, Usage
from tests.vectors.samples import octets

CTX = octets("ctx")
KEYS = TranscriptKeys.derive(octets("ts"), CTX)
CONTEXT = StreamContext(CTX, KEYS.kc, octets("bundle"), octets("nonce"), 0)
USAGE = Usage(input=3, cached=0, output=4, energy_quality=EnergyQuality.UNMEASURED)
FINAL = FinalRecord(
    tokens=(1, 2, 3, 4),
    text="abcd",
    usage=USAGE,
    finish=Finish.STOP,
    receipt=b"receipt",
    evidence=b"evidence",
)
PIECES = (((1,), "a"), ((2, 3), "bc"), ((4,), "d"))


def sent(context=CONTEXT, keys=KEYS):
    """Return (ciphertexts, final record, sealer) of one response."""
    sealer = FrameSealer(keys, context)
    frames = [sealer.seal(tokens, text)[0] for tokens, text in PIECES]
    return frames, sealer.seal_final(FINAL), sealer


FRAMES, LAST, SEALER = sent()


def receive(frames, final, context=CONTEXT, keys=KEYS):
    opener = FrameOpener(keys, context)
    pieces = [opener.open(frame) for frame in frames]
    return pieces, opener.open_final(final)


def refused(frames, final=LAST, context=CONTEXT, keys=KEYS):
    with pytest.raises(CounterfoilError) as caught:
        receive(frames, final, context, keys)
    assert (caught.value.code, caught.value.detail) == (Code.UNREADABLE, unreadable().detail)


def test_a_response_is_received_as_it_was_sent():
    pieces, final = receive(FRAMES, LAST)
    assert pieces == [Frame(tokens, text) for tokens, text in PIECES]
    assert final == FINAL


def test_the_chain_is_the_protocols():
    attempt = (0).to_bytes(4, "big")
    h = labelled_hash("stream", CTX, KEYS.kc, CONTEXT.bundle, CONTEXT.node_nonce, attempt)
    assert SEALER.h0 == h == CONTEXT.h_0
    for frame in FRAMES:
        h = labelled_hash("frame", h, frame)
    assert SEALER.h_final == SEALER.h == h == stream_hash(CONTEXT, FRAMES)
    assert SEALER.frames == 3


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (2, 1, 0)])
def test_reordered_frames_fail(order):
    refused([FRAMES[i] for i in order])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_truncated_response_fails_at_the_final_record(count):
    refused(FRAMES[:count])


def test_a_frame_that_is_missing_at_the_start_or_in_the_middle_fails():
    refused(FRAMES[1:])
    refused([FRAMES[0], FRAMES[2]])


def test_a_frame_cannot_be_read_twice():
    refused([FRAMES[0], FRAMES[0], *FRAMES[1:]])
    refused([*FRAMES, FRAMES[2]])


def test_nothing_follows_the_final_record():
    opener = FrameOpener(KEYS, CONTEXT)
    for frame in FRAMES:
        opener.open(frame)
    opener.open_final(LAST)
    for again in (lambda: opener.open_final(LAST), lambda: opener.open(FRAMES[0])):
        with pytest.raises(CounterfoilError) as caught:
            again()
        assert caught.value.code is Code.UNREADABLE


def test_a_frame_is_not_a_final_record_and_the_other_way_round():
    refused(FRAMES[:2], FRAMES[2])
    refused([*FRAMES, LAST])
    refused([LAST, *FRAMES])


@pytest.mark.parametrize(
    "change",
    [
        {"node_nonce": octets("second nonce")},
        {"attempt": 1},
        {"bundle": octets("other bundle")},
        {"kc": octets("other kc")},
        {"ctx": octets("other ctx")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_frames_of_another_stream_cannot_be_spliced_in_or_reflected(change):
    other = replace(CONTEXT, **change)
    frames, final, _ = sent(other)
    refused(frames, final)
    refused([frames[0], *FRAMES[1:]])
    refused([FRAMES[0], frames[1], FRAMES[2]])
    refused(FRAMES, final)
    refused(FRAMES, LAST, other)
    assert receive(frames, final, other)[1] == FINAL


def test_another_transcript_secret_opens_nothing():
    refused(FRAMES, LAST, keys=TranscriptKeys.derive(octets("other"), CTX))


def test_a_failed_frame_leaves_the_opener_where_it_was():
    opener = FrameOpener(KEYS, CONTEXT)
    opener.open(FRAMES[0])
    before = opener.h
    for bad in (FRAMES[0], b"", b"x" * 10, FRAMES[1][:-1], b"x" * (2**20 + 1)):
        with pytest.raises(CounterfoilError):
            opener.open(bad)
    assert (opener.h, opener.frames) == (before, 1)
    assert opener.open(FRAMES[1]).text == "bc"


def test_a_sealer_seals_one_final_record_and_no_frame_after_it():
    _, _, sealer = sent()
    for again in (lambda: sealer.seal_final(FINAL), lambda: sealer.seal((1,), "x")):
        with pytest.raises(CounterfoilError) as caught:
            again()
        assert caught.value.code is Code.CONFLICT


def test_a_frame_that_no_client_would_take_is_not_sealed():
    sealer = FrameSealer(KEYS, CONTEXT)
    with pytest.raises(CounterfoilError) as caught:
        sealer.seal((), "x" * (2**20 - 100))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert (sealer.frames, sealer.h) == (0, sealer.h0)


def test_a_response_without_frames_has_h_0_as_h_final():
    sealer = FrameSealer(KEYS, CONTEXT)
    record = replace(FINAL, finish=Finish.FAILED, tokens=(), text="", evidence=None)
    data = sealer.seal_final(record)
    assert sealer.h_final == sealer.h0
    assert receive([], data) == ([], record)


def test_a_frames_length_tells_its_class_only():
    sealer = FrameSealer(KEYS, CONTEXT)
    lengths = {len(sealer.seal((token,), text)[0]) for token, text in ((1, ""), (2**31, "x" * 30))}
    assert lengths == {64 + 16}


@settings(max_examples=60, deadline=None)
@given(which=st.integers(0, 3), data=st.data())
def test_no_changed_byte_passes(which, data):
    record = [*FRAMES, LAST][which]
    at = data.draw(st.integers(0, len(record) - 1))
    changed = record[:at] + bytes([record[at] ^ data.draw(st.integers(1, 255))]) + record[at + 1 :]
    records = [*FRAMES, LAST]
    records[which] = changed
    refused(records[:3], records[3])


@settings(max_examples=30, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.text(max_size=90)),
        max_size=5,
    )
)
def test_any_pieces_round_trip(pieces):
    sealer, opener = FrameSealer(KEYS, CONTEXT), FrameOpener(KEYS, CONTEXT)
    for tokens, text in pieces:
        ciphertext, h = sealer.seal(tokens, text)
        frame = opener.open(ciphertext)
        assert (frame.tokens, frame.text, opener.h) == (tuple(tokens), text, h)


def test_a_record_that_is_valid_cbor_of_another_shape_is_unreadable():
    sealer = FrameSealer(KEYS, CONTEXT)
    odd = sealer._seal(0, FINAL, 2**20)
    refused([odd])


def test_signature_messages_differ_in_place_hash_and_stream():
    messages = {
        stream_signature_message(CONTEXT, 0, CONTEXT.h_0),
        stream_signature_message(CONTEXT, 1, CONTEXT.h_0),
        stream_signature_message(CONTEXT, 0, SEALER.h),
        stream_signature_message(replace(CONTEXT, bundle=octets("b")), 0, CONTEXT.h_0),
    }
    assert len(messages) == 4


EVIDENCE = Evidence((1, 2), (3,), (octets("p"),), (octets("o"),), "text")


def test_evidence_opens_under_its_own_stream_only():
    data = seal_evidence(EVIDENCE, KEYS, CONTEXT)
    assert open_evidence(data, KEYS, CONTEXT) == EVIDENCE
    attempts = [
        (data, KEYS, replace(CONTEXT, node_nonce=octets("n"))),
        (data, KEYS, replace(CONTEXT, attempt=1)),
        (data, KEYS, replace(CONTEXT, bundle=octets("b"))),
        (data, KEYS, replace(CONTEXT, kc=octets("k"))),
        (data, TranscriptKeys.derive(octets("other"), CTX), CONTEXT),
        (data[:-1], KEYS, CONTEXT),
        (b"", KEYS, CONTEXT),
        (bytes(2**24 + 1), KEYS, CONTEXT),
    ]
    for attempt in attempts:
        with pytest.raises(CounterfoilError) as caught:
            open_evidence(*attempt)
        assert (caught.value.code, caught.value.detail) == (Code.UNREADABLE, unreadable().detail)


def test_a_frame_has_logprobs_forevery_token_or_none_and_says_whether_they_fit():
    def told(own, *top):
        return TokenLogprobs(own, tuple(token for token, _ in top), tuple(p for _, p in top))

    good = told(-10, (4, -10), (5, -20))
    assert Frame((4,), "x", (good,)).answers(2)
    assert not Frame((4,), "x", (good,)).answers(1)  # more than requested
    assert not Frame((4,), "x", (good,)).answers(None)
    assert not Frame((4,), "x").answers(0)
    assert Frame((), "rest").answers(3)
    assert Frame((), "rest").answers(None)
    assert Frame((4,), "x", (told(-30),)).answers(0)
    for lie in (
        told(-11, (4, -10), (5, -20)),  # a value that differs from the same token's among the top
        told(
            -15, (6, -10), (5, -20)
        ),  # likelier than the least likely of the top, but not one of them
    ):
        assert not Frame((4,), "x", (lie,)).answers(2)
    for tokens in ((), (4, 4)):
        with pytest.raises(CounterfoilError):
            Frame(tokens, "x", (good,))
    for wrong in (
        lambda: told(1),
        lambda: told(-(10**9) - 1),
        lambda: told(-1, (4, -20), (5, -10)),
        lambda: told(-1, (4, -1), (4, -1)),
        lambda: told(-1, *((n, -n) for n in range(21))),
        lambda: TokenLogprobs(-1, (1, 2), (-1,)),
    ):
        with pytest.raises(CounterfoilError) as caught:
            wrong()
        assert caught.value.code is Code.MALFORMED


def test_logprobs_travel_in_a_frame_and_are_absent_when_off():
    sealer, opener = FrameSealer(KEYS, CONTEXT), FrameOpener(KEYS, CONTEXT)
    entry = TokenLogprobs(-10, (4,), (-10,))
    for logprobs in ((entry,), ()):
        ciphertext, _ = sealer.seal((4,), "x", logprobs)
        frame = opener.open(ciphertext)
        assert frame.logprobs == (logprobs or None)
        assert ("logprobs" in frame.to_payload()) == bool(logprobs)


def test_no_repr_shows_the_answer():
    for value in (FINAL, EVIDENCE, Frame((1,), "abcd")):
        assert "abcd" not in repr(value)
        assert "text" not in repr(value)
