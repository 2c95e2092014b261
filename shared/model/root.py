"""The model root: a Merkle root over a checkpoint's tensors and the files that fix what it says. No torch.

Leaves, in order of name: for every tensor H("model-tensor", name, dtype, shape as u64s, SHA-256 of its little-endian bytes); for
each of config.json, generation_config.json, tokenizer.json, tokenizer_config.json and chat_template.jinja that exists
H("model-file", name, SHA-256 of its bytes), in this order. Tensors sort before files. The tree is RFC 9162's.
"""

import mmap
import re
import struct
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from shared.codec.hashing import labelled_hash
from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import parse_json, read_json
from shared.translog.tree import leaf_hash, root

FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
REQUIRED = frozenset({"config.json", "tokenizer.json"})
INDEX = "model.safetensors.index.json"
MAX_HEADER = 100 << 20
SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors")
"""A shard's name: a plain one, so that no index leads out of its folder."""


def model_root(folder: Path) -> bytes:
    """Return the root, 32 bytes. Reads every byte of the checkpoint; CORRUPT names a file that is damaged."""
    tensors: dict[str, bytes] = {}
    for path, assigned in weight_files(folder).items():
        found = _tensor_leaves(path)
        check_shard(path, found, assigned)
        tensors |= found
    leaves = [tensors[name] for name in sorted(tensors)]
    for name in FILES:
        path = folder / name
        if path.exists():
            digest = sha256(path.read_bytes()).digest()
            leaves.append(labelled_hash("model-file", name.encode(), digest))
        elif name in REQUIRED:
            raise CounterfoilError(Code.CONFIGURATION, f"{path} is missing")
    return root([leaf_hash(leaf) for leaf in leaves])


def weight_files(folder: Path) -> dict[Path, frozenset[str] | None]:
    """Return the safetensors files of a checkpoint with the tensors that the index assigns to each.

    That is the shards that the index names, or one file, whose tensors nothing lists (None). MALFORMED for an index that makes
    no sense, names a tensor twice or leads out of the folder, or that stands beside an unsharded file.
    """
    index, whole = folder / INDEX, folder / "model.safetensors"
    if not index.exists():
        return {whole: None}
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CounterfoilError(Code.MALFORMED, f"{index} has no weight_map")
    shards: dict[str, set[str]] = {}
    for tensor, shard in names.items():
        if not isinstance(shard, str) or not SHARD.fullmatch(shard):
            raise CounterfoilError(
                Code.MALFORMED, f"{index} names {shard!r:.80}: a shard is a file of its own folder"
            )
        shards.setdefault(shard, set()).add(tensor)
    if whole.name not in shards and whole.exists():
        raise CounterfoilError(
            Code.MALFORMED, f"{whole} is not among the shards of {INDEX}: which is the checkpoint?"
        )
    return {folder / name: frozenset(shards[name]) for name in sorted(shards)}


def check_shard(path: Path, found: Iterable[str], assigned: frozenset[str] | None) -> None:
    """Raise MALFORMED, naming a tensor, unless a file holds exactly those that the index assigns to it."""
    if assigned is None:
        return
    for tensor in sorted(assigned.symmetric_difference(found)):
        holds = "lacks" if tensor in assigned else "holds"
        raise CounterfoilError(
            Code.MALFORMED, f"{path} {holds} the tensor {tensor}, unlike what {INDEX} says"
        )


def _tensor_leaves(path: Path) -> dict[str, bytes]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(data)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        struct.error,
        RecursionError,
    ) as error:
        if isinstance(error, FileNotFoundError):
            raise CounterfoilError(Code.CONFIGURATION, f"{path} is missing") from error
        raise CounterfoilError(
            Code.CORRUPT,
            f"{path} is not a whole safetensors file",
            remedy="Fetch the checkpoint again.",
        ) from error


def _parse(data: mmap.mmap) -> dict[str, bytes]:
    (size,) = struct.unpack("<Q", data[:8])
    if size > MAX_HEADER:
        raise ValueError("the header is too large")
    header = parse_json(data[8 : 8 + size])
    leaves = {}
    spans = []
    for name, info in header.items():
        if name == "__metadata__":
            continue
        first, last = info["data_offsets"]
        start, stop = 8 + size + first, 8 + size + last
        if not 0 <= first <= last or stop > len(data):
            raise ValueError("a tensor lies outside the file")
        spans.append((start, stop))
        shape = b"".join(struct.pack(">Q", length) for length in info["shape"])
        with memoryview(data) as view, view[start:stop] as content:
            digest = sha256(content).digest()
        leaves[name] = labelled_hash(
            "model-tensor", name.encode(), info["dtype"].encode(), shape, digest
        )
    _check_spans(spans, 8 + size, len(data))
    return leaves


def _check_spans(spans: list[tuple[int, int]], begin: int, end: int) -> None:
    """Raise unless the tensors fill the file without gap or overlap: then every byte is under the root."""
    for start, stop in sorted(spans):
        if start != begin:
            raise ValueError("tensors overlap or leave a gap")
        begin = stop
    if begin != end:
        raise ValueError("the file is longer than its tensors")
