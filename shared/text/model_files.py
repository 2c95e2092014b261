"""The checkpoint files that define what its texts mean, and their place under the model root (protocol §7.1). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from shared.codec.hashing import labelled_hash
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.proofs import inclusion_proof, lookup_in, verify_inclusion
from shared.translog.tree import leaf_hash

FILES: Final[tuple[str, ...]] = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""In the order of their leaves, which are the tree's last. The first file is always present."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file's leaf is."""

    name: str
    index: int
    path: tuple[bytes, ...]
    """RFC 9162 inclusion path."""


def file_leaf(name: str, data: bytes) -> bytes:
    """Return the leaf entry of a file."""
    return labelled_hash("model-file", name.encode(), sha256(data).digest())


def places(names: Sequence[str], leaves: Sequence[bytes]) -> list[Place]:
    """Return the places of the files, whose leaf entries are the last of `leaves`."""
    lookup, size = lookup_in([leaf_hash(leaf) for leaf in leaves]), len(leaves)
    return [
        Place(name, index, tuple(inclusion_proof(index, size, lookup)))
        for index, name in enumerate(names, start=size - len(names))
    ]


def check_files(files: Sequence[tuple[Place, bytes]], size: int, root: bytes) -> None:
    """Check that these are the files under a model root, unchanged and with none missing; otherwise BAD_PROOF.
    They are consecutive, the last leaves of a tree of `size`, and begin with the file that is always present; the paths
    to the root prove that much, whatever the true size is (every leaf hash differs from every node hash).
    """
    found = [place.name for place, _ in files]
    if found[:1] != [FILES[0]] or found != [name for name in FILES if name in found]:
        raise CounterfoilError(Code.BAD_PROOF, "these are not a model's files in order")
    if [place.index for place, _ in files] != list(range(size - len(files), size)):
        raise CounterfoilError(
            Code.BAD_PROOF, "the files are not the last leaves of the model root"
        )
    for place, data in files:
        leaf = leaf_hash(file_leaf(place.name, data))
        verify_inclusion(leaf, place.index, size, place.path, root)
