"""What the log occupies: tables with their indexes, and published files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, text

from audit_layer.storage.engine import transaction

BLOCK = 512
"""The unit of `st_blocks`."""


@dataclass(frozen=True, slots=True)
class Occupied:
    """Bytes of files by their length and by the blocks they hold, and their number."""

    length: int
    blocks: int
    files: int

    def __sub__(self, other: "Occupied") -> "Occupied":
        return Occupied(
            self.length - other.length, self.blocks - other.blocks, self.files - other.files
        )


def table_bytes(engine: Engine) -> dict[str, int]:
    """Return the bytes of each table with its indexes and long values; a partitioned table's parts are added up."""
    with transaction(engine) as connection:
        rows = connection.execute(
            text(
                "SELECT coalesce(p.relname, c.relname), sum(pg_total_relation_size(c.oid))"
                " FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid"
                " LEFT JOIN pg_class p ON p.oid = i.inhparent"
                " WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace"
                " GROUP BY 1 ORDER BY 1"
            )
        )
        return {name: int(size) for name, size in rows}


def of_room(tables: Mapping[str, float], room: str) -> float:
    """Return the sum over a room's tables, which begin with its name."""
    return sum(size for name, size in tables.items() if name.startswith(f"{room}_"))


def bytes_on_disk(folder: Path) -> Occupied:
    """Return what the files below a folder occupy."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return Occupied(
        sum(stat.st_size for stat in found),
        sum(stat.st_blocks for stat in found) * BLOCK,
        len(found),
    )
