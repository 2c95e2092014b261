"""CSV in a declared dialect (RFC 4180 with other delimiters, quotes and encodings), row by row. Pure."""

import codecs
import csv
import io
from collections.abc import Iterator
from typing import Final

from audit_layer.costs.intake.faults import refused
from audit_layer.costs.intake.limits import MAX_CELL, MAX_COLUMNS
from audit_layer.costs.intake.table import Cell, Row, Table
from shared.runtime.printable import printable

_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def csv_table(
    content: bytes, *, encoding: str, delimiter: str, quote: str, by_record: bool = False
) -> Table:
    """Return the rows of a CSV file, numbered by the line on which each begins, or `by_record` with the header as 0.

    MALFORMED, when the rows are read, for bytes that are not text in this encoding and for broken quoting.
    """
    text = io.TextIOWrapper(io.BytesIO(content), encoding=_codec(content, encoding), newline="")
    return Table(_rows(text, delimiter, quote, encoding, by_record=by_record), rectangular=True)


def _codec(content: bytes, encoding: str) -> str:
    """Return the codec of a declared encoding; refuse a byte order mark that contradicts it."""
    if encoding in ("utf-8", "utf-8-sig"):
        if content.startswith(_UTF16):
            raise refused(f"begins as UTF-16 does, but is declared as {encoding}")
        return "utf-8-sig"  # which reads files with and without the mark
    if encoding == "utf-16":
        if not content.startswith(_UTF16):
            raise refused("is declared as UTF-16, but has no byte order mark")
    elif content.startswith((codecs.BOM_UTF8, *_UTF16)):
        raise refused(f"begins with a byte order mark of Unicode, but is declared as {encoding}")
    return encoding


def _rows(
    text: io.TextIOWrapper, delimiter: str, quote: str, encoding: str, *, by_record: bool
) -> Iterator[Row]:
    reader = csv.reader(text, delimiter=delimiter, quotechar=quote, strict=True)
    record = 0
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except UnicodeError as error:
            raise refused(f"is not {encoding} text after line {line - 1}") from error
        except csv.Error as error:
            why = printable(str(error), 200)  # which repeats the delimiter, perhaps a tab
            raise refused(f"is not CSV with these settings from line {line} on: {why}") from error
        if len(values) > MAX_COLUMNS or any(len(value) > MAX_CELL for value in values):
            raise refused(
                f"has, in line {line}, more than {MAX_COLUMNS} cells or {MAX_CELL} characters in one; "
                "is the delimiter or the quote another one?"
            )
        yield Row(record if by_record else line, [Cell(value.strip()) for value in values])
        record += 1
