"""Statements alongside the tree: what is reported, and what a server can do wrong."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from audit_layer.monitor import store
from audit_layer.monitor.statements import Watch
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.epochs import EpochSeal
from shared.statements.identities import Holder, IdentityKeyEnd, sign_identity_key
from shared.statements.keys import Revocation
from shared.statements.ratecards import RateCard
from shared.verification.trust import Role, Trust
from tests.audit_layer.api import statements as made
from tests.audit_layer.api.chain import Parties, stage_bundle
from tests.audit_layer.api.chain import failed as lost
from tests.audit_layer.monitor.conftest import Scene
from tests.audit_layer.monitor.doubles import LyingLog, kept, some_entries

PUBLIC = "v1/public/statements"
BUNDLE, CARD = made.bundle("alpha"), made.rate_card("alpha")
FOREIGN = made.bundle("beta", model=made.some("another model"))
REVOKED = made.revocation("alpha", entry_of(BUNDLE))
STATEMENTS = [(3, BUNDLE), (5, CARD), (260, FOREIGN), (261, REVOKED)]
ALPHA = Watch(operators=frozenset({"alpha"}))


def log_with(items: list[tuple[int, bytes]], size: int = 300) -> LyingLog:
    entries = some_entries(size)
    for index, raw in items:
        entries[index] = entry_of(raw)
    return LyingLog(entries)


def show(scene: Scene, items: list[tuple[int, bytes]], **changes: Any) -> None:
    scene.server.show(log_with(items))
    scene.server.statements(PUBLIC, items, **changes)


def told(scene: Scene) -> list[tuple[str, int]]:
    return [(fact["type"], fact["index"]) for fact in scene.heard.of("statement")]


async def test_what_concerns_a_watched_operator_is_reported_once(scene: Scene):
    show(scene, STATEMENTS)
    for _ in range(2):
        assert (await scene.look(watch=ALPHA)).findings == 0
    assert told(scene) == [("key-bundle", 3), ("rate-card", 5), ("revocation", 261)]


async def test_what_concerns_a_watched_model_is_reported(scene: Scene):
    show(scene, STATEMENTS)
    await scene.look(watch=Watch(models=frozenset({made.some("another model")})))
    assert told(scene) == [("key-bundle", 260)]


async def test_an_epoch_seal_over_a_watched_operators_receipts_is_reported_and_no_other(
    scene: Scene,
):
    def seal(epoch: int, bundle: bytes) -> bytes:
        value = EpochSeal(
            epoch=epoch, at=made.NOW, open=made.some("open"), first=0, size=9,
            root=made.some("root"), nodes={entry_of(bundle): made.some("receipts")},
        )  # fmt: skip
        return sign(value, key=made.key("authority"), issuer="authority")

    show(scene, [(3, BUNDLE), (4, FOREIGN), (20, seal(0, BUNDLE)), (21, seal(1, FOREIGN))])
    await scene.look(watch=ALPHA)
    assert told(scene) == [("key-bundle", 3), ("epoch-seal", 20)]


async def test_a_revocation_under_a_name_of_its_own_choice_is_reported_for_the_bundles_operator(
    scene: Scene,
):
    value = Revocation(bundle=entry_of(BUNDLE), reason="not theirs", at=made.NOW)
    raw = sign(value, key=made.key("beta"), issuer="beta")
    show(scene, [(3, BUNDLE), (4, raw)])
    pinned = Watch(trust=Trust(pins={Role.OPERATOR: {"alpha": (made.public("alpha"),)}}))
    await scene.look(watch=pinned)
    assert told(scene) == [("key-bundle", 3), ("revocation", 4)]
    assert scene.heard.kinds() == ["key"]


async def test_without_a_watch_statements_are_checked_but_not_reported(scene: Scene):
    show(scene, STATEMENTS)
    assert (await scene.look()).findings == 0
    assert told(scene) == []
    assert PUBLIC in scene.server.asked


async def test_a_statement_that_the_tree_does_not_hold_at_its_index_is_a_finding(scene: Scene):
    scene.server.show(log_with([(3, BUNDLE)]))
    scene.server.statements(PUBLIC, [(3, BUNDLE), (4, CARD)])
    await scene.look(watch=ALPHA)
    assert scene.heard.kinds() == ["statement"]
    assert entry_of(CARD).hex() in scene.heard.of("finding")[0]["detail"]
    assert told(scene) == [("key-bundle", 3)]


async def test_a_statement_at_another_statements_index_is_a_finding(scene: Scene):
    show(scene, [(3, BUNDLE), (5, CARD)])
    scene.server.statements(PUBLIC, [(3, CARD), (5, BUNDLE)])
    await scene.look(watch=ALPHA)
    assert scene.heard.kinds() == ["statement", "statement"]


async def test_a_statement_beyond_the_checkpoint_waits_and_is_a_finding_after_the_grace(
    scene: Scene,
):
    scene.server.show(log_with([]))
    scene.server.statements(PUBLIC, [(300, BUNDLE)])
    assert (await scene.look(watch=ALPHA, grace_s=100)).findings == 0
    scene.now_s += 101
    assert (await scene.look(watch=ALPHA, grace_s=100)).findings == 1
    assert scene.heard.kinds() == ["statement"]
    scene.server.show(log_with([(300, BUNDLE)], 301))
    assert (await scene.look(watch=ALPHA, grace_s=100)).findings == 0
    assert told(scene) == [("key-bundle", 300)]


@pytest.mark.parametrize(
    "changes",
    [
        {"entry": "00" * 32},
        {"type": "rate-card"},
        {"raw": base64.b64encode(b"\xd2\x84").decode()},
        {"raw": base64.b64encode(CARD).decode()},
    ],
)
async def test_a_statement_that_is_not_what_its_label_says_is_a_finding(
    scene: Scene, changes: dict[str, Any]
):
    show(scene, [(3, BUNDLE)], **changes)
    await scene.look(watch=ALPHA)
    assert scene.heard.kinds() == ["statement"]
    assert told(scene) == []


async def test_a_wrong_signature_in_a_pinned_operators_name_is_a_finding(scene: Scene):
    raw = BUNDLE[:-1] + bytes([BUNDLE[-1] ^ 1])
    show(scene, [(3, raw)])
    await scene.look(
        watch=Watch(trust=Trust(pins={Role.OPERATOR: {"alpha": (made.public("alpha"),)}}))
    )
    assert scene.heard.kinds() == ["signature"]


@pytest.mark.parametrize("raw", [BUNDLE, CARD], ids=["bundle", "card"])
async def test_a_statement_of_a_pinned_operator_by_another_key_is_a_finding(
    scene: Scene, raw: bytes
):
    show(scene, [(3, raw)])
    good = Watch(
        trust=Trust(pins={Role.OPERATOR: {"alpha": (made.public("older"), made.public("alpha"))}})
    )
    await scene.look(watch=good)
    assert scene.heard.kinds() == []
    scene.state = scene.state.with_name("second.db")
    await scene.look(
        watch=Watch(trust=Trust(pins={Role.OPERATOR: {"alpha": (made.public("older"),)}}))
    )
    assert scene.heard.kinds() == ["key"]
    proof = kept(scene.heard.of("finding")[0]["evidence"])
    assert bytes.fromhex(proof["statement"]) == raw


def change(by: str, new: str) -> bytes:
    return sign_identity_key(
        Holder.OPERATOR, "alpha", new=made.key(new), by=made.key(by), now_ms=made.NOW
    )


def ending(by: str, key: str) -> bytes:
    value = IdentityKeyEnd(Holder.OPERATOR, "alpha", made.public(key), made.NOW, "rotated")
    return sign(value, key=made.key(by), issuer="alpha")


async def test_a_pinned_operators_rotation_is_followed_over_restarts_and_what_its_old_key_signs_later_is_a_finding(
    scene: Scene,
):
    pinned = Watch(trust=Trust(pins={Role.OPERATOR: {"alpha": (made.public("alpha"),)}}))
    card = sign(open_as(RateCard, CARD, None)[0], key=made.key("second"), issuer="alpha")
    rotation = [(3, BUNDLE), (4, change("alpha", "second")), (5, ending("second", "alpha"))]
    later = [(7, CARD), (8, change("alpha", "thief"))]
    scene.server.show(log_with([*rotation, (6, card), *later]))
    scene.server.statements(PUBLIC, [*rotation, (6, card)])
    await scene.look(watch=pinned)
    assert scene.heard.kinds() == []
    assert [kind for kind, _ in told(scene)] == [
        *("key-bundle", "identity-key", "identity-key-end", "rate-card"),
    ]
    scene.server.statements(PUBLIC, later)
    await scene.look(watch=pinned)  # from what it remembers
    assert scene.heard.kinds() == ["key", "key"]


async def test_two_holders_of_a_pinned_operators_key_are_a_finding(scene: Scene):
    pinned = Watch(trust=Trust(pins={Role.OPERATOR: {"alpha": (made.public("alpha"),)}}))
    both = [(3, change("alpha", "thief")), (4, change("alpha", "second"))]
    show(scene, [*both, (5, ending("thief", "second"))])
    await scene.look(watch=pinned)
    assert scene.heard.kinds() == ["key"]
    assert "another branch" in scene.heard.of("finding")[0]["detail"]


async def test_a_server_that_lies_without_end_fills_no_disk(scene: Scene, monkeypatch):
    monkeypatch.setattr(store, "MAX_FINDINGS", 3)
    scene.server.show(log_with([]))
    lies = [made.bundle("alpha", not_after=made.NOW + n * made.HOUR) for n in range(1, 9)]
    scene.server.statements(PUBLIC, list(enumerate(lies)))
    assert (await scene.look()).findings == len(lies)
    assert scene.heard.kinds() == ["statement"] * 3


HOSTILE = [
    b"",
    b"[]",
    b"[" * 100_000,
    b'{"items": 3, "next": null}',
    b'{"items": [{}], "next": null}',
    b'{"items": [{"entry": "00", "log_index": 1, "type": "draw", "raw": ""}], "next": null}',
    json.dumps({"items": [{"entry": "0" * 64, "log_index": True, "type": "draw", "raw": ""}], "next": None}).encode(),
    json.dumps({"items": [{"entry": "0" * 64, "log_index": 2**70, "type": "draw", "raw": ""}], "next": None}).encode(),
    json.dumps({"items": [{"entry": "0" * 64, "log_index": 1, "type": "draw", "raw": ""}] * 2, "next": None}).encode(),
    bytes(9 * 2**20),
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
async def test_an_answer_that_is_not_a_page_is_a_finding_or_trouble_and_never_a_crash(
    scene: Scene, body: bytes
):
    show(scene, STATEMENTS)
    scene.server.answers[PUBLIC] = Response(body)
    met = await scene.look(watch=ALPHA)
    assert scene.heard.kinds() == ["malformed"] or (len(body) > 2**23 and met.troubles)
    assert scene.verified_size == 300


# -- with a tenant's token -------------------------------------------------------------------------


def receipts(numbers: list[int]) -> list[tuple[int, bytes]]:
    node = made.Node("alpha", entry_of(BUNDLE), entry_of(CARD))
    made_by = [node.receipt("acme").statement for _ in range(max(numbers) + 1)]
    return [(10 + number, made_by[number]) for number in numbers]


def show_tenant(
    scene: Scene,
    items: list[tuple[int, bytes]],
    size: int = 300,
    *,
    refused: Sequence[tuple[int, bytes]] = (),
) -> None:
    disclosed = [(200, made.disclosure_request(entry_of(items[0][1])))]
    scene.server.show(log_with([*items, *refused, *disclosed], size))
    scene.server.statements("v1/refusals", list(refused))
    scene.server.statements(PUBLIC, [])
    scene.server.statements("v1/receipts", items)
    scene.server.statements("v1/disclosures", disclosed)


async def test_a_tenants_new_receipts_and_disclosures_are_reported_once(scene: Scene):
    show_tenant(scene, receipts([0, 1, 2]))
    for _ in range(2):
        assert (await scene.look(token="acme's")).findings == 0
    assert told(scene) == [("receipt", 10), ("receipt", 11), ("receipt", 12), ("disclosure-request", 200)]  # fmt: skip


async def test_without_a_token_nothing_of_a_tenant_is_asked_for(scene: Scene):
    show_tenant(scene, receipts([0]))
    await scene.look()
    assert not {"v1/receipts", "v1/disclosures"} & set(scene.server.asked)


async def test_a_missing_order_number_is_a_finding_after_the_grace_and_once(scene: Scene):
    show_tenant(scene, receipts([0, 2]))
    assert (await scene.look(token="t", grace_s=100)).findings == 0
    scene.now_s += 101
    for _ in range(2):
        assert (await scene.look(token="t", grace_s=100)).findings == 1
    assert scene.heard.kinds() == ["order-gap"]
    assert "order 1 of tenant acme" in scene.heard.of("finding")[0]["detail"]


@pytest.mark.parametrize("failed", [False, True])
async def test_the_parts_of_a_chain_account_for_no_number(scene: Scene, failed: bool):
    """Without the head's receipt, number 1 is a gap; a stage that failed says by its key bundle that it is one."""
    stage = stage_bundle("beta", 1, 2)
    head = made.Node("alpha", entry_of(BUNDLE), entry_of(CARD))
    chain = Parties(head, [made.Node("beta", entry_of(stage), entry_of(CARD))])
    answers = [chain.answer(number, changes={1: lost()} if failed else {}) for number in range(3)]
    items = [(10 + n, answers[n][0].statement) for n in (0, 2)]
    items += [(20 + n, answers[n][1].statement) for n in range(3)]
    show_tenant(scene, items)
    shown = JSONResponse({"raw": base64.b64encode(stage).decode()})
    scene.server.answers[f"v1/statements/{entry_of(stage).hex()}"] = shown
    assert (await scene.look(token="t", grace_s=100)).findings == 0
    scene.now_s += 101
    assert (await scene.look(token="t", grace_s=100)).findings == 1
    assert "order 1 of tenant acme" in scene.heard.of("finding")[0]["detail"]
    summaries = [fact["summary"] for fact in scene.heard.of("statement") if fact["type"] == "receipt"]  # fmt: skip
    assert sum("a part of order" in summary for summary in summaries) == 3


async def test_a_refusal_closes_its_number_and_is_reported(scene: Scene):
    node = made.Node("alpha", entry_of(BUNDLE), entry_of(CARD))
    first, refusal, third = node.receipt("acme"), node.refusal("acme"), node.receipt("acme")
    show_tenant(
        scene,
        [(10, first.statement), (12, third.statement)],
        refused=[(11, refusal.statement)],
    )
    assert (await scene.look(token="t", grace_s=100)).findings == 0
    scene.now_s += 101
    assert (await scene.look(token="t", grace_s=100)).findings == 0
    assert ("refusal", 11) in told(scene)


async def test_a_log_that_hides_a_refusal_shows_a_gap(scene: Scene):
    """Whoever holds the refusal, with its proof, sees who hides it."""
    show_tenant(scene, receipts([0, 2]), refused=[])
    await scene.look(token="t", grace_s=100)
    scene.now_s += 101
    assert (await scene.look(token="t", grace_s=100)).findings == 1


async def test_a_number_that_arrives_within_the_grace_period_is_not_a_finding(scene: Scene):
    first, second, third = receipts([0, 1, 2])
    show_tenant(scene, [first, third], 299)
    await scene.look(token="t", grace_s=100)
    show_tenant(scene, [first, third, (299, second[1])], 300)
    scene.now_s += 101
    assert (await scene.look(token="t", grace_s=100)).findings == 0
    assert told(scene)[-1] == ("receipt", 299)


async def test_a_receipt_that_is_not_in_the_tree_is_a_finding(scene: Scene):
    items = receipts([0, 1])
    show_tenant(scene, items)
    scene.server.statements("v1/receipts", [(50, items[0][1]), (51, items[1][1])])
    await scene.look(token="t")
    assert scene.heard.kinds() == ["statement", "statement"]
    assert [kind for kind, _ in told(scene)] == ["disclosure-request"]


async def test_a_receipt_that_is_listed_and_not_shown_or_is_something_else_is_a_finding(
    scene: Scene,
):
    items = receipts([0, 1])
    show_tenant(scene, [*items, (20, CARD)])
    path = f"v1/statements/{entry_of(items[0][1]).hex()}"
    scene.server.answers[path] = JSONResponse({"code": "NOT_FOUND"}, status_code=404)
    await scene.look(token="t")
    assert scene.heard.kinds() == ["statement", "statement"]


async def test_a_refused_token_is_trouble_and_the_tree_is_followed_all_the_same(scene: Scene):
    show_tenant(scene, receipts([0]))
    scene.server.answers["v1/receipts"] = JSONResponse({"code": "UNAUTHENTICATED"}, status_code=401)
    met = await scene.look(token="t")
    assert (met.findings, len(met.troubles)) == (0, 1)
    assert scene.verified_size == 300


def test_the_keys_of_the_small_world_are_what_a_pin_holds():
    assert made.public("alpha") == public_bytes(made.key("alpha"))
