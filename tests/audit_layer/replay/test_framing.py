"""A case of any size passes part by part, and whatever stands in the pipe, nobody holds more of it than one part."""

import io
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_layer.replay.case import Case, ChainCase, Member
from audit_layer.replay.framing import (
    HEADER,
    MAX_CHAIN,
    MAX_FRAMES,
    MAX_HEAD,
    MAX_MEMBERS,
    excess,
    read_case,
    read_message,
    write_case,
    write_message,
)
from audit_layer.replay.judge import judge
from shared.codec import cbor
from shared.envelope.header import MAX_ENVELOPE
from shared.envelope.shape import MAX_FINAL, MAX_FRAME
from shared.statements.cose import MAX_STATEMENT
from shared.statements.verdicts import Reason
from tests.audit_layer.replay.inference import FakeArithmetic, make_case

CASE = make_case()
SECRET = bytes(32)
cases = st.builds(
    Case,
    receipt=st.binary(max_size=40),
    order=st.binary(max_size=40),
    envelope=st.binary(max_size=40),
    frames=st.lists(st.binary(max_size=40), max_size=5).map(tuple),
    final_record=st.binary(max_size=40),
    secret=st.just(SECRET),
    chain=st.none()
    | st.builds(
        ChainCase,
        bundles=st.lists(st.binary(max_size=40), max_size=3).map(tuple),
        members=st.lists(
            st.builds(Member, st.binary(max_size=40), st.binary(max_size=40)),
            min_size=1,
            max_size=3,
        ).map(tuple),
    ),
)


def written(case: Case, longest: int | None = None) -> bytes:
    stream = BytesIO()
    write_case(stream, case, tuple(case.frames), longest)
    return stream.getvalue()


def head(**fields: cbor.Value) -> bytes:
    """Return a head's bytes as the pipe has them."""
    usual: dict[str, cbor.Value] = {"receipt": b"", "order": b"", "secret": SECRET, "frames": 0}
    data = cbor.encode({**usual, **fields})
    return HEADER.pack(len(data)) + data


def chain(**fields: cbor.Value) -> bytes:
    """Return a chain's bytes likewise."""
    usual: dict[str, cbor.Value] = {"bundles": [], "members": [{"receipt": b"", "order": b""}]}
    data = cbor.encode({**usual, **fields})
    return HEADER.pack(len(data)) + data


def whole(case: Case) -> Case:
    return replace(case, frames=tuple(case.frames))


def test_messages_keep_their_bounds_on_the_pipe():
    stream = BytesIO()
    write_message(stream, b"case")
    for data, limit, expected in (
        (stream.getvalue(), 64, b"case"),
        (stream.getvalue()[:-1], 64, None),
        (stream.getvalue()[:3], 64, None),
        (b"", 64, None),
        (stream.getvalue(), 3, None),
    ):
        assert read_message(BytesIO(data), limit) == expected


@given(st.lists(st.tuples(cases, st.none() | st.integers(0, 2**40)), max_size=3))
def test_cases_that_follow_each_other_arrive_as_they_were_sent(
    sent: list[tuple[Case, int | None]],
):
    stream = BytesIO(b"".join(written(*each) for each in sent))
    for case, longest in sent:
        arriving = read_case(stream)
        assert arriving is not None
        assert arriving.longest == longest
        assert whole(arriving.case) == case
    assert read_case(stream) is None


@given(cases, st.integers(0, 5), cases)
def test_the_frames_that_nobody_looked_at_are_read_past(first: Case, looked_at: int, second: Case):
    stream = BytesIO(written(first) + written(second))
    arriving = read_case(stream)
    assert arriving is not None
    for _ in zip(range(looked_at), arriving.case.frames, strict=False):
        pass
    arriving.drain()
    arriving.drain()
    after = read_case(stream)
    assert after is not None
    assert whole(after.case) == second


@given(st.data())
def test_a_case_that_breaks_off_anywhere_is_none_or_ends_among_its_frames(data: st.DataObject):
    sent = written(CASE)
    arriving = read_case(BytesIO(sent[: data.draw(st.integers(0, len(sent) - 1))]))
    if arriving is not None:
        with pytest.raises(EOFError):
            arriving.drain()


@given(st.binary(max_size=200))
def test_what_is_no_case_is_none(data: bytes):
    read_case(BytesIO(data))  # it raises nothing, and has no length to wait for
    assert read_case(BytesIO(HEADER.pack(len(data)) + data + bytes(12))) is None


@pytest.mark.parametrize(
    "start",
    [
        HEADER.pack(MAX_HEAD + 1),
        head() + HEADER.pack(MAX_CHAIN + 1),
        head() + chain(members=[]) + bytes(8),
        head() + chain(members=[{"receipt": b"", "order": b""}] * (MAX_MEMBERS + 1)) + bytes(8),
        head() + chain(more=1) + bytes(8),
        head() + bytes(4) + HEADER.pack(MAX_ENVELOPE + 1),
        head() + bytes(8) + HEADER.pack(MAX_FINAL + 1),
        head(frames=MAX_FRAMES + 1) + bytes(12),
        head(frames=-1) + bytes(12),
        head(frames=b"") + bytes(12),
        head(longest=-1) + bytes(12),
        head(more=1) + bytes(12),
        head(secret=bytes(31)) + bytes(12),
        head(secret=None) + bytes(12),
    ],
    ids=[
        "head",
        "chain",
        "nobody",
        "members",
        "strange",
        "envelope",
        "final",
        "many",
        "less",
        "bytes",
        "longest",
        "more",
        "short",
        "none",
    ],
)
def test_a_head_or_a_part_beyond_its_bounds_is_no_case(start: bytes):
    assert read_case(io.BufferedReader(Endless(start))) is None


def test_a_frame_beyond_its_bound_ends_the_case():
    arriving = read_case(BytesIO(head(frames=1) + bytes(12) + HEADER.pack(MAX_FRAME + 1)))
    assert arriving is not None
    with pytest.raises(EOFError):
        arriving.drain()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"receipt": bytes(2 * MAX_STATEMENT)}, "statements of"),
        ({"envelope": bytes(MAX_ENVELOPE + 1)}, "an envelope of 4194305 bytes"),
        ({"final_record": bytes(MAX_FINAL + 1)}, "a final record of 16777217 bytes"),
        ({"frames": (b"", bytes(MAX_FRAME + 1))}, "a frame of 1048577 bytes"),
        ({"frames": (b"",) * (MAX_FRAMES + 1)}, f"{MAX_FRAMES + 1} frames"),
        ({"frames": (b"",) * MAX_FRAMES}, None),
        ({"frames": (bytes(MAX_FRAME),) * 300}, None),
        ({}, None),
    ],
    ids=["statements", "envelope", "final", "frame", "frames", "most", "large", "usual"],
)
def test_only_what_the_protocol_forbids_is_too_large(change: dict[str, bytes], said: str | None):
    case = replace(CASE, **change)  # type: ignore[arg-type]  # of all its fields
    found = excess(case, tuple(case.frames))
    assert found == said if said is None else said in (found or "")


# -- memory -----------------------------------------------------------------------------------------------------

LARGE: int = 300
"""Frames of 1 MiB each."""


class Endless(io.RawIOBase):
    """A pipe that begins with some bytes and goes on with the same frame for ever, without holding it."""

    def __init__(self, start: bytes, frame: bytes = b"") -> None:
        self._next = iter(self._pieces(start, HEADER.pack(len(frame)) + frame))
        self._left = memoryview(b"")

    @staticmethod
    def _pieces(start: bytes, frame: bytes) -> Iterator[bytes]:
        yield start
        while True:
            yield frame

    def readable(self) -> bool:
        return True

    def readinto(self, into: bytearray | memoryview) -> int:  # type: ignore[override]  # as RawIOBase calls it
        if not self._left:
            self._left = memoryview(next(self._next))
        size = min(len(into), len(self._left))
        into[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


class Sink(io.RawIOBase):
    """A pipe whose other end reads and forgets."""

    def __init__(self) -> None:
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # as BufferedWriter calls it
        self.size += len(data)
        return len(data)


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that Python held during a piece of work, beyond those before it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def arriving_large() -> IO[bytes]:
    """Return a pipe with `CASE`, but with hundreds of MB of frames that are none of its own."""
    sent = written(replace(CASE, frames=()))
    (size,) = HEADER.unpack_from(sent)
    known = cbor.decode(sent[4 : 4 + size])
    assert isinstance(known, dict)
    fields = {str(name): value for name, value in known.items()}
    return io.BufferedReader(
        Endless(head(**{**fields, "frames": LARGE}) + sent[4 + size :], bytes(MAX_FRAME))
    )


def test_hundreds_of_megabytes_are_read_in_the_memory_of_a_few_frames():
    stream = arriving_large()

    def work() -> None:
        arriving = read_case(stream)
        assert arriving is not None
        assert sum(1 for _ in arriving.case.frames) == LARGE

    assert peak(work) < 8 * MAX_FRAME


def test_a_judge_who_is_done_with_the_first_frame_does_not_gather_the_others():
    stream = arriving_large()

    def work() -> None:
        arriving = read_case(stream)
        assert arriving is not None
        assert judge(arriving.case, FakeArithmetic()).reason is Reason.STREAM
        arriving.drain()

    assert peak(work) < 8 * MAX_FRAME


def test_hundreds_of_megabytes_are_written_without_a_copy():
    frames, sink = (bytes(MAX_FRAME),) * LARGE, Sink()
    assert peak(lambda: write_case(io.BufferedWriter(sink), CASE, frames)) < 8 * MAX_FRAME
    assert sink.size > LARGE * MAX_FRAME
