"""The second place: what was signed last survives a write that was cut off, and its size never decreases."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from audit_layer.log.second_place import SLOT_BYTES, SecondPlace
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.signed_checkpoint import sign
from tests.audit_layer.log.world import LOG_KEYS, LOG_SIGNERS, ORIGIN


def signed(size: int, history: str = "") -> tuple[Checkpoint, str]:
    checkpoint = Checkpoint(ORIGIN, size, sha256(f"{history}{size}".encode()).digest())
    return checkpoint, sign(checkpoint, LOG_SIGNERS, time_s=7).encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "signed.note"


def test_nothing_is_kept_before_the_first_write(path: Path):
    assert SecondPlace(path, LOG_KEYS).read() is None


def test_the_last_write_is_what_everyone_reads(path: Path):
    place, other = SecondPlace(path, LOG_KEYS), SecondPlace(path, LOG_KEYS)
    for size in (1, 2, 3, 900):
        assert place.write(*signed(size)) == signed(size)[:1] + (place.read() or ("", ""))[1:]
        held = other.read()
        assert held is not None
        assert held[0] == signed(size)[0]


def test_the_kept_size_never_decreases_and_is_not_signed_twice(path: Path):
    place = SecondPlace(path, LOG_KEYS)
    first = signed(5)
    place.write(*first)
    again = signed(5)
    assert again[1] != first[1]  # ML-DSA signatures are randomised
    assert place.write(*again) == first
    assert place.write(*signed(4)) == first
    assert SecondPlace(path, LOG_KEYS).read() == first


def test_another_root_at_the_kept_size_is_a_fork(path: Path):
    place = SecondPlace(path, LOG_KEYS)
    place.write(*signed(5))
    with pytest.raises(CounterfoilError) as caught:
        place.write(*signed(5, "other"))
    assert caught.value.code is Code.FORK


@pytest.mark.parametrize("written", [0, 1, 100, 3000, SLOT_BYTES - 1])
def test_a_write_that_is_cut_off_leaves_what_was_kept_before(path: Path, written: int):
    place = SecondPlace(path, LOG_KEYS)
    for size in (1, 2):
        place.write(*signed(size))
    before = path.read_bytes()
    place.write(*signed(3))
    after = path.read_bytes()
    slot = 0 if before[:SLOT_BYTES] != after[:SLOT_BYTES] else SLOT_BYTES
    torn = bytearray(before)
    torn[slot : slot + written] = after[slot : slot + written]
    path.write_bytes(torn)
    held = SecondPlace(path, LOG_KEYS).read()
    assert held is not None
    assert held[0].size == (3 if written > 4000 else 2)
    fresh = SecondPlace(path, LOG_KEYS)
    fresh.write(*signed(4))
    assert (fresh.read() or (None,))[0] == signed(4)[0]


def test_a_file_in_which_nothing_verifies_is_refused(path: Path):
    SecondPlace(path, LOG_KEYS).write(*signed(1))
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    for use in (lambda p: p.read(), lambda p: p.write(*signed(2))):
        with pytest.raises(CounterfoilError) as caught:
            use(SecondPlace(path, LOG_KEYS))
        assert caught.value.code is Code.CORRUPT


def test_a_file_with_one_bare_note_is_read_and_continued(path: Path):
    path.parent.mkdir()
    path.write_text(signed(8)[1])
    place = SecondPlace(path, LOG_KEYS)
    assert (place.read() or (None,))[0] == signed(8)[0]
    place.write(*signed(9))
    assert (SecondPlace(path, LOG_KEYS).read() or (None,))[0] == signed(9)[0]


def test_one_process_at_a_time_holds_the_publishers_lock(path: Path):
    with SecondPlace(path, LOG_KEYS).exclusively() as ours:
        assert ours
        with SecondPlace(path, LOG_KEYS).exclusively() as theirs:
            assert not theirs
    with SecondPlace(path, LOG_KEYS).exclusively() as ours:
        assert ours


def test_a_file_that_cannot_be_written_says_so(path: Path):
    place = SecondPlace(path, LOG_KEYS)
    place.write(*signed(1))
    if os.geteuid() == 0:  # root ignores permissions: take the file's folder away instead
        path.unlink()
        path.mkdir()
    else:
        path.chmod(0o400)
    with pytest.raises(CounterfoilError, match="cannot be written") as caught:
        place.write(*signed(2))
    assert caught.value.code is Code.UNAVAILABLE
