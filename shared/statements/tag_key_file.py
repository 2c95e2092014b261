"""The file of a tenant's tag key (protocol §4.5.1): 64 hexadecimal digits and a line feed, readable by its owner only."""

from pathlib import Path
from typing import Final

from shared.codec.ids import parse_hex32
from shared.runtime.config import check_private
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import read_bounded
from shared.statements.tags import KEY_BYTES, TagKey

_LENGTH: Final = 2 * KEY_BYTES + 1


def load_tag_key(path: Path) -> TagKey:
    """Return the key in a file; CONFIGURATION if it is absent, open to others or not a tag key."""
    check_private(path)
    data = read_bounded(path, _LENGTH)
    try:
        return TagKey(parse_hex32(data.decode("ascii").removesuffix("\n"), "a tag key"))
    except (UnicodeDecodeError, CounterfoilError) as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} is not a tag key: 64 lower-case hexadecimal digits and a line feed",
        ) from error
