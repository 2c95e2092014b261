"""`python -m benchmarks.cost`: a month of receipts from rating to export, and whether every planted fault is found."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import Engine

from audit_layer.costs.bookkeeping import Bookkeeping
from audit_layer.costs.charge_batches import usage_batches
from audit_layer.costs.closing import Closing
from audit_layer.costs.exports.batches import parquet_from_batches
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.manifest import About, Manifest
from audit_layer.costs.models import PeriodRow
from audit_layer.costs.reconciling.owed import owed
from audit_layer.costs.reconciling.sampled import interval_of
from audit_layer.costs.reconciling.variance import Reconciliation, reconcile
from audit_layer.costs.service import Costs
from audit_layer.storage.embedded import EmbeddedPostgres
from audit_layer.storage.engine import make_engine, session
from benchmarks.common.machine import machine
from benchmarks.cost.checked import check_export, check_faults, check_variance, same
from benchmarks.cost.invoices import FX, invoice_of
from benchmarks.cost.memory import watched
from benchmarks.cost.month import CURRENCIES, MONTH, TENANTS, Month, Planted
from benchmarks.log.platform import Store

SIZES: Final = (10_000, 100_000, 1_000_000)
SEED: Final = 7
AIM_S: Final = 120.0
AIM_BYTES: Final = int(1.5 * 2**30)
AIMED: Final = ("rate and post", "reconcile", "export")
"""The steps that the aim is about."""


class NoLog:
    """Takes seals and keeps nothing: what a log does with them is another benchmark's matter."""

    def submit(self, statements: Sequence[bytes]) -> None:
        """Take statements."""


@click.command()
@click.option("--receipts", "sizes", multiple=True, type=click.IntRange(100), help="Repeatable.")
@click.option("--quick", is_flag=True, help="10,000 receipts only.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(sizes: tuple[int, ...], quick: bool, json_file: Path | None) -> None:
    """Measure a month of receipts: 3 operators, 10 tenants, discounts, an exchange rate, 1 % faults."""
    found: dict[str, Any] = {"machine": machine(), "sizes": {}}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)
        for size in sizes or (SIZES[:1] if quick else SIZES):

            def tell(what: str, size: int = size) -> None:
                progress.update(task, description=f"{size} receipts: {what}")

            found["sizes"][size] = measure(size, tell)
            if json_file is not None:
                json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else 120).print(render(found["sizes"]))


def measure(size: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return seconds and peak memory of each step; WrongError if the books say anything but what was planted."""
    with _database() as (server, store, folder), _engine(store, "worker") as engine:
        month = Month(SEED, size)
        tell("being written as the trail has them")
        with _engine(store, "server") as writing:
            month.write(writing)
        _contracts(engine)
        planted = month.planted
        steps: dict[str, Callable[[], Callable[[], None]]] = {
            "rate and post": lambda: _rate(engine, planted),
            "reconcile": lambda: _reconcile(engine, planted),
            "close": lambda: _close(engine),
            "export": lambda: _export(engine, folder / "month.parquet", planted),
        }
        figures: dict[str, Any] = {}
        for name, step in steps.items():
            tell(name)
            with watched(server.postmaster_pid or 0) as peak:
                begun = time.perf_counter()
                check = step()
                seconds = time.perf_counter() - begun
            figures[name] = {"seconds": seconds, "process": peak.process, "server": peak.server}
            check()
        return {
            "receipts": planted.receipts,
            "faults": dict(planted.faults),
            "steps": figures,
            "seconds": sum(figures[name]["seconds"] for name in AIMED),
            "peak": max(item["process"] + item["server"] for item in figures.values()),
        }


@contextmanager
def _database() -> Iterator[tuple[EmbeddedPostgres, Store, Path]]:
    with tempfile.TemporaryDirectory(prefix="counterfoil-bench-") as name:
        server = EmbeddedPostgres(Path(name) / "postgres")
        server.start(wait_for_previous_s=0)
        try:
            yield server, Store(server), Path(name)
        finally:
            server.stop()


@contextmanager
def _engine(store: Store, role: str) -> Iterator[Engine]:
    engine = make_engine(store.dsn(role), application_name="counterfoil-bench")
    try:
        yield engine
    finally:
        engine.dispose()


def _contracts(engine: Engine) -> None:
    """operator-a grants discounts by volume; operator-b bills in EUR what its rate card prices in USD."""
    books = Bookkeeping(engine)
    tiers = [{"above": "0.01", "percent": "5"}, {"above": "5", "percent": "12.5"}]
    fx = [{"currency": "USD", "valid_from": "2026-01-01", "rate": str(FX)}]
    for tenant in TENANTS:
        for terms in (
            {"operator": "operator-a", "discounts": [{"tiers": tiers}]},
            {"operator": "operator-b", "currency": "EUR", "fx": fx},
        ):
            document = {"tenant": tenant, "valid_from": "2026-01-01", **terms}
            books.record_contract(json.dumps(document).encode(), by="benchmark")


def _rate(engine: Engine, planted: Planted) -> Callable[[], None]:
    costs, done = Costs(engine), 0
    while count := costs.rate_new():
        done += count
    while costs.heed_new():
        continue

    def check() -> None:
        same("rated receipts", done, planted.receipts)
        check_faults(engine, planted)

    return check


def _reconcile(engine: Engine, planted: Planted) -> Callable[[], None]:
    found: dict[str, Reconciliation] = {}
    for operator, currency in CURRENCIES.items():
        invoice = invoice_of(operator, planted).invoice
        with session(engine) as db:
            due = owed(db, operator, MONTH, tenant=None, currency="EUR")
            rate = FX if currency == "USD" else Decimal(1)
            interval_of(db, operator, MONTH, tenant=None, rate=rate)
            found[operator] = reconcile([invoice], due)

    def check() -> None:
        for operator, result in found.items():
            check_variance(operator, result, planted)

    return check


def _close(engine: Engine) -> Callable[[], None]:
    books = Bookkeeping(engine)
    for item in books.periods():
        for state in ("soft-closed", "closing"):
            books.put_period(item.row.id, state, by="benchmark")
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    closed = Closing("authority", engine, NoLog(), key).tick(MONTH.end)
    return lambda: same("closed periods", closed, len(TENANTS) * len(CURRENCIES))


def _export(engine: Engine, path: Path, planted: Planted) -> Callable[[], None]:
    numbers = [item.row.id for item in Bookkeeping(engine).periods()]
    with session(engine, isolation="REPEATABLE READ") as db:
        rows = [db.get_one(PeriodRow, number) for number in numbers]
        batches = (batch for row in rows for batch in usage_batches(db, row, {}))
        about = About(MONTH, MONTH.end)
        manifest: Manifest = parquet_from_batches(path, Format.FOCUS_1_2_PARQUET, batches, about)
    return lambda: check_export(manifest.totals, planted)


def render(sizes: dict[int, Any]) -> Table:
    """Return the figures as a table."""
    table = Table(
        title="A month of receipts: seconds; peak memory of this process + Postgres",
        title_justify="left",
    )
    table.add_column("step")
    for size in sizes:
        table.add_column(f"{size:,}", justify="right")
    found = list(sizes.values())
    for step in found[0]["steps"]:
        cells = []
        for item in (one["steps"][step] for one in found):
            memory = f"{item['process'] / 2**20:.0f} + {item['server'] / 2**20:.0f} MiB"
            cells.append(f"{item['seconds']:.1f} s  {memory}")
        table.add_row(step, *cells)
    table.add_row("all but close", *(f"{one['seconds']:.1f} s" for one in found))
    faults = (f"{sum(one['faults'].values())} of {sum(one['faults'].values())}" for one in found)
    table.add_row("planted faults found", *faults)
    aim = f"{AIM_S:.0f} s, {AIM_BYTES / 2**30:.1f} GiB"
    table.add_row("aim", *(aim if size == SIZES[-1] else "" for size in sizes))
    return table


if __name__ == "__main__":
    main()
