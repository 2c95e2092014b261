"""The safetensors files of a checkpoint: which there are, what their headers say, and the bytes of a tensor. No torch.

Files are read, never mapped: where a mapped file shrinks, the process that looks at it is killed.
"""

import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import open_regular, read_up_to
from shared.text.files import parse_json, read_json, shown

INDEX: Final = "model.safetensors.index.json"
WHOLE: Final = "model.safetensors"
MAX_HEADER: Final = 4 << 20
"""A header takes about a hundred bytes per tensor."""
MAX_DIMENSIONS: Final = 8
SHARD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors")
"""A shard's name: a plain one, so that no index leads out of its folder."""
SIZES: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of an element."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file; `start` and `stop` are offsets in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


Shards = dict[Path, dict[str, Entry]]
"""The files of a checkpoint, and the tensors of each."""


def read_headers(folder: Path) -> Shards:
    """Read the headers of a checkpoint's files; no tensor is read.

    CONFIGURATION for a file that is missing or cannot be read, CORRUPT for one that is not whole: tensors must fill it without
    gap or overlap, each with as many bytes as its shape says. MALFORMED where a file does not hold just what the index assigns
    to it.
    """
    shards: Shards = {}
    for path, assigned in weight_files(folder).items():
        found = _read_header(path)
        _check_shard(path, found, assigned)
        shards[path] = found
    return shards


def weight_files(folder: Path) -> dict[Path, frozenset[str] | None]:
    """Return the safetensors files of a checkpoint with the tensors that the index assigns to each.

    These are the shards that the index names, or one file, whose tensors nothing lists (None). MALFORMED for an index that makes
    no sense, names a tensor twice, leads out of the folder, or is next to an unsharded file.
    """
    index, whole = folder / INDEX, folder / WHOLE
    if not os.path.lexists(index):
        return {whole: None}
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CounterfoilError(Code.MALFORMED, f"{index} has no weight_map")
    shards: dict[str, set[str]] = {}
    for tensor, shard in names.items():
        if not isinstance(shard, str) or not SHARD.fullmatch(shard):
            raise CounterfoilError(
                Code.MALFORMED, f"{index} names {shard!r:.80}: a shard is a file in the same folder"
            )
        shards.setdefault(shard, set()).add(tensor)
    if whole.name not in shards and os.path.lexists(whole):
        raise CounterfoilError(
            Code.MALFORMED, f"{whole} is not among the shards of {INDEX}: which is the checkpoint?"
        )
    return {folder / name: frozenset(shards[name]) for name in sorted(shards)}


def _check_shard(path: Path, found: Iterable[str], assigned: frozenset[str] | None) -> None:
    """Raise MALFORMED, naming a tensor, unless a file holds exactly those that the index assigns to it."""
    if assigned is None:
        return
    for tensor in sorted(assigned.symmetric_difference(found)):
        holds = "lacks" if tensor in assigned else "holds"
        raise CounterfoilError(
            Code.MALFORMED, f"{path} {holds} the tensor {shown(tensor)}, contrary to {INDEX}"
        )


@contextmanager
def open_shard(path: Path) -> Iterator[BinaryIO]:
    """Open a file of a checkpoint. CONFIGURATION if it is missing or cannot be read; CORRUPT if `read_exactly` finds its end."""
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError as error:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} is missing") from error
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{path} cannot be read: {error.strerror}"
        ) from error
    except EOFError as error:
        raise CounterfoilError(
            Code.CORRUPT, f"{path} changed while it was read", remedy="Run again."
        ) from error


def read_exactly(file: BinaryIO, start: int, buffer: memoryview) -> None:
    """Fill a buffer from an offset of a file; EOFError if the file ends before."""
    file.seek(start)
    if file.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]  # typeshed leaves it out
        raise EOFError


def _read_header(path: Path) -> dict[str, Entry]:
    with open_shard(path) as file:

        def read(start: int, stop: int) -> bytes:
            file.seek(start)
            return read_up_to(file, stop - start)

        return header_of(str(path), file.seek(0, 2), read)


def header_of(where: str, end: int, read: Callable[[int, int], bytes]) -> dict[str, Entry]:
    """Return what the header of a file of `end` bytes says, of which `read` returns those of a range; CORRUPT as `read_headers`."""
    try:
        return _parse(end, read)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, _HeaderError) else "its header is not JSON"
        raise CounterfoilError(
            Code.CORRUPT,
            f"{where} is not a whole safetensors file: {why}",
            remedy="Fetch the checkpoint again.",
        ) from error


class _HeaderError(ValueError):
    """What is wrong with a header."""


def _parse(end: int, read: Callable[[int, int], bytes]) -> dict[str, Entry]:
    prefix = read(0, min(8, end))
    size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else end
    if size > min(MAX_HEADER, end - 8):
        raise _HeaderError("its header is cut off or too large")
    header = parse_json(read(8, 8 + size))
    if not isinstance(header, dict):
        raise _HeaderError("its header is not an object")
    header.pop("__metadata__", None)
    entries = {name: _entry(name, info, 8 + size) for name, info in header.items()}
    _check_places(entries.values(), 8 + size, end)
    return entries


def _entry(name: str, info: Any, begin: int) -> Entry:
    name.encode()  # a lone surrogate has no bytes
    what = f"the tensor {shown(name)}"
    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        raise _HeaderError(f"{what} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise _HeaderError(f"{what} has no known dtype")
    if not _wholes(shape) or len(shape) > MAX_DIMENSIONS:
        raise _HeaderError(f"{what} has no shape")
    if not _wholes(offsets) or len(offsets) != 2:
        raise _HeaderError(f"{what} has no data_offsets")
    first, last = offsets
    if last - first != math.prod(shape) * SIZES[dtype]:
        raise _HeaderError(f"{what} does not have the bytes of its shape")
    return Entry(dtype, tuple(shape), begin + first, begin + last)


def _wholes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 1 << 63 for item in value
    )


def _check_places(entries: Iterable[Entry], begin: int, end: int) -> None:
    """Raise unless the tensors fill the file without gap or overlap: then every byte is under the root."""
    for start, stop in sorted((entry.start, entry.stop) for entry in entries):
        if start != begin:
            raise _HeaderError("tensors overlap or leave a gap")
        begin = stop
    if begin != end:
        raise _HeaderError("its tensors do not end where the file does")
