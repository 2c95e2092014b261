"""What a client and a bystander know about a log, kept outside it, and what must be true whatever the log's server did.

The bystander believes nothing: it recomputes every root from the entries that it saw itself.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Engine, text

from audit_layer.log.files import PublishedFiles
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import LogPolicy, verify_witnessed
from shared.translog.signed_checkpoint import parse_and_verify
from shared.translog.tree import leaf_hash, root


@dataclass
class Observer:
    """Keeps every acknowledgement, entry, checkpoint and published file that it ever saw."""

    engine: Engine
    files: PublishedFiles
    folder: Path
    """Where they are."""
    policy: LogPolicy
    journal: Path
    """Acknowledgements, one per line, written before the client continues."""
    sent: set[bytes] = field(default_factory=set)
    entries: list[bytes] = field(default_factory=list)
    notes: dict[str, Checkpoint] = field(default_factory=dict)
    published: dict[str, bytes] = field(default_factory=dict)
    """Path of each file → SHA-256."""

    def acknowledge(self, entry: bytes, index: int) -> None:
        """Record what a server has promised."""
        with self.journal.open("a", encoding="ascii") as file:
            file.write(json.dumps([entry.hex(), index]) + "\n")

    def acknowledged(self) -> dict[bytes, int]:
        """Return the promises; two for one entry must name one index."""
        promised: dict[bytes, int] = {}
        if self.journal.exists():
            whole, _, _ = self.journal.read_text("ascii").rpartition("\n")
            for line in whole.splitlines():  # the last one may be half written right now
                entry, index = json.loads(line)
                assert promised.setdefault(bytes.fromhex(entry), index) == index
        return promised

    def look_at_checkpoint(self) -> None:
        """Keep the published checkpoint, as a monitor that polls would."""
        note = self.files.checkpoint()
        if note is not None and note not in self.notes:
            self.notes[note] = verify_witnessed(note, self.policy).checkpoint

    def show(self, note: str) -> None:
        """Keep a checkpoint that was seen elsewhere, such as at a witness."""
        self.notes[note] = parse_and_verify(note, self.policy.logs)[0]

    def check(self) -> None:
        """Look at everything; raise AssertionError for anything that must never happen.

        The server may be at work meanwhile: what was promised is read before what must hold it.
        """
        self.look_at_checkpoint()
        promised, notes = self.acknowledged(), list(self.notes.values())
        self._check_entries(promised)
        leaves = [leaf_hash(entry) for entry in self.entries]
        for checkpoint in notes:
            assert checkpoint.size <= len(leaves), "a checkpoint is larger than the log"
            assert checkpoint.root == root(leaves[: checkpoint.size]), "a checkpoint was forked"
        self._check_files()

    def _check_entries(self, promised: Mapping[bytes, int]) -> None:
        with self.engine.connect() as connection:
            rows = connection.execute(
                text("SELECT index, entry FROM log_entries ORDER BY index")
            ).all()
        assert [index for index, _ in rows] == list(range(len(rows))), "indexes are not dense"
        entries = [bytes(entry) for _, entry in rows]
        assert len(set(entries)) == len(entries), "an entry is there twice"
        assert entries[: len(self.entries)] == self.entries, "the past has changed"
        assert set(entries) <= self.sent, "there is an entry that nobody sent"
        self.entries = entries
        for entry, index in promised.items():
            assert index < len(entries), f"{index} was acknowledged and is missing"
            assert entries[index] == entry, f"{index} was acknowledged for another entry"

    def _check_files(self) -> None:
        """No file ever changes; only partial ones may go, once the full one is there."""
        now: dict[str, bytes] = {}
        for path in self.folder.glob("tile/**/*"):
            if path.is_file() and not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # a partial one that goes right now
                    now[path.relative_to(self.folder).as_posix()] = path.read_bytes()
        for name, digest in self.published.items():
            full, _, width = name.partition(".p/")
            if name in now:
                assert sha256(now[name]).digest() == digest, f"{name} has changed"
            else:
                assert width, f"{name} is gone"
                assert (self.folder / full).exists(), f"{name} is gone without a full one"
        self.published |= {name: sha256(data).digest() for name, data in now.items()}
