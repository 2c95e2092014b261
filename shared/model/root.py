"""The model root: a Merkle root over a checkpoint's tensors and the files that fix what it says. No torch.

Leaves, in order of name: for every tensor H("model-tensor", name, dtype, shape as u64s, SHA-256 of its little-endian bytes); for
each of config.json, generation_config.json, tokenizer.json, tokenizer_config.json and chat_template.jinja that exists
H("model-file", name, SHA-256 of its bytes), in this order. Tensors sort before files. The tree is RFC 9162's.
A part of a checkpoint has the root of the whole: the leaves of what it lacks are listed in it.
"""

import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from shared.codec.hashing import labelled_hash
from shared.model.part_file import read_part
from shared.model.shards import Entry, open_shard, read_exactly, read_headers
from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import read_file
from shared.text.model_files import FILES, file_leaf
from shared.translog.tree import leaf_hash, root

REQUIRED = frozenset({"config.json", "tokenizer.json"})
MAX_CHECKPOINT = 1 << 40
"""The most bytes that are hashed: a sparse file can claim any size."""
PIECE = 1 << 20
"""Bytes that are read at a time."""


def model_root(folder: Path) -> bytes:
    """Return the root, 32 bytes. Reads every byte of the checkpoint; CORRUPT names a file that is damaged."""
    return root_of(model_leaves(folder))


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf entries."""
    return root([leaf_hash(leaf) for leaf in leaves])


def model_leaves(folder: Path) -> list[bytes]:
    """Return the leaf entries in their order, those of the files last; otherwise as `model_root`.

    In a part of a checkpoint those of its tensors and files are computed, and must be the listed ones (`PartFile`).
    """
    part = read_part(folder)
    files = {name: leaf for name in FILES if (leaf := _file_leaf(folder / name)) is not None}
    shards = read_headers(folder)
    size = sum(entry.stop - entry.start for found in shards.values() for entry in found.values())
    if size > MAX_CHECKPOINT:
        raise CounterfoilError(
            Code.MALFORMED,
            f"{next(iter(shards))} and the files next to it hold {size >> 30} GiB, "
            f"more than any checkpoint",
        )
    tensors: dict[str, bytes] = {}
    for path, found in shards.items():
        tensors |= _tensor_leaves(path, found)
    if part is not None:
        part.check_leaves(tensors, files)
        return list(part.leaves)
    return [*(tensors[name] for name in sorted(tensors)), *files.values()]


def _file_leaf(path: Path) -> bytes | None:
    data = read_file(path)
    if data is not None:
        return file_leaf(path.name, data)
    if path.name in REQUIRED:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} is missing")
    return None


def _tensor_leaves(path: Path, entries: dict[str, Entry]) -> dict[str, bytes]:
    buffer = memoryview(bytearray(PIECE))
    with open_shard(path) as file:
        return {name: _leaf(name, entry, file, buffer) for name, entry in entries.items()}


def _leaf(name: str, entry: Entry, file: BinaryIO, buffer: memoryview) -> bytes:
    digest = sha256()
    for piece in pieces(file, entry, buffer):
        digest.update(piece)
    return tensor_leaf(name, entry, digest.digest())


def pieces(file: BinaryIO, entry: Entry, buffer: memoryview) -> Iterator[memoryview]:
    """Yield a tensor's bytes, each time in the same buffer; EOFError if the file ends before."""
    for start in range(entry.start, entry.stop, len(buffer)):
        piece = buffer[: min(len(buffer), entry.stop - start)]
        read_exactly(file, start, piece)
        yield piece


def tensor_leaf(name: str, entry: Entry, digest: bytes) -> bytes:
    """Return the leaf entry of a tensor whose bytes have this SHA-256."""
    shape = b"".join(struct.pack(">Q", length) for length in entry.shape)
    return labelled_hash("model-tensor", name.encode(), entry.dtype.encode(), shape, digest)
