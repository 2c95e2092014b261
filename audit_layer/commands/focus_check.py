"""`counterfoil cost check`: anyone's FOCUS file against the specification, without a database."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit, json_option, table

if TYPE_CHECKING:
    from audit_layer.costs.focus_check.checking import Progress
    from audit_layer.costs.focus_check.report import Report

DEFAULT_MOST = 10


@click.command("check")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--focus",
    "version",
    type=click.Choice(["1.2", "1.4"]),
    help="Version of FOCUS [default: 1.2; 1.4 for the datasets that it introduced].",
)
@click.option(
    "--dataset",
    "name",
    type=click.Choice(["cost-and-usage", "invoice-detail", "billing-period"]),
    default="cost-and-usage",
    show_default=True,
    help="Which dataset the file is.",
)
@click.option(
    "--most",
    type=click.IntRange(1, 10_000),
    default=DEFAULT_MOST,
    show_default=True,
    help="Findings listed for each rule; all are counted.",
)
@click.option(
    "--skip", "skipped", multiple=True, metavar="RULE", help="Do not hold this rule; repeatable."
)
@json_option
def check(
    file: Path, version: str | None, name: str, most: int, skipped: tuple[str, ...], as_json: bool
) -> int:
    """Check a FOCUS FILE of any provider: CSV (plain or gzip) or Parquet.

    Every finding names its row (the header is row 1), column and rule. Exit code 3 when a rule that FOCUS has as MUST is
    broken or a part of the file cannot be read; what it has as SHOULD is advice.
    """
    from audit_layer.costs.focus_check.checking import check_file  # noqa: PLC0415  # --help stays light
    from audit_layer.costs.focus_check.columns import DATASETS  # noqa: PLC0415
    from audit_layer.costs.focus_check.rules import RULES  # noqa: PLC0415

    chosen = version or ("1.2" if (name, "1.2") in DATASETS else "1.4")
    if (name, chosen) not in DATASETS:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"FOCUS {chosen} has no dataset {name}",
            remedy="It came with 1.4: leave --focus out.",
        )
    if unknown := sorted(set(skipped) - set(RULES)):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"--skip {unknown[0]!r}: there is no such rule",
            remedy="Name a rule by its number, such as CF-0204.",
        )
    with _progress(as_json) as progress:
        report = check_file(
            file, DATASETS[name, chosen], most=most, skipped=frozenset(skipped), progress=progress
        )
    emit({"conforms": report.conforms, **_plain(report)}, as_json, lambda: _rendered(file, report))
    return 0 if report.conforms else 3


@contextmanager
def _progress(as_json: bool) -> Iterator["Progress"]:
    """Show on standard error how much of the file has been read."""
    from rich.console import Console  # noqa: PLC0415  # --help stays light
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("checking"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=as_json, transient=True) as shown:
        task = shown.add_task("checking", total=None)
        yield lambda done, size: shown.update(task, completed=done, total=size)


def _plain(report: "Report") -> dict[str, Any]:
    return {
        "dataset": report.dataset,
        "focus": report.version,
        "rows": report.rows,
        "complete": report.complete,
        "skipped": report.skipped,
        "rules": [
            {
                "rule": tally.rule.id,
                "force": tally.rule.force,
                "says": tally.rule.says,
                "source": tally.rule.source,
                "findings": tally.count,
                "columns": tally.columns,
            }
            for tally in report.tallies
        ],
        "findings": report.findings,
    }


def _rendered(file: Path, report: "Report") -> Any:
    from rich.console import Group  # noqa: PLC0415  # likewise
    from rich.text import Text  # noqa: PLC0415

    from shared.runtime.printable import for_terminal  # noqa: PLC0415

    verdict = "conforms to" if report.conforms else "does not conform to"
    count = sum(tally.count for tally in report.tallies)
    name = for_terminal(file.name)
    lines = [f"{name} {verdict} FOCUS {report.version} {report.dataset}."]
    lines.append(f"{report.rows:,} rows were read; findings: {count:,}.")
    if not report.complete:
        lines.append("A part of the file could not be read.")
    if report.skipped:
        lines.append(f"Rules not held: {', '.join(report.skipped)}.")
    ending = Text("\n".join(lines))
    if not report.tallies:
        return ending
    found = table(
        "Findings",
        ("rule", "row", "column", "value", "expected"),
        [(f.rule, f.row, f.column, f.value, f.expected) for f in report.findings],
    )
    summary = table(
        "Rules",
        ("rule", "", "findings", "says", "columns"),
        [
            (t.rule.id, t.rule.force.value, t.count, t.rule.says, ", ".join(t.columns))
            for t in report.tallies
        ],
    )
    return Group(found, summary, ending)
