"""Files of any size that replace a target when they are complete: a crash or a kill at any point leaves the old file."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.runtime.keys import result_mode, sync_folder, unwritable

BUFFER: Final = 2**20
"""Bytes that are collected before they are written."""


class Output:
    """A file in the making, written from beginning to end; it knows its size and its SHA-256."""

    def __init__(self, descriptor: int, target: Path) -> None:
        self._descriptor, self._target = descriptor, target
        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self.size = 0
        """Bytes written."""
        self.closed = False
        """Whether it takes no more bytes."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes; CONFIGURATION when the disk does not take them."""
        self._waiting += data
        if len(self._waiting) >= BUFFER:
            self.flush()
        length = memoryview(data).nbytes
        self.size += length
        return length

    def flush(self) -> None:
        """Hand on what was collected."""
        rest = memoryview(bytes(self._waiting))
        self._waiting.clear()
        self._hash.update(rest)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise unwritable(self._target, error) from error

    def digest(self) -> bytes:
        """Return the SHA-256 of what was written."""
        self.flush()
        return self._hash.digest()

    # What else writers of binary formats ask of a file.

    def tell(self) -> int:
        """Return the position: the end."""
        return self.size

    @staticmethod
    def writable() -> bool:
        """Return that it can be written to."""
        return True

    @staticmethod
    def readable() -> bool:
        """Return that it cannot be read."""
        return False

    @staticmethod
    def seekable() -> bool:
        """Return that it is written in one go."""
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Output]:
    """Yield a file that becomes `path` when the block ends without an error; otherwise nothing changes.

    When the block has ended, the new file and its name are on disk. A link is followed; anything other than a file (a
    device, a pipe) is not replaced. CONFIGURATION says why a file cannot be written; errors of the block itself pass.
    Its mode is that of the file which it replaces; a new one is its owner's alone.
    A process that is killed leaves the old file, and beside it an unfinished one whose name begins with a dot.
    """
    target = Path(os.path.realpath(path))
    mode = result_mode(target, None)
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        if target.exists() and not target.is_file():
            raise unwritable(path)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        try:
            output = Output(descriptor, path)
            yield output
            output.flush()
            _complete(descriptor, fresh, target, mode)
            output.closed = True
        finally:
            os.close(descriptor)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _complete(descriptor: int, fresh: Path, target: Path, mode: int) -> None:
    """Put a written file on disk under its own name."""
    try:
        os.fchmod(descriptor, mode)  # whatever the umask is
        os.fsync(descriptor)
        fresh.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
