"""`part.json`: which tensors of a checkpoint a folder holds, and every leaf under the model root (protocol §7.1.3). No torch.

The file may be a stranger's. What is held is compared with its leaves; whether the leaves are those of a model, their root says.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import parse_json, read_file, shown

PART: Final = "part.json"
FORMAT: Final = "counterfoil-model-part/v1"
MAX_LEAVES: Final = 1 << 17
"""Some ten tensors for each of ten thousand layers."""
_LEAF: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PartFile:
    """What the file says."""

    leaves: tuple[bytes, ...]
    """The leaf entries under the model root, all of them, in order."""
    held: Mapping[str, int]
    """The tensors in the folder, in order of name, and the indexes of their leaves, which rise."""

    def encode(self) -> bytes:
        """Return the file's bytes."""
        leaves = [leaf.hex() for leaf in self.leaves]
        return json.dumps({"format": FORMAT, "leaves": leaves, "held": dict(self.held)}).encode()

    def check_names(self, names: Iterable[str]) -> None:
        """Raise MALFORMED, naming a tensor, unless the folder has exactly those that are listed."""
        there = frozenset(names)
        for name in sorted(self.held.keys() ^ there):
            has = "has" if name in there else "lacks"
            raise CounterfoilError(
                Code.MALFORMED, f"the folder {has} the tensor {shown(name)}, contrary to {PART}"
            )

    def check_leaves(self, tensors: Mapping[str, bytes], files: Mapping[str, bytes]) -> None:
        """Check the leaf entries of what is in the folder, the files' in their order.

        MALFORMED as `check_names`. CORRUPT names a tensor or a file that is not the listed one.
        """
        self.check_names(tensors)
        for name, leaf in tensors.items():
            self.check_tensor(name, leaf)
        self.check_files(files)

    def check_tensor(self, name: str, leaf: bytes) -> None:
        """Raise CORRUPT unless this is the leaf entry of a tensor that is held."""
        if leaf != self.leaves[self.held[name]]:
            raise _other(f"the tensor {shown(name)}")

    def check_files(self, files: Mapping[str, bytes]) -> None:
        """Raise CORRUPT, naming one, unless these are the leaf entries of all files, in their order."""
        begin = len(self.leaves) - len(files)
        for index, (name, leaf) in enumerate(files.items(), start=begin):
            if index < 0 or leaf != self.leaves[index]:
                raise _other(name)


def read_part(folder: Path) -> PartFile | None:
    """Return what makes a folder a part of a checkpoint, or None for a whole one; MALFORMED for a file that is anything else."""
    data = read_file(folder / PART)
    return None if data is None else parse_part(data)


def parse_part(data: bytes) -> PartFile:
    """Parse the file strictly; MALFORMED if it is anything else."""
    try:
        values = parse_json(data)
    except (ValueError, RecursionError) as error:
        raise _malformed("is not JSON in UTF-8, or names something twice") from error
    if not isinstance(values, dict) or values.keys() != {"format", "leaves", "held"}:
        raise _malformed("has not exactly the members format, leaves and held")
    if values["format"] != FORMAT:
        raise _malformed(f"is not in the format {FORMAT}")
    leaves, held = values["leaves"], values["held"]
    if not isinstance(leaves, list) or not 1 <= len(leaves) <= MAX_LEAVES:
        raise _malformed(f"has a list of leaves that is none, or of more than {MAX_LEAVES}")
    if not isinstance(held, dict) or not held:
        raise _malformed("holds no tensor")
    return PartFile(tuple(map(_leaf, leaves)), _held(held, len(leaves)))


def _leaf(value: Any) -> bytes:
    if not isinstance(value, str) or not _LEAF.fullmatch(value):
        raise _malformed("has a leaf that is not 64 lower-case hexadecimal digits")
    return bytes.fromhex(value)


def _held(values: dict[str, Any], leaves: int) -> dict[str, int]:
    held = dict(sorted(values.items()))
    if not all(type(index) is int and 0 <= index < leaves for index in held.values()):
        raise _malformed("holds a tensor without a leaf")
    if any(one >= other for one, other in pairwise(held.values())):
        raise _malformed("has tensors whose leaves are not in order of name")
    return held


def _malformed(problem: str) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, f"{PART} {problem}", remedy="Make the part again.")


def _other(what: str) -> CounterfoilError:
    return CounterfoilError(
        Code.CORRUPT,
        f"{what} is not the one whose leaf is listed in {PART}",
        remedy="Make the part again, from a checkpoint with the model root that you expect.",
    )
