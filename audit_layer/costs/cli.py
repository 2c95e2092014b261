"""`counterfoil cost`: rating, invoices, reconciliation and exports for finance teams."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shared.runtime.output import emit, json_option

if TYPE_CHECKING:
    from audit_layer.costs.service import Costs


@contextmanager
def _costs(dsn_file: Path) -> Iterator["Costs"]:
    """Open the books for one command."""
    from audit_layer.costs.service import Costs  # noqa: PLC0415  # --help imports no SQLAlchemy
    from audit_layer.storage.engine import make_engine  # noqa: PLC0415

    engine = make_engine(dsn_file.read_text(), application_name="counterfoil-cost")
    try:
        yield Costs(engine)
    finally:
        engine.dispose()


dsn_option = click.option(
    "--dsn-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="COUNTERFOIL_DATABASE_DSN_FILE",
    show_envvar=True,
    required=True,
    help="File with the DSN of the service role `server`.",
)


def _day(_context: click.Context, _parameter: click.Parameter, value: str | None) -> date | None:
    if value is None:
        return None
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter("a day is written YYYY-MM-DD") from error


from_option = click.option("--from", "start", callback=_day, help="First day, YYYY-MM-DD (UTC).")
to_option = click.option("--to", "end", callback=_day, help="Day after the last, YYYY-MM-DD (UTC).")


def _period(start: date | None, end: date | None) -> tuple[date, date]:
    """Default to the current month."""
    today = datetime.now(UTC).date()
    start = start or today.replace(day=1)
    return start, end or (start.replace(day=28) + timedelta(days=4)).replace(day=1)


@click.group("cost")
def cost() -> None:
    """Rate receipts, reconcile invoices, export FOCUS."""


@cost.command("rate")
@dsn_option
@json_option
def rate(dsn_file: Path, as_json: bool) -> None:
    """Rate and post every receipt that the books have not dealt with."""
    done = 0
    with _costs(dsn_file) as costs:
        while count := costs.rate_new():
            done += count
    emit({"rated_receipts": done}, as_json, lambda: f"{done} receipts rated and posted.")


@cost.command("report")
@dsn_option
@click.option("--tenant", help="Only this tenant.")
@json_option
def report(dsn_file: Path, tenant: str | None, as_json: bool) -> None:
    """Show what is booked by operator and node."""
    with _costs(dsn_file) as costs:
        rows = costs.totals(tenant=tenant)
    emit(rows, as_json, lambda: _table("Booked", rows))


@cost.command("reconcile")
@click.argument("invoice", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@dsn_option
@json_option
def reconcile(invoice: Path, dsn_file: Path, as_json: bool) -> None:
    """Compare an operator's INVOICE file with what receipts prove."""
    from audit_layer.costs.reporting import as_json as exact_json  # noqa: PLC0415
    from audit_layer.costs.reporting import rounded  # noqa: PLC0415

    with _costs(dsn_file) as costs:
        result = costs.reconcile(costs.take_invoice(invoice.read_bytes()))

    def render() -> Any:
        rows = [
            {"": "proven by receipts", result.currency: rounded(result.proven, 6)},
            *(
                {"": f"  {name}", result.currency: rounded(value, 6)}
                for name, value in result.parts.items()
                if value
            ),
            {"": "billed", result.currency: rounded(result.billed, 6)},
        ]
        return _table(f"Invoice {result.invoice_id} of {result.operator}", rows)

    emit(exact_json(result), as_json, render)


@cost.command("export")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="CSV to write."
)
@dsn_option
@click.option("--tenant", help="Only this tenant.")
@click.option("--operator", help="Only this operator.")
@from_option
@to_option
@json_option
def export(
    out: Path,
    dsn_file: Path,
    tenant: str | None,
    operator: str | None,
    start: date | None,
    end: date | None,
    as_json: bool,
) -> None:
    """Write a FOCUS 1.2 CSV of the period's charges (default: this month)."""
    from audit_layer.costs.focus import to_csv  # noqa: PLC0415

    first, after = _period(start, end)
    with _costs(dsn_file) as costs:
        charges = list(costs.charges(first, after, tenant=tenant, operator=operator))
    out.write_text(to_csv(charges), encoding="utf-8", newline="")
    data = {"file": str(out), "rows": len(charges), "from": str(first), "to": str(after)}
    emit(data, as_json, lambda: f"{len(charges)} charges of {first} to {after} written to {out}")


def _table(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left")
    columns = list(rows[0]) if rows else ["nothing is booked yet"]
    for column in columns:
        numeric = bool(rows) and column not in {"", "operator", "node", "currency"}
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    return table
