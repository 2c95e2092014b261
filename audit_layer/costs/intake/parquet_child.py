"""Decode Parquet from standard input into CSV on standard output, within limits that the operating system enforces.

    python -I parquet_child.py MEMORY CPU_SECONDS BYTES ROWS COLUMNS CELL < file.parquet

Exit code 0, or `REFUSED` with the reason on standard error. This file is run by path, without the packages around it.
"""

import csv
import io
import os
import resource
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, NoReturn

REFUSED: Final = 3
_BATCH: Final = 1000
_MAX_FOOTER: Final = 4 * 2**20


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(why)
    sys.stderr.flush()
    os._exit(REFUSED)  # without the destructors of a library that a hostile file has been through


def _text(value: Any) -> str:
    """Return a value as FOCUS writes it in CSV."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(
            Decimal(repr(value)), "f"
        )  # the shortest decimal that reads back as this double
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).strftime("%Y-%m-%dT%H:%M:%SZ")
    return value.isoformat() + "T00:00:00Z" if isinstance(value, date) else str(value)


def _readable(pa: Any, kind: Any) -> bool:
    """Whether FOCUS has values of this type; nested ones (tags as a map) are not read."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    scalar = (
        types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_decimal,
        types.is_timestamp, types.is_date, types.is_boolean, types.is_null,
    )  # fmt: skip
    return any(check(kind) for check in scalar)


def main() -> None:
    """Decode standard input."""
    memory, seconds, most, rows, columns, cell = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    os.environ["ARROW_IO_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        _refuse("is Parquet, and the package pyarrow, which reads it, is not installed here")
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    source = sys.stdin.buffer
    source.seek(-8, os.SEEK_END)
    tail = source.read()
    if tail[4:] != b"PAR1" or int.from_bytes(tail[:4], "little") > _MAX_FOOTER:
        _refuse("is a truncated Parquet file, or one with a footer of more than 4 MiB")
    source.seek(0)
    try:
        file = parquet.ParquetFile(source)
        if file.metadata.num_rows > rows:
            _refuse(f"has more than {rows} rows")
        if file.metadata.num_columns > columns:
            _refuse(f"has more than {columns} columns")
        fields = [field for field in file.schema_arrow if _readable(pa, field.type)]
        texts = [field.name for field in fields if pa.types.is_string(field.type)]
        source.seek(0)
        # As dictionaries, so that one long text does not become a long text for every row.
        file = parquet.ParquetFile(source, read_dictionary=texts)
        _decode(file, [field.name for field in fields], most, cell)
        os._exit(0)  # as below; everything is written
    except MemoryError:  # Arrow's own error is one, too
        _refuse("asks for far more memory than its size explains")
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        _refuse(f"is damaged Parquet ({type(error).__name__})")


def _decode(file: Any, names: list[str], most: int, longest: int) -> None:
    out = sys.stdout.buffer
    left = most
    for columns in _batches(file, names):
        lengths = [len(text) for column in columns for text in column]
        left -= sum(lengths)
        if max(lengths, default=0) > longest:
            _refuse(f"has more than {longest} characters in one cell")
        if left < 0:
            _refuse(f"holds more than {most // 2**20} MiB once decompressed")
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerows(zip(*columns, strict=True))
        out.write(text.getvalue().encode("utf-8", "strict"))
    out.flush()


def _batches(file: Any, names: list[str]) -> Iterator[list[list[str]]]:
    """Return the columns as texts, some rows at a time; the first row is their names."""
    yield [[name] for name in names]
    for batch in file.iter_batches(_BATCH, columns=names, use_threads=False):
        yield [_column(column) for column in batch.columns]


def _column(array: Any) -> list[str]:
    if not hasattr(array, "dictionary"):
        return [_text(value.as_py()) for value in array]
    texts = [_text(value.as_py()) for value in array.dictionary]
    return ["" if at is None else texts[at] for at in array.indices.to_pylist()]


if __name__ == "__main__":
    main()
