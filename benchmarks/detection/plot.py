"""How surely each adversary is found in one audited request, as bars with their intervals, in SVG. Pure."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from benchmarks.detection.power import OURS
from benchmarks.detection.table import NAMES

COLOURS: Final = {
    OURS: "#1b6ca8",
    "toploc": "#e07b39",
    "activation-difr": "#9a9a9a",
    "token-difr": "#7a9e3b",
}
LEFT, ROOM, BAR, LINE = 170, 420, 7, 16


def plot(power: Mapping[str, Any]) -> str:
    """Return a picture: for each adversary that cheated a bar per method, as long as the share of its answers that are found."""
    shapes: list[str] = []
    for place, (method, name) in enumerate(NAMES.items()):
        x = LEFT + 110 * place
        shapes.append(f'<rect x="{x}" y="8" width="10" height="10" fill="{COLOURS[method]}"/>')
        shapes.append(_text(x + 14, 17, name))
    y = 2 * LINE + 8
    for row in power["adversaries"]:
        if not row["different"]:
            continue
        shapes.append(_text(8, y + 2 * BAR, row["name"]))
        shapes.extend(_bars(row, y))
        y += BAR * len(NAMES) + 8
    for share in (0, 0.5, 1):
        at = LEFT + ROOM * share
        shapes.append(_line(at, 2 * LINE, at, y, "#cccccc"))
        shapes.append(_text(at - 10, y + LINE, f"{share:.0%}"))
    width, height = LEFT + ROOM + 30, y + 2 * LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
        f'<rect width="{width}" height="{height}" fill="white"/>{"".join(shapes)}</svg>\n'
    )


def _bars(row: Mapping[str, Any], y: int) -> Iterator[str]:
    for place, method in enumerate(NAMES):
        found = row[OURS] if method == OURS else _alone(row, method)
        top, share = y + BAR * place, found["hits"] / found["of"]
        length = ROOM * share
        yield (
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR - 1}" fill="{COLOURS[method]}">'
            f"<title>{NAMES[method]}: {found['hits']} of {found['of']}</title></rect>"
        )
        middle = top + BAR / 2 - 0.5
        yield _line(LEFT + ROOM * found["low"], middle, LEFT + ROOM * found["high"], middle, "#000")


def _alone(row: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    """Return a scheme's share in single requests, with the verifier that finds most."""
    shares: list[Mapping[str, Any]] = [
        one for one in row["schemes"] if one["scheme"] == method and one["pool"] == 1
    ]
    return max(shares, key=lambda one: one["hits"])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
