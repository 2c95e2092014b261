"""A release is signed and kept first; its share leaves only for a proof that the release is in the witnessed log.

So no share is ever out of which the log says nothing, whatever a worker does, and whenever a custodian is killed.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from audit_layer.commands.parties import custodian as commands
from audit_layer.custodian import core, store
from audit_layer.custodian.core import Custodian
from shared.codec.hashing import sha256
from shared.parties.custody import ShareRequest
from shared.runtime.config import to_toml
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.disclosures import DisclosureReason, DisclosureRelease
from shared.translog.notes import SignatureType, Signer
from shared.verification.limits import InsistenceError, Rule
from tests.audit_layer.custodian import custody, killed
from tests.audit_layer.custodian.test_insistence import settings
from tests.shared.selection.world import TERMS, World
from tests.vectors.samples import ORIGIN, octets, signing_key

GOOD = World()
LATER = World(request=lambda r: replace(r, deadline=r.deadline + 1))


@pytest.fixture
def holder(tmp_path):
    with custody.custodian(tmp_path) as opened:
        yield opened


def refused(holder: Custodian, world: World, proof: str) -> Code:
    """Ask for the world's share with a proof that must not do."""
    with pytest.raises(CounterfoilError) as caught:
        holder.share(ShareRequest(entry_of(world.request), proof).to_cbor())
    return caught.value.code


def handed_out(folder: Path) -> list[bytes]:
    """Return the requests whose shares have left."""
    listed = store.read_releases(folder / custody.RELEASES)
    return [row.request for row in listed if row.handed_out_at is not None]


# -- no share without a logged release ------------------------------------------------------------------


def test_the_first_step_answers_with_a_statement_and_no_share(holder, tmp_path):
    answered = custody.case_answer(holder, GOOD).to_cbor()
    share = holder.store.find(entry_of(GOOD.request)).share
    assert share not in answered
    assert handed_out(tmp_path) == []


def test_a_worker_that_does_not_log_the_release_gets_no_share(holder, tmp_path):
    custody.release(holder, GOOD)
    for proof in (GOOD.proof(GOOD.request), GOOD.proof(GOOD.receipts[GOOD.chosen]), "junk"):
        assert refused(holder, GOOD, proof) in {Code.BAD_PROOF, Code.MALFORMED}
    assert handed_out(tmp_path) == []


def test_a_proof_of_another_log_or_without_its_witnesses_gets_no_share(holder, tmp_path):
    released = custody.release(holder, GOOD)
    GOOD.publish(released)
    pretender = Signer(ORIGIN, SignatureType.ED25519, octets("another log"))
    elsewhere = Signer("log.example/other", SignatureType.ED25519, octets("log"))
    for proof in (
        GOOD.proof(released, witnesses=()),
        GOOD.proof(released, log=pretender),
        GOOD.proof(released, log=elsewhere),
    ):
        assert refused(holder, GOOD, proof) in {
            Code.NOT_WITNESSED, Code.BAD_SIGNATURE, Code.BAD_PROOF, Code.UNTRUSTED_KEY,
        }  # fmt: skip
    assert handed_out(tmp_path) == []


def test_the_proof_of_one_release_opens_no_other(holder, tmp_path):
    """Nor does a release that somebody else signed, or that names another share."""
    mine, other = custody.release(holder, GOOD), custody.release(holder, LATER)
    value, _ = open_as(DisclosureRelease, mine, custody.PUBLIC)
    forged = (
        sign(value, key=signing_key("stranger"), issuer=custody.NAME),
        sign(replace(value, share=octets("x")), key=custody.SIGNING, issuer=custody.NAME),
    )
    for wrong in (other, *forged):
        assert refused(holder, GOOD, GOOD.publish(wrong)) is Code.BAD_PROOF
    assert handed_out(tmp_path) == []
    assert sha256(custody.share(holder, GOOD, mine)) == value.share
    assert handed_out(tmp_path) == [entry_of(GOOD.request)]


def test_a_share_that_was_altered_on_disk_does_not_leave(holder, tmp_path):
    released = custody.release(holder, GOOD)
    with sqlite3.connect(tmp_path / custody.RELEASES) as db:
        db.execute("UPDATE releases SET share = ?", (b"altered",))
    db.close()
    assert refused(holder, GOOD, GOOD.publish(released)) is Code.CORRUPT
    assert handed_out(tmp_path) == []


# -- kill -9 ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """How custodians ended that were killed at every fault point, and where they kept what they kept."""
    folder = tmp_path_factory.mktemp("killed")
    ran = subprocess.run(
        [sys.executable, "-m", killed.__name__, str(folder)],
        env=dict(os.environ), check=False, capture_output=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return folder, json.loads(ran.stdout)


@pytest.mark.parametrize("point", killed.RELEASE + killed.SHARE + killed.REPORT)
def test_a_custodian_that_is_killed_answers_the_same_bytes_ever_after(ends, point):
    told = ends[1][point]
    assert told["signal"] == signal.SIGKILL
    first, second = told["after"]
    assert first == second
    assert first.items() >= told["before"].items()
    assert set(first) == ({"report"} if point in killed.REPORT else {"release", "share"})


def test_nothing_had_left_that_was_not_kept(ends):
    told = ends[1]
    kept = {point: told[point]["kept"] for point in killed.RELEASE + killed.SHARE}
    assert list(kept.values()) == [0, 1, 1, 1]
    left = {point: set(told[point]["before"]) for point in told}
    assert [left[point] for point in killed.RELEASE] == [set(), set()]
    assert [left[point] for point in killed.SHARE] == [{"release"}, {"release"}]
    assert [left[point] for point in killed.REPORT] == [set(), set()]


def test_a_release_counts_even_if_the_process_was_killed_before_it_left(ends):
    terms = replace(TERMS, limits=replace(TERMS.limits, max_releases_per_day=1))
    with (
        custody.custodian(ends[0] / killed.RELEASE[1], terms=terms) as holder,
        pytest.raises(InsistenceError) as caught,
    ):
        custody.release(holder, LATER)
    assert caught.value.rule is Rule.RELEASES_A_DAY


# -- the custodian's own log ------------------------------------------------------------------------------


def test_its_own_log_says_what_was_released_and_what_became_of_it(holder, tmp_path, monkeypatch):
    floor = World(reason=DisclosureReason.FLOOR, rate_ppm=0, floor=1)
    monkeypatch.setattr(core, "now_ms", lambda: 1_800_000_000_000)
    shown = custody.release(holder, GOOD)
    custody.release(holder, floor)
    monkeypatch.setattr(core, "now_ms", lambda: 1_800_000_060_000)
    for _ in range(2):
        custody.share(holder, GOOD, shown)
    first, second = store.read_releases(tmp_path / custody.RELEASES)
    assert first == store.Logged(
        request=entry_of(GOOD.request),
        statement=shown,
        released_at=1_800_000_000_000,
        tenant="acme",
        reason=DisclosureReason.DRAW,
        log_index=GOOD.entries.index(entry_of(shown)),
        handed_out_at=1_800_000_060_000,
    )
    assert (second.reason, second.log_index, second.handed_out_at) == ("floor", None, None)


def test_a_file_from_before_this_log_keeps_its_releases(tmp_path):
    path = tmp_path / custody.RELEASES
    old = sqlite3.connect(path)
    for statement in store._FIRST.split(";"):
        old.execute(statement)
    with custody.custodian(tmp_path / "other") as other:
        released = custody.release(other, GOOD)
        share = other.store.find(entry_of(GOOD.request)).share
    old.execute(
        "INSERT INTO releases VALUES (?, ?, ?, 7)", (entry_of(GOOD.request), released, share)
    )
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    with custody.custodian(tmp_path) as holder:
        assert custody.release(holder, GOOD) == released
        assert custody.share(holder, GOOD, released) == share
    (row,) = store.read_releases(path)
    assert (row.released_at, row.tenant, row.reason) == (7, None, None)
    assert row.handed_out_at is not None


def test_the_command_lists_releases_for_people_and_for_programs(holder, tmp_path):
    path = tmp_path / "custodian.toml"
    path.write_text(to_toml(settings(tmp_path)))
    run = partial(CliRunner().invoke, commands)
    assert "Nothing was released" in run(["releases", "--config", str(path)]).stdout
    custody.share(holder, GOOD, custody.release(holder, GOOD))
    custody.release(holder, LATER)
    handed, waiting = json.loads(run(["releases", "--config", str(path), "--json"]).stdout)
    receipt = entry_of(GOOD.receipts[GOOD.chosen]).hex()
    assert (handed["receipt"], handed["tenant"], handed["reason"]) == (receipt, "acme", "draw")
    assert handed["request"] == entry_of(GOOD.request).hex()
    assert isinstance(handed["log_index"], int)
    assert handed["handed_out_at"] >= handed["released_at"]
    assert waiting["log_index"] is waiting["handed_out_at"] is None
    table = run(["releases", "--config", str(path)]).stdout
    assert receipt[:16] in table
    assert "not yet" in table
