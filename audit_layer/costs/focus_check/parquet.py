"""A Parquet file as rows of the text that CSV would have: decimals plain, times in UTC with Z, nulls as None.

It is decoded in a process of its own, whose memory the system bounds: a page is decompressed whole, and who wrote the file
chose how large it becomes.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from audit_layer.costs.focus_check import rules
from audit_layer.costs.focus_check.columns import DATASETS, Kind
from audit_layer.costs.focus_check.reading import Note, Record
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import open_regular

CHILD: Final = Path(__file__).with_name("parquet_child.py")
MEMORY: Final = 4 << 30
"""Bytes that decoding may take."""
MAX_CELL: Final = 131_072
"""Characters of a cell, as in CSV; what is longer is cut, and a finding."""
MAX_ROWS: Final = 1_000_000
"""Rows that a file of any size may have; every byte of it may hold `ROWS_PER_BYTE` more."""
ROWS_PER_BYTE: Final = 16
_MAX_MESSAGE: Final = 1 << 30
"""Characters of one row or header."""

_KINDS: Final = {
    column.name: column.kind for dataset in DATASETS.values() for column in dataset.columns.values()
}
_FITS: Final = {
    Kind.DECIMAL: frozenset({"text", "number", "fraction", "nothing"}),
    Kind.DATE_TIME: frozenset({"text", "time", "local time", "nothing"}),
}
"""What a column of a kind may hold; one of any other kind holds text."""
_TEXT: Final = frozenset({"text", "nothing"})


class ParquetTable:
    """A Parquet file. Use as a context manager."""

    spreadsheet = False

    def __init__(self, path: Path, note: Note) -> None:
        self._note = note
        self._path = path
        self.complete = False
        self.names: tuple[str, ...] = ()
        self.floating: frozenset[str] = frozenset()
        self.unreadable: frozenset[str] = frozenset()
        self.size = path.stat().st_size
        self._done = 0
        self._total = 0
        with open_regular(path) as file:
            self._child = subprocess.Popen(
                [sys.executable, "-I", str(CHILD), str(MEMORY), str(MAX_CELL)],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        try:
            if isinstance(header := self._message(), dict):
                self._header(header)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._child.kill()
        self._child.communicate()

    def position(self) -> int:
        """Return about how many bytes have been read: rows stand for them."""
        return self.size * self._done // self._total if self._total else self.size

    def rows(self) -> Iterator[Record]:
        """Yield the rows; nothing after what cannot be read."""
        while self.names and isinstance(cells := self._message(), list):
            self._done += 1
            yield self._done + 1, [self._bounded(at, cell) for at, cell in enumerate(cells)]

    def _message(self) -> Any:
        """Return the next row or header; None at the end, which is noted where it is not that of the file."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline(_MAX_MESSAGE)
        message = json.loads(line) if line.endswith(b"\n") else {"broken": "decoding ended early"}
        if isinstance(message, list) or "names" in message:
            return message
        if "missing" in message:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"{self._path} is Parquet, which cannot be read without the package {message['missing']}",
                remedy="pip install 'counterfoil[audit]'",
            )
        if "broken" in message:
            rule = rules.ENCODING if message.get("encoding") else rules.TRUNCATED
            expected = "a whole Parquet file in UTF-8; nothing after it was read"
            self._note(rule, self._row(), None, message["broken"], expected)
        self.complete = "end" in message
        return None

    def _row(self) -> int | None:
        return self._done + 2 if self.names else None

    def _header(self, header: dict[str, Any]) -> None:
        self._total = header["rows"]
        most = MAX_ROWS + ROWS_PER_BYTE * self.size
        if self._total > most:
            self._note(
                rules.BOMB, None, None, str(self._total), f"at most {most:,} rows in its size"
            )
            return
        self.names = tuple(header["names"])
        columns = list(zip(self.names, header["holds"], header["types"], strict=True))
        self.floating = frozenset(name for name, holds, _ in columns if holds == "fraction")
        unreadable = set()
        for name, holds, told in columns:
            kind = _KINDS.get(name)
            if kind is not None and holds not in _FITS.get(kind, _TEXT):
                unreadable.add(name)
                self._note(rules.PHYSICAL_TYPE, 1, name, told, kind.value)
            elif holds == "local time":
                self._note(rules.ZONELESS, 1, name, told, "a timestamp adjusted to UTC")
        self.unreadable = frozenset(unreadable)

    def _bounded(self, at: int, cell: str | None) -> str | None:
        """Cut a long cell, and note it."""
        if cell is None or len(cell) <= MAX_CELL:
            return cell
        expected = "a cell of at most 131,072 characters"
        self._note(rules.OVERSIZE, self._done + 1, self.names[at], cell, expected)
        return cell[:MAX_CELL]
