"""Makes a part of a checkpoint: a folder with the tensors of some layers, all files, and every leaf (protocol §7.1.3)."""

import json
import os
import secrets
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shared.model.config import ModelConfig
from shared.model.cut import Cut
from shared.model.part_file import PART, PartFile, read_part
from shared.model.root import PIECE, model_leaves, root_of
from shared.model.shards import WHOLE, Entry, open_shard, read_exactly
from shared.model.weights import HEAD, expected_shapes, tensor_places
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import PUBLIC_FILE, PUBLIC_FOLDER, make_folder, sync_folder, write_atomic
from shared.text.files import read_file
from shared.text.model_files import FILES

Places = Mapping[str, tuple[Path, Entry]]


@dataclass(frozen=True, slots=True)
class Made:
    """A part that is complete."""

    root: bytes
    """The model root: that of the whole."""
    tensors: int
    size: int
    """Bytes of its tensors."""


def make_part(source: Path, target: Path, cut: Cut) -> Made:
    """Copy what a cut needs of a checkpoint, or of a larger part, to a folder that does not exist yet.

    Tensors are copied in pieces. The target appears once it is complete, on disk, and has the source's model root. A run that is
    killed leaves a folder beside it whose name begins with a dot. CONFLICT for a target that exists, INVALID_ARGUMENT for layers
    that the model has not; otherwise errors as `load_weights`, and CORRUPT if the source changes meanwhile.
    """
    _check_free(target)
    config = ModelConfig.from_folder(source)
    if cut.last > config.layers:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"layers {cut.first}:{cut.last}: the model has {config.layers}",
        )
    places = tensor_places(source, config, cut)
    names = cut.of(expected_shapes(config))
    if cut.ends and HEAD in places.keys() - set(names):  # tied, and repeated
        names.append(HEAD)
    kept = {name: places[name] for name in sorted(names)}
    leaves = model_leaves(source)
    part = PartFile(tuple(leaves), _indexes(source, places, kept))
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        make_folder(fresh, PUBLIC_FOLDER)
        _fill(fresh, source, part, kept)
        model_leaves(fresh)  # what is on disk now, not what was read before
        _publish(fresh, target)
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{target} cannot be written: {error.strerror}"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    size = sum(entry.stop - entry.start for _, entry in kept.values())
    return Made(root_of(leaves), len(kept), size)


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise CounterfoilError(
            Code.CONFLICT,
            f"{target} exists",
            remedy="Nothing was changed. Name a folder that does not exist.",
        )


def _indexes(source: Path, places: Places, kept: Places) -> dict[str, int]:
    """Return the indexes of the leaves of what is kept."""
    part = read_part(source)
    every = part.held if part else {name: index for index, name in enumerate(sorted(places))}
    return {name: every[name] for name in kept}


def _fill(folder: Path, source: Path, part: PartFile, kept: Places) -> None:
    """Write the files, `part.json` first: without it the folder could be taken for a whole checkpoint."""
    write_atomic(folder / PART, part.encode(), mode=PUBLIC_FILE)
    for name in FILES:
        if (data := read_file(source / name)) is not None:
            write_atomic(folder / name, data, mode=PUBLIC_FILE)
    with (folder / WHOLE).open("xb") as file:
        os.fchmod(file.fileno(), PUBLIC_FILE)  # a model is no secret, whatever the umask is
        file.write(_header({name: entry for name, (_, entry) in kept.items()}))
        buffer = memoryview(bytearray(PIECE))
        for path, entry in kept.values():
            _copy(path, entry, file, buffer)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def _header(entries: Mapping[str, Entry]) -> bytes:
    """Return a safetensors header for tensors that follow each other in this order."""
    described, at = {}, 0
    for name, entry in entries.items():
        end = at + entry.stop - entry.start
        described[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _copy(path: Path, entry: Entry, file: BinaryIO, buffer: memoryview) -> None:
    with open_shard(path) as found:
        for start in range(entry.start, entry.stop, PIECE):
            piece = buffer[: min(PIECE, entry.stop - start)]
            read_exactly(found, start, piece)
            file.write(piece)


def _publish(fresh: Path, target: Path) -> None:
    _check_free(target)
    fresh.rename(target)
    sync_folder(target.parent)
