"""Datasets as Parquet: exact decimals, times in UTC to the millisecond, text as dictionaries. In bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from audit_layer.costs.exports.table import PRECISION, SCALES, Column, Dataset, Kind, Row
from audit_layer.costs.exports.totals import Totals
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.replacing import Output

ROWS: Final = 16_384
"""Rows in a row group, and in memory."""


def arrow_type(kind: Kind) -> Any:
    """Return the Arrow type of a column."""
    if kind in SCALES:
        return pa.decimal128(PRECISION, SCALES[kind])
    return {
        Kind.TEXT: pa.dictionary(pa.int32(), pa.string()),
        Kind.IDENTIFIER: pa.string(),
        Kind.COUNT: pa.int64(),
        Kind.TIME: pa.timestamp("ms", tz="UTC"),
        Kind.INSTANT: pa.timestamp("ms", tz="UTC"),
    }[kind]


def schema_of(dataset: Dataset) -> Any:
    """Return the Arrow schema, with the dataset's name and version as metadata."""
    fields = [
        pa.field(column.name, arrow_type(column.kind), nullable=column.nullable)
        for column in dataset.columns
    ]
    return pa.schema(fields, {"dataset": dataset.name, "dataset_version": dataset.version})


@contextmanager
def parquet_writer(out: Output, dataset: Dataset) -> Iterator[Any]:
    """Yield a writer of record batches (`write_batch`), one row group each."""
    writer = pq.ParquetWriter(out, schema_of(dataset), compression="zstd", version="2.6")
    try:
        yield writer
        writer.close()
    finally:
        writer.is_open = (
            False  # after an error the file is thrown away: its destructor shall write no footer
        )


def write_parquet(out: Output, dataset: Dataset, rows: Iterable[Row], totals: Totals) -> None:
    """Write rows; INVALID_ARGUMENT for a number that its column cannot hold exactly: nothing is rounded here."""
    source = iter(rows)
    with parquet_writer(out, dataset) as writer:
        while chunk := list(islice(source, ROWS)):
            for row in chunk:
                totals.count(row)
            writer.write_batch(batch_of(dataset, chunk))


def batch_of(dataset: Dataset, rows: Sequence[Row]) -> Any:
    """Return rows as a record batch."""
    arrays = [
        array_of(column, [row.get(column.name) for row in rows]) for column in dataset.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema_of(dataset))


def array_of(column: Column, cells: Sequence[Any]) -> Any:
    """Return cells as an Arrow array of the column's type."""
    try:
        return pa.array(cells, type=arrow_type(column.kind))
    except (pa.ArrowInvalid, OverflowError) as error:
        raise too_large(column, error) from error


def too_large(column: Column, error: Exception) -> CounterfoilError:
    """Return the error that a column cannot hold a value exactly."""
    return CounterfoilError(
        Code.INVALID_ARGUMENT,
        f"a value of {column.name} does not fit {arrow_type(column.kind)} exactly: {error}",
        remedy="Export it as CSV, which has no limit.",
    )
