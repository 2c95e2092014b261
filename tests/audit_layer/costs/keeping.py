"""Periods, closes and the ledger over a scene, as tests drive them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from audit_layer.costs.bookkeeping import Bookkeeping
from audit_layer.costs.closing import Closing, put_into
from audit_layer.costs.contracts.bill import Bill
from audit_layer.costs.service import Costs
from audit_layer.storage.engine import session
from audit_layer.trail.service import Submission
from shared.codec.moment import MAX_MS
from shared.statements.receipts import EnergyQuality, Usage
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.test_books import WORKERS, Scene
from tests.audit_layer.costs.test_service import Books
from tests.audit_layer.trail.conftest import World, world_over
from tests.postgres import PostgresServer


@dataclass
class TrailLog:
    """The log as the closing process reaches it; it can be down."""

    world: World
    down: bool = False
    sent: list[bytes] = field(default_factory=list)

    def submit(self, statements: Sequence[bytes]) -> None:
        if self.down:
            raise ConnectionError("the log is down")
        self.sent += statements
        self.world.put(*map(Submission, statements))


@contextmanager
def keeping_over(postgres: PostgresServer, folder: Path) -> Iterator["Keeping"]:
    """Keep books over a database of their own."""
    with postgres.database(folder) as database, world_over(database) as world:
        books = Books(world, Costs(database.engine("worker")))
        for name in WORKERS[1:]:
            world.trail.add_party(name, "worker", made.public(name))
        yield Keeping(Scene(books, [world.node, books.node("beta")]))


@dataclass
class Keeping:
    """Everything that finance people do, over the books of a scene."""

    scene: Scene

    def __post_init__(self) -> None:
        self.world = self.scene.books.world
        self.engine = self.world.database.engine("worker")
        self.books = Bookkeeping(self.world.database.engine("server"))
        self.log = TrailLog(self.world)

    def serve(
        self, number: int = 0, tokens: int = 7, *, cached: int = 0, compute_ms: int | None = None, **where: Any
    ) -> bytes:  # fmt: skip
        """Log a receipt of 5 prompt tokens, of which some were cached; return its entry."""
        unmeasured = EnergyQuality.UNMEASURED
        used = Usage(5, cached, tokens, energy_quality=unmeasured, compute_ms=compute_ms)
        return self.scene.receipt(number, usage=used, **where)

    def closing(self) -> Closing:
        return Closing("authority", self.engine, self.log, made.key("authority"))

    def contract(self, *, supersedes: int | None = None, **terms: Any) -> int:
        """Record terms of acme with alpha, from the beginning of time."""
        whole = {"tenant": "acme", "operator": "alpha", "valid_from": "1970-01-01", **terms}
        document = json.dumps(whole).encode()
        return self.books.record_contract(document, by="finance", supersedes=supersedes).id

    def periods(self, **parties: str) -> list[int]:
        """Return the numbers of periods, the earliest first."""
        rows = [item.row for item in self.books.periods(**parties)]
        return [row.id for row in sorted(rows, key=lambda row: (row.start, row.id))]

    def put(self, number: int, state: str, *, now: int = MAX_MS) -> str:
        """Put a period into a state, whatever day it is."""
        with session(self.engine) as db:
            return put_into(db, number, state, by="finance", now=now)

    def ask(self, number: int) -> None:
        self.put(number, "soft-closed")
        self.put(number, "closing")

    def close(self, number: int, *, now: int = made.NOW) -> Bill:
        """Close a period and return its bill."""
        self.ask(number)
        assert self.closing().tick(now) == 1
        return self.books.bill(number)

    def state(self, number: int) -> str:
        return self.books.period(number).state

    def balances(self) -> dict[tuple[str, str], Decimal]:
        """Return every balance that is not zero."""
        return {
            (account, currency): amount
            for account, currency, amount in self.books.trial_balance()
            if amount
        }

    def sealed(self, number: int) -> tuple[bytes, bytes, bytes]:
        """Return (root, seal, bill) of a closed period, as stored."""
        ((root, statement, bill),) = self.world.rows(
            "SELECT root, statement, bill FROM costs_period_events WHERE period = %s AND state = 'closed'",
            number,
        )
        return bytes(root), bytes(statement), bytes(bill)

    def lines(self, number: int) -> list[tuple[bytes, int]]:
        """Return what a period adds, (receipt, net) by log index, worked out without the code under test."""
        found: dict[bytes, tuple[int, int]] = {}
        rows = self.world.rows(
            "SELECT log_index, receipt, 1 FROM costs_rated_receipts WHERE period = %s UNION ALL"
            " SELECT r.log_index, c.receipt, CASE WHEN c.payable THEN 1 ELSE -1 END FROM costs_corrections c"
            " JOIN costs_rated_receipts r USING (receipt) WHERE c.period = %s",
            number,
            number,
        )
        for index, receipt, net in rows:
            before = found.get(receipt, (index, 0))
            found[receipt] = (index, before[1] + net)
        return [(receipt, net) for receipt, (_, net) in sorted(found.items(), key=lambda i: i[1]) if net]  # fmt: skip
