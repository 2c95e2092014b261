"""The formats of exports, by name. A format is named or refused; it is never guessed from a file's name."""

from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from shared.runtime.errors import Code, CounterfoilError


class Format(StrEnum):
    """A format by the name that people give it."""

    FOCUS_1_2_CSV = "focus-1.2-csv"
    FOCUS_1_2_PARQUET = "focus-1.2-parquet"
    FOCUS_1_4_CSV = "focus-1.4-csv"
    FOCUS_1_4_PARQUET = "focus-1.4-parquet"
    INVOICE_DETAIL_CSV = "focus-1.4-invoice-detail-csv"
    INVOICE_DETAIL_PARQUET = "focus-1.4-invoice-detail-parquet"
    BILLING_PERIOD_CSV = "focus-1.4-billing-period-csv"
    BILLING_PERIOD_PARQUET = "focus-1.4-billing-period-parquet"
    XLSX = "xlsx"
    GL_CSV = "gl-csv"

    @property
    def container(self) -> str:
        """The kind of file: `csv`, `parquet` or `xlsx`."""
        return self.value.rpartition("-")[2]


EXTENSIONS: Final = MappingProxyType(
    {
        "csv": ("csv",), "parquet": ("parquet", "pq"), "xlsx": ("xlsx",),
        # Of files that no format here writes; every name that ends so would mislead.
        "other": ("gz", "json", "ods", "orc", "pdf", "tsv", "txt", "xls", "xlsm", "xml", "zip", "zst"),
    }
)  # fmt: skip


def format_named(name: str) -> Format:
    """Return the format of that name; UNSUPPORTED with the list of names for any other."""
    try:
        return Format(name)
    except ValueError as error:
        raise CounterfoilError(
            Code.UNSUPPORTED,
            f"{name[:60]!r} is not a format of exports",
            remedy=f"Name one of: {', '.join(Format)}.",
        ) from error


def check_extension(path: Path, chosen: Format) -> Path:
    """Return the path; INVALID_ARGUMENT when its extension promises another kind of file than the format writes."""
    extension = path.suffix.removeprefix(".").lower()
    known = {text for texts in EXTENSIONS.values() for text in texts}
    if extension in known and extension not in EXTENSIONS[chosen.container]:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{path.name} ends in .{extension}, but {chosen} is a .{chosen.container} file",
            remedy="Change the name or the format.",
        )
    return path
