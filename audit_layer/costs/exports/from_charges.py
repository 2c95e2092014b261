"""Every format that is written from charges, by its name: one door for commands and services."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from audit_layer.costs.charge import Charge
from audit_layer.costs.exports.focus_columns import FOCUS_1_2, FOCUS_1_4
from audit_layer.costs.exports.focus_rows import rows_of
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.manifest import About, Manifest
from audit_layer.costs.exports.table import Dataset
from audit_layer.costs.exports.workbook import write_workbook
from audit_layer.costs.exports.writing import write_table
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer

DATASETS: Final[Mapping[Format, Dataset]] = MappingProxyType(
    {
        Format.FOCUS_1_2_CSV: FOCUS_1_2,
        Format.FOCUS_1_2_PARQUET: FOCUS_1_2,
        Format.FOCUS_1_4_CSV: FOCUS_1_4,
        Format.FOCUS_1_4_PARQUET: FOCUS_1_4,
    }
)
"""The formats whose rows are charges."""


def write_charges(
    path: Path,
    chosen: Format,
    charges: Iterable[Charge],
    about: About,
    key: Signer | None = None,
    *,
    zone: str = "UTC",
) -> Manifest:
    """Write charges in a format; `zone` says whose days a workbook shows.

    Errors: as in `writing.publish`; INVALID_ARGUMENT for a charge that contradicts itself or a number that Parquet cannot
    hold exactly; UNSUPPORTED for a format that is not written from charges.
    """
    if chosen is Format.XLSX:
        return write_workbook(path, charges, about, key, zone=zone)
    if chosen not in DATASETS:
        raise CounterfoilError(
            Code.UNSUPPORTED,
            f"{chosen} is not written from charges",
            remedy=f"Name one of: {', '.join((*DATASETS, Format.XLSX))}.",
        )
    return write_table(path, chosen, DATASETS[chosen], rows_of(charges), about, key)
