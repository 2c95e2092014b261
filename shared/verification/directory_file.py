"""The key directory as one file beside a log's tiles, so that any web server can serve it (protocol §5.8).

It holds public statements with the paths that lead from them to the root of one checkpoint. Nothing in it is verified by
reading it: signatures, paths and cosignatures are checked by whoever uses a statement.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from shared.codec.strict_json import strict_json
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.notes import MAX_NOTE_BYTES, decode_base64, encode_base64, parse_note
from shared.translog.tlog_proof import MAX_PATH, TlogProof

FORMAT: Final = "counterfoil-directory/v1"
PATH: Final = "directory.json"
"""Its name below the log's address, beside `checkpoint` and `tile/`."""
MAX_DIRECTORY: Final = 16 * 2**20
MAX_STATEMENTS: Final = 4096


@dataclass(frozen=True, slots=True)
class Placed:
    """A statement, and the path from its index to the root."""

    statement: bytes
    index: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DirectoryFile:
    """A parsed file; nothing in it has been verified."""

    note: str
    """The checkpoint with its signatures, verbatim."""
    statements: tuple[Placed, ...]

    def proof(self, placed: Placed) -> str:
        """Return the tlog-proof of one of its statements."""
        return TlogProof(placed.index, placed.path, self.note).encode()

    def encode(self) -> bytes:
        """Return the file's bytes."""
        listed = [
            {
                "index": item.index,
                "path": [encode_base64(value) for value in item.path],
                "statement": encode_base64(item.statement),
            }
            for item in self.statements
        ]
        values = {"format": FORMAT, "checkpoint": self.note, "statements": listed}
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def parse_directory(data: bytes) -> DirectoryFile:
    """Parse a file strictly; MALFORMED if it is anything else."""
    if len(data) > MAX_DIRECTORY:
        raise _malformed(f"is longer than {MAX_DIRECTORY} bytes")
    try:
        values = strict_json(data)
    except (ValueError, RecursionError) as error:
        raise _malformed("is not JSON in UTF-8") from error
    _members(values, {"format", "checkpoint", "statements"})
    if values["format"] != FORMAT:
        raise _malformed(f"is not in the format {FORMAT}")
    note = values["checkpoint"]
    if not isinstance(note, str) or len(note) > MAX_NOTE_BYTES:
        raise _malformed("has a checkpoint that is not a note")
    parse_note(note)
    placed = tuple(_placed(item) for item in _items(values["statements"], MAX_STATEMENTS))
    if any(one.index >= other.index for one, other in pairwise(placed)):
        raise _malformed("has statements whose indexes do not rise")
    return DirectoryFile(note, placed)


def _placed(item: Any) -> Placed:
    _members(item, {"index", "path", "statement"})
    index = item["index"]
    if type(index) is not int or not 0 <= index < 2**63:
        raise _malformed("has an index that is not one")
    path = tuple(_octets(value) for value in _items(item["path"], MAX_PATH))
    return Placed(_octets(item["statement"]), index, path)


def _members(value: Any, names: set[str]) -> None:
    if not isinstance(value, dict) or value.keys() != names:
        raise _malformed(f"has an object without exactly the members {', '.join(sorted(names))}")


def _items(value: Any, most: int) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise _malformed(f"has a list that is none, or of more than {most}")
    return value


def _octets(value: Any) -> bytes:
    if not isinstance(value, str):
        raise _malformed("has bytes that are not base64")
    return decode_base64(value)


def _malformed(problem: str) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, f"the directory file {problem}")
