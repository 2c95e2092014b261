"""What a tenant notes on its orders for its own books, and how an order shows it (protocol §4.5.1).

Equal tags of one tenant have equal blinded values, so that costs can be grouped by them. Without the tenant's tag key
no value can be read, and no guess confirmed.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.codec.cbor import encode
from shared.codec.hashing import labelled_hash, labelled_mac
from shared.codec.ids import check_label
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable

COST_CENTRE: Final = "cost_centre"
"""The name of the tag that a single text stands for."""
KEY_BYTES: Final = 32
MAX_TAGS: Final = 16
MAX_VALUE: Final = 128
"""Characters of a value, in Unicode's form NFC."""
TAG_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,62}")


def canonical_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags by name, with values in Unicode's form NFC; INVALID_ARGUMENT names what is outside the limits.

    The argument may hold anything that JSON can: names and values are checked here.
    """
    if not 1 <= len(tags) <= MAX_TAGS:
        raise _wrong(f"an order has 1 to {MAX_TAGS} tags, not {len(tags)}")
    return {
        _name(name): _value(name, value)
        for name, value in sorted(tags.items(), key=lambda tag: str(tag[0]))
    }


@dataclass(frozen=True, slots=True, repr=False)
class TagKey:
    """A tenant's tag key: 32 random bytes, the same on all of its clients, and known to nobody else."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise _wrong(f"a tag key has {KEY_BYTES} bytes, not {len(self.raw)}")

    def blind(self, tenant: str, tags: Mapping[str, str]) -> bytes:
        """Return an order's `cost_centre`, 32 bytes. INVALID_ARGUMENT for tags outside the limits."""
        return labelled_mac(
            self.raw, "cost-centre", tenant.encode("ascii"), encode(canonical_tags(tags))
        )

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits by which people see whether two machines have the same key."""
        return labelled_hash("tag-key", self.raw).hex()[:16]


def _name(name: object) -> str:
    if not isinstance(name, str) or not TAG_NAME.fullmatch(name):
        raise _wrong(
            f"{printable(str(name), 80)!r} cannot be the name of a tag: it is a lower-case letter and up to 62"
            " letters, digits, dots, hyphens and underscores"
        )
    return name


def _value(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(f"the tag {name} must be text, not {type(value).__name__}")
    return check_label(unicodedata.normalize("NFC", value), f"the tag {name}", MAX_VALUE)


def _wrong(detail: str) -> CounterfoilError:
    return CounterfoilError(Code.INVALID_ARGUMENT, detail)
