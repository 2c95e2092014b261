"""Offline proofs of inclusion as one text file (C2SP tlog-proof, `.tlog-proof`).

c2sp.org/tlog-proof@v1
extra <base64>            (optional; not authenticated, never trusted here)
index <decimal>
<base64 hash>             (leaf's sibling first)
                          (empty line)
<checkpoint note>
"""

from dataclasses import dataclass

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint, parse_checkpoint, parse_decimal
from shared.translog.notes import (
    MAX_NOTE_BYTES,
    decode_base64,
    decode_text,
    encode_base64,
    parse_note,
)
from shared.translog.policy import LogPolicy, Witnessed, verify_witnessed
from shared.translog.proofs import verify_inclusion
from shared.translog.tree import HASH_BYTES, leaf_hash

MAGIC = "c2sp.org/tlog-proof@v1"
MAX_EXTRA_BYTES = 64 * 1024
MAX_PATH = 63


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A parsed proof file; nothing in it has been verified."""

    index: int
    path: tuple[bytes, ...]
    note: str
    """The checkpoint with its signatures, verbatim."""
    extra: bytes | None = None

    def encode(self) -> str:
        """Return the file's text."""
        lines = [MAGIC]
        if self.extra is not None:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines.append(f"index {self.index}")
        lines.extend(encode_base64(value) for value in self.path)
        return "\n".join(lines) + "\n\n" + self.note

    @property
    def claimed(self) -> Checkpoint:
        """The checkpoint inside, its signatures unverified."""
        return parse_checkpoint(parse_note(self.note).text)


def parse_tlog_proof(data: bytes | str) -> TlogProof:
    """Parse a proof file strictly; MALFORMED on any deviation."""
    text = decode_text(data, MAX_NOTE_BYTES + 2 * MAX_EXTRA_BYTES)
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines[0] != MAGIC:
        raise CounterfoilError(Code.MALFORMED, f"a tlog-proof must begin with {MAGIC!r}")
    extra: bytes | None = None
    at = 1
    if at < len(lines) and lines[at].startswith("extra "):
        extra = decode_base64(lines[at].removeprefix("extra "))
        at += 1
    if at >= len(lines) or not lines[at].startswith("index "):
        raise CounterfoilError(Code.MALFORMED, "a tlog-proof has no index line")
    index = parse_decimal(lines[at].removeprefix("index "))
    hashes = lines[at + 1 :]
    if len(hashes) > MAX_PATH:
        raise CounterfoilError(Code.MALFORMED, f"a tlog-proof has more than {MAX_PATH} hashes")
    path = tuple(decode_base64(line) for line in hashes)
    if any(len(value) != HASH_BYTES for value in path):
        raise CounterfoilError(Code.MALFORMED, "a hash in a tlog-proof is not 32 bytes long")
    parse_note(note)
    return TlogProof(index, path, note, extra)


@dataclass(frozen=True, slots=True)
class VerifiedInclusion:
    """An entry that is in a witnessed log, and where."""

    index: int
    witnessed: Witnessed

    @property
    def checkpoint(self) -> Checkpoint:
        """The witnessed checkpoint that covers the entry."""
        return self.witnessed.checkpoint


def verify_tlog_proof(data: bytes | str, entry: bytes, policy: LogPolicy) -> VerifiedInclusion:
    """Check, with nothing but the log policy, that `entry` is in a witnessed log.

    Errors: MALFORMED, UNTRUSTED_KEY, BAD_SIGNATURE, NOT_WITNESSED, BAD_PROOF.
    """
    proof = parse_tlog_proof(data)
    witnessed = verify_witnessed(proof.note, policy)
    checkpoint = witnessed.checkpoint
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.path, checkpoint.root)
    return VerifiedInclusion(proof.index, witnessed)
