"""Signed checkpoints (C2SP tlog-checkpoint): the log's own signatures over its claim about its tree."""

from collections.abc import Iterable, Sequence

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint, parse_checkpoint
from shared.translog.cosignature import cosign, verify
from shared.translog.notes import Note, SignatureLine, Signer, Verifier, parse_note


def sign(checkpoint: Checkpoint, signers: Sequence[Signer], *, time_s: int) -> Note:
    """Return the note of a checkpoint signed with the log's own keys, whose name is the origin.

    `time_s` (POSIX seconds) goes into the ML-DSA-44 signature, which C2SP defines as a cosignature.
    """
    for signer in signers:
        if signer.verifier.name != checkpoint.origin:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"the log's key is named {signer.verifier.name!r}, not after its origin",
            )
    return Note(
        checkpoint.body, tuple(cosign(signer, checkpoint, time_s=time_s) for signer in signers)
    )


def signature_time(
    checkpoint: Checkpoint, signatures: Iterable[SignatureLine], verifier: Verifier
) -> int | None:
    """Return the time of this key's first signature (0 for types without a time); None if there is no signature.
    A line that names the key but does not verify is BAD_SIGNATURE: C2SP requires the note to be refused then.
    """
    found: int | None = None
    for line in signatures:
        if line.name == verifier.name and line.key_id == verifier.key_id:
            time_s = verify(verifier, line, checkpoint)
            found = time_s if found is None else found
    return found


def parse_and_verify(data: bytes | str, verifiers: Sequence[Verifier]) -> tuple[Checkpoint, Note]:
    """Parse a checkpoint note and check the log's signatures.

    `verifiers` are log keys; those named after the checkpoint's origin apply, and *each* of them
    must have signed: if a verifier holds an Ed25519 and an ML-DSA-44 key, a note that lacks
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
