"""The published log as a folder, which any static file server can serve.

Every file is written whole, synced and renamed into place, so neither a reader nor a crash nor a full
disk sees a part of one.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from audit_layer.log.store import MAX_BYTES
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import (
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    PUBLIC_FILE,
    PUBLIC_FOLDER,
    make_folder,
    write_atomic,
)


def write_durably(path: Path, data: bytes, *, public: bool = True) -> None:
    """Put all of `data` at `path`; on return it is on disk, with its name and its folders."""
    _make_folder(path.parent, PUBLIC_FOLDER if public else PRIVATE_FOLDER)
    write_atomic(path, data, mode=PUBLIC_FILE if public else PRIVATE_FILE)


def _make_folder(folder: Path, mode: int) -> None:
    """Create a folder and its parents, each made durable in the one above."""
    if folder.is_dir():
        return
    _make_folder(folder.parent, mode)
    make_folder(folder, mode)
    handle = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FolderStore:
    """A `Store` in a folder of this machine."""

    writers: Final = 1

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes | None:
        """See `Store.read`."""
        try:
            with (self.root / path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise _unavailable(path, "read", e) from e
        if len(data) > MAX_BYTES:
            raise CounterfoilError(Code.CORRUPT, f"{path} is larger than {MAX_BYTES} bytes")
        return data

    def create(self, path: str, data: bytes) -> bool:
        """See `Store.create`. Looking first is enough: one publisher writes at a time."""
        if (self.root / path).exists():
            return False
        self.replace(path, data)
        return True

    def replace(self, path: str, data: bytes) -> None:
        """See `Store.replace`."""
        try:
            write_durably(self.root / path, data)
        except OSError as e:
            raise _unavailable(path, "written", e) from e

    def drop(self, folder: str) -> None:
        """See `Store.drop`; what cannot be removed stays for the next time."""
        shutil.rmtree(self.root / folder, ignore_errors=True)

    def names(self, folder: str) -> Iterator[str]:
        """See `Store.names`. Names with a leading dot are writes that a crash cut short."""
        for path in sorted((self.root / folder).glob("**/*")):
            if not path.is_dir() and not path.name.startswith("."):
                yield path.relative_to(self.root).as_posix()


def _unavailable(path: str, what: str, error: OSError) -> CounterfoilError:
    return CounterfoilError(
        Code.UNAVAILABLE,
        f"{path} of the published log cannot be {what}: {error.strerror}",
        remedy="Check the folder's free space and permissions; publication resumes on its own.",
        retry_after_s=1.0,
    )
