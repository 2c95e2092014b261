"""What commands print: tables for people, JSON for scripts, from the same data."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from shared.runtime.printable import for_terminal, json_for_terminal

if TYPE_CHECKING:
    from rich.table import Table

WIDEST: Final = 10_000
"""Width within which a table's natural width is measured."""
TITLE_WIDTH: Final = 76
"""The most columns that a table takes for the sake of its title."""
SHORT: Final = 24
_WHOLE: Final = re.compile(r"[0-9a-f]{64}|\d{4}-\d\d-\d\dT[0-9:.]+Z", re.ASCII)
"""Entries, keys and times: values that are copied, or read as a unit."""
json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for scripts instead of text."
)
"""Decorator: gives a command the flag `--json` as its parameter `as_json`."""


def emit(data: Any, as_json: bool, render: Callable[[], Any]) -> None:
    """Print `data` as JSON, or what `render()` returns: text, or anything that rich can print.
    Nothing but the JSON goes to standard output; bytes are written in hexadecimal, exact numbers as text. Nothing in the data
    can control a terminal: text spells control characters out, JSON escapes them without changing its meaning.
    """
    if as_json:
        click.echo(to_json(data))
        return
    rendered = render()
    if isinstance(rendered, str):
        click.echo(for_terminal(rendered))
        return
    from rich.console import Console  # noqa: PLC0415  # saves --json a tenth of a second

    console = Console()
    boundless = console.options.update(width=WIDEST)
    console.width = max(console.width, console.measure(rendered, options=boundless).minimum)
    console.print(rendered)


def to_json(data: Any) -> str:
    """Return indented JSON of plain values, dataclasses, enums, dates, paths, Decimals and bytes."""
    return json_for_terminal(json.dumps(data, indent=2, ensure_ascii=False, default=_plain))


def emit_line(data: Any) -> None:
    """Print `data` as JSON on a line of its own."""
    click.echo(json_for_terminal(json.dumps(data, ensure_ascii=False, default=_plain)))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> "Table":
    """Return a table: numbers right-aligned, None as an empty cell; entries, times and the title are never broken.
    A table that they make wider than the terminal is left for the terminal to wrap, so that what is copied is complete;
    breaking short cells would gain nothing then.
    """
    from rich.cells import cell_len  # noqa: PLC0415  # likewise
    from rich.table import Table  # noqa: PLC0415

    filled = [list(row) for row in rows]
    whole = [any(_WHOLE.fullmatch(str(row[at])) for row in filled) for at in range(len(columns))]
    built = Table(title=title, title_justify="left", min_width=min(len(title), TITLE_WIDTH))
    for at, column in enumerate(columns):
        numeric = bool(filled) and all(isinstance(row[at], int | float | Decimal) for row in filled)
        short = any(whole) and all(len(str(row[at])) <= SHORT for row in filled)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        unbroken = whole[at] or short
        # Rich takes a column's longest word as its minimum width, even if the column must not be broken.
        texts = [column, *("" if row[at] is None else str(row[at]) for row in filled)]
        needs = max(map(cell_len, texts)) if unbroken else None
        built.add_column(
            column, justify=justify, overflow="fold", no_wrap=unbroken, min_width=needs
        )
    for row in filled:
        built.add_row(*("" if cell is None else _cell(cell) for cell in row))
    return built


def _cell(cell: object) -> str:
    from rich.markup import escape  # noqa: PLC0415  # likewise

    return escape(for_terminal(format(cell, "f") if isinstance(cell, Decimal) else str(cell)))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, set | frozenset):
        return sorted(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")
