"""A CSV file, plain or gzip, as rows of text: one record at a time, whatever the file is.

CSV as in RFC 4180, in UTF-8, lines ended by LF or CRLF. A null is an empty cell: CSV cannot tell it from an empty text. What
cannot be read is a finding; where it makes the place of what follows uncertain, reading stops there.
"""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, Self

from audit_layer.costs.focus_check import rules
from audit_layer.costs.focus_check.report import Rule
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import open_regular

if TYPE_CHECKING:
    from audit_layer.costs.focus_check.parquet import ParquetTable

MAX_LINE: Final = 16 << 20
"""Bytes of one line: more of it is never in memory."""
MAX_EXPANSION: Final = 500
"""How many bytes one byte of a gzip file may become, on the average. Deflate itself can do 1032; rows that differ in one
number only become 115.
"""
ALWAYS_EXPANDS: Final = 64 << 20
"""Bytes that a gzip file may become in any case."""
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")

Note = Callable[[Rule, int | None, str | None, str | None, str], None]
"""Takes (rule, row, column, value, expected)."""
Record = tuple[int, Sequence[str | None]]
"""The number of a row, the header being row 1, and its cells."""


class Table(Protocol):
    """A file as a table. `rows` may end early; `complete` is True once everything was read."""

    names: tuple[str, ...]
    spreadsheet: bool
    """Whether a spreadsheet opens such a file as it is."""
    floating: frozenset[str]
    """Columns stored as binary fractions."""
    unreadable: frozenset[str]
    """Columns whose cells cannot be judged: their type does not fit."""
    complete: bool
    size: int
    """Size of the file in bytes, for progress."""

    def position(self) -> int:
        """Return how many bytes of the file have been read."""
        ...

    def rows(self) -> Iterator[Record]:
        """Yield the rows below the header."""
        ...


class CsvTable:
    """A CSV file, read as a stream. Use as a context manager."""

    spreadsheet = True
    floating: frozenset[str] = frozenset()
    unreadable: frozenset[str] = frozenset()

    def __init__(self, path: Path, note: Note) -> None:
        self._note = note
        self._path = path
        self.complete = False
        self._row = 1
        self._stopped = False
        self._lines_seen = 0
        try:
            self._raw = open_regular(path)
        except OSError as error:
            raise CounterfoilError(
                Code.CONFIGURATION, f"{path} cannot be read: {error.strerror}"
            ) from error
        self.size = path.stat().st_size
        self._packed = self._raw.read(2) == b"\x1f\x8b"
        self._raw.seek(0)
        self._file: BinaryIO = gzip.GzipFile(fileobj=self._raw) if self._packed else self._raw  # type: ignore[assignment]  # it reads like one
        self._reader = csv.reader(self._lines(), strict=True)
        self.names = tuple(self._header())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def position(self) -> int:
        """Return how many bytes of the file have been read."""
        return self._raw.tell()

    def rows(self) -> Iterator[Record]:
        """Yield the rows that have as many cells as the header; the others are findings."""
        width = len(self.names)
        while width and (cells := self._next()) is not None:
            if len(cells) == width:
                yield self._row, [cell or None for cell in cells]
            elif cells or width != 1:
                self._note(
                    rules.RAGGED,
                    self._row,
                    None,
                    ",".join(cells),
                    f"{width} cells, not {len(cells)}",
                )
            else:  # RFC 4180 writes a null in the only column as an empty line
                yield self._row, [None]
        self.complete = bool(width) and not self._stopped

    def _header(self) -> list[str]:
        names = self._next(first=True)
        if not names and not self._stopped:
            self._note(rules.EMPTY, None, None, None, "a header row")
        return names or []

    def _next(self, *, first: bool = False) -> list[str] | None:
        """Return the next record that can be read; None at the end, or where reading has to stop."""
        while True:
            before = self._reader.line_num
            if not first:
                self._row += 1
            try:
                return next(self._reader)
            except StopIteration:
                return None
            except csv.Error as error:
                self._malformed(error, one_line=self._reader.line_num == before + 1)
                if self._stopped or first:
                    self._stopped = True
                    return None

    def _malformed(self, error: csv.Error, *, one_line: bool) -> None:
        """Note a record that is no CSV; the next one is only known to begin after it if it is on one line."""
        large = "field larger" in str(error)
        rule = rules.OVERSIZE if large else rules.MALFORMED
        expected = "a cell of at most 131,072 characters" if large else _told(str(error))
        if not one_line:
            self._stopped = True
            expected += "; nothing after it was read"
        self._note(rule, self._row, None, None, expected)

    def _lines(self) -> Iterator[str]:
        while (raw := self._line()) is not None:
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                bad = raw[error.start : error.start + 8]
                self._note(
                    rules.ENCODING,
                    self._row,
                    None,
                    bad.hex(" "),
                    f"UTF-8; byte {error.start + 1:,} of the line is none",
                )
                yield raw.decode(errors="replace")

    def _line(self) -> bytes | None:
        """Return the next line; None at the end, and where the file is not one that can be read further."""
        try:
            raw = self._file.readline(MAX_LINE + 1)
        except (EOFError, OSError, zlib.error) as error:
            self._stop(rules.TRUNCATED, f"a whole file: {_told(str(error))}")
            return None
        if self._lines_seen == 0:
            raw = self._without_mark(raw)
        self._lines_seen += 1
        if len(raw) > MAX_LINE:
            self._stop(rules.OVERSIZE, "a line of at most 16 MiB")
        elif self._packed and self._file.tell() > ALWAYS_EXPANDS + MAX_EXPANSION * self._raw.tell():
            self._stop(rules.BOMB, f"at most {MAX_EXPANSION} bytes for each one")
        return None if self._stopped or not raw else raw

    def _without_mark(self, raw: bytes) -> bytes:
        if raw.startswith(_UTF16_MARKS):
            self._stop(rules.ENCODING, "UTF-8; this is UTF-16")
        if not raw.startswith(_UTF8_MARK):
            return raw
        self._note(rules.MARK, 1, None, None, "UTF-8 without a mark")
        return raw[len(_UTF8_MARK) :]

    def _stop(self, rule: Rule, expected: str) -> None:
        self._stopped = True
        self._note(rule, self._row, None, None, f"{expected}; nothing after it was read")


def _told(error: str) -> str:
    """Return the csv module's message without its advice to programmers."""
    return error.partition(" - ")[0]


def open_table(path: Path, note: Note) -> "CsvTable | ParquetTable":
    """Open a file by its content: Parquet by its first bytes, else CSV, plain or gzip."""
    try:
        with open_regular(path) as file:
            start = file.read(4)
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{path} cannot be read: {error.strerror}"
        ) from error
    if start == b"PAR1":
        from audit_layer.costs.focus_check.parquet import ParquetTable  # noqa: PLC0415  # it builds on this module

        return ParquetTable(path, note)
    return CsvTable(path, note)
