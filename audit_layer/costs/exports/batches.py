"""Charges as columns, for exports of millions of rows: the same file as from rows, computed a batch at a time.

Most cells follow from a few fields that repeat (`shared_cells`): they are computed once per combination of those. What
is a row's own (quantities, costs, times, receipt) is computed by Arrow, in decimals of 76 digits, without rounding.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audit_layer.costs.charge import USAGE, Charge
from audit_layer.costs.exports.charge_columns import Batch, ChargeColumns, refused
from audit_layer.costs.exports.focus_rows import SECOND, exact_quantity, row_of, shared_cells
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.from_charges import DATASETS
from audit_layer.costs.exports.manifest import About, Manifest
from audit_layer.costs.exports.parquet import (
    array_of,
    arrow_type,
    batch_of,
    parquet_writer,
    schema_of,
    too_large,
)
from audit_layer.costs.exports.table import SCALES, Column, Dataset, Kind
from audit_layer.costs.exports.totals import Totals
from audit_layer.costs.exports.writing import publish
from shared.codec.moment import MAX_MS
from shared.codec.money import amount_of
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.runtime.replacing import Output

_COSTS: Final = frozenset({"BilledCost", "EffectiveCost", "ListCost", "ContractedCost"})
_EXACT_COST: Final = pa.decimal256(76, SCALES[Kind.COST])


def parquet_from_batches(
    path: Path,
    chosen: Format,
    batches: Iterable[Batch],
    about: About,
    key: Signer | None = None,
) -> Manifest:
    """Write FOCUS as Parquet from columns; errors as in `publish`, INVALID_ARGUMENT for columns that are no charges."""
    dataset = DATASETS.get(chosen)
    if dataset is None or chosen.container != "parquet":
        raise CounterfoilError(
            Code.UNSUPPORTED, f"{chosen} is not written from columns", remedy="Write it from rows."
        )

    def fill(out: Output, totals: Totals) -> None:
        with parquet_writer(out, dataset) as writer:
            for batch in batches:
                charges = ChargeColumns(batch)
                if charges.rows:
                    writer.write_batch(focus_batch(dataset, charges, totals))

    return publish(path, chosen, (dataset.name, dataset.version), about, fill, key)


def focus_batch(dataset: Dataset, charges: ChargeColumns, totals: Totals) -> Any:
    """Return a record batch of FOCUS rows, and count them."""
    first, combination = charges.combinations()
    examples = [charges.charge(index) for index in first]
    if any(example.kind not in USAGE for example in examples):  # few, at the end of a period
        rows = [row_of(charges.charge(index)) for index in range(charges.rows)]
        for row in rows:
            totals.count(row)
        return batch_of(dataset, rows)
    shared = [shared_cells(example) for example in examples]
    own, billed = _own(charges, examples, shared, combination)
    _count(totals, shared, combination, billed)
    arrays = [
        own[column.name] if column.name in own else _spread(column, shared, combination)
        for column in dataset.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema_of(dataset))


def _own(
    charges: ChargeColumns,
    examples: Sequence[Charge],
    shared: Sequence[Mapping[str, Any]],
    combination: Any,
) -> tuple[dict[str, Any], Any]:
    """Return the columns that differ from row to row, and the exact billed cost."""
    rows = pa.array(combination)

    def each(values: Iterable[Any], type_: Any) -> Any:
        return pa.array(list(values), type=type_).take(rows)

    priced = each(
        (amount_of(1, Decimal(1), example.per) for example in examples), pa.decimal128(10, 9)
    )
    counted = each(
        (exact_quantity(example.kind, 1) for example in examples),
        pa.decimal128(10, 9),
    )
    price = Column("ListUnitPrice", Kind.PRICE)
    prices, foreign = (
        array_of(price, [cells[name] for cells in shared]).take(rows)
        for name in ("ListUnitPrice", "PricingCurrencyListUnitPrice")
    )
    quantity, verified = charges.column("quantity"), charges.column("verified_quantity")
    started, ended = charges.column("started"), charges.column("ended")
    pricing = _product(_decimal(quantity), priced)
    billed = _product(pricing, prices).cast(_EXACT_COST)
    _compare(charges, billed)
    correction = each((example.correction for example in examples), pa.bool_())
    variance = pc.if_else(correction, None, pc.subtract_checked(quantity, verified))
    cost = _fit("BilledCost", billed)
    time = arrow_type(Kind.TIME)
    return {
        **dict.fromkeys(_COSTS, cost),
        "PricingCurrencyEffectiveCost": _fit(
            "PricingCurrencyEffectiveCost", _product(pricing, foreign)
        ),
        "ChargePeriodStart": pa.array(started.to_numpy() // SECOND * SECOND).cast(time),
        "ChargePeriodEnd": pa.array(_period_end(started.to_numpy(), ended.to_numpy())).cast(time),
        "ConsumedQuantity": _fit("ConsumedQuantity", _product(_decimal(quantity), counted)),
        "PricingQuantity": _fit("PricingQuantity", pricing),
        "x_Receipt": _hex(charges.column("receipt")),
        "x_LogIndex": charges.column("log_index"),
        "x_Started": started.cast(time),
        "x_Ended": ended.cast(time),
        "x_VerifiedQuantity": _fit("x_VerifiedQuantity", _product(_decimal(verified), counted)),
        "x_QuantityVariance": _fit("x_QuantityVariance", _product(_decimal(variance), counted)),
        "x_Because": _hex(charges.column("because")),
    }, billed


def _spread(column: Column, shared: Sequence[Mapping[str, Any]], combination: Any) -> Any:
    """Return a column whose cells follow from the combination."""
    cells = [row.get(column.name) for row in shared]
    if column.kind is not Kind.TEXT:
        return array_of(column, cells).take(pa.array(combination))
    texts = [text for text in dict.fromkeys(cells) if text is not None]
    place = {text: index for index, text in enumerate(texts)}
    places = np.array([place.get(text, -1) for text in cells], np.int32)[combination]
    return pa.DictionaryArray.from_arrays(
        pa.array(places, mask=places < 0), pa.array(texts, pa.string())
    )


def _count(
    totals: Totals, shared: Sequence[Mapping[str, Any]], combination: Any, billed: Any
) -> None:
    table = pa.table({"combination": combination, "billed": billed})
    for found in table.group_by("combination").aggregate([("billed", "sum")]).to_pylist():
        cells = shared[found["combination"]]
        totals.add(cells["BillingCurrency"], cells["ChargeCategory"], found["billed_sum"])
    totals.rows += len(billed)


def _compare(charges: ChargeColumns, billed: Any) -> None:
    """Refuse amounts that are given and are not quantity × price / per."""
    if "amount" in charges.columns or "amount" in charges.constants:
        given = charges.column("amount").cast(_EXACT_COST)
        same = pc.all(pc.equal(given, billed), skip_nulls=False).as_py()
        if not same:
            raise refused("an amount that is not quantity × unit price / per")


def _decimal(numbers: Any) -> Any:
    return numbers.cast(pa.decimal128(19, 0))


def _product(one: Any, other: Any) -> Any:
    """Return exact products; the precision of decimals of 76 digits is enough for any three columns."""
    return pc.multiply(_wide(one), _wide(other))


def _wide(numbers: Any) -> Any:
    return numbers.cast(pa.decimal256(numbers.type.precision, numbers.type.scale))


def _fit(name: str, numbers: Any) -> Any:
    """Return numbers in the type of their column."""
    kind = Kind.COST if name.endswith("Cost") else Kind.QUANTITY
    try:
        return numbers.cast(arrow_type(kind))
    except pa.ArrowInvalid as error:
        raise too_large(Column(name, kind), error) from error


def _period_end(started: Any, ended: Any) -> Any:
    """Return what `focus_rows.period_end` returns for every row."""
    return np.minimum(np.maximum(-(-ended // SECOND), started // SECOND + 1) * SECOND, MAX_MS)


def _hex(values: Any) -> Any:
    return pa.array(
        [None if value is None else value.hex() for value in values.to_pylist()], pa.string()
    )
