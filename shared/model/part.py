"""Makes a part of a checkpoint: a folder with the tensors of some layers, all files, and every leaf (protocol §7.1.3).

What it is made from, a folder or an address (`part_fetch`), is a `Source`. Every tensor has its leaf before the next one is read.
"""

import json
import os
import secrets
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Protocol

from shared.model.config import ModelConfig
from shared.model.cut import Cut
from shared.model.part_file import PART, PartFile, read_part
from shared.model.root import PIECE, model_leaves, pieces, root_of, tensor_leaf
from shared.model.shards import WHOLE, Entry, open_shard
from shared.model.weights import HEAD, expected_shapes, tensor_places
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import PUBLIC_FILE, PUBLIC_FOLDER, make_folder, sync_folder, write_atomic
from shared.text.files import read_file
from shared.text.model_files import FILES

Places = Mapping[str, tuple[Path, Entry]]


class Source(Protocol):
    """A checkpoint, or a part of one, whose tensors are read one by one. Errors as `load_weights`, and what each can say."""

    def config(self) -> ModelConfig:
        """Return the model's configuration."""

    def entries(self, config: ModelConfig, cut: Cut) -> Mapping[str, Entry]:
        """Return the tensors that there are, those of a cut among them."""

    def listed(self) -> PartFile:
        """Return every leaf entry, and which are of tensors that there are."""

    def file(self, name: str) -> bytes | None:
        """Return one of the model's files."""

    def pieces(self, name: str) -> Iterator[bytes | memoryview]:
        """Yield a tensor's bytes; each piece is used before the next is asked for."""


class FolderSource:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: Places = {}

    def config(self) -> ModelConfig:
        """Return the model's configuration."""
        return ModelConfig.from_folder(self._folder)

    def entries(self, config: ModelConfig, cut: Cut) -> Mapping[str, Entry]:
        """Return the tensors that there are, those of a cut among them."""
        self._places = tensor_places(self._folder, config, cut)
        return {name: entry for name, (_, entry) in self._places.items()}

    def listed(self) -> PartFile:
        """Return every leaf entry, and which are of tensors that there are. Reads all of them."""
        leaves, part = tuple(model_leaves(self._folder)), read_part(self._folder)
        names = {name: index for index, name in enumerate(sorted(self._places))}
        return PartFile(leaves, part.held if part else names)

    def file(self, name: str) -> bytes | None:
        """Return one of the model's files."""
        return read_file(self._folder / name)

    def pieces(self, name: str) -> Iterator[memoryview]:
        """Yield a tensor's bytes."""
        path, entry = self._places[name]
        with open_shard(path) as file:
            yield from pieces(file, entry, memoryview(bytearray(PIECE)))


@dataclass(frozen=True, slots=True)
class Made:
    """A part that is complete."""

    root: bytes
    """The model root: that of the whole."""
    tensors: int
    size: int
    """Bytes of its tensors."""


def make_part(source: Source, target: Path, cut: Cut, root: bytes | None = None) -> Made:
    """Copy what a cut needs to a folder that does not exist yet, in pieces.

    The target appears once it is complete, on disk, and has the source's model root, which is `root` if that is given
    (COMMITMENT_MISMATCH). A run that is killed leaves a folder beside it whose name begins with a dot. CONFLICT for a target that
    exists, INVALID_ARGUMENT for layers that the model has not, CORRUPT for a tensor that is not the listed one; otherwise the
    source's errors.
    """
    _check_free(target)
    config = source.config()
    if cut.last > config.layers:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"layers {cut.first}:{cut.last}: the model has {config.layers}",
        )
    entries = source.entries(config, cut)
    names = cut.of(expected_shapes(config))
    if cut.ends and HEAD in entries.keys() - set(names):  # tied, and repeated
        names.append(HEAD)
    kept = {name: entries[name] for name in sorted(names)}
    listed = source.listed()
    found = root_of(listed.leaves)
    if root is not None and found != root:
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH,
            f"the source has the model root {found.hex()}, not {root.hex()}",
        )
    part = PartFile(listed.leaves, {name: listed.held[name] for name in kept})
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
    return Made(found, len(kept), sum(entry.stop - entry.start for entry in kept.values()))


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise CounterfoilError(
            Code.CONFLICT,
            f"{target} exists",
            remedy="Nothing was changed. Name a folder that does not exist.",
        )


def _fill(folder: Path, source: Source, part: PartFile, kept: Mapping[str, Entry]) -> None:
    """Write the files, `part.json` first: without it the folder could be taken for a whole checkpoint."""
    write_atomic(folder / PART, part.encode(), mode=PUBLIC_FILE)
    for name in FILES:
        if (data := source.file(name)) is not None:
            write_atomic(folder / name, data, mode=PUBLIC_FILE)
    with (folder / WHOLE).open("xb") as file:
        os.fchmod(file.fileno(), PUBLIC_FILE)  # a model is no secret, whatever the umask is
        file.write(_header(kept))
        for name, entry in kept.items():
            part.check_tensor(name, tensor_leaf(name, entry, _copy(source.pieces(name), file)))
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


def _copy(pieces: Iterable[bytes | memoryview], file: BinaryIO) -> bytes:
    """Append pieces to a file; return the SHA-256 of all of them."""
    digest = sha256()
    for piece in pieces:
        digest.update(piece)
        file.write(piece)
    return digest.digest()


def _publish(fresh: Path, target: Path) -> None:
    _check_free(target)
    fresh.rename(target)
    sync_folder(target.parent)
