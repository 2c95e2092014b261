"""Checkpoints (C2SP tlog-checkpoint): what a log says its tree is, signed.

A checkpoint of ours has no extension lines: monitors cannot audit them, and ML-DSA-44
cosignatures do not cover them. `parse_checkpoint` refuses them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.cosignature import cosign, verify
from shared.translog.notes import (
    Note,
    SignatureLine,
    Signer,
    Verifier,
    check_name,
    decode_base64,
    encode_base64,
    parse_note,
)
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
            raise CounterfoilError(Code.MALFORMED, "a checkpoint's root has 32 bytes")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise CounterfoilError(
                Code.MALFORMED, "a checkpoint of size 0 has not the empty tree's root"
            )

    @property
    def body(self) -> str:
        """The note text: three lines, each with its newline."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"


def parse_checkpoint(body: str) -> Checkpoint:
    """Parse a note text of exactly three lines; else MALFORMED."""
    lines = body.split("\n")
    if len(lines) != 4 or lines[3]:
        raise CounterfoilError(
            Code.MALFORMED, "a checkpoint has three lines (origin, size, root) and no extensions"
        )
    return Checkpoint(lines[0], parse_decimal(lines[1]), decode_base64(lines[2]))


def parse_decimal(text: str) -> int:
    """Parse an ASCII decimal of at most 19 digits without leading zeroes; else MALFORMED."""
    if not (0 < len(text) <= 19 and text.isascii() and text.isdigit()) or (
        text[0] == "0" and text != "0"
    ):
        raise CounterfoilError(Code.MALFORMED, "a number is not a plain decimal")
    return int(text)


def sign(checkpoint: Checkpoint, signers: Sequence[Signer], *, time_s: int) -> Note:
    """Return the note of a checkpoint signed by the log's own keys, whose names are the origin.

    `time_s` (POSIX seconds) goes into the ML-DSA-44 signature, which C2SP defines as a cosignature.
    """
    for signer in signers:
        if signer.verifier.name != checkpoint.origin:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"the log's key is named {signer.verifier.name!r}, not by its origin",
            )
    return Note(
        checkpoint.body, tuple(cosign(signer, checkpoint, time_s=time_s) for signer in signers)
    )


def signature_time(
    checkpoint: Checkpoint, signatures: Iterable[SignatureLine], verifier: Verifier
) -> int | None:
    """Return the time of this key's first signature (0 for types without), None if there is none.

    A line that names the key and does not verify is BAD_SIGNATURE: C2SP has the note refused then.
    """
    found: int | None = None
    for line in signatures:
        if line.name == verifier.name and line.key_id == verifier.key_id:
            time_s = verify(verifier, line, checkpoint)
            found = time_s if found is None else found
    return found


def parse_and_verify(data: bytes | str, verifiers: Sequence[Verifier]) -> tuple[Checkpoint, Note]:
    """Parse a checkpoint note and check the log's signatures.

    `verifiers` are log keys; those named by the checkpoint's origin apply, and *each* of them
    must have signed: where a verifier holds an Ed25519 and an ML-DSA-44 key, a note that lacks
    either is refused, so breaking one algorithm is not enough. Errors: MALFORMED, UNTRUSTED_KEY
    for an unknown origin, BAD_SIGNATURE.
    """
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    keys = [verifier for verifier in verifiers if verifier.name == checkpoint.origin]
    if not keys:
        raise CounterfoilError(
            Code.UNTRUSTED_KEY, f"no key is known for the log {checkpoint.origin!r}"
        )
    for verifier in keys:
        if signature_time(checkpoint, note.signatures, verifier) is None:
            raise CounterfoilError(
                Code.BAD_SIGNATURE, f"the checkpoint lacks the log's {verifier.kind.name} signature"
            )
    return checkpoint, note
