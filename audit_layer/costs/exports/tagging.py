"""Filling the column `Tags` of a FOCUS file from a tag book, where the file is wanted: the server never sees a tag.

Files pass through in bounded memory. A book speaks for its own tenant only (protocol §4.5.1), so it is used for rows with
that BillingAccountId. What a file says in `Tags` already is not taken over: only the book says what a value stands for.
"""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, BinaryIO, Final

from audit_layer.costs.exports.focus_rows import json_text
from audit_layer.costs.exports.table import Dataset
from audit_layer.costs.exports.totals import Totals
from audit_layer.costs.exports.writing import END, quoted, text_cell
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.replacing import Output
from shared.statements.tag_book import TagBook

MAX_LINE: Final = 2**20
"""Characters of a line; more are refused."""
MAX_GROUP: Final = 2**28
"""Bytes, uncompressed, of a row group; more are refused."""
_LINES: Final = 512
"""Lines that are written together."""
_COST: Final = re.compile(r"-?\d{1,60}\.\d{1,60}", re.ASCII)
_CENTRE: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tagging:
    """A book as `Tags` has it."""

    book: TagBook
    _known: dict[str, str | None] = field(default_factory=dict, repr=False)

    def text(self, tenant: str, centre: str) -> str | None:
        """Return the tags of a row, as FOCUS has them; None where the book does not say."""
        return self.of_centre(centre) if tenant == self.book.tenant else None

    def of_centre(self, centre: str | None) -> str | None:
        """Return the tags of one of the tenant's blinded values in hexadecimal; None where the book does not say."""
        if not centre or not _CENTRE.fullmatch(centre):
            return None
        if centre not in self._known:
            if len(self._known) > len(self.book.entries):  # values that the book does not have
                self._known.clear()
            tags = self.book.tags_of(bytes.fromhex(centre))
            self._known[centre] = json_text(tags) if tags else None
        return self._known[centre]


def fill_csv(
    dataset: Dataset, chunks: Iterable[bytes], tagging: Tagging, out: Output, totals: Totals
) -> None:
    """Copy a CSV of this project's exports with its `Tags` filled, and count its rows; MALFORMED for any other file."""
    rows = csv.reader(_lines(chunks), strict=True)
    if next(_checked(rows), None) != list(dataset.names):
        raise _malformed(f"does not have the columns of {dataset.name} {dataset.version}")
    places = {name: place for place, name in enumerate(dataset.names)}
    tenant, centre, tags = places["BillingAccountId"], places["x_CostCentre"], places["Tags"]
    cost, currency, category = (
        places[name] for name in ("BilledCost", "BillingCurrency", "ChargeCategory")
    )
    waiting = [",".join(map(quoted, dataset.names))]
    for row in _checked(rows):
        if len(row) != len(places) or not _COST.fullmatch(row[cost]):
            raise _malformed(f"has a row that is none, its {totals.rows + 1}th")
        totals.rows += 1
        totals.add(row[currency], row[category], Decimal(row[cost]))
        found = tagging.text(row[tenant], row[centre])
        cells = [quoted(cell) for cell in row]
        cells[tags] = "" if found is None else text_cell(found)
        waiting.append(",".join(cells))
        if len(waiting) == _LINES:
            out.write((END.join(waiting) + END).encode())
            waiting.clear()
    out.write("".join(f"{line}{END}" for line in waiting).encode())


def _checked(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise _malformed(f"is no CSV: {error}") from error


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield lines with their ends."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")(), ""
    try:
        for chunk in chunks:
            *whole, rest = (rest + decoder.decode(chunk)).split("\n")
            for line in whole:
                yield f"{line}\n"
            if len(rest) > MAX_LINE:
                raise _malformed(f"has a line of more than {MAX_LINE:,} characters")
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _malformed("is not UTF-8") from error
    if rest:
        yield rest


def fill_parquet(
    dataset: Dataset, source: BinaryIO, tagging: Tagging, out: Output, totals: Totals
) -> None:
    """Copy a Parquet file of this project's exports with its `Tags` filled, and count its rows; MALFORMED for any other."""
    from audit_layer.costs.exports.parquet import parquet_writer  # noqa: PLC0415  # heavy

    with parquet_writer(out, dataset) as writer:
        for batch in parquet_batches(dataset, source):
            _count(batch, totals)
            writer.write_batch(_filled(batch, tagging))


def parquet_batches(dataset: Dataset, source: BinaryIO) -> Iterator[Any]:
    """Yield the record batches of a Parquet file of this project's exports; MALFORMED for any other."""
    import pyarrow as pa  # noqa: PLC0415  # heavy
    import pyarrow.parquet as pq  # noqa: PLC0415

    from audit_layer.costs.exports.parquet import ROWS, schema_of  # noqa: PLC0415

    try:
        file = pq.ParquetFile(source)
        if not file.schema_arrow.equals(schema_of(dataset)):
            raise _malformed(f"does not have the columns of {dataset.name} {dataset.version}")
        groups = (file.metadata.row_group(at) for at in range(file.metadata.num_row_groups))
        if any(group.total_byte_size > MAX_GROUP for group in groups):
            raise _malformed(f"has a row group of more than {MAX_GROUP:,} bytes")
        yield from file.iter_batches(batch_size=ROWS)
    except (pa.ArrowException, OSError) as error:
        raise _malformed(f"is no Parquet: {error}"[:200]) from error


def tagged_rows(dataset: Dataset, source: BinaryIO, tagging: Tagging) -> Iterator[dict[str, Any]]:
    """Yield the rows of such a Parquet file with their `Tags` filled, times in ms."""
    import pyarrow as pa  # noqa: PLC0415  # heavy

    for batch in parquet_batches(dataset, source):
        filled = _filled(batch, tagging)
        columns = [
            column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
            for column in filled.columns
        ]
        yield from pa.RecordBatch.from_arrays(columns, names=list(dataset.names)).to_pylist()


def _filled(batch: Any, tagging: Tagging) -> Any:
    import pyarrow as pa  # noqa: PLC0415  # heavy
    import pyarrow.compute as pc  # noqa: PLC0415

    centres = batch.column("x_CostCentre")
    texts = pa.array(map(tagging.of_centre, centres.dictionary.to_pylist()), pa.string())
    own = pc.equal(batch.column("BillingAccountId").dictionary_decode(), tagging.book.tenant)
    tags = pc.if_else(own, texts.take(centres.indices), pa.scalar(None, pa.string()))
    place = batch.schema.get_field_index("Tags")
    return batch.set_column(place, batch.schema.field(place), tags.dictionary_encode())


def _count(batch: Any, totals: Totals) -> None:
    import pyarrow as pa  # noqa: PLC0415  # heavy

    from audit_layer.costs.exports.table import SCALES, Kind  # noqa: PLC0415

    totals.rows += batch.num_rows
    by = ("BillingCurrency", "ChargeCategory")
    columns = {name: batch.column(name).dictionary_decode() for name in by}
    # In 76 digits, no sum of a batch can overflow.
    costs = batch.column("BilledCost").cast(pa.decimal256(76, SCALES[Kind.COST]))
    table = pa.table({**columns, "cost": costs})
    for row in table.group_by(by).aggregate([("cost", "sum")]).to_pylist():
        totals.add(row["BillingCurrency"], row["ChargeCategory"], row["cost_sum"])


def _malformed(what: str) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, f"the export that came {what}")
