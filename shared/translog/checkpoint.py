"""Checkpoints (C2SP tlog-checkpoint): a log's claim about its tree. Signed ones are in `signed_checkpoint`.

Our checkpoints have no extension lines: monitors cannot audit them, and ML-DSA-44 cosignatures do not
cover them. `parse_checkpoint` refuses them.
"""

from dataclasses import dataclass

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.notes import check_name, decode_base64, encode_base64
from shared.translog.tree import EMPTY_ROOT, HASH_BYTES, MAX_SIZE


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: the log's name, its number of leaves and its root."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        check_name(self.origin)
        if not 0 <= self.size <= MAX_SIZE:
            raise CounterfoilError(Code.MALFORMED, f"a checkpoint cannot have size {self.size}")
        if len(self.root) != HASH_BYTES:
            raise CounterfoilError(Code.MALFORMED, "a checkpoint's root must be 32 bytes long")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise CounterfoilError(
                Code.MALFORMED, "a checkpoint of size 0 does not have the empty tree's root"
            )

    @property
    def body(self) -> str:
        """The note text: three lines, each with its newline."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"


def parse_checkpoint(body: str) -> Checkpoint:
    """Parse a note text of exactly three lines; otherwise MALFORMED."""
    lines = body.split("\n")
    if len(lines) != 4 or lines[3]:
        raise CounterfoilError(
            Code.MALFORMED,
            "a checkpoint must have three lines (origin, size, root) and no extensions",
        )
    return Checkpoint(lines[0], parse_decimal(lines[1]), decode_base64(lines[2]))


def parse_decimal(text: str) -> int:
    """Parse an ASCII decimal of at most 19 digits without leading zeros; otherwise MALFORMED."""
    if not (0 < len(text) <= 19 and text.isascii() and text.isdigit()) or (
        text[0] == "0" and text != "0"
    ):
        raise CounterfoilError(Code.MALFORMED, "a number is not a plain decimal")
    return int(text)
