"""`counterfoil cost`: rating, invoices, reconciliation and exports for finance teams."""

from calendar import monthrange
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit_layer.commands.focus_check import check
from shared.codec.ids import check_name
from shared.codec.moment import Period, day_of, days_period, now_ms, parse_day
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit, json_option
from shared.runtime.printable import for_terminal

if TYPE_CHECKING:
    from audit_layer.costs.reading import Unpaid
    from audit_layer.costs.service import Costs


@contextmanager
def _costs(dsn_file: Path) -> Iterator["Costs"]:
    """Open the books for one command."""
    from audit_layer.costs.service import Costs  # noqa: PLC0415  # --help imports no SQLAlchemy
    from audit_layer.storage.dsn import read_dsn_file  # noqa: PLC0415
    from audit_layer.storage.engine import make_engine, role_named  # noqa: PLC0415

    engine = make_engine(read_dsn_file(dsn_file), application_name="counterfoil-cost")
    try:
        with role_named("server"):
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


def _day(_context: click.Context, parameter: click.Parameter, value: str | None) -> date | None:
    return None if value is None else parse_day(value, parameter.opts[0])


def _name(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else check_name(value, parameter.opts[0])


from_option = click.option(
    "--from",
    "start",
    callback=_day,
    help="First day, YYYY-MM-DD [default: the first of this month].",
)
to_option = click.option(
    "--to",
    "end",
    callback=_day,
    help="Day after the last, YYYY-MM-DD [default: the end of that month].",
)
zone_option = click.option(
    "--time-zone",
    "zone_name",
    default="UTC",
    show_default=True,
    help="Time zone of the days, such as Europe/Berlin.",
)
tenant_option = click.option("--tenant", callback=_name, help="Only this tenant.")
operator_option = click.option("--operator", callback=_name, help="Only this operator.")


def _days(start: date | None, end: date | None, zone_name: str) -> tuple[date, date]:
    """Return the days [start, end): this month by default; a start without an end runs to the end of its month."""
    first = start or day_of(now_ms(), zone_name).replace(day=1)
    last = first.replace(day=monthrange(first.year, first.month)[1])
    if end is None and last < date.max:
        return first, last + timedelta(days=1)
    if end is None or end <= first:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"the period begins on {first} and ends before {end or 'the year 10000'}",
            remedy="--to is the day after the last, and --from lies before it.",
        )
    return first, end


@click.group("cost")
def cost() -> None:
    """Rate receipts, reconcile invoices, export and check FOCUS files."""


cost.add_command(check)


@cost.command("rate")
@dsn_option
@json_option
def rate(dsn_file: Path, as_json: bool) -> None:
    """Rate and post every receipt that the books have not processed, and take every verdict into account."""
    done = 0
    with _costs(dsn_file) as costs:
        while count := costs.rate_new():
            done += count
        while costs.heed_new():
            continue
        costs.settle_all()
    emit({"rated_receipts": done}, as_json, lambda: f"{done} receipts rated and posted.")


@cost.command("fsck")
@dsn_option
@json_option
def fsck(dsn_file: Path, as_json: bool) -> int:
    """Recompute the books from receipts, rate cards and verdicts. Exit code 3 when something differs."""
    with _costs(dsn_file) as costs:
        findings = costs.check()
    emit(
        {"findings": findings},
        as_json,
        lambda: "\n".join(findings) or "The books agree with receipts and verdicts.",
    )
    return 3 if findings else 0


@cost.command("report")
@dsn_option
@tenant_option
@json_option
def report(dsn_file: Path, tenant: str | None, as_json: bool) -> None:
    """Show by operator and node what is payable, what a verdict holds up, and what is refused."""
    with _costs(dsn_file) as costs:
        rows = costs.totals(tenant=tenant)
    emit(rows, as_json, lambda: _table("Booked", rows))


@cost.command("unpaid")
@dsn_option
@tenant_option
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many."
)
@json_option
def unpaid(dsn_file: Path, tenant: str | None, limit: int, as_json: bool) -> None:
    """List the latest receipts that are not payable, or not yet, each with the statement that says so."""
    with _costs(dsn_file) as costs:
        rows = costs.unpaid(tenant=tenant, limit=limit)

    def render() -> str:
        return "\n".join(map(_paragraph, rows)) or "Everything that was rated is payable."

    emit(rows, as_json, render)


def _paragraph(row: "Unpaid") -> str:
    amount = "never rated" if row.amount is None else f"{row.amount} {row.currency}"
    lines = [
        f"{row.log_index}  {row.operator}/{row.node} for {row.tenant}, request {row.number}, attempt {row.attempt}",
        f"  {row.state.value} ({amount}): {row.reason}",
        f"  receipt  {row.receipt.hex()}",
    ]
    if row.because is not None:
        lines.append(f"  because  {row.because.hex()}")
    return "\n".join(lines)


@cost.command("reconcile")
@click.argument("invoice", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@dsn_option
@json_option
def reconcile(invoice: Path, dsn_file: Path, as_json: bool) -> None:
    """Compare an operator's INVOICE file with what receipts prove."""
    from audit_layer.costs.invoices import MAX_BYTES  # noqa: PLC0415  # --help stays light
    from audit_layer.costs.reporting import as_json as exact_json  # noqa: PLC0415
    from audit_layer.costs.reporting import rounded  # noqa: PLC0415
    from shared.runtime.reading import read_bounded  # noqa: PLC0415

    content = read_bounded(invoice, MAX_BYTES)
    with _costs(dsn_file) as costs:
        result = costs.reconcile(costs.take_invoice(content))

    def render() -> Any:
        rows = [
            {"": "proven by receipts", result.currency: rounded(result.proven, 6)},
            *(
                [{"": "  of it held", result.currency: rounded(result.held, 6)}]
                if result.held
                else []
            ),
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
@tenant_option
@operator_option
@from_option
@to_option
@zone_option
@click.option(
    "--allow-empty", is_flag=True, help="Write just the header where nothing was charged."
)
@json_option
def export(
    out: Path,
    dsn_file: Path,
    tenant: str | None,
    operator: str | None,
    start: date | None,
    end: date | None,
    zone_name: str,
    allow_empty: bool,
    as_json: bool,
) -> None:
    """Write a FOCUS 1.2 CSV of the period's charges (default: this month).

    An existing file is replaced as a whole. Where nothing was charged, nothing is written and the exit code is 4,
    unless --allow-empty is given.
    """
    from audit_layer.costs.focus import to_csv  # noqa: PLC0415
    from shared.runtime.keys import write_result  # noqa: PLC0415

    first, after = _days(start, end, zone_name)
    period = days_period(first, after, zone_name)
    with _costs(dsn_file) as costs:
        charges = costs.charges(period, tenant=tenant, operator=operator)
        if not charges and not allow_empty:
            raise _nothing(period, tenant, operator, costs.pending())
    write_result(out, to_csv(charges).encode())
    data = {"file": str(out), "rows": len(charges), "from": str(first), "to": str(after)}
    emit(data, as_json, lambda: f"{len(charges)} charges of {first} to {after} written to {out}")


def _nothing(
    period: Period, tenant: str | None, operator: str | None, pending: int
) -> CounterfoilError:
    """Return the error that nothing is booked, with the likely reason."""
    scope = "".join(
        f" for {what} {name}" for what, name in (("tenant", tenant), ("operator", operator)) if name
    )
    remedy = (
        f"{pending} receipts in the log are not in the books yet: run `counterfoil cost rate`."
        if pending
        else "`counterfoil cost report` shows what is booked; --allow-empty writes just the header."
    )
    return CounterfoilError(
        Code.NOT_FOUND,
        f"nothing was charged{scope} in {period}; no file was written",
        remedy=remedy,
    )


def _table(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=escape(for_terminal(title)), title_justify="left")
    columns = list(rows[0]) if rows else ["nothing is booked yet"]
    for column in columns:
        numeric = bool(rows) and column not in {"", "operator", "node", "currency"}
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(escape(for_terminal(str(row[column]))) for column in columns))
    return table
