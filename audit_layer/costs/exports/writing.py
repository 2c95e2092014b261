"""Writing an export: the file as a whole or not at all, its control totals, its signed manifest; and CSV."""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from audit_layer.costs.exports.formats import Format, check_extension
from audit_layer.costs.exports.manifest import (
    About,
    Manifest,
    beside,
    bounds,
    created_text,
    signed,
)
from audit_layer.costs.exports.table import Dataset, Kind, Row, decimal_text, neutral, time_text
from audit_layer.costs.exports.totals import Totals
from shared.codec.moment import to_rfc3339
from shared.runtime.keys import Signer
from shared.runtime.replacing import Output, replacing

Write = Callable[[Output, Totals], None]
"""What fills a file and counts its rows."""
END: Final = "\r\n"
_QUOTE: Final = re.compile(r'[",;|\t\r\n]|^\s|\s$')
"""What RFC 4180 quotes, and the separators that a spreadsheet in another country splits at."""
_LINES: Final = 512
"""Lines that are encoded together."""


def publish(
    path: Path,
    chosen: Format,
    dataset: tuple[str, str],
    about: About,
    write: Write,
    key: Signer | None = None,
) -> Manifest:
    """Write a file and, with a key, its signed manifest beside it; return the manifest.

    `dataset` is (name, version). Both files are complete before the first one replaces an old one. INVALID_ARGUMENT
    when the extension contradicts the format, CONFIGURATION when a file cannot be written; errors of `write` pass.
    """
    check_extension(path, chosen)
    totals = Totals()
    with ExitStack() as files:
        note = files.enter_context(replacing(beside(path))) if key is not None else None
        out = files.enter_context(replacing(path))
        write(out, totals)
        start, end = bounds(about.period)
        manifest = Manifest(
            file=path.name,
            sha256=out.digest().hex(),
            size=out.size,
            rows=totals.rows,
            totals=totals.as_text(),
            dataset=dataset[0],
            version=dataset[1],
            format=chosen.value,
            period_start=start,
            period_end=end,
            created=created_text(about),
        )
        if note is not None and key is not None:
            note.write(signed(manifest, key))
    return manifest


def write_table(
    path: Path,
    chosen: Format,
    dataset: Dataset,
    rows: Iterable[Row],
    about: About,
    key: Signer | None = None,
) -> Manifest:
    """Write the rows of a dataset as CSV or Parquet; errors as in `publish`."""

    def fill(out: Output, totals: Totals) -> None:
        if chosen.container == "parquet":
            from audit_layer.costs.exports.parquet import write_parquet  # noqa: PLC0415  # heavy

            write_parquet(out, dataset, rows, totals)
        else:
            write_csv(out, dataset, rows, totals)

    return publish(path, chosen, (dataset.name, dataset.version), about, fill, key)


def write_csv(out: Output, dataset: Dataset, rows: Iterable[Row], totals: Totals) -> None:
    """Write a header and rows as CSV (RFC 4180), UTF-8 without a byte order mark, lines ended by CR LF."""
    for lines in csv_lines(dataset, rows, totals):
        out.write(lines.encode())


def csv_lines(dataset: Dataset, rows: Iterable[Row], totals: Totals) -> Iterable[str]:
    """Yield the file as pieces of text, each of whole lines."""
    columns = [(column.name, _TEXTS[column.kind]) for column in dataset.columns]
    waiting = [",".join(map(quoted, dataset.names)), ""]
    for row in rows:
        totals.count(row)
        waiting[-1] = ",".join(
            ["" if (cell := row.get(name)) is None else text_of(cell) for name, text_of in columns]
        )
        waiting.append("")
        if len(waiting) > _LINES:
            yield END.join(waiting)
            waiting = [""]
    yield END.join(waiting)


def quoted(text: str) -> str:
    """Return a field as CSV has it."""
    return '"' + text.replace('"', '""') + '"' if _QUOTE.search(text) else text


def text_cell(text: str) -> str:
    """Return text as CSV has it, so that no spreadsheet computes it."""
    return quoted(neutral(text))


_TEXTS: Final[Mapping[Kind, Callable[[Any], str]]] = MappingProxyType(
    {
        Kind.TEXT: lru_cache(maxsize=4096)(text_cell),
        Kind.IDENTIFIER: text_cell,
        **dict.fromkeys((Kind.COST, Kind.PRICE, Kind.QUANTITY), decimal_text),
        Kind.COUNT: str,
        Kind.TIME: lru_cache(maxsize=256)(time_text),
        Kind.INSTANT: to_rfc3339,
    }
)
"""How a cell that is not null is written."""
