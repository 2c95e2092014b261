"""The second place: the last checkpoint this log signed, kept outside the database.

A database restored from an old backup would let the log sign a second history. This file
remembers what was signed; keep it on storage other than the database's. A second file holds the
evidence that stopped the log, for as long as an operator leaves it there.

The file has two slots of `SLOT_BYTES`, each a signed note followed by zeros. A write goes to the slot
that does not hold the newest note and is synced in place; if it is cut off, the note in that slot does
not verify, and the other slot still holds what was signed before.
"""

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from audit_layer.log.folder_store import write_durably
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.keys import private_folder
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import Verifier
from shared.translog.signed_checkpoint import parse_and_verify

SLOT_BYTES: Final = 8192
_SLOTS: Final = 2

Kept = tuple[Checkpoint, str]
"""A checkpoint and its signed note."""


class SecondPlace:
    """One file with the last signed checkpoint; `<file>.stopped` and `<file>.lock` next to it.

    Several processes may use it at once; the kept size never decreases.
    """

    def __init__(self, path: Path, verifiers: Sequence[Verifier]) -> None:
        self._path = path
        self._verifiers = verifiers
        self._mutex = threading.Lock()
        self._seen: dict[bytes, Kept] = {}
        """What the slots held when they were last looked at: verifying costs more than reading."""

    def read(self) -> Kept | None:
        """Return the kept checkpoint and its note, verified; None when nothing was ever kept."""
        with self._mutex:
            try:
                with self._path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_SH)
                    return _newest(self._slots(file.fileno()))
            except FileNotFoundError:
                return None
            except OSError as e:
                raise _unavailable("read", e) from e

    def write(self, checkpoint: Checkpoint, note: str) -> Kept:
        """Keep a newly signed checkpoint durably, before anyone else sees it; return what is kept.

        A checkpoint already kept stays if it is larger or of the same size. FORK when it has the
        same size and another root; UNAVAILABLE when the file cannot be written.
        """
        data = note.encode()
        if len(data) > SLOT_BYTES:
            raise CounterfoilError(Code.INTERNAL, f"a signed checkpoint is {len(data)} bytes long")
        fault_point("log.sign.before-second-place")
        try:
            kept = self._write(checkpoint, note, data.ljust(SLOT_BYTES, b"\x00"))
        except OSError as e:
            raise _unavailable("written", e) from e
        fault_point("log.sign.after-second-place")
        return kept

    def _write(self, checkpoint: Checkpoint, note: str, padded: bytes) -> Kept:
        with self._mutex, self._open() as handle:
            slots = self._slots(handle)
            held = _newest(slots)
            if held is not None and held[0].size >= checkpoint.size:
                if held[0].size == checkpoint.size and held[0].root != checkpoint.root:
                    raise CounterfoilError(
                        Code.FORK, f"another root was signed at size {checkpoint.size}"
                    )
                return held
            target = 1 if held is not None and slots[0] is held else 0
            os.pwrite(handle, padded, target * SLOT_BYTES)
            os.fdatasync(handle)
            self._seen[padded] = (checkpoint, note)
        return checkpoint, note

    @contextmanager
    def _open(self) -> Iterator[int]:
        """Open the file for one writer at a time, creating it at full length on first use."""
        if not self._path.exists():
            with self._lock_file("made") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not self._path.exists():
                    write_durably(self._path, bytes(_SLOTS * SLOT_BYTES), public=False)
        handle = os.open(self._path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)

    def _slots(self, handle: int) -> list[Kept | None]:
        """Return what the slots hold; CORRUPT when they hold something and none of it verifies."""
        raw = os.pread(handle, _SLOTS * SLOT_BYTES, 0)
        pieces = [raw[at * SLOT_BYTES : (at + 1) * SLOT_BYTES] for at in range(_SLOTS)]
        found = [self._verified(piece) for piece in pieces]
        self._seen = {
            piece: kept for piece, kept in zip(pieces, found, strict=True) if kept is not None
        }
        if not self._seen and any(piece.strip(b"\x00") for piece in pieces):
            raise CounterfoilError(
                Code.CORRUPT,
                "the second place holds no checkpoint that verifies",
                remedy="Restore its file from a safe copy; without it a restored"
                " database could not be told from the newest.",
            )
        return found

    def _verified(self, piece: bytes) -> Kept | None:
        if piece in self._seen:
            return self._seen[piece]
        text = piece.rstrip(b"\x00")
        if not text:
            return None
        try:
            note = text.decode()
            return parse_and_verify(note, self._verifiers)[0], note
        except (UnicodeDecodeError, CounterfoilError):
            return None

    @property
    def _stopped(self) -> Path:
        return self._path.with_name(f"{self._path.name}.stopped")

    def stop(self, note: str) -> None:
        """Record a checkpoint that this log must not have signed; only a person removes it."""
        write_durably(self._stopped, note.encode(), public=False)

    def check_running(self) -> None:
        """Raise FORK while evidence against this log lies next to the file."""
        if self._stopped.exists():
            raise CounterfoilError(
                Code.FORK,
                f"the log has stopped: {self._stopped.name} holds a checkpoint signed by its key"
                " that this database does not extend",
                remedy="Restore the newest database, or rotate to a new log. Remove the file only"
                " when you know where that checkpoint came from.",
            )

    @contextmanager
    def exclusively(self) -> Iterator[bool]:
        """Hold the publisher's lock for the block; yields False when another process holds it."""
        with self._lock_file("lock") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextmanager
    def _lock_file(self, suffix: str) -> Iterator[int]:
        private_folder(self._path.parent)
        handle = os.open(
            self._path.with_name(f"{self._path.name}.{suffix}"), os.O_CREAT | os.O_RDWR, 0o600
        )
        try:
            yield handle
        finally:
            os.close(handle)


def _newest(slots: Sequence[Kept | None]) -> Kept | None:
    return max((kept for kept in slots if kept), key=lambda kept: kept[0].size, default=None)


def _unavailable(what: str, error: OSError) -> CounterfoilError:
    return CounterfoilError(
        Code.UNAVAILABLE,
        f"the second place cannot be {what}: {error.strerror}",
        remedy="Check its folder's free space and permissions; the log resumes on its own.",
        retry_after_s=1.0,
    )
