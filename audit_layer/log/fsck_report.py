"""What `fsck` reports, and the form in which its parts pass checkpoints to each other."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be."""

    place: str
    """Where: a table with its key, or a file."""
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """One row of log_checkpoints."""

    size: int
    root: bytes
    intent_at: int
    note: str | None
    cosigned: str | None
    published_at: int | None

    @property
    def place(self) -> str:
        """The row's name in a difference."""
        return f"log_checkpoints[size={self.size}]"
