"""The figures for a person. Pure."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.common.table import Figures, head, mark

SHOWN: Final = {
    "seal": "client",
    "order": "client",
    "admit": "node",
    "open": "node",
    "escrow": "custodian",
    "combine": "auditor",
    "frame": "node",
    "sign": "node",
    "read": "client",
    "verify": "client",
}
"""The steps, and whose they are."""


def render(found: Figures) -> RenderableType:
    """Return a table of bytes, whose letters name the shapes, and one of times, under a line about the machine."""
    settings = found["settings"]
    how = f"{settings['rounds']} rounds of {settings['repetitions']} each, one thread; medians"
    shapes = dict(zip(ascii_uppercase, found["shapes"], strict=False))
    more = [_disclosures(found["disclosures"])] if "disclosures" in found else []
    return Group(head(found["machine"]), how, _bytes(shapes), _times(shapes), *more)


def _bytes(shapes: Figures) -> Table:
    table = Table(title="Bytes", title_justify="left")
    table.add_column("")
    for name in ("prompt", "nodes", "k of n", "envelope", "order", "added", "frame"):
        table.add_column(name, justify="right")
    for letter, found in shapes.items():
        shape, size = found["shape"], found["bytes"]
        numbers = (size[name] for name in ("envelope", "order", "added", "frame"))
        table.add_row(
            letter,
            f"{shape['body']:,}",
            str(shape["candidates"]),
            f"{shape['threshold']} of {shape['custodians']}",
            *(f"{number:,}" for number in numbers),
        )
    return table


def _times(shapes: Figures) -> Table:
    table = Table(title="Time of each step, µs", title_justify="left")
    table.add_column("step")
    table.add_column("whose")
    for letter in shapes:
        table.add_column(letter, justify="right")
    table.add_column("aim", justify="right")
    for step, whose in SHOWN.items():
        medians = {key: found["microseconds"][step]["median"] for key, found in shapes.items()}
        aims = [
            f"{letter} ≤ {most:g}{mark(medians[letter] <= most)}"
            for letter, found in shapes.items()
            if (most := found["aims"].get(step)) is not None
        ]
        table.add_row(step, whose, *(f"{value:,.1f}" for value in medians.values()), *aims)
    return table


def _disclosures(rows: Sequence[Figures]) -> Table:
    table = Table(
        title="Disclosures in a running platform, 3 of 5 custodians", title_justify="left"
    )
    for name in ("checkpoint every", "disclosures", "median", "90 %", "aim"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row['publish_interval_ms']} ms",
            str(row["disclosures"]),
            f"{row['median_ms']:.0f} ms",
            f"{row['p90_ms']:.0f} ms",
            f"≤ {row['aim_ms']} ms{mark(row['median_ms'] <= row['aim_ms'])}",
        )
    return table
