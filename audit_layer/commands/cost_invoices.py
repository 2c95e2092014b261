"""`counterfoil cost invoice` and `counterfoil cost reconcile`: operators' invoices and what becomes of their variances."""

import base64
import gzip
from pathlib import Path
from typing import Any, Final

import click

from audit_layer.commands.cost_client import Api, shown, with_api
from audit_layer.commands.options import FILE, utc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit, table
from shared.runtime.printable import for_terminal

MAX_BYTES: Final = 64 * 2**20
MAX_MAPPING: Final = 2**20
FORMATS: Final = ("json", "csv", "xlsx", "focus")
STATES: Final = ("disputed", "credited", "write-off-asked", "written-off", "open")


def _stated(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str] | None:
    pairs = [value.partition("=") for value in values]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise click.BadParameter(f"{wrong[0]!r} is not FIELD=VALUE")
    return {name: value for name, _, value in pairs} or None


def _file_options(command: Any) -> Any:
    options = (
        click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
        click.option(
            "--format",
            "format_name",
            type=click.Choice(FORMATS),
            help="What FILE is [default: as its mapping or its content says beyond doubt].",
        ),
        click.option("--mapping", type=FILE, help="How to read its columns (docs/invoices.md)."),
        click.option(
            "--set",
            "stated",
            multiple=True,
            callback=_stated,
            metavar="FIELD=VALUE",
            help="What the file does not say, such as operator=operator-a; repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _body(
    file: Path, format_name: str | None, mapping: Path | None, stated: dict[str, str] | None
) -> dict[str, Any]:
    """Return what the server is sent; the file goes gzipped, always as the same bytes."""
    from shared.runtime.reading import read_bounded  # noqa: PLC0415  # --help stays light

    content = gzip.compress(read_bounded(file, MAX_BYTES), mtime=0)
    text = None if mapping is None else read_bounded(mapping, MAX_MAPPING)
    try:
        told = None if text is None else text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CounterfoilError(Code.MALFORMED, f"{mapping} is not UTF-8 text") from error
    return {
        "content": base64.b64encode(content).decode(),
        "format": format_name,
        "mapping": told,
        "stated": stated,
    }


@click.command("reconcile")
@_file_options
@click.option("--dry-run", is_flag=True, help="Show how each row is read; store nothing.")
@with_api
def reconcile(
    api: Api,
    *,
    file: Path,
    format_name: str | None,
    mapping: Path | None,
    stated: dict[str, str] | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Store an operator's invoice FILE and explain how it differs from what receipts and the contract prove.

    JSON of our own, CSV with a mapping file, XLSX, FOCUS as CSV or Parquet. Exit code 3 when a dry run finds problems.
    """
    body = _body(file, format_name, mapping, stated)
    if dry_run:
        found = api.post("/invoices/preview", body)
        emit(found, as_json, lambda: "\n".join(for_terminal(line) for line in found["lines"]))
        return 3 if found["problems"] else 0
    show(api.post("/invoices", body), as_json)
    return 0


def show(result: dict[str, Any], as_json: bool) -> None:
    """Show a reconciliation: in words first, then its parts."""
    currency = result["currency"]

    def render() -> Any:
        from rich.console import Group  # noqa: PLC0415  # --json need not wait for it
        from rich.text import Text  # noqa: PLC0415

        parts = {name: value for name, value in result["parts"].items() if value != "0"}
        rows = [
            ["proven by receipts and contract", shown(result["proven"])],
            *([["  of it held", shown(result["held"])]] if result["held"] != "0" else []),
            *([f"  {name}", shown(value)] for name, value in parts.items()),
            ["billed, without tax", shown(result["billed"])],
            *([["tax", shown(result["tax"])]] if result["tax"] != "0" else []),
        ]
        title = f"Invoice {result['invoice_id']} of {result['operator']} ({result['id']} here)"
        words = [
            Text(f"\n{for_terminal(one['text'])}\n  → {one['do']}") for one in result["sentences"]
        ]
        return Group(
            Text(for_terminal(result["headline"])),
            table(title, ("", currency), rows),
            *words,
            Text(_sampled(result["sample"])),
            Text(f"\nState: {result['state']}."),
        )

    emit(result, as_json, render)


def _sampled(sample: dict[str, Any] | None) -> str:
    if sample is None:
        return "\nNo receipt is behind it, so no audit says anything about it."
    return f"\nFrom the sampled replays of its receipts: {sample['sentence']}."


@click.group("invoice")
def invoice() -> None:
    """Stored invoices: their variances, disputes, credits and write-offs."""


@invoice.command("list")
@click.option("--operator", help="Only this operator.")
@with_api
def listed(api: Api, *, operator: str | None, as_json: bool) -> None:
    """Show the stored invoices, the latest first."""
    rows = api.get("/invoices", operator=operator)
    columns = ("id", "operator", "invoice_id", "format", "state", "gap", "currency", "received")
    cells = [
        [*(row.get(name) for name in columns[:-1]), utc(row["received_at"])] for row in rows
    ]  # fmt: skip
    emit(rows, as_json, lambda: table("Invoices", columns, cells))


@invoice.command("show")
@click.argument("number", type=click.IntRange(1))
@with_api
def show_one(api: Api, *, number: int, as_json: bool) -> None:
    """Compare stored invoice NUMBER with what is proven now."""
    show(api.post(f"/invoices/{number}/reconcile"), as_json)


@invoice.command("put")
@click.argument("number", type=click.IntRange(1))
@click.argument("state", type=click.Choice(STATES))
@click.option("--note", required=True, help="Why; it is kept with your name and the time.")
@with_api
def put(api: Api, *, number: int, state: str, note: str, as_json: bool) -> None:
    """Dispute, credit or write off the variance of invoice NUMBER; a second person approves a write-off."""
    show(api.post(f"/invoices/{number}/state", {"state": state, "note": note}), as_json)


@invoice.command("letter")
@click.argument("number", type=click.IntRange(1))
@click.option("--out", type=FILE, help="Write it here; a name that ends in .html gives a page.")
@with_api
def letter(api: Api, *, number: int, out: Path | None, as_json: bool) -> None:
    """Write a letter that disputes invoice NUMBER."""
    from shared.runtime.keys import write_result  # noqa: PLC0415  # --help stays light

    form = "html" if out is not None and out.suffix.lower() in {".html", ".htm"} else "text"
    text = api.answer("GET", f"/invoices/{number}/letter", {"form": form}).text
    if out is not None:
        write_result(out, text.encode())
    emit(
        {"letter": text if out is None else None, "file": None if out is None else str(out)},
        as_json,
        lambda: for_terminal(text) if out is None else f"The letter is in {out}.",
    )
