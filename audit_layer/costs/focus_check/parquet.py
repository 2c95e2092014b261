"""A Parquet file as rows of the text that CSV would have: decimals plain, times in UTC with Z, nulls as None.

Row groups are read in batches; texts stay dictionary-encoded, so that one long text used by many rows is in memory once. A
page is read whole: the memory needed is that of the largest pages, which their writer chooses.
"""

from collections.abc import Callable, Iterator
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from audit_layer.costs.focus_check import rules
from audit_layer.costs.focus_check.columns import DATASETS, Kind
from audit_layer.costs.focus_check.reading import Note, Record

BATCH: Final = 2048
"""Rows at a time."""
MAX_CELL: Final = 131_072
"""Characters of a cell, as in CSV; what is longer is cut, and a finding."""
MAX_ROWS: Final = 1_000_000
"""Rows that a file of any size may have; every byte of it may hold `ROWS_PER_BYTE` more."""
ROWS_PER_BYTE: Final = 16
MAX_ROW_GROUP: Final = 4 << 30
"""Bytes that a row group may say that it becomes."""
_LIMIT: Final = 16 << 20
"""Bytes of metadata, and entries of a list in it."""

_KINDS: Final = {
    column.name: column.kind for dataset in DATASETS.values() for column in dataset.columns.values()
}


class ParquetTable:
    """A Parquet file. Use as a context manager."""

    spreadsheet = False

    def __init__(self, path: Path, note: Note) -> None:
        self._note = note
        self.complete = False
        self.names: tuple[str, ...] = ()
        self.floating: frozenset[str] = frozenset()
        self.unreadable: frozenset[str] = frozenset()
        self.size = path.stat().st_size
        self._file: pq.ParquetFile | None = None
        self._done = 0
        try:
            file = pq.ParquetFile(
                path,
                thrift_string_size_limit=_LIMIT,
                thrift_container_size_limit=_LIMIT,
                memory_map=False,
                pre_buffer=False,
            )
            self._schema(file)
            texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
            self._file = pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            self._broken(None, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def position(self) -> int:
        """Return about how many bytes have been read: rows stand for them."""
        total = self._file.metadata.num_rows if self._file is not None else 0
        return self.size * self._done // total if total else self.size

    def rows(self) -> Iterator[Record]:
        """Yield the rows; nothing after a row group that cannot be read."""
        if self._file is None or self._out_of_proportion(self._file):
            return
        try:
            for group in range(self._file.metadata.num_row_groups):
                if self._file.metadata.row_group(group).total_byte_size > MAX_ROW_GROUP:
                    self._note(
                        rules.BOMB, self._done + 2, None, None, "row groups of at most 4 GiB"
                    )
                    return
                for batch in self._file.iter_batches(BATCH, row_groups=[group]):
                    columns = [
                        self._bounded(name, _texts(column))
                        for name, column in zip(self.names, batch.columns, strict=True)
                    ]
                    for cells in zip(*columns, strict=True):
                        self._done += 1
                        yield self._done + 1, cells
        except UnicodeDecodeError:
            self._note(
                rules.ENCODING, self._done + 2, None, None, "UTF-8; nothing after it was read"
            )
            return
        except (pa.ArrowException, ArithmeticError, MemoryError, OSError, ValueError) as error:
            self._broken(self._done + 2, error)
            return
        self.complete = True

    def _out_of_proportion(self, file: pq.ParquetFile) -> bool:
        """Note a file that says that it has more rows than can differ from each other in its size."""
        most = MAX_ROWS + ROWS_PER_BYTE * self.size
        if file.metadata.num_rows <= most:
            return False
        self._note(
            rules.BOMB,
            None,
            None,
            f"{file.metadata.num_rows}",
            f"at most {most:,} rows in its size",
        )
        return True

    def _bounded(self, name: str, cells: list[str | None]) -> list[str | None]:
        """Cut the long cells of a batch of one column, and note each of them."""
        for at, cell in enumerate(cells):
            if cell is not None and len(cell) > MAX_CELL:
                expected = "a cell of at most 131,072 characters"
                self._note(rules.OVERSIZE, self._done + at + 2, name, cell, expected)
                cells[at] = cell[:MAX_CELL]
        return cells

    def _broken(self, row: int | None, error: BaseException) -> None:
        words = str(error).split("\n", maxsplit=1)[0][:100] or type(error).__name__
        self._note(
            rules.TRUNCATED, row, None, words, "a whole Parquet file; nothing after it was read"
        )

    def _schema(self, file: pq.ParquetFile) -> None:
        self.names = tuple(file.schema_arrow.names)
        floating, unreadable = set(), set()
        for field in file.schema_arrow:
            if pa.types.is_floating(field.type):
                floating.add(field.name)
            if (kind := _KINDS.get(field.name)) is not None and not _fits(field.type, kind):
                unreadable.add(field.name)
                self._note(rules.PHYSICAL_TYPE, 1, field.name, str(field.type), kind.value)
            elif pa.types.is_timestamp(field.type) and field.type.tz is None:
                self._note(
                    rules.ZONELESS, 1, field.name, str(field.type), "a timestamp adjusted to UTC"
                )
        self.floating, self.unreadable = frozenset(floating), frozenset(unreadable)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _fits(found: pa.DataType, kind: Kind) -> bool:
    if pa.types.is_null(found) or _is_text(found) or pa.types.is_dictionary(found):
        return True
    if kind is Kind.DECIMAL:
        return bool(
            pa.types.is_decimal(found) or pa.types.is_integer(found) or pa.types.is_floating(found)
        )
    return kind is Kind.DATE_TIME and bool(pa.types.is_timestamp(found))


def _texts(column: pa.Array) -> list[str | None]:
    """Return a batch's cells as text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        words = _texts(column.dictionary)
        return [None if at is None else words[at] for at in column.indices.to_pylist()]
    if pa.types.is_timestamp(kind):
        return [_time(value) for value in column.cast(pa.timestamp("us"), safe=False).to_pylist()]
    write: Callable[[Any], str] = str
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        write = _plain
    return [None if value is None else write(value) for value in column.to_pylist()]


def _plain(value: float | Decimal) -> str:
    """Return a number without exponent; a fraction in the fewest digits that stand for it."""
    return format(Decimal(str(value)), "f")


def _time(value: Any) -> str | None:
    if value is None:
        return None
    told = value.replace(tzinfo=UTC).isoformat(timespec="auto").removesuffix("+00:00")
    return f"{told}Z"
