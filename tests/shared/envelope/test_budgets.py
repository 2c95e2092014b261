"""Decoding a frame, a final record, evidence or a release case costs no more work than its schema permits, whoever made it."""

import pytest

from shared.codec import cbor
from shared.envelope.evidence import MAX_EVIDENCE, Evidence
from shared.envelope.header import MAX_ENVELOPE, Envelope, Header
from shared.envelope.shape import MAX_FINAL, MAX_FRAME
from shared.envelope.stream import FinalRecord, Frame
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.logprobs import TokenLogprobs
from shared.verification.release_case import MAX_CASE, ReleaseCase

BOMBS = {
    Frame: ({"text": "", "tokens": [[]] * 200_000}, MAX_FRAME),
    FinalRecord: ({"text": "", "tokens": [[]] * 200_000}, MAX_FINAL),
    Evidence: ({"text": "", "output_tokens": [{}] * 200_000}, MAX_EVIDENCE),
    Envelope: ({"wraps": [[]] * 10_000}, MAX_ENVELOPE),
    Header: ({"shares": [[]] * 60_000}, MAX_ENVELOPE),
    ReleaseCase: ({"floor_entries": [[]] * 65_536}, MAX_CASE),
}


@pytest.fixture
def begun(monkeypatch):
    """Count the arrays and maps that the decoder begins."""
    counted = [0]

    def counting(inner):
        def read(*args):
            counted[0] += 1
            return inner(*args)

        return read

    nested = {major: counting(inner) for major, inner in cbor._NESTED.items()}
    monkeypatch.setattr(cbor, "_NESTED", nested)
    return counted


@pytest.mark.parametrize("record", BOMBS, ids=lambda record: record.__name__)
def test_arrays_where_numbers_or_bytes_belong_are_refused_before_they_are_made(record, begun):
    value, most = BOMBS[record]
    data = cbor.encode(value)
    with pytest.raises(CounterfoilError, match="permitted") as caught:
        record.from_cbor(data, max_bytes=most)
    assert caught.value.code is Code.MALFORMED
    assert begun[0] <= min(100_000, record.max_nested())


def test_the_longest_frame_is_read():
    least = TokenLogprobs(0, (), ())
    count = (MAX_FRAME - 100) // (len(least.to_cbor()) + 1)
    frame = Frame((1,) * count, "", (least,) * count)
    data = frame.to_cbor()
    assert MAX_FRAME - 1000 < len(data) <= MAX_FRAME
    assert Frame.from_cbor(data, max_bytes=MAX_FRAME) == frame


def test_evidence_of_the_longest_context_is_read():
    evidence = Evidence(
        input_tokens=(0,) * 2**20,
        output_tokens=(),
        prompt_blocks=(bytes(32),) * 2**15,
        output_blocks=(),
        text="",
    )
    assert Evidence.from_cbor(evidence.to_cbor(), max_bytes=MAX_EVIDENCE) == evidence
