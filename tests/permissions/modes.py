"""What others on the machine may do with the files and folders below a folder."""

import contextlib
import fnmatch
import stat
from collections.abc import Mapping
from pathlib import Path

READ_WRITE = 0o066
"""Read and write, for the group and for everybody else. Passing through a folder shows nothing in it."""


def open_to_others(folder: Path, public: Mapping[str, str]) -> dict[str, str]:
    """Return the mode of everything below `folder` that others may read or write, but for what is named as `public`.

    `public` maps patterns of paths below the folder to the reason. Others may read that, and never write it.
    """
    found = {}
    for path in [folder, *folder.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # a running process removed it
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                continue  # it has no mode of its own
            name = "." if path == folder else str(path.relative_to(folder))
            given = any(fnmatch.fnmatchcase(name, pattern) for pattern in public)
            if stat.S_IMODE(mode) & (0o022 if given else READ_WRITE):
                found[name] = f"{stat.S_IMODE(mode):04o}"
    return found
