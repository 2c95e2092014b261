"""Files that may come from a stranger, read so that none of them can hang a process or fill its memory."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from shared.runtime.errors import Code, CounterfoilError


def read_bounded(
    path: Path, most: int, *, code: Code = Code.CONFIGURATION, regular: bool = False
) -> bytes:
    """Return a file's first `most` + 1 bytes, so that a parser can see that it is too long; `code` if it cannot be read.
    `regular` is for folders received from strangers: see `open_regular`.
    """
    try:
        with open_regular(path) if regular else path.open("rb") as file:
            return read_up_to(file, most + 1)
    except OSError as error:
        raise CounterfoilError(code, f"{path} cannot be read: {error.strerror}") from error


def read_up_to(file: BinaryIO, most: int) -> bytes:
    """Return a file's next `most` bytes, or what there is; OSError for one that must be waited for, as some of /proc."""
    data: bytes | None = file.read(most)
    if data is None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return data


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, following links; OSError for a FIFO (which may block forever), a socket, a device or a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, "rb")
