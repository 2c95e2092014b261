"""What passes between a worker and its replay process: messages, and a case as a sequence of them.

A message is u32 length ‖ bytes. A case is a head, chain, envelope, final record and then every frame, each a message of its own:
neither side ever holds a second copy of a whole case, and the frames, which are most of it, are read one by one. Every
part has the protocol's own bound (§2, §3.2, §4.3.1); all of them together have none.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

from audit_layer.replay.case import Case, ChainCase, Member
from shared.codec import cbor
from shared.codec.fields import Reader
from shared.envelope.header import MAX_ENVELOPE
from shared.envelope.shape import MAX_FINAL, MAX_FRAME
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import MAX_STATEMENT
from shared.statements.keys import MAX_STAGES
from shared.statements.orders import MAX_TOKENS

HEADER: Final = struct.Struct(">I")
SPARE_FRAMES: Final = 64
"""Frames without a token: for text that was held back, and for what a failure left."""
MAX_FRAMES: Final = MAX_TOKENS + SPARE_FRAMES
"""Frames of the longest answer that can be ordered: each but a few has at least one token."""
MAX_HEAD: Final = 2 * MAX_STATEMENT + 2**10
MAX_MEMBERS: Final = MAX_STAGES + 1
MAX_CHAIN: Final = (MAX_STAGES + 2 * MAX_MEMBERS) * (MAX_STATEMENT + 2**4) + 2**10
"""Bytes of the statements about a chain."""
MAX_ANSWER: Final = 2**20
"""Bytes of judgements: their checks are a few lines each, and a chain has `MAX_MEMBERS` of them at most."""


def read_message(stream: IO[bytes], limit: int) -> bytes | None:
    """Read one message; None when the stream has ended or the message is longer than `limit` bytes."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    if size > limit:
        return None
    data = stream.read(size)
    return data if len(data) == size else None


def write_message(stream: IO[bytes], data: bytes) -> None:
    """Write one message; `flush` the stream after the last one."""
    stream.write(HEADER.pack(len(data)))
    stream.write(data)


def excess(case: Case, frames: Sequence[bytes]) -> str | None:
    """Return, in words, which part of a case is larger than the protocol permits; None if none is."""
    chain = case.chain or ChainCase((), ())
    for name, size, most in (
        ("statements", len(case.receipt) + len(case.order), 2 * MAX_STATEMENT),
        ("statements of a chain", len(_chain_bytes(case.chain)), MAX_CHAIN),
        ("key bundles", len(chain.bundles), MAX_STAGES),
        ("receipts of a chain", len(chain.members), MAX_MEMBERS),
        ("an envelope", len(case.envelope), MAX_ENVELOPE),
        ("a final record", len(case.final_record), MAX_FINAL),
        ("a frame", max(map(len, frames), default=0), MAX_FRAME),
    ):
        if size > most:
            return f"{name} of {size} bytes"
    return f"{len(frames)} frames" if len(frames) > MAX_FRAMES else None


def write_case(
    stream: IO[bytes], case: Case, frames: Sequence[bytes], longest: int | None = None
) -> None:
    """Write a case with these frames, none of which is in `excess`, and how many tokens may be replayed at most."""
    head: dict[str, cbor.Value] = {
        "receipt": case.receipt,
        "order": case.order,
        "secret": case.secret,
        "frames": len(frames),
    }
    if longest is not None:
        head["longest"] = longest
    chain = _chain_bytes(case.chain)
    for part in (cbor.encode(head), chain, case.envelope, case.final_record, *frames):
        write_message(stream, part)
    stream.flush()


def _chain_bytes(chain: ChainCase | None) -> bytes:
    if chain is None:
        return b""
    members: list[cbor.Value] = [
        {"receipt": member.receipt, "order": member.order} for member in chain.members
    ]
    return cbor.encode({"bundles": list(chain.bundles), "members": members})


def _chain_of(data: bytes) -> ChainCase | None:
    if not data:
        return None
    read = Reader(cbor.decode(data, max_bytes=MAX_CHAIN), "chain")
    bundles = read.list_of("bundles", bytes, max_items=MAX_STAGES)
    members = []
    for item in read.readers("members", max_items=MAX_MEMBERS):
        members.append(Member(item.bytes("receipt"), item.bytes("order")))
        item.done()
    read.done()
    if not members:
        read.refuse("members", "has nobody")
    return ChainCase(tuple(bundles), tuple(members))


@dataclass(frozen=True, slots=True)
class Arriving:
    """A case whose frames are still on their way."""

    case: Case
    longest: int | None
    """The most tokens of prompt and output that may be replayed; None for any number."""

    def drain(self) -> None:
        """Read past the frames that nobody has looked at; EOFError when they do not come."""
        for _ in self.case.frames:
            pass


def read_case(stream: IO[bytes]) -> Arriving | None:
    """Read a case up to its frames; None when the stream has ended or is not one."""
    limits = (MAX_HEAD, MAX_CHAIN, MAX_ENVELOPE, MAX_FINAL)
    head, chain, envelope, final_record = (read_message(stream, most) for most in limits)
    if head is None or chain is None or envelope is None or final_record is None:
        return None
    try:
        read = Reader(cbor.decode(head, max_bytes=MAX_HEAD), "case")
        case = Case(
            receipt=read.bytes("receipt"),
            order=read.bytes("order"),
            envelope=envelope,
            frames=_frames(stream, read.int("frames", high=MAX_FRAMES)),
            final_record=final_record,
            secret=read.bytes("secret", length=32),
            chain=_chain_of(chain),
        )
        longest = read.int("longest") if read.has("longest") else None
        read.done()
    except CounterfoilError:
        return None
    return Arriving(case, longest)


def _frames(stream: IO[bytes], count: int) -> Iterator[bytes]:
    for _ in range(count):
        frame = read_message(stream, MAX_FRAME)
        if frame is None:
            raise EOFError("a case ended before its last frame")
        yield frame
