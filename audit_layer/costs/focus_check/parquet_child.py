"""Decode Parquet from standard input into JSON lines on standard output, within memory that the system bounds.

    python -I parquet_child.py MEMORY CELL < file.parquet

The first line is an object: the names of the columns, what each of them holds (see `_holds`), its type in words, and how many
rows there are. Then comes an array for each row, of texts as CSV would have them and nulls; the last line is an object with
`end`, or with `broken` (why) and `encoding` (whether it is text that is no UTF-8). What is longer than CELL characters is cut
to one more than that. This file is run by path, without the packages around it.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

_BATCH: Final = 2048
"""Rows at a time."""
_FOOTER: Final = 16 << 20
"""Bytes of a text in the metadata, and entries of a list in it."""


def main() -> None:
    """Decode standard input."""
    memory, cell = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    os.environ["ARROW_IO_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        import pyarrow as pa  # noqa: PLC0415  # whoever checks CSV only may lack it
    except ImportError as error:
        _tell({"missing": error.name})
        return
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    try:
        _decode(pa, cell)
        _tell({"end": True})
    except UnicodeDecodeError:
        _tell({"broken": "text that is no UTF-8", "encoding": True})
    except (pa.ArrowException, ArithmeticError, MemoryError, OSError, ValueError) as error:
        why = str(error).split("\n", maxsplit=1)[0][:100] or type(error).__name__
        _tell({"broken": why, "encoding": False})
    sys.stdout.flush()
    os._exit(0)  # without the destructors of a library that a hostile file has been through


def _decode(pa: Any, cell: int) -> None:
    """Tell the header and every row; texts stay dictionary-encoded, so that one that many rows use is in memory once."""
    from pyarrow import parquet  # noqa: PLC0415  # likewise

    options = {"memory_map": False, "pre_buffer": False}
    limits = {"thrift_string_size_limit": _FOOTER, "thrift_container_size_limit": _FOOTER}
    source = sys.stdin.buffer
    schema = parquet.ParquetFile(source, **options, **limits).schema_arrow
    texts = [field.name for field in schema if _holds(pa, field.type) == "text"]
    source.seek(0)
    file = parquet.ParquetFile(source, read_dictionary=texts, **options, **limits)
    _tell(
        {
            "names": schema.names,
            "holds": [_holds(pa, field.type) for field in schema],
            "types": [str(field.type)[:100] for field in schema],
            "rows": file.metadata.num_rows,
        }
    )
    for batch in file.iter_batches(_BATCH, use_threads=False):
        columns = [_texts(pa, column, cell) for column in batch.columns]
        sys.stdout.writelines(map(_line, zip(*columns, strict=True)))


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(_line(message))


def _line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


def _holds(pa: Any, kind: Any) -> str:
    """Return what a type holds, as a column of FOCUS sees it."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_timestamp(kind):
        return "time" if kind.tz is not None else "local time"
    tests = {
        "text": (types.is_string, types.is_large_string),
        "number": (types.is_decimal, types.is_integer),
        "fraction": (types.is_floating,),
        "nothing": (types.is_null,),
    }
    return next((name for name, some in tests.items() if any(t(kind) for t in some)), "other")


def _texts(pa: Any, column: Any, cell: int) -> list[str | None]:
    """Return a batch's cells as text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        places = column.indices.to_pylist()
        used = sorted({at for at in places if at is not None})
        words = dict(
            zip(
                used,
                _texts(pa, column.dictionary.take(pa.array(used, pa.int64())), cell),
                strict=True,
            )
        )
        return [None if at is None else words[at] for at in places]
    write: Callable[[Any], str] = str
    if pa.types.is_timestamp(kind):
        # Nanoseconds are cut: that a time has a fraction of a second is what counts, and they come in tenths of thousands.
        column, write = column.cast(pa.timestamp("us"), safe=False), _time
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        write = _plain
    return [None if value is None else write(value)[: cell + 1] for value in column.to_pylist()]


def _plain(value: float | Decimal) -> str:
    """Return a number without exponent; a fraction in the fewest digits that stand for it."""
    return format(Decimal(str(value)), "f")


def _time(value: datetime) -> str:
    """Return a time in UTC with Z."""
    return f"{value.replace(tzinfo=UTC).isoformat().removesuffix('+00:00')}Z"


if __name__ == "__main__":
    main()
