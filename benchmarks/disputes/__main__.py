"""`python -m benchmarks.disputes`."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.common.machine import machine
from benchmarks.disputes.figures import measure


@click.command()
@click.option("--rounds", type=click.IntRange(1, 1000), default=30, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(*, rounds: int, json_file: Path | None) -> None:
    """Measure what the referee of disputes reads and how long it takes, for a model of Llama-3.1-8B's shape."""
    rows = measure(rounds)
    table = Table("operator", "case, bytes", "decide, µs")
    for row in rows:
        table.add_row(row["operator"], f"{row['bytes']:,}", f"{row['us']:,}" if "us" in row else "")
    Console().print(table)
    if json_file is not None:
        found = {
            "benchmark": "disputes",
            "version": 1,
            "machine": machine(),
            "rounds": rounds,
            "rows": rows,
        }
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
