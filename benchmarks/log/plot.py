"""Rates as bars, in SVG. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

TITLES = {
    "bulk": ("Into the store: entries/s, by entries per transaction", ("bare", "with_trail")),
    "batches": (
        "Through the API: statements/s, by statements per call",
        ("receipts", "singles"),
    ),
    "closed": ("One statement per call: statements/s, by waiters", ("per_s",)),
    "growth": ("As the log grows: entries/s, by entries in it", ("entries_per_s",)),
}
"""Workload → (title, series)."""
INNER = {"closed": "waiters", "growth": "log"}
"""Where the rows are not the workload itself."""
WORDS = {
    "bare": "entries alone",
    "with_trail": "with the trail's rows",
    "receipts": "receipts with orders",
    "singles": "one signature",
    "per_s": "",
    "entries_per_s": "",
}
COLOURS = ("#1b6ca8", "#8ab6d6")
WIDTH, LEFT, BAR, ROOM, LINE = 760, 110, 16, 440, 24


def plot(found: Mapping[str, Any]) -> str:
    """Return a picture: for each workload a bar per size and series, as long as its share of the longest."""
    shapes: list[str] = []
    y = LINE
    for name, (title, series) in TITLES.items():
        if name not in found:
            continue
        rows = found[name][INNER[name]] if name in INNER else found[name]
        shapes.append(_text(8, y, title, 'font-weight="bold"'))
        y += LINE
        most = max(row[each]["median"] for row in rows for each in series)
        for row in rows:
            shapes.append(_text(8, y, f"{_size(row):,}"))
            shapes.extend(_bars(row, series, most, y))
            y += BAR * len(series) + BAR // 2
        y += LINE // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{y}" fill="white"/>{"".join(shapes)}</svg>\n'
    )


def _size(row: Mapping[str, Any]) -> int:
    return int(next(row[name] for name in ("batch", "waiters", "size") if name in row))


def _bars(row: Mapping[str, Any], series: Sequence[str], most: float, y: int) -> Iterator[str]:
    for place, name in enumerate(series):
        rate, top = row[name], y + BAR * place - BAR + 4
        length = ROOM * rate["median"] / most
        yield (
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR - 3}" fill="{COLOURS[place]}">'
            f"<title>{rate['low']} to {rate['high']}</title></rect>"
        )
        yield _text(LEFT + length + 5, top + BAR - 6, f"{rate['median']:,.0f}  {WORDS[name]}")


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'
