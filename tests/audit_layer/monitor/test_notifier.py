"""A webhook is told of each disclosure at least once; whatever its receiver does, the monitor goes on."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_layer.monitor import notifier, outbox
from audit_layer.monitor.notifier import FIRST_RETRY_S, Notifier
from audit_layer.monitor.outbox import Message
from audit_layer.monitor.store import Cursor, Learnt, MonitorStore
from shared.statements.cose import entry_of, read_as, sign
from shared.statements.disclosures import DisclosureRequest
from shared.statements.verdicts import Outcome, Reason, Verdict
from tests.audit_layer.api import statements as made
from tests.audit_layer.log.world import ORIGIN
from tests.audit_layer.monitor.conftest import Scene
from tests.audit_layer.monitor.test_streams import BUNDLE, CARD, PUBLIC, log_with

RECEIPT = made.Node("alpha", entry_of(BUNDLE), entry_of(CARD)).receipt("acme").statement
REQUEST = made.disclosure_request(entry_of(RECEIPT))
VERDICT = sign(
    Verdict(
        receipt=entry_of(RECEIPT), request=entry_of(REQUEST), worker="worker", outcome=Outcome.PASS,
        reason=Reason.EXACT, evidence=bytes(32), numeric_profile=bytes(32), at=made.NOW,
    ),
    key=made.key("worker"),
    issuer="worker",
)  # fmt: skip


class FakeReceiver:
    """A double of a webhook: takes messages, or answers as a test says."""

    def __init__(self) -> None:
        self.came: list[tuple[str, bytes]] = []
        self.problem: str | None = None
        self.asked = 0

    async def send(self, delivery: str, body: bytes) -> str | None:
        self.asked += 1
        if self.problem is None:
            self.came.append((delivery, body))
        return self.problem


class DyingReceiver(FakeReceiver):
    """Accepts, and the monitor dies before it can note that."""

    async def send(self, delivery: str, body: bytes) -> str | None:
        await super().send(delivery, body)
        raise OSError("killed")


class HangingReceiver(FakeReceiver):
    """Never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.called = asyncio.Event()

    async def send(self, delivery: str, body: bytes) -> str | None:
        self.called.set()
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture
def disclosed(scene: Scene) -> Scene:
    items = [(200, REQUEST), (201, VERDICT)]
    scene.server.show(log_with([(10, RECEIPT), *items]))
    for path, shown in (
        (PUBLIC, []), ("v1/refusals", []), ("v1/receipts", [(10, RECEIPT)]), ("v1/disclosures", items),
    ):  # fmt: skip
        scene.server.statements(path, shown)
    return scene


def facts(receiver: FakeReceiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in receiver.came]


async def test_each_disclosure_is_told_once_with_who_why_draw_and_verdict(disclosed: Scene):
    receiver = FakeReceiver()
    for _ in range(2):
        assert (await disclosed.look(token="t", webhook=receiver)).findings == 0
    asked, judged = facts(receiver)
    value = read_as(DisclosureRequest, REQUEST)
    for told, raw, index in ((asked, REQUEST, 200), (judged, VERDICT, 201)):
        assert (told["id"], told["index"], told["log"]) == (entry_of(raw).hex(), index, ORIGIN)
        assert told["receipt"] == entry_of(RECEIPT).hex()
        assert told["request"]["reason"] == value.reason
        assert told["request"]["draw"] == value.draw.hex()
        assert told["request"]["recipient"] == value.recipient.hex()
    assert (asked["statement"], asked["by"]) == ("disclosure-request", "authority")
    assert (judged["by"], judged["verdict"]) == ("worker", {"outcome": "PASS", "reason": "exact"})
    assert [delivery for delivery, _ in receiver.came] == [asked["id"], judged["id"]]


async def test_a_token_or_a_signed_statement_is_in_no_message(disclosed: Scene):
    receiver = FakeReceiver()
    await disclosed.look(token="t-o-k-e-n", webhook=receiver)
    sent = b"".join(body for _, body in receiver.came)
    for secret in (b"t-o-k-e-n", REQUEST.hex().encode(), VERDICT.hex().encode()):
        assert secret not in sent


async def test_without_a_webhook_nothing_is_kept_to_be_sent(disclosed: Scene):
    await disclosed.look(token="t")
    receiver = FakeReceiver()
    await disclosed.look(token="t", webhook=receiver)
    assert receiver.asked == 0


async def test_what_is_not_accepted_is_kept_over_restarts_and_sent_again_later(disclosed: Scene):
    receiver = FakeReceiver()
    receiver.problem = "answered 500"
    assert (await disclosed.look(token="t", webhook=receiver)).findings == 0
    assert receiver.asked == 1
    await disclosed.look(token="t", webhook=receiver)
    assert receiver.asked == 2  # the other one; the first is not due
    receiver.problem = None
    disclosed.now_s += FIRST_RETRY_S
    await disclosed.look(token="t", webhook=receiver)
    assert sorted(told["index"] for told in facts(receiver)) == [200, 201]
    notices = [item["text"] for item in disclosed.heard.of("notice")]
    assert sum("answered 500" in text for text in notices) == 2  # once a process


async def test_a_monitor_that_dies_before_it_notes_the_answer_sends_the_same_again(
    disclosed: Scene,
):
    dying, receiver = DyingReceiver(), FakeReceiver()
    with pytest.raises(OSError, match="killed"):
        await disclosed.look(token="t", webhook=dying)
    await disclosed.look(token="t", webhook=receiver)
    assert dying.came == receiver.came[:1]
    assert len(receiver.came) == 2


async def test_a_receiver_that_never_answers_does_not_hold_up_the_rounds(tmp_path: Path):
    store = MonitorStore(tmp_path / "state.db", ORIGIN)
    receiver = HangingReceiver()
    await keep(store, [Message("a", b"{}")])
    sending = asyncio.create_task(told_by(store, receiver, print).run())
    await receiver.called.wait()
    await keep(store, [Message("b", b"{}")], after=1)
    assert store.messages_waiting() == 2
    sending.cancel()
    await asyncio.wait({sending})
    store.close()


async def test_messages_that_nobody_takes_do_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outbox, "MAX_WAITING", 3)
    store = MonitorStore(tmp_path / "state.db", ORIGIN)
    await keep(store, [Message(str(n), b"{}") for n in range(5)])
    notices: list[str] = []
    receiver = FakeReceiver()
    await told_by(store, receiver, notices.append).once()
    assert [delivery for delivery, _ in receiver.came] == ["0", "1", "2"]
    assert len(notices) == 1
    store.close()


def told_by(store: MonitorStore, receiver: FakeReceiver, notice: Callable[[str], None]) -> Notifier:
    return notifier.Notifier(store, receiver, notice)


async def keep(store: MonitorStore, messages: list[Message], after: int = 0) -> None:
    await store.move("disclosures", Cursor(after), Learnt(messages=messages))
