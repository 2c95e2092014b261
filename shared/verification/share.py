"""The file that opens one request to whoever holds it (docs/bundle.md §7): its bytes, strictly. Nothing in it is verified here."""

import json
from dataclasses import dataclass
from typing import Any, Final

from shared.codec.hashing import framing
from shared.codec.strict_json import strict_json
from shared.envelope.hpke import Opener, hpke_key_id, open_sealed, seal
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.notes import decode_base64, encode_base64
from shared.verification.bundle import Bundle, bundle_of

FORMAT: Final = "counterfoil-share/v1"
SEALED: Final = "counterfoil-sealed-share/v1"
MAX_SHARE: Final = 96 * 2**20
MAX_FRAMES: Final = 2**20 + 1


@dataclass(frozen=True, slots=True, repr=False)
class Share:
    """A parsed file; nothing in it has been verified."""

    bundle: Bundle
    secret: bytes
    envelope: bytes
    node_nonce: bytes
    accepted_signature: bytes
    frames: tuple[tuple[bytes, bytes], ...]
    """(ciphertext, signature) in order."""
    final_record: bytes
    final_signature: bytes

    def encode(self) -> bytes:
        """Return the file's bytes."""
        values = {
            "format": FORMAT,
            "bundle": self.bundle.members(),
            **{name: encode_base64(getattr(self, name)) for name in _OCTETS},
            "frames": [[encode_base64(part) for part in frame] for frame in self.frames],
        }
        return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"


_OCTETS: Final = (
    *("secret", "envelope", "node_nonce", "accepted_signature", "final_record", "final_signature"),
)


def seal_share(data: bytes, recipient: bytes) -> bytes:
    """Return a file that only the holder of a recipient's key opens; MALFORMED if the key is none."""
    key_id = hpke_key_id(recipient)
    sealed = seal(recipient, framing("shared-answer", key_id), data)
    values = {"format": SEALED, "recipient": key_id.hex(), "sealed": encode_base64(sealed)}
    return json.dumps(values, indent=2).encode() + b"\n"


def is_share(data: bytes) -> bool:
    """Return whether a file says that it is a share, sealed or not, and is to be read as one."""
    head = data[:128]
    return any(f'"{name}"'.encode() in head for name in (FORMAT, SEALED))


def parse_share(data: bytes, key: Opener | None = None) -> Share:
    """Parse a file's bytes strictly; MALFORMED, or UNREADABLE if it is sealed to somebody else."""
    values = _members(
        data, {SEALED: {"recipient", "sealed"}, FORMAT: {"bundle", "frames", *_OCTETS}}
    )
    if values["format"] == SEALED:
        if key is None:
            raise CounterfoilError(
                Code.UNREADABLE,
                "the share is sealed to a recipient",
                remedy="Give the key of `counterfoil client recipient-key` with --recipient-key FILE.",
            )
        opened = open_sealed(key, framing("shared-answer", key.key_id), _octets(values["sealed"]))
        values = _members(opened, {FORMAT: {"bundle", "frames", *_OCTETS}})
    frames = values["frames"]
    if not isinstance(frames, list) or len(frames) > MAX_FRAMES:
        raise _malformed("has no list of frames")
    if not all(isinstance(frame, list) and len(frame) == 2 for frame in frames):
        raise _malformed("has a frame that is not a ciphertext and a signature")
    bundle = bundle_of(values["bundle"])
    if bundle.context is None:
        raise _malformed("is not about a receipt")
    return Share(
        bundle=bundle,
        **{name: _octets(values[name]) for name in _OCTETS},
        frames=tuple((_octets(one), _octets(other)) for one, other in frames),
    )


def _members(data: bytes, formats: dict[str, set[str]]) -> dict[str, Any]:
    """Return the members of a file in one of these formats, exactly those that the format has."""
    try:
        values = strict_json(data) if len(data) <= MAX_SHARE else None
    except (ValueError, RecursionError) as error:
        raise _malformed("is not JSON in UTF-8") from error
    if not isinstance(values, dict):
        raise _malformed(f"is no JSON object of at most {MAX_SHARE} bytes")
    names = formats.get(str(values.get("format")))
    if names is None or values.keys() != {"format", *names}:
        raise _malformed(f"is not in the format {', '.join(formats)}, or has other members")
    return values


def _octets(value: object) -> bytes:
    if not isinstance(value, str):
        raise _malformed("has bytes that are not base64")
    return decode_base64(value)


def _malformed(problem: str) -> CounterfoilError:
    return CounterfoilError(
        Code.MALFORMED,
        f"the share {problem}",
        remedy="Make one with `counterfoil client share`.",
    )
