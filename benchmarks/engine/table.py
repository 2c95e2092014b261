"""The figures for a person. Pure."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from benchmarks.common.table import Figures, head, mark

NAMES = {
    "ours": "ours",
    "relaxed": "ours, not deterministic",
    "vllm": "vLLM",
    "transformers": "transformers",
}
WORDS = {
    "batch1": "1 alone",
    "batch8": "8 at once",
    "batch64": "64 at once",
    "mixed": "mixed, over time",
    "prefill": "long prompt (prompt tokens/s)",
}
COLUMNS = (
    "",
    "tokens/s",
    "ours ÷ it",
    "first, ms",
    "between, ms",
    "reading",
    "flop",
    "MiB",
)


def render(found: Figures) -> RenderableType:
    """Return a table of figures and a list of aims for each model."""
    size, bounds = found["settings"], found["bounds"]
    settings = (
        f"bf16, {found['threads']} threads, {size['rounds']} rounds, sides in turn; "
        f"medians (lowest to highest round), times p50 / p99; "
        f"bounds measured: {bounds['read_bytes_per_s'] / 1e9:.1f} GB/s read, {bounds['flop_per_s'] / 1e9:.0f} GFLOP/s"
    )
    parts: list[RenderableType] = [head(found["machine"]), settings]
    for model in found["models"]:
        parts += [_model(model), *_notes(model)]
    if found.get("soak"):
        parts.append(_soak(found["soak"]))
    return Group(*parts)


def _model(model: Figures) -> Table:
    title = f"{model['name']}: {model['shape']}, {model['parameters'] / 1e6:.0f} million parameters"
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for workload, shown in model["workloads"].items():
        table.add_row(f"[bold]{WORDS[workload]}[/]")
        for side, figures in shown["sides"].items():
            table.add_row(*_cells(side, figures, shown["ratios"].get(side)))
    return table


def _cells(side: str, figures: Figures, ratio: Figures | None) -> Iterator[str]:
    def median(name: str) -> str:
        return _short(figures[name]["median"]) if name in figures else "–"

    def share(name: str) -> str:
        return f"{figures[name]['median']:.0%}" if name in figures else "–"

    yield f"  {NAMES[side]}"
    yield _spread(figures.get("prefill_tokens_per_s", figures["tokens_per_s"]))
    yield _spread(ratio) if ratio else ""
    for times in ("first_token_ms", "inter_token_ms"):
        yield f"{median(times + '_p50')} / {median(times + '_p99')}"
    yield share("bandwidth_fraction")
    yield share("flop_fraction")
    yield median("memory_mib")


def _spread(value: Figures) -> str:
    return f"{_short(value['median'])} ({_short(value['low'])}–{_short(value['high'])})"


def _short(value: float) -> str:
    """Return a number with as many decimal places as are meaningful."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _notes(model: Figures) -> Iterator[str]:
    for aim in model["aims"]:
        if aim["value"] is None:
            yield f"  ≥ {aim['at_least']} {aim['aim']}: not measured"
        else:
            yield f"  ≥ {aim['at_least']} {aim['aim']}: {aim['value']:.3f}{mark(aim['met'])}"
    for side, why in model["failed"].items():
        yield f"  {NAMES[side]}: [bold]no figures[/], {escape(why)}"
    for side, versions in model["versions"].items():
        shown = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
        same = model["agreed"].get(side)
        common = (
            "" if same is None or side == "ours" else f"; tokens in common with ours: {same:.0%}"
        )
        yield f"  {NAMES[side]}: {escape(shown)}{common}"


def _soak(soak: Figures) -> Table:
    table = Table(title=f"{soak['requests']} requests, {soak['model']}", title_justify="left")
    names = ("requests", "rss_mib", "open_blocks", "sequences", "containers")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for point in soak["points"]:
        table.add_row(
            *(f"{point[name]:.1f}" if name == "rss_mib" else str(point[name]) for name in names)
        )
    grown = ", ".join(soak["grown"])
    table.caption = f"[red]grown: {grown}[/]" if grown else "[green]nothing grew[/]"
    return table
