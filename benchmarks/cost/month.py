"""A month of receipts as the trail's rows, with faults of every kind planted, and what the books must say about each.

The rows are what admission writes, without signed bytes behind them: rating reads columns. Rate cards are signed.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from audit_layer.storage.base import Base
from audit_layer.storage.copying import copy_tuples
from audit_layer.storage.engine import transaction
from audit_layer.trail.models import OrderRow, ReceiptRow, StatementRow, VerdictRow
from shared.codec.moment import month_period
from shared.statements.cose import entry_of, sign
from shared.statements.ratecards import Price, RateCard

MONTH: Final = month_period(2026, 10)
TENANTS: Final = tuple(f"tenant-{n:02d}" for n in range(10))
CURRENCIES: Final = {"operator-a": "EUR", "operator-b": "USD", "operator-c": "EUR"}
NODES: Final = ("one", "two")
MODELS: Final = tuple(sha256(f"model {n}".encode()).digest() for n in range(2))
HONEST: Final = TENANTS[-1]
"""A tenant whose receipts are all in order: invoices lie about its lines."""
FAULTS: Final = (
    *("answered-twice", "failed", "unsigned-cancel", "no-deadline", "nothing", "over-bound"),
    *("unknown-card", "superseded", "convicted", "held"),
)
CHUNK: Final = 20_000


Place = tuple[str, str, str, bytes]
"""(operator, tenant, node, model root)"""


@dataclass(slots=True)
class Planted:
    """What was planted, as the operators' own meters and the truth have it. Tokens are (input, cached, output)."""

    receipts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    metered: dict[Place, list[int]] = field(default_factory=dict)
    """What the nodes counted for every receipt, payable or not: what an operator would like to bill."""
    payable: dict[Place, list[int]] = field(default_factory=dict)

    def count(self, place: Place, tokens: tuple[int, int, int], *, payable: bool) -> None:
        """Count one receipt."""
        for sums in (self.metered, self.payable)[: 2 if payable else 1]:
            found = sums.setdefault(place, [0, 0, 0])
            for at, number in enumerate(tokens):
                found[at] += number


@dataclass(slots=True)
class _Rows:
    """Rows of one chunk, as tuples."""

    orders: list[tuple[Any, ...]] = field(default_factory=list)
    receipts: list[tuple[Any, ...]] = field(default_factory=list)
    verdicts: list[tuple[Any, ...]] = field(default_factory=list)


class Month:
    """Makes a month. Log indexes are given out in order; statements other than receipts take one each as well."""

    def __init__(self, seed: int, receipts: int, faulty: float = 0.01) -> None:
        self._random = Random(seed)
        self._wanted = receipts
        self._faulty = faulty
        self._index = 0
        self._made = 0
        self._number = Counter[str]()
        self._sequence = Counter[tuple[str, str]]()
        self.cards = {operator: _card(operator) for operator in CURRENCIES}
        self.planted = Planted()

    def write(self, engine: Engine) -> None:
        """Write everything to the trail's tables."""
        with transaction(engine) as connection:
            for operator, raw in self.cards.items():
                row = (
                    entry_of(raw),
                    self._next(),
                    "rate-card",
                    bytes(32),
                    operator,
                    "list",
                    raw,
                    1,
                )
                copy_tuples(connection, StatementRow, _names(StatementRow), [row])
        while self.planted.receipts < self._wanted:
            rows = self._chunk()
            with transaction(engine) as connection:
                copy_tuples(connection, OrderRow, _names(OrderRow), rows.orders)
                copy_tuples(connection, ReceiptRow, _names(ReceiptRow), rows.receipts)
                copy_tuples(connection, VerdictRow, _names(VerdictRow), rows.verdicts)

    def _chunk(self) -> _Rows:
        rows = _Rows()
        while len(rows.receipts) < CHUNK and self.planted.receipts < self._wanted:
            fault = self._random.choice(FAULTS) if self._random.random() < self._faulty else None
            for row in self._request(fault, rows):
                rows.receipts.append(row)
                self.planted.receipts += 1
        return rows

    def _request(self, fault: str | None, rows: _Rows) -> Iterator[tuple[Any, ...]]:
        chance = self._random
        operator, tenant = chance.choice(tuple(CURRENCIES)), chance.choice(TENANTS)
        if tenant == HONEST:
            fault = None
        if fault is not None:
            self.planted.faults[fault] += 1
        place = (operator, chance.choice(NODES), chance.choice(MODELS))
        number = self._number[tenant]
        self._number[tenant] += 1
        order = self._order(tenant, number, 0, fault, rows)
        yield self._receipt(order, tenant, number, 0, place, fault)
        if fault == "answered-twice":
            yield self._receipt(order, tenant, number, 0, place, "again")
        if fault == "superseded":
            again = self._order(tenant, number, 1, None, rows)
            yield self._receipt(again, tenant, number, 1, place, None)
        if fault in {"convicted", "held"}:
            self._verdicts(fault, tenant, place, rows)

    def _order(
        self, tenant: str, number: int, attempt: int, fault: str | None, rows: _Rows
    ) -> bytes:
        entry = _hash("order", tenant, number, attempt)
        output = 10 if fault == "over-bound" else 4096
        centre = _hash("centre", tenant, number % 5)
        rows.orders.append(
            (entry, tenant, number, attempt, 32_768, output, None, centre, None, None, b"")
        )
        return entry

    def _receipt(
        self,
        order: bytes,
        tenant: str,
        number: int,
        attempt: int,
        place: tuple[str, str, bytes],
        fault: str | None,
    ) -> tuple[Any, ...]:
        chance, (operator, node, model) = self._random, place
        index = self._next()
        sequence = self._sequence[operator, node]
        self._sequence[operator, node] += 1
        prompt = 16 * chance.randint(1, 200)
        cached = 16 * chance.randint(0, prompt // 16 - 1)
        output = 0 if fault == "nothing" else chance.randint(11, 600)
        start = (
            MONTH.start + (MONTH.end - MONTH.start - 60_000) * self.planted.receipts // self._wanted
        )
        payable = fault in {None, "answered-twice", "held"}
        self.planted.count(
            (operator, tenant, node, model), (prompt - cached, cached, output), payable=payable
        )
        card = bytes(32) if fault == "unknown-card" else entry_of(self.cards[operator])
        finish = {"failed": "failed", "unsigned-cancel": "cancelled", "no-deadline": "deadline"}
        return (
            *(_hash("receipt", index), index, order, bytes(32), tenant, number, attempt, operator, node, sequence, model),
            *(bytes(32), prompt, cached, output, output * 9, None, "unmeasured", finish.get(fault or "", "stop")),
            *(False, start, start + output * 10, card, False, None, None, None),
        )  # fmt: skip

    def _verdicts(
        self, fault: str, tenant: str, place: tuple[str, str, bytes], rows: _Rows
    ) -> None:
        receipt = _hash("receipt", self._index - 1)
        confirms: bytes | None = None
        for worker in ("first", "second")[: 2 if fault == "convicted" else 1]:
            index = self._next()
            entry = _hash("verdict", index)
            rows.verdicts.append(
                (entry, index, receipt, worker, "FAIL", "tokens", confirms, MONTH.end, tenant, *place[:2], False)
            )  # fmt: skip
            confirms = entry

    def _next(self) -> int:
        self._index += 1
        return self._index - 1


def _card(operator: str) -> bytes:
    prices = tuple(
        Price(model_root=model, input=f"{n + 1}.25", cached=f"0.{n + 1}25", output=f"{n + 4}.5", per=1_000_000)
        for n, model in enumerate(MODELS)
    )  # fmt: skip
    card = RateCard(
        name="list", operator=operator, currency=CURRENCIES[operator], valid_from=0, prices=prices
    )
    key = Ed25519PrivateKey.from_private_bytes(sha256(operator.encode()).digest())
    return sign(card, key=key, issuer=operator)


def _hash(*parts: object) -> bytes:
    return sha256(repr(parts).encode()).digest()


def _names(kind: type[Base]) -> list[str]:
    return [column.name for column in kind.__table__.columns]
