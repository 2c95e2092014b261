"""The figures for a person. Pure."""

from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.common.table import Figures, head


def render(found: Figures) -> RenderableType:
    """Return one row for each way of sending, with the share of prompts that the best attacker names."""
    load = found["settings"]
    how = (
        f"{load['prompts']} prompts, {load['repetitions']} answers to each of at most {load['tokens']} tokens, at least"
        f" {load['pace_ms']:g} ms a token; chance {found['chance']:.1%}; 95 % intervals (Clopper and Pearson)"
    )
    table = Table(title="How often an observer names the prompt", title_justify="left")
    for name in (
        "answers",
        "sent as",
        "named",
        "interval",
        "best by",
        "tokens",
        "kB",
        "text s",
        "end s",
    ):
        table.add_column(
            name, justify="left" if name in {"answers", "sent as", "best by"} else "right"
        )
    for row in found["rows"]:
        cost = row["cost"]
        table.add_row(
            row["answers"],
            row["way"],
            f"{row['right'] / row['tried']:.0%}",
            f"{row['low']:.0%} to {row['high']:.0%}",
            f"{row['look']}, {row['classifier']}",
            f"{cost['tokens']:.0f}",
            f"{cost['bytes'] / 1000:.1f}",
            f"{cost['text_s']:.2f}",
            f"{cost['end_s']:.2f}",
        )
    return Group(head(found["machine"]), how, table)
