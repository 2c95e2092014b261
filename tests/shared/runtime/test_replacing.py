import os
import signal
import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from shared.runtime import replacing as module
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.replacing import BUFFER, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [0, 1, BUFFER - 1, BUFFER, 3 * BUFFER + 7])
def test_a_complete_file_replaces_the_old_one_and_its_hash_and_size_are_known(tmp_path, size):
    path, data = tmp_path / "export.csv", os.urandom(size)
    path.write_bytes(b"old")
    path.chmod(0o640)
    with replacing(path) as out:
        for start in range(0, size, 300_001):
            assert out.write(memoryview(data)[start : start + 300_001]) == len(
                data[start : start + 300_001]
            )
        assert (out.size, out.tell(), out.digest()) == (size, size, sha256(data).digest())
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o640  # as its owner has set it
    assert names(tmp_path) == ["export.csv"]
    assert out.closed


def test_a_new_file_is_its_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        with replacing(tmp_path / "export.csv") as out:
            out.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "export.csv").stat().st_mode) == 0o600


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError("a source's own")])
def test_a_block_that_fails_leaves_the_old_file_alone_and_its_own_error_passes(tmp_path, error):
    path = tmp_path / "export.csv"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as out:
            out.write(b"x" * (BUFFER + 1))
            raise error

    with pytest.raises(error if isinstance(error, type) else OSError):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["export.csv"]


KILLED = """
import os, signal, sys
from pathlib import Path
from shared.runtime.replacing import replacing
with replacing(Path(sys.argv[1])) as out:
    out.write(b"x" * 5_000_000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "export.csv"
    path.write_bytes(b"old")
    code = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode
    assert code == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (left,) = set(names(tmp_path)) - {"export.csv"}
    assert left.startswith(".export.csv.")


def test_a_link_is_followed_and_a_pipe_or_a_missing_folder_is_refused_by_name(tmp_path):
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_bytes(b"old")
    link.symlink_to(real)
    os.mkfifo(pipe)
    with replacing(link) as out:
        out.write(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    for path, said in ((pipe, "not a file"), (tmp_path / "no" / "x", "No such file")):
        with pytest.raises(CounterfoilError, match=said) as caught, replacing(path):
            pytest.fail("it was opened")
        assert caught.value.code is Code.CONFIGURATION
        assert str(path) in caught.value.detail
    assert names(tmp_path) == ["link", "pipe", "real"]


def test_a_full_disk_is_reported_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "export.csv"
    path.write_bytes(b"old")

    def full(_descriptor: int, _data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(CounterfoilError, match="No space left") as caught, replacing(path) as out:
        out.write(b"x" * BUFFER)
    assert caught.value.code is Code.CONFIGURATION
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["export.csv"]
