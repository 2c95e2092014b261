"""Output tokens/s of all sides as bars, in SVG. Pure."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from benchmarks.engine.table import NAMES, WORDS

COLOURS = {"ours": "#1b6ca8", "relaxed": "#8ab6d6", "vllm": "#e07b39", "transformers": "#9a9a9a"}
WIDTH, LEFT, BAR, ROOM, LINE = 760, 160, 16, 440, 24


def plot(found: Mapping[str, Any]) -> str:
    """Return a picture: for each model and workload a bar per side, as long as its share of the fastest."""
    shapes: list[str] = []
    y = LINE
    for model in found["models"]:
        shapes.append(_text(8, y, f"{model['name']}: output tokens/s", 'font-weight="bold"'))
        y += LINE
        for workload, shown in model["workloads"].items():
            if workload == "prefill":
                continue
            shapes.append(_text(8, y, WORDS[workload]))
            shapes.extend(_bars(shown["sides"], y))
            y += BAR * len(shown["sides"]) + BAR // 2
        y += LINE // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{y}" fill="white"/>{"".join(shapes)}</svg>\n'
    )


def _bars(sides: Mapping[str, Any], y: int) -> Iterator[str]:
    most = max(side["tokens_per_s"]["median"] for side in sides.values())
    for place, (name, side) in enumerate(sides.items()):
        rate, top = side["tokens_per_s"], y + BAR * place - BAR + 4
        length = ROOM * rate["median"] / most
        yield (
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR - 3}" fill="{COLOURS[name]}">'
            f"<title>{rate['low']} to {rate['high']}</title></rect>"
        )
        yield _text(LEFT + length + 5, top + BAR - 6, f"{rate['median']:.0f}  {NAMES[name]}")


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'
