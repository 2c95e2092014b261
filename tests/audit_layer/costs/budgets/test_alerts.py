"""An alert is raised once per budget, month and threshold, and sent until it is accepted, the same bytes each time."""

import json
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest

from audit_layer.costs.budgets import alerts as module
from audit_layer.costs.budgets.alerts import (
    FIRST_RETRY_MS,
    LONGEST_RETRY_MS,
    MOST_ATTEMPTS,
    Alerts,
)
from audit_layer.costs.budgets.store import Budget
from audit_layer.costs.budgets.use import Budgets
from shared.codec.moment import now_ms
from shared.parties.webhook import Webhook, WebhookSettings, signature
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import create_private
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.test_service import DAY, Books, books
from tests.audit_layer.trail.conftest import world
from tests.webhook_receiver import https_receiver

__all__ = ["books", "world"]

MONTH = str(DAY)[:7]
CENTRE = made.some("centre")


@dataclass
class Double:
    """Takes messages, or does not."""

    problem: str | None = None
    came: list[tuple[str, bytes]] = field(default_factory=list)

    def deliver(self, delivery: str, body: bytes) -> str | None:
        self.came.append((delivery, body))
        return self.problem


@dataclass
class Scene:
    books: Books
    double: Double

    @property
    def budgets(self) -> Budgets:
        return Budgets(self.books.world.database.engine("server"))

    @property
    def alerts(self) -> Alerts:
        return Alerts(self.books.world.database.engine("worker"), self.double)

    def budget(self, amount: str, thresholds: tuple[int, ...] = (50, 80, 100), name: str = "all", **changes) -> int:  # fmt: skip
        values = {"tenant": "acme", "currency": "EUR", **changes}
        budget = Budget(name=name, amount=Decimal(amount), thresholds=thresholds, **values)
        return self.budgets.record(budget, by="finance").id

    def spend(self, receipts: int, **changes) -> None:
        """19 thousandths each."""
        for _ in range(receipts):
            self.books.receipt(**changes)
        self.books.costs.rate_new()

    def states(self) -> list[str]:
        rows = self.books.world.rows(
            "SELECT state FROM costs_budget_alerts ORDER BY budget, month, threshold, turn"
        )
        return [state for (state,) in rows]


@pytest.fixture
def scene(books: Books) -> Scene:
    return Scene(books, Double())


def test_each_threshold_is_told_once_a_month(scene: Scene):
    number = scene.budget("0.05")
    now = now_ms()
    assert scene.alerts.tick(now) == 0
    scene.spend(1)
    assert scene.alerts.tick(now) == 0
    scene.spend(1)  # 0.038 of 0.05
    assert [scene.alerts.tick(now) for _ in range(3)] == [1, 0, 0]
    scene.spend(1)
    assert [scene.alerts.tick(now) for _ in range(3)] == [2, 0, 0]
    assert [delivery for delivery, _ in scene.double.came] == [
        f"budget-{number}-{MONTH}-{percent}" for percent in (50, 80, 100)
    ]
    told = json.loads(scene.double.came[0][1])
    assert told["id"] == f"budget-{number}-{MONTH}-50"
    assert (told["spent"], told["amount"], told["currency"]) == ("0.038", "0.05", "EUR")
    assert (told["tenant"], told["budget"], told["month"]) == ("acme", "all", MONTH)


def test_a_receiver_that_fails_gets_the_same_bytes_again_later_and_later(scene: Scene):
    scene.budget("0.019", (100,))
    scene.spend(1)
    scene.double.problem = "answered 500"
    at, waits = now_ms(), list[int]()
    scene.alerts.tick(at)
    while len(scene.double.came) < MOST_ATTEMPTS:
        wait = min(FIRST_RETRY_MS << len(waits), LONGEST_RETRY_MS)
        scene.alerts.tick(at + wait - 1)
        assert len(scene.double.came) == len(waits) + 1
        at += wait
        waits.append(wait)
        scene.alerts.tick(at)
    scene.alerts.tick(at + 10 * LONGEST_RETRY_MS)
    assert len(scene.double.came) == MOST_ATTEMPTS
    assert len({(delivery, body) for delivery, body in scene.double.came}) == 1
    assert scene.states() == ["raised", *["failed"] * (MOST_ATTEMPTS - 1), "given-up"]


def test_a_sender_that_dies_before_it_notes_the_acceptance_sends_the_same_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    scene.budget("0.019", (100,))
    scene.spend(1)

    def dies(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_attempted", dies)
        with pytest.raises(RuntimeError):
            scene.alerts.tick(now_ms())
    assert scene.states() == ["raised"]
    assert scene.alerts.tick(now_ms()) == 1
    first, second = scene.double.came
    assert first == second
    assert scene.states() == ["raised", "sent"]


def test_another_budget_of_the_name_is_told_anew_and_an_ended_one_is_not(scene: Scene):
    first = scene.budget("0.019", (100,))
    assert scene.budget("0.019", (100,)) == first
    scene.spend(1)
    assert scene.alerts.tick(now_ms()) == 1
    second = scene.budget("0.010", (100,))
    assert second != first
    assert [scene.alerts.tick(now_ms()) for _ in range(2)] == [1, 0]
    scene.budgets.end("acme", "all", by="finance")
    assert scene.budgets.end("acme", "all", by="finance").active is False
    scene.spend(9)
    assert scene.alerts.tick(now_ms()) == 0
    assert scene.budgets.in_force("acme") == []
    with pytest.raises(CounterfoilError) as caught:
        scene.budgets.end("bolt", "all", by="finance")
    assert caught.value.code is Code.NOT_FOUND


def test_only_its_own_tenant_operator_and_centre_count(scene: Scene):
    beta = scene.books.node("beta")
    scene.budget("1", name="all")
    scene.budget("1", name="beta", operator="beta")
    scene.budget("1", name="centre", cost_centre=CENTRE)
    scene.budget("1", name="dollars", currency="USD")
    scene.spend(1)
    scene.spend(2, cost_centre=CENTRE)
    scene.spend(4, node=beta)
    scene.spend(8, tenant="bolt")
    found = {item.budget.name: item for item in scene.budgets.check("acme", MONTH)}
    spent = {name: item.spent for name, item in found.items()}
    each = Decimal("0.019")
    assert spent == {"all": 7 * each, "beta": 4 * each, "centre": 2 * each, "dollars": 0}
    assert found["dollars"].others == {"EUR": 7 * each}
    assert {item.spent for item in scene.budgets.check("acme", "2026-01")} == {0}
    assert [item.month for item in scene.budgets.check("acme", None)] == [MONTH] * 4
    assert scene.budgets.check("bolt", None) == []


def test_a_month_that_was_over_when_the_budget_was_set_raises_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    scene.spend(1)
    with monkeypatch.context() as patched:
        patched.setattr("audit_layer.costs.budgets.use.now_ms", lambda: now_ms() + 40 * 86_400_000)
        scene.budget("0.001", (100,))
    assert scene.alerts.tick(now_ms()) == 0
    assert scene.states() == []


def test_what_is_no_budget_is_refused():
    good = {"tenant": "acme", "name": "all", "amount": Decimal(1), "currency": "EUR", "thresholds": (50,)}  # fmt: skip
    Budget(**good)
    for wrong in (
        {"amount": Decimal(0)}, {"amount": Decimal(-1)}, {"currency": "eur"}, {"thresholds": ()}, {"thresholds": (0,)},
        {"thresholds": (80, 50)}, {"thresholds": (50, 50)}, {"thresholds": (1001,)}, {"thresholds": tuple(range(1, 12))},
        {"name": "=1"}, {"tenant": ""}, {"operator": "A"},
    ):  # fmt: skip
        with pytest.raises(CounterfoilError) as caught:
            Budget(**{**good, **wrong})
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_an_alert_reaches_a_real_receiver(scene: Scene, tmp_path: Path):
    scene.budget("0.019", (100,))
    scene.spend(1)
    create_private(tmp_path / "secret", b"0123456789abcdef")
    with https_receiver(tmp_path) as received:
        settings = WebhookSettings(
            url=received.url, secret_file=tmp_path / "secret", ca_file=received.ca
        )
        engine = scene.books.world.database.engine("worker")
        assert Alerts(engine, Webhook.of(settings)).tick(now_ms()) == 1
        ((_, headers, body),) = received.came
    assert headers["x-counterfoil-delivery"] == json.loads(body)["id"]
    assert (
        headers["x-counterfoil-signature-256"] == f"sha256={signature(b'0123456789abcdef', body)}"
    )
    assert scene.states() == ["raised", "sent"]
