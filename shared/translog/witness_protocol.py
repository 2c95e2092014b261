"""The bodies of `POST <prefix>/add-checkpoint` (C2SP tlog-witness), for both sides.

The request is the old size, up to 63 lines of a consistency proof, an empty line and the checkpoint
note; the response is one or more cosignature lines, or with 409 the size that the witness holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import parse_decimal
from shared.translog.notes import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    SignatureLine,
    decode_base64,
    decode_text,
    encode_base64,
    parse_signature_line,
)
from shared.translog.tree import HASH_BYTES

MAX_PROOF_LINES = 63
MAX_REQUEST_BYTES = MAX_NOTE_BYTES + 64 * 64
SIZE_CONTENT_TYPE = "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request for cosignatures; the note is not parsed yet."""

    old_size: int
    proof: tuple[bytes, ...]
    note: str

    def encode(self) -> bytes:
        """Return the request's body."""
        lines = "".join(f"{encode_base64(value)}\n" for value in self.proof)
        return f"old {self.old_size}\n{lines}\n{self.note}".encode()


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Parse a request strictly; otherwise MALFORMED."""
    text = decode_text(body, MAX_REQUEST_BYTES)
    head, separator, note = text.partition("\n\n")
    first, *rest = head.split("\n")
    if not separator or not first.startswith("old "):
        raise CounterfoilError(Code.MALFORMED, "a request must begin with 'old <size>'")
    if len(rest) > MAX_PROOF_LINES:
        raise CounterfoilError(Code.MALFORMED, f"a proof has more than {MAX_PROOF_LINES} lines")
    proof = tuple(decode_base64(line) for line in rest)
    if any(len(value) != HASH_BYTES for value in proof):
        raise CounterfoilError(Code.MALFORMED, "a hash in the proof is not 32 bytes long")
    return AddCheckpoint(parse_decimal(first.removeprefix("old ")), proof, note)


def encode_cosignatures(lines: Sequence[SignatureLine]) -> bytes:
    """Return the body of a 200 response."""
    return "".join(line.encode() for line in lines).encode()


def parse_cosignatures(body: bytes) -> tuple[SignatureLine, ...]:
    """Parse the body of a 200 response; otherwise MALFORMED."""
    text = decode_text(body)
    lines = text.split("\n")
    if len(lines) < 2 or lines.pop() or len(lines) > MAX_SIGNATURES:
        raise CounterfoilError(
            Code.MALFORMED, "a witness's answer is not a list of signature lines"
        )
    return tuple(parse_signature_line(line) for line in lines)


def parse_size(body: bytes) -> int:
    """Parse the body of a 409 response: a decimal and a newline; otherwise MALFORMED."""
    text = decode_text(body, 64)
    if not text.endswith("\n"):
        raise CounterfoilError(Code.MALFORMED, "a witness's size does not end in a newline")
    return parse_decimal(text[:-1])


def latest_path(origin: str) -> str:
    """Return the path below a witness's prefix at which our witnesses serve the latest checkpoint of a log.

    C2SP leaves retrieval open; ours is `checkpoint/<hex SHA-256 of the origin>`.
    """
    return f"checkpoint/{sha256(origin.encode()).hexdigest()}"
