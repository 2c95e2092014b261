"""Draws as strangers can check them: an honest selection passes, and what is wrong is found once and kept with its proof."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from audit_layer.monitor import selected
from audit_layer.monitor.statements import Watch
from audit_layer.monitor.store import MonitorStore
from shared.runtime import faults
from shared.runtime.keys import public_bytes
from shared.statements.cose import open_as
from shared.statements.disclosures import DisclosureReason
from shared.statements.epochs import Draw
from shared.verification.draw_check import HOUR_MS
from shared.verification.epoch_record import gather
from shared.verification.trust import Trust
from tests.audit_layer.log.world import ORIGIN
from tests.audit_layer.monitor.conftest import Scene
from tests.audit_layer.monitor.doubles import LyingLog, kept
from tests.shared.verification.epochs import AUTHORITY, KEYS, Book, Spec
from tests.vectors.samples import NOW, octets, signing_key

PUBLIC = "v1/public/statements"
WATCH = Watch(trust=KEYS)


def book(*specs: Spec) -> Book:
    return Book(*specs, origin=ORIGIN)


def middle(**spoiled: Any) -> Book:
    return book(Spec(), Spec(**spoiled), Spec())


def show(scene: Scene, made: Book, size: int | None = None) -> None:
    """Serve the log as it was at a size."""
    size = size or len(made.entries)
    scene.server.show(LyingLog(made.entries), size)
    scene.server.statements(PUBLIC, [item for item in made.statements if item[0] < size])


def found(scene: Scene) -> list[str]:
    assert set(scene.heard.kinds()) <= {"draw"}
    return [fact["detail"] for fact in scene.heard.of("finding")]


def waiting(scene: Scene) -> set[int]:
    store = MonitorStore(scene.state, ORIGIN)
    try:
        return {item.epoch for item in store.selection()}
    finally:
        store.close()


async def test_an_honest_selection_passes_at_once_and_as_it_grows(scene: Scene):
    made = book(Spec(), Spec(silent=1), Spec(parties=()), Spec(rate_ppm=0, floor=2))
    scene.now_s = NOW / 1000
    for size in (*range(5, len(made.entries), 7), len(made.entries)):
        show(scene, made, size)
        assert (await scene.look(watch=WATCH, stale_after_s=0)).findings == 0, scene.heard.events
    assert waiting(scene) == {3, 4}  # the last one, and the one that is open
    show(scene, made)
    assert (await scene.look(watch=WATCH, stale_after_s=0)).findings == 0


@pytest.mark.parametrize(
    ("spoiled", "named"),
    [
        ({"draw": lambda d: replace(d, seed=octets("chosen"))}, "step (6), seed"),
        ({"draw": lambda d: replace(d, whole=True)}, "step (5), whole"),
        ({"seal": lambda s: replace(s, first=s.first + 1)}, "step (2), skipped"),
        ({"keys": {"draw": signing_key("stranger")}}, "step (1), order"),
    ],
    ids=["seed", "whole", "skipped", "key"],
)
async def test_a_wrong_draw_is_found_once_with_the_statements_that_show_it(
    scene: Scene, spoiled: dict[str, Any], named: str
):
    made = middle(**spoiled)
    show(scene, made)
    assert (await scene.look(watch=WATCH)).findings
    assert any(f"epoch 1, {named}" in detail for detail in found(scene))
    count = len(found(scene))
    proof = kept(scene.heard.of("finding")[0]["evidence"])
    draw = gather(made.statements)[1].draw
    assert draw is not None
    assert bytes.fromhex(proof["draw"]) == draw.statement.raw
    assert len(proof["commitments"]) == len(proof["reveals"]) == 3
    show(scene, made)
    assert (await scene.look(watch=WATCH)).findings == 0
    assert len(found(scene)) == count


@pytest.mark.parametrize("point", ["before-settle", "after-settle"])
async def test_a_crash_around_settling_an_epoch_neither_loses_nor_repeats_a_finding(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, point: str
):
    show(scene, middle(draw=lambda d: replace(d, seed=octets("chosen"))))
    faults._reached.clear()
    monkeypatch.setenv(faults.VARIABLE, f"monitor.{point}:raise:2")
    with pytest.raises(faults.InjectedFault):
        await scene.look(watch=WATCH)
    monkeypatch.delenv(faults.VARIABLE)
    await scene.look(watch=WATCH)
    assert ["epoch 1, step (6), seed" in detail for detail in found(scene)] == [True]
    assert waiting(scene) == {2, 3}


async def test_receipts_drawn_beyond_rate_and_floors_are_seen_in_the_entries(scene: Scene):
    made = middle(rate_ppm=0)
    inside = gather(made.statements)[1].seal.value
    everything = tuple(r.index for r in made.receipts if inside.first <= r.index < inside.size)
    show(scene, middle(rate_ppm=0, draw=lambda d: replace(d, drawn=everything)))
    await scene.look(watch=WATCH)
    assert ["step (8), extra" in detail for detail in found(scene)] == [True]


async def test_a_second_draw_of_a_checked_epoch_is_found_whenever_it_comes(scene: Scene):
    made = book(Spec(), Spec(), Spec(silent=3))
    show(scene, made)
    assert (await scene.look(watch=WATCH)).findings == 0
    records = gather(made.statements)
    for at in (0, 2):
        draw = records[at].draw
        assert draw is not None
        made.signed(replace(draw.value, seed=octets("second")))
    show(scene, made)
    assert (await scene.look(watch=WATCH)).findings == 2
    assert all("has another draw of epoch" in detail for detail in found(scene))
    proof = kept(scene.heard.of("finding")[1]["evidence"])
    assert open_as(Draw, bytes.fromhex(proof["statement"]), public_bytes(AUTHORITY))[0].epoch == 2
    assert (await scene.look(watch=WATCH)).findings == 0


async def test_a_sealed_epoch_without_a_draw_is_found_once_it_is_due_and_checked_when_it_comes(
    scene: Scene,
):
    made = book(Spec(), Spec(drawn=False))
    show(scene, made)
    scene.now_s = (NOW + HOUR_MS) / 1000
    assert (await scene.look(watch=WATCH, stale_after_s=0)).findings == 0
    scene.now_s += 1
    assert (await scene.look(watch=WATCH, stale_after_s=0)).findings == 1
    assert "step (1), undrawn" in found(scene)[0]
    assert waiting(scene) == {0, 1, 2}


async def test_a_tenant_finds_that_its_own_receipt_was_omitted(scene: Scene):
    honest = middle()
    due = next(item for item in honest.rules[1] if item.reason is DisclosureReason.DRAW)
    left_out = middle(
        draw=lambda d: replace(d, drawn=tuple(index for index in d.drawn if index != due.index))
    )
    others = [r.index for r in left_out.receipts if r.index != due.index]
    for mine, missing in (([due.index], 1), (others, 0)):
        scene.state = scene.state.with_name(f"{missing}.db")
        scene.heard.events.clear()
        show(scene, left_out)
        receipts(scene, left_out, mine)
        await scene.look(watch=WATCH, token="of a tenant")
        details = [f["detail"] for f in scene.heard.of("finding") if f["kind"] == "draw"]
        assert ["step (10), missing" in detail for detail in details] == [True] * missing


def receipts(scene: Scene, made: Book, indexes: Sequence[int]) -> None:
    """List receipts as a tenant's own; their statements are not shown, which has findings of its own."""

    def page(request: Request) -> JSONResponse:
        after = int(request.query_params["after"])
        found = [
            {"entry": made.entries[index].hex(), "log_index": index}
            for index in indexes
            if index > after
        ]
        return JSONResponse({"items": found, "next": None})

    scene.server.answers["v1/receipts"] = page
    scene.server.answers["v1/refusals"] = JSONResponse({"items": [], "next": None})
    scene.server.answers["v1/disclosures"] = JSONResponse({"items": [], "next": None})


async def test_without_keys_the_rule_is_checked_all_the_same(scene: Scene):
    show(scene, middle(draw=lambda d: replace(d, seed=octets("chosen"))))
    await scene.look(watch=Watch(trust=Trust()))
    assert ["step (6), seed" in detail for detail in found(scene)] == [True]


async def test_a_monitor_that_begins_in_the_middle_checks_from_the_first_whole_epoch_on(
    scene: Scene,
):
    made = book(Spec(), Spec(), Spec(draw=lambda d: replace(d, seed=octets("chosen"))))
    seals = [record.seal.index for record in gather(made.statements)]
    show(scene, made, seals[0] - 1)  # between the next opening and the seal
    assert (await scene.look(watch=WATCH, from_now=True)).findings == 0
    show(scene, made)
    await scene.look(watch=WATCH, from_now=True)
    assert ["epoch 2, step (6), seed" in detail for detail in found(scene)] == [True], found(scene)


async def test_a_broken_statement_of_the_selection_is_found_and_the_others_are_checked(
    scene: Scene,
):
    made = middle()
    junk = sign_raw(made)
    show(scene, made)
    assert (await scene.look(watch=WATCH)).findings == 1
    assert scene.heard.kinds() == ["statement"]
    assert junk.hex() in scene.heard.of("finding")[0]["detail"]


def sign_raw(made: Book) -> bytes:
    """Log a draw that lacks its fields; return its entry."""
    from shared.statements.cose import sign_statement

    raw = sign_statement("draw", {"v": 1}, key=AUTHORITY, issuer="authority", subject="epoch-9")
    made.put(raw)
    return made.entries[-1]


async def test_a_log_whose_epochs_are_never_drawn_does_not_fill_the_disk(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(selected, "MAX_BYTES", 4_000)
    made = book(*[Spec(drawn=False)] * 6)
    steps: Sequence[int] = range(20, len(made.entries), 20)
    for size in steps:
        show(scene, made, size)
        await scene.look(watch=WATCH)
    assert "more epochs await a draw than can be kept" in found(scene)
    store = MonitorStore(scene.state, ORIGIN)
    assert sum(len(item.raw) for item in store.selection()) < 4_000 + 20_000
    store.close()
