"""What strategies earn against honesty, and when they are found, in SVG. Pure."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from benchmarks.incentives.scenario import BASELINE, Strategy

COLOURS: Final = ("#1b6ca8", "#e07b39")
"""Of the policy, and of what it is compared with."""
CURVES: Final = ("#1b6ca8", "#e07b39", "#7a9e3b", "#a64ca6", "#555555")
LEFT, ROOM, BAR, LINE, HEIGHT = 200, 460, 11, 18, 170
CLIP: Final = 60.0
"""EUR at which a bar ends; its number is beside it."""


def plot(judged: Mapping[str, Any], compared: Mapping[str, Any]) -> str:
    """Return a picture of two runs: a bar for each strategy and run, and below it the shares found by epoch."""
    shapes = [*_legend(judged, compared)]
    y, middle = 2 * LINE, LEFT + ROOM / 2
    for name in BASELINE:
        shapes.append(_text(8, y + BAR + 4, name.value))
        for place, run in enumerate((judged, compared)):
            shapes.extend(_bar(run["strategies"][name], y + place * BAR, COLOURS[place]))
        y += 2 * BAR + 8
    shapes.append(_line(middle, 2 * LINE - 6, middle, y, "#000"))
    shapes.append(
        _text(middle - 190, y + LINE, f"EUR per party, against honesty; bars end at {CLIP:.0f}")
    )
    y += 3 * LINE
    for place, run in enumerate((judged, compared)):
        shapes.extend(_curves(run, 40 + place * (ROOM + LEFT) / 2, y))
    width, height = LEFT + ROOM + 40, y + HEIGHT + 8 * LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
        f'<rect width="{width}" height="{height}" fill="white"/>{"".join(shapes)}</svg>\n'
    )


def _words(run: Mapping[str, Any]) -> str:
    return "at the policy" if run["divided"] == 1 else f"rates divided by {run['divided']:g}"


def _legend(*runs: Mapping[str, Any]) -> Iterator[str]:
    for place, run in enumerate(runs):
        x = LEFT + 160 * place
        yield f'<rect x="{x}" y="8" width="10" height="10" fill="{COLOURS[place]}"/>'
        yield _text(x + 14, 17, _words(run))


def _bar(row: Mapping[str, Any], top: float, colour: str) -> Iterator[str]:
    value, middle = row["advantage"]["mean"], LEFT + ROOM / 2
    length = min(abs(value), CLIP) / CLIP * (ROOM / 2 - 40)
    x = middle if value > 0 else middle - length
    yield f'<rect x="{x:.1f}" y="{top}" width="{length:.1f}" height="{BAR - 1}" fill="{colour}"/>'
    told = f"{value:+.1f}"
    yield _text(x + length + 3 if value > 0 else x - 6 * len(told) - 3, top + BAR - 2, told)


def _curves(run: Mapping[str, Any], left: float, top: float) -> Iterator[str]:
    """Yield a frame with the share of each strategy's nodes that have been found, over epochs since their first cheat."""
    room = (ROOM + LEFT) / 2 - 60
    yield _text(left, top - 6, f"found, by epochs since the first cheat: {_words(run)}")
    yield _line(left, top, left, top + HEIGHT, "#000")
    yield _line(left, top + HEIGHT, left + room, top + HEIGHT, "#000")
    yield _text(left - 34, top + 8, "100 %")
    yield _text(left - 20, top + HEIGHT, "0")
    found = [name for name in Strategy if "curve" in run["strategies"].get(name, {})]
    for place, name in enumerate(found):
        curve = run["strategies"][name]["curve"]
        last = curve[-1][0]
        points = " ".join(
            f"{left + room * at / last:.1f},{top + HEIGHT * (1 - share):.1f}" for at, share in curve
        )
        colour = CURVES[place]
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        y = top + HEIGHT + LINE * (place + 2)
        yield _line(left, y - 4, left + 16, y - 4, colour)
        yield _text(left + 20, y, name.value)
    yield _text(left + room - 16, top + HEIGHT + 13, str(last))


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
