"""Notices when a model folder changes while it is read, so that nobody serves or judges weights under another root. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shared.model.part_file import PART
from shared.model.shards import INDEX, weight_files
from shared.runtime.errors import Code, CounterfoilError
from shared.text.model_files import FILES

State = dict[str, tuple[int, int, int, int] | None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model folder, and what its file system said of each file: device, inode, size and time of the last change.

    It is for changes by mistake, such as a fetch into a folder in use; who may write there can also set times.
    """

    folder: Path
    state: State

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Look at a folder, before anything is read; MALFORMED or CONFIGURATION where its index cannot be read."""
        return cls(folder, _state(folder))

    def check(self) -> None:
        """Raise CORRUPT, naming a file, unless all files are as they were."""
        now = _state(self.folder)
        for name in sorted(self.state.keys() | now.keys()):
            if self.state.get(name) != now.get(name):
                raise CounterfoilError(
                    Code.CORRUPT,
                    f"{self.folder / name} changed after the folder was first read",
                    remedy="Run again when nothing changes the folder any more.",
                )


def _state(folder: Path) -> State:
    names = {*FILES, INDEX, PART, *(path.name for path in weight_files(folder))}
    return {name: _file_state(folder / name) for name in names}


def _file_state(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:  # whoever reads the file says why
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
