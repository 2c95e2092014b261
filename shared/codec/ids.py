"""Names and identifiers: one spelling each."""

import re
from typing import Final

from shared.runtime.errors import Code, CounterfoilError

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MIN_PREFIX: Final = 12
"""Fewest hexadecimal digits by which people may name a hash: 48 bits, which no two entries of a log share by chance."""
_HEX32: Final = re.compile(r"[0-9a-f]{64}")
_HEX_PREFIX: Final = re.compile(rf"[0-9a-f]{{{MIN_PREFIX},64}}")


def check_name(value: str, what: str) -> str:
    """Return `value` if it can name a tenant, operator, node or party; otherwise INVALID_ARGUMENT."""
    if not NAME.fullmatch(value):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{what} {value[:80]!r} is not a name",
            remedy="Use 1 to 63 lower-case letters, digits and hyphens, and do not begin with a hyphen.",
        )
    return value


def check_label(value: str, what: str, most: int = 128) -> str:
    """Return a stranger's own identifier if it is one line of printable text; otherwise INVALID_ARGUMENT.
    No control characters, no NUL, no direction overrides, no surrogates.
    """
    odd = next((character for character in value if not character.isprintable()), None)
    if odd is not None:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{what} contains U+{ord(odd):04X}, which cannot be printed",
            remedy="Use visible letters, digits and symbols.",
        )
    if not 1 <= len(value) <= most or value != value.strip():
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{what} must be 1 to {most} characters that neither begin nor end with a space",
        )
    return value


def hex32(value: bytes) -> str:
    """Return 32 bytes as 64 lower-case hexadecimal digits."""
    if len(value) != 32:
        raise CounterfoilError(Code.MALFORMED, f"expected 32 bytes, found {len(value)}")
    return value.hex()


def parse_hex32(text: str, what: str) -> bytes:
    """Parse 32 bytes in the form that `hex32` writes; otherwise raise INVALID_ARGUMENT."""
    if not _HEX32.fullmatch(text):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"{what} must be 64 lower-case hexadecimal digits"
        )
    return bytes.fromhex(text)


def parse_hex_prefix(text: str, what: str) -> tuple[bytes, bytes]:
    """Return the lowest and the highest 32 bytes whose `hex32` has this prefix; INVALID_ARGUMENT below `MIN_PREFIX` digits."""
    if not _HEX_PREFIX.fullmatch(text):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{what} must be the first {MIN_PREFIX} to 64 lower-case hexadecimal digits",
        )
    return bytes.fromhex(text.ljust(64, "0")), bytes.fromhex(text.ljust(64, "f"))
