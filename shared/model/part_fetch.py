"""A part of a checkpoint from an address: of the tensors, only those of the part are transferred, each checked against its leaf.

What is served there is a part itself, in one safetensors file: of all layers and the ends, for instance. Everything that the
server sends is a stranger's until it has its leaf, and a tensor's bytes go to disk in pieces.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from shared.model.config import ModelConfig
from shared.model.cut import Cut
from shared.model.part_file import PART, PartFile, parse_part
from shared.model.root import MAX_CHECKPOINT, REQUIRED
from shared.model.shards import WHOLE, Entry, header_of
from shared.model.weights import check_cut, check_entries
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.fetching import HttpsFiles
from shared.text.files import LARGEST
from shared.text.model_files import FILES, file_leaf

PIECE: Final = 16 << 20
"""Bytes of one request."""
TIMEOUT_S: Final = 120.0
"""For one request."""
ATTEMPTS: Final = 3
"""How often what a server does not answer is asked for."""
PAUSE_S: Final = 1.0
T = TypeVar("T")


class HttpsSource:
    """A part of a checkpoint below an https:// address, as `part.Source` has it.

    UNAVAILABLE and NOT_FOUND say what is not served, UNSUPPORTED that only whole files are, MALFORMED and CORRUPT what is served
    and is not a part of a model.
    """

    def __init__(self, files: HttpsFiles) -> None:
        self._files = files
        self._entries: Mapping[str, Entry] = {}

    def config(self) -> ModelConfig:
        """Return the model's configuration, which is under the root of the leaves that are listed."""
        with tempfile.TemporaryDirectory() as scratch:
            for name, data in self._contents.items():
                (Path(scratch) / name).write_bytes(data)
            return ModelConfig.from_folder(Path(scratch))

    def entries(self, config: ModelConfig, cut: Cut) -> Mapping[str, Entry]:
        """Return the tensors that there are, those of a cut among them."""
        where = f"{self._files.url}/{WHOLE}"
        _, size = self._range(0, 8)
        if size > MAX_CHECKPOINT:
            raise CounterfoilError(
                Code.MALFORMED, f"{where} has {size >> 30} GiB, more than any checkpoint"
            )
        self._entries = header_of(where, size, lambda start, stop: self._range(start, stop)[0])
        check_entries(self._entries, config, self.listed())
        check_cut(self._files.url, self._entries, config, cut)
        return self._entries

    def listed(self) -> PartFile:
        """Return every leaf entry, and which are of tensors that there are."""
        return self._listed

    def file(self, name: str) -> bytes | None:
        """Return one of the model's files."""
        return self._contents.get(name)

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield a tensor's bytes."""
        entry = self._entries[name]
        for start in range(entry.start, entry.stop, PIECE):
            yield self._range(start, min(start + PIECE, entry.stop))[0]

    @cached_property
    def _listed(self) -> PartFile:
        return parse_part(self._file(PART))

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        found = {}
        for name in FILES:
            try:
                found[name] = self._file(name)
            except CounterfoilError as error:
                if error.code is not Code.NOT_FOUND or name in REQUIRED:
                    raise
        self.listed().check_files({name: file_leaf(name, data) for name, data in found.items()})
        return found

    def _file(self, name: str) -> bytes:
        return _patiently(lambda: asyncio.run(self._files.get(name, LARGEST[name])))

    def _range(self, start: int, stop: int) -> tuple[bytes, int]:
        if start == stop:
            return b"", 0
        return _patiently(lambda: asyncio.run(self._files.get_range(WHOLE, start, stop)))


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again, a few times, where a server does not answer."""
    for _ in range(ATTEMPTS - 1):
        try:
            return ask()
        except CounterfoilError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            time.sleep(PAUSE_S)
    return ask()
