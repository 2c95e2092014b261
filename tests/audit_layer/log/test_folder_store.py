"""What publication to a folder promises when the disk is full, and that the store keeps its contract."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from audit_layer.log.folder_store import FolderStore
from audit_layer.log.store import MAX_BYTES
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.policy import verify_witnessed
from tests.audit_layer.log.world import World, make_world


@pytest.fixture
def world(engine: Engine, tmp_path: Path) -> Iterator[World]:
    made = make_world(engine, tmp_path, names=["w1.example"], threshold=1)
    yield made
    made.close()


class FullDisk:
    """A DOUBLE of a disk that is full after `room` files below a folder: fsync fails, as delayed writes do."""

    def __init__(self, folder: Path, room: int) -> None:
        self._folder = str(folder)
        self.room = room
        self._fsync = os.fsync

    def __call__(self, descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if path.startswith(self._folder) and Path(path).is_file():
            self.room -= 1
            if self.room < 0:
                os.truncate(path, Path(path).stat().st_size // 2)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(descriptor)


async def test_a_disk_that_fills_in_mid_batch_leaves_no_torn_file_and_publication_resumes_later(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    publisher = world.publisher()
    world.append(0, 10)
    await publisher.publish()
    public = world.folder / "public"
    world.append(10, 700)
    for room in range(8):  # the batch has seven tiles and the checkpoint
        before = {path: path.read_bytes() for path in public.glob("**/*") if path.is_file()}
        full = FullDisk(public, 1 if room else 0)  # one more file fits each time
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CounterfoilError) as caught:
            await publisher.publish()
        monkeypatch.undo()
        assert caught.value.code is Code.UNAVAILABLE
        assert "No space left" in caught.value.detail
        after = {path: path.read_bytes() for path in public.glob("**/*") if path.is_file()}
        assert all(after[path] == data for path, data in before.items())
        assert len(after) - len(before) == (1 if room else 0)
        assert not [path for path in after if path.name.startswith(".")]
        assert verify_witnessed(world.files.checkpoint() or "", world.policy).checkpoint.size == 10
    assert world.sizes() == [10, 700]
    assert await publisher.publish() is not None
    assert verify_witnessed(world.files.checkpoint() or "", world.policy).checkpoint.size == 700
    assert world.fsck() == []


def test_the_store_keeps_its_contract(tmp_path: Path):
    store = FolderStore(tmp_path / "public")
    assert store.read("checkpoint") is None
    assert list(store.names("tile")) == []
    for path in ("tile/0/000.p/1", "tile/0/000.p/2", "tile/1/000.p/1"):
        assert store.create(path, path.encode())
        assert not store.create(path, b"other")
        assert store.read(path) == path.encode()
    (tmp_path / "public" / "tile" / "0" / ".000.cut-short").write_bytes(b"x")
    assert sorted(store.names("tile/0")) == ["tile/0/000.p/1", "tile/0/000.p/2"]
    store.drop("tile/0/000.p")
    store.drop("tile/9")
    assert list(store.names("tile")) == ["tile/1/000.p/1"]
    for note in (b"one", b"two"):
        store.replace("checkpoint", note)
        assert store.read("checkpoint") == note


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path):
    with (tmp_path / "checkpoint").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CounterfoilError, match=str(MAX_BYTES)) as caught:
        FolderStore(tmp_path).read("checkpoint")
    assert caught.value.code is Code.CORRUPT
