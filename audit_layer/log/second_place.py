"""The second place: the last checkpoint this log signed, kept outside the database.

A database restored from an old backup would let the log sign a second history. The file beside it
remembers what was signed; keep it on other storage than the database. A second file holds the
evidence that stopped the log, as long as an operator leaves it there.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from audit_layer.log.files import write_durably
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import Verifier
from shared.translog.signed_checkpoint import parse_and_verify


class SecondPlace:
    """One file with the last signed checkpoint; `<file>.stopped` and `<file>.lock` beside it."""

    def __init__(self, path: Path, verifiers: Sequence[Verifier]) -> None:
        self._path = path
        self._verifiers = verifiers

    def read(self) -> tuple[Checkpoint, str] | None:
        """Return the kept checkpoint and its note, verified; None when nothing was ever kept."""
        try:
            note = self._path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as e:
            raise CounterfoilError(Code.CORRUPT, "the second place does not hold text") from e
        checkpoint, _ = parse_and_verify(note, self._verifiers)
        return checkpoint, note

    def write(self, note: str) -> None:
        """Keep a newly signed checkpoint durably, before anyone else sees it."""
        fault_point("log.sign.before-second-place")
        write_durably(self._path, note.encode())
        fault_point("log.sign.after-second-place")

    @property
    def _stopped(self) -> Path:
        return self._path.with_name(f"{self._path.name}.stopped")

    def stop(self, note: str) -> None:
        """Record a checkpoint that this log must not have signed; only a person removes it."""
        write_durably(self._stopped, note.encode())

    def check_running(self) -> None:
        """Raise FORK while evidence against this log lies beside the file."""
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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(
            self._path.with_name(f"{self._path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600
        )
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)
