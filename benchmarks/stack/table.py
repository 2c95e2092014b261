"""The figures for a person. Pure."""

from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.common.table import Figures, figure, head, mark


def render(found: Figures) -> RenderableType:
    """Return one table per model under a line about the machine."""
    about, size = found["machine"], found["settings"]
    settings = (
        f"{size['rounds']} rounds, sides in turn; {size['prompts']} prompts of at most "
        f"{size['most_tokens']} output tokens, {size['concurrency']} under way; medians (lowest to highest round)"
    )
    return Group(
        head(about), settings, *(_model(model, size, found["aims"]) for model in found["models"])
    )


def _model(model: Figures, size: Figures, aims: Figures) -> Table:
    title = (
        f"{model['name']}: {model['shape']}; {model['threads']} thread(s), max_batch "
        f"{model['max_batch']}, frames of {model['frame_interval_ms']} ms"
    )
    table = Table(title=title, title_justify="left")
    for name in ("", "engine alone", "full stack", "difference", "aim"):
        table.add_column(name, justify="right" if name else "left")
    aimed = model["name"] == aims["model"]
    ratio, first = aims["throughput_ratio_at_least"], aims["first_token_added_ms_at_most"]
    rate = model["tokens_per_s"]
    table.add_row(
        f"tokens/s ({size['concurrency']} under way)",
        f"{rate['engine']['median']:.1f}",
        f"{rate['stack']['median']:.1f}",
        f"× {figure(rate['ratio'], '.3f')}",
        f"≥ {ratio}{mark(rate['ratio']['median'] >= ratio)}" if aimed else "",
    )
    for load, shown in (("alone", "one at a time"), ("loaded", f"{size['concurrency']} under way")):
        for name, words in (
            ("first_token_ms", "first token"),
            ("per_token_ms", "later tokens"),
        ):
            time = model[load][name]
            aim = aimed and load == "alone" and name == "first_token_ms"
            table.add_row(
                f"{words}, ms ({shown})",
                f"{time['engine']['median']:.2f}",
                f"{time['stack']['median']:.2f}",
                figure(time["added"], "+.2f"),
                f"≤ +{first}{mark(time['added']['median'] <= first)}" if aim else "",
            )
    table.add_row("receipts/s to the log", "", figure(model["receipts_per_s"], ".1f"), "", "")
    same = "yes" if model["same_tokens"] else "[bold red]NO[/]"
    table.caption = f"{model['output_tokens']} tokens in each pass, the same on both sides: {same}"
    return table
