"""What a custodian keeps and reports under its own rules: releases stay counted, refusals are reported."""

import json
import logging
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from audit_layer.commands.parties import custodian as commands
from audit_layer.custodian import core, store
from audit_layer.custodian.app import create_app
from audit_layer.custodian.core import Custodian
from audit_layer.custodian.settings import CustodianSettings
from audit_layer.custodian.store import ReleaseStore
from shared.parties.beacon_service import RevealRequest
from shared.runtime.config import checked, load, to_toml
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.beacons import BeaconReveal
from shared.statements.cose import entry_of, open_as
from shared.statements.disclosures import DisclosureReason
from shared.statements.epochs import Draw, EpochOpen
from shared.verification.limits import DAY_MS, InsistenceError, Limits, Rule
from tests.audit_layer.custodian import custody
from tests.shared.selection.world import AUTHORITY, LOG, TERMS, TRUST, WITNESS, World

GOOD = World()
DRAWN = [
    World(request=partial(lambda late, r: replace(r, deadline=r.deadline + late), late))
    for late in range(4)
]
WHOLE = World(reason=DisclosureReason.WHOLE, missing=1)
WHOLE_AGAIN = World(
    reason=DisclosureReason.WHOLE, missing=1, request=lambda r: replace(r, deadline=r.deadline + 1)
)
FEW = replace(TERMS.limits, max_releases_per_day=3, max_floor_per_day=1, max_whole_per_day=1)


@contextmanager
def limited(folder: Path, limits: Limits = FEW) -> Iterator[Custodian]:
    with custody.custodian(folder, terms=replace(TERMS, limits=limits)) as holder:
        yield holder


def release(holder: Custodian, world: World) -> Rule | None:
    """Ask for a release; return the rule that refused it."""
    try:
        holder.release(world.case().to_cbor())
    except InsistenceError as error:
        return error.rule
    return None


def reveal(holder: Custodian, world: World) -> bytes:
    shown = RevealRequest(
        3, world.open, world.proof(world.open), world.seal, world.proof(world.seal)
    )
    return custody.beacon(holder).reveal(shown.to_cbor())


# -- counting -----------------------------------------------------------------------------------------


def test_releases_of_24_hours_are_counted_across_restarts_and_the_same_request_once(
    tmp_path, monkeypatch
):
    now = 1_800_000_000_000
    monkeypatch.setattr(core, "now_ms", lambda: now)
    for world in DRAWN[:3]:
        with limited(tmp_path) as holder:
            assert release(holder, world) is None
            assert release(holder, world) is None
    with limited(tmp_path) as holder:
        assert release(holder, DRAWN[3]) is Rule.RELEASES_A_DAY
        assert release(holder, DRAWN[0]) is None
        assert custody.kept(tmp_path) == 3
        now += DAY_MS - 1
        assert release(holder, DRAWN[3]) is Rule.RELEASES_A_DAY
        now += 1
        assert release(holder, DRAWN[3]) is None


def test_requests_at_once_do_not_get_past_the_limit(tmp_path):
    with limited(tmp_path, FEW) as holder, ThreadPoolExecutor(4) as pool:
        refused = list(pool.map(lambda world: release(holder, world), DRAWN))
    assert sorted(rule is None for rule in refused) == [False, True, True, True]
    assert custody.kept(tmp_path) == 3


def test_a_clock_that_is_set_back_forgets_no_release(tmp_path, monkeypatch):
    with limited(tmp_path, replace(FEW, max_releases_per_day=1)) as holder:
        assert release(holder, DRAWN[0]) is None
        monkeypatch.setattr(core, "now_ms", lambda: 1)
        assert release(holder, DRAWN[1]) is Rule.RELEASES_A_DAY


def test_a_whole_epoch_uses_up_its_own_share_of_a_day_and_no_more(tmp_path):
    whole = [
        World(reason=DisclosureReason.WHOLE, missing=1, subject=lambda w, at=at: w.drawn[at])
        for at in range(2)
    ]
    with limited(tmp_path) as holder:
        assert [release(holder, world) for world in whole] == [None, Rule.WHOLE_A_DAY]
        assert [release(holder, world) for world in DRAWN[:3]] == [None, None, Rule.RELEASES_A_DAY]


@pytest.mark.parametrize("name", ["tenant", "authority"])
def test_one_tenant_or_one_authority_has_its_own_part_of_a_day(tmp_path, monkeypatch, name):
    now = 1_800_000_000_000
    monkeypatch.setattr(core, "now_ms", lambda: now)
    with limited(tmp_path, replace(FEW, **{f"max_{name}_per_day": 1})) as holder:
        assert [release(holder, world) for world in DRAWN[:2]] == [None, Rule(f"{name}-a-day")]
        (report,) = holder.store.reports()
        assert report.shown["request"] == DRAWN[1].request
        assert "acme" not in report.detail, "anyone may read reports"
        now += DAY_MS
        assert release(holder, DRAWN[1]) is None


def test_what_is_refused_for_another_reason_does_not_count(tmp_path):
    with limited(tmp_path, replace(FEW, max_releases_per_day=1)) as holder:
        with pytest.raises(CounterfoilError):
            holder.release(GOOD.case(envelope=b"x").to_cbor())
        assert release(holder, GOOD) is None


def test_a_file_of_a_custodian_that_did_not_count_yet_stays_usable(tmp_path):
    old = sqlite3.connect(tmp_path / custody.RELEASES)
    old.execute(store._FIRST.split(";")[0])
    old.execute("INSERT INTO releases VALUES (?, ?, ?, ?)", (bytes(32), b"statement", b"share", 1))
    old.commit()
    old.close()
    with limited(tmp_path) as holder:
        assert holder.store.find(bytes(32)) == store.Release(b"statement", b"share")
        assert release(holder, GOOD) is None


def test_the_file_is_its_owners_alone(tmp_path):
    with limited(tmp_path):
        assert (tmp_path / custody.RELEASES).stat().st_mode & 0o777 == 0o600


# -- an epoch that was drawn without it -----------------------------------------------------------------


def test_making_it_reveal_late_cannot_turn_it_against_a_draw_in_which_it_took_part(tmp_path):
    """Epoch seals are public: anyone could make it reveal after an absence, and so stop an honest audit midway."""
    generous = replace(FEW, max_whole_per_day=3)
    with limited(tmp_path, generous) as holder:
        assert release(holder, WHOLE) is None
    with limited(tmp_path, generous) as holder:
        with pytest.raises(CounterfoilError) as caught:
            reveal(holder, WHOLE)
        assert caught.value.code is Code.CONFLICT
        assert release(holder, WHOLE_AGAIN) is None
        assert holder.store.reports() == []


def test_an_epoch_that_was_drawn_with_it_is_not_passed_over(tmp_path):
    with limited(tmp_path) as holder:
        assert release(holder, GOOD) is None
        assert reveal(holder, GOOD)


# -- reports ------------------------------------------------------------------------------------------


def test_a_draw_without_its_own_reveal_is_reported_with_what_proves_it(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    with limited(tmp_path) as holder:
        made = reveal(holder, WHOLE)
        for _ in range(2):
            assert release(holder, WHOLE) is Rule.OWN_REVEAL
        (report,) = holder.store.reports()
    assert (report.rule, report.epoch, report.about) == (Rule.OWN_REVEAL, 3, entry_of(WHOLE.draw))
    draw, _ = open_as(Draw, report.shown["draw"], public_bytes(AUTHORITY))
    own, signed = open_as(BeaconReveal, report.shown["own_reveal"], custody.PUBLIC)
    assert report.shown["own_reveal"] == made
    assert own.seal == draw.seal
    assert signed.entry not in draw.reveals
    assert report.shown["draw_proof"].decode() == WHOLE.proof(WHOLE.draw)
    told = [record for record in caplog.records if record.name == core.__name__]
    assert [record.levelname for record in told] == ["WARNING"]
    assert "own-reveal" in told[0].getMessage()


@pytest.mark.parametrize(
    ("world", "rule", "name"),
    [
        (World(rate_ppm=1_000_000), Rule.RATE, "open"),
        (World(reason=DisclosureReason.FLOOR, rate_ppm=0, floor=1_000_000), Rule.FLOOR, "open"),
        (World(reason=DisclosureReason.WHOLE, no_parties=True), Rule.OWN_COMMITMENT, "open"),
    ],
    ids=lambda value: value.value if isinstance(value, Rule) else "",
)
def test_an_epoch_that_asks_for_too_much_is_reported_once_however_many_requests(
    tmp_path, world, rule, name
):
    with limited(tmp_path) as holder:
        assert release(holder, world) is rule
        assert release(holder, world) is rule
        (report,) = holder.store.reports()
        assert custody.kept(tmp_path) == 0
    assert report.rule is rule
    assert (
        open_as(EpochOpen, report.shown[name], public_bytes(AUTHORITY))[0].epoch
        == report.epoch
        == 3
    )


def test_a_second_seal_is_reported_with_both(tmp_path):
    second = World(seal=lambda seal: replace(seal, at=seal.at + 1))
    with limited(tmp_path) as holder:
        reveal(holder, GOOD)
        assert release(holder, second) is Rule.SECOND_SEAL
        (report,) = holder.store.reports()
    assert report.shown["seal"] == second.seal
    own, _ = open_as(BeaconReveal, report.shown["own_reveal"], custody.PUBLIC)
    assert own.seal == entry_of(GOOD.seal) != report.about


def test_what_the_authority_did_not_sign_or_no_witness_saw_is_not_reported(tmp_path):
    greedy = World(rate_ppm=1_000_000)
    forged = World(rate_ppm=1_000_000, signer={"open": custody.SIGNING})
    with limited(tmp_path) as holder:
        for case in (
            forged.case(),
            greedy.case(open_proof=greedy.proof(greedy.open, witnesses=())),
            greedy.case(request_proof=greedy.proof(greedy.request, witnesses=())),
        ):
            with pytest.raises(CounterfoilError) as caught:
                holder.release(case.to_cbor())
            assert not isinstance(caught.value, InsistenceError)
        assert holder.store.reports() == []


def test_the_last_reports_of_each_rule_are_kept(tmp_path):
    held = ReleaseStore(tmp_path / "custodian.sqlite")
    for rule in (Rule.RATE, Rule.OWN_REVEAL):
        for epoch in range(store.MAX_REPORTS + 2):
            report = store.Report(rule, epoch, "detail", epoch.to_bytes(32, "big"), {}, 1)
            assert held.report(report)
            assert not held.report(report)
    kept = [(report.rule, report.epoch) for report in held.reports()]
    held.close()
    expected = range(2, store.MAX_REPORTS + 2)
    assert kept == [(rule, epoch) for rule in (Rule.RATE, Rule.OWN_REVEAL) for epoch in expected]


async def test_anyone_reads_the_reports_and_nothing_that_is_not_public(tmp_path):
    with limited(tmp_path, replace(FEW, max_releases_per_day=1)) as holder:
        made = reveal(holder, WHOLE)
        assert release(holder, WHOLE) is Rule.OWN_REVEAL
        transport = httpx.ASGITransport(create_app(holder, custody.beacon(holder)))
        async with httpx.AsyncClient(transport=transport, base_url="https://c") as http:
            (seen,) = (await http.get("/reports")).json()["reports"]
    assert seen["rule"] == "own-reveal"
    assert seen["entry"] == entry_of(WHOLE.draw).hex()
    assert bytes.fromhex(seen["beacon-reveal"]) == made
    assert set(seen) == {"rule", "epoch", "detail", "entry", "at", "beacon-reveal"}


# -- configuration and command --------------------------------------------------------------------------


def settings(folder: Path, **more) -> CustodianSettings:
    log = {
        "origin": TRUST.origin,
        "vkeys": [LOG.verifier.vkey()],
        "witnesses": [WITNESS.verifier.vkey()],
    }
    files = {name: folder / name for name in ("cert", "key", "ca")}
    given = {
        "name": custody.NAME, "address": "127.0.0.1:0", "keys_folder": folder, "tls": files,
        "state_file": folder / custody.RELEASES, "authority": "00" * 32, "log": log, **more,
    }  # fmt: skip
    return checked(CustodianSettings, given, "a test")


def test_the_limits_are_written_with_their_defaults_and_read_back(tmp_path):
    path = tmp_path / "custodian.toml"
    path.write_text(to_toml(settings(tmp_path, operators={"gpu-farm": "00" * 32})))
    assert "max_rate_ppm = 100000" in path.read_text()
    read = load(CustodianSettings, path)
    assert read.limits.limits() == Limits()
    assert read.operators == {"gpu-farm": "00" * 32}


def test_limits_that_leave_nothing_to_draws_by_the_rate_are_refused(tmp_path):
    with pytest.raises(CounterfoilError) as caught:
        settings(tmp_path, limits={"max_releases_per_day": 10, "max_whole_per_day": 9})
    assert caught.value.code is Code.CONFIGURATION
    assert "max_whole_per_day" in caught.value.detail


def test_the_command_prints_what_was_refused_and_how_much_of_a_day_is_used(tmp_path):
    path = tmp_path / "custodian.toml"
    path.write_text(to_toml(settings(tmp_path)))
    with limited(tmp_path) as holder:
        assert release(holder, GOOD) is None
        assert release(holder, World(rate_ppm=1_000_000)) is Rule.RATE
        run = CliRunner().invoke(commands, ["reports", "--config", str(path), "--json"])
    told = json.loads(run.stdout)
    (report,) = told["reports"]
    assert report["rule"] == "rate"
    assert open_as(EpochOpen, bytes.fromhex(report["shown"]["open"]), public_bytes(AUTHORITY))
    assert told["released"] == {"draw": 1}
    text = CliRunner().invoke(commands, ["reports", "--config", str(path)]).stdout
    assert "1 of 10000 releases" in text
    assert told["escrow_reports"] == []
    assert "0 escrow reports" in text
    assert "rate" in text
