"""What each signature type covers (C2SP tlog-cosignature, signed-note).

| type | message | blob after the key id |
|---|---|---|
| 0x01 Ed25519 | the note text | signature (64) |
| 0x04 Ed25519 cosignature | `cosignature/v1`, `time T`, the note text | u64 T ‖ signature (64) |
| 0x06 ML-DSA-44 cosignature | `cosigned_message` of [0, size) | u64 T ‖ signature (2420) |
"""

import struct

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import SignatureLine, SignatureType, Signer, Verifier

MAX_TIME = 2**63 - 1
_SUBTREE_LABEL = b"subtree/v1\n\x00"


def ed25519_message(checkpoint: Checkpoint, time_s: int) -> bytes:
    """Return the message of a 0x04 cosignature."""
    return f"cosignature/v1\ntime {time_s}\n{checkpoint.body}".encode()


def mldsa44_message(cosigner: str, checkpoint: Checkpoint, time_s: int) -> bytes:
    """Return the `cosigned_message` of a 0x06 cosignature, in TLS presentation (RFC 8446 §3)."""
    name, origin = cosigner.encode(), checkpoint.origin.encode()
    return b"".join(
        (
            _SUBTREE_LABEL,
            struct.pack(">B", len(name)) + name,
            struct.pack(">Q", time_s),
            struct.pack(">B", len(origin)) + origin,
            struct.pack(">QQ", 0, checkpoint.size),
            checkpoint.root,
        )
    )


def _message(verifier: Verifier, checkpoint: Checkpoint, time_s: int) -> bytes:
    match verifier.kind:
        case SignatureType.ED25519:
            return checkpoint.body.encode()
        case SignatureType.COSIGNATURE_ED25519:
            return ed25519_message(checkpoint, time_s)
        case SignatureType.COSIGNATURE_MLDSA44:
            return mldsa44_message(verifier.name, checkpoint, time_s)


def cosign(signer: Signer, checkpoint: Checkpoint, *, time_s: int) -> SignatureLine:
    """Sign a checkpoint as the key's type requires.

    `time_s` is POSIX seconds; zero, which would claim nothing about freshness, is INVALID_ARGUMENT.
    """
    if not 0 < time_s <= MAX_TIME:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"a cosignature cannot have time {time_s}")
    verifier = signer.verifier
    raw = signer.sign_raw(_message(verifier, checkpoint, time_s))
    prefix = struct.pack(">Q", time_s) if verifier.kind.timestamped else b""
    return SignatureLine(verifier.name, verifier.key_id, prefix + raw)


def verify(verifier: Verifier, line: SignatureLine, checkpoint: Checkpoint) -> int:
    """Check a line that names this key; return its time (0 for 0x01). A failure is BAD_SIGNATURE.

    A time of zero in a cosignature claims nothing about freshness and is refused.
    """
    blob, time_s = line.signature, 0
    if verifier.kind.timestamped:
        if len(blob) < 8:
            raise _bad(verifier, "is too short")
        (time_s,) = struct.unpack(">Q", blob[:8])
        blob = blob[8:]
        if not 0 < time_s <= MAX_TIME:
            raise _bad(verifier, "has a time out of range")
    if not verifier.verify_raw(blob, _message(verifier, checkpoint, time_s)):
        raise _bad(verifier, "does not verify")
    return time_s


def _bad(verifier: Verifier, reason: str) -> CounterfoilError:
    return CounterfoilError(
        Code.BAD_SIGNATURE, f"the {verifier.kind.name} signature of {verifier.name!r} {reason}"
    )
