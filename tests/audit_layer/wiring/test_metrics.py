"""What the audit server, a witness and a custodian say of themselves, over what they really hold."""

import asyncio
from pathlib import Path

import pytest

from audit_layer.wiring.audit_server import open_core
from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.party_metrics import custodian_metrics, witness_metrics
from audit_layer.wiring.server_metrics import audit_readings, book_readings
from audit_layer.witness.core import Witness
from audit_layer.witness.store import WitnessStore
from shared.runtime.metrics import Exposition
from tests.audit_layer.custodian import custody
from tests.audit_layer.replay.court import assign
from tests.audit_layer.served import configured, fill, serving
from tests.audit_layer.trail.conftest import World, world
from tests.audit_layer.witness.test_core import COSIGNERS, FORKED, HONEST, KNOWN
from tests.postgres import Database
from tests.shared.runtime.test_metrics import parsed, scrape
from tests.shared.selection import world as worlds

__all__ = ["world"]
NONE: frozenset[tuple[str, str]] = frozenset()


def state(word: str) -> frozenset[tuple[str, str]]:
    return frozenset({("state", word)})


def test_work_that_waits_is_leased_and_runs_out_is_told_apart(world: World):
    (receipt,) = world.put(world.node.receipt("acme"))
    number = assign(world.database.engine("worker"), receipt.entry)
    engine = world.database.engine("server")

    def look():
        sources = {"a": lambda: audit_readings(engine), "b": lambda: book_readings(engine)}
        samples = parsed(Exposition("audit server", "log", sources).text())
        assert samples["counterfoil_metrics_failed_sources", NONE] == 0
        return samples

    samples = look()
    assert samples["counterfoil_audit_work", state("waiting")] == 1
    assert samples["counterfoil_receipts_unrated", NONE] == 1
    assert samples["counterfoil_epochs_behind", NONE] == 0
    for until, word in ((2**53, "leased"), (1, "expired")):
        world.rows("UPDATE replay_work SET leased_until = %s WHERE id = %s", until, number)
        samples = look()
        assert samples["counterfoil_audit_work", state(word)] == 1
        assert samples["counterfoil_audit_work", state("waiting")] == 0
    assert not any("acme" in value for _, labels in samples for _, value in labels)


def test_a_witness_counts_its_answers_and_shows_a_fork(tmp_path):
    with WitnessStore(tmp_path / "state.sqlite") as store:
        witness = Witness(store, COSIGNERS, KNOWN, clock=lambda: 1000.0)
        before = parsed(witness_metrics(witness).text())
        assert ("counterfoil_witness_size", NONE) not in before  # not 0: there is none
        statuses = [
            witness.add_checkpoint(body).status
            for body in (HONEST.request(0, 8), FORKED.request(8, 8), b"junk")
        ]
        samples = parsed(witness_metrics(witness).text())
    assert statuses == [200, 409, 400]
    for status in statuses:
        labels = frozenset({("status", str(status))})
        assert samples["counterfoil_witness_answers_total", labels] == 1
    assert samples["counterfoil_witness_size", NONE] == 8
    assert samples["counterfoil_witness_changed_seconds", NONE] == 1000
    assert samples["counterfoil_witness_forks", NONE] == 1


def test_a_custodian_shows_how_much_of_its_limit_is_used(tmp_path):
    with custody.custodian(tmp_path) as holder:
        custody.release(holder, worlds.World())
        samples = parsed(custodian_metrics(holder).text())
    released = [
        value
        for (name, _), value in samples.items()
        if name == "counterfoil_custodian_releases_last_day"
    ]
    assert released == [1]
    assert samples["counterfoil_custodian_releases_limit", NONE] >= 1
    assert samples["counterfoil_custodian_shares_total", NONE] == 0
    assert samples["counterfoil_metrics_failed_sources", NONE] == 0


async def test_a_server_that_serves_says_all_of_it_and_names_no_tenant(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with configured(database, tmp_path) as (config, _, _):
        with open_core(load_settings(config), application_name="test") as core:
            fill(core)
        with config.open("a", encoding="utf-8") as file:
            file.write("\n[metrics]\n")
        async with serving(config, monkeypatch) as addresses:
            samples = await asyncio.to_thread(scrape, addresses["metrics"])
            while ("counterfoil_log_checkpoint_age_seconds", NONE) not in samples:
                await asyncio.sleep(0.1)
                samples = await asyncio.to_thread(scrape, addresses["metrics"])
    assert samples["counterfoil_metrics_failed_sources", NONE] == 0
    assert samples["counterfoil_statements", frozenset({("type", "receipt")})] == 5
    assert samples["counterfoil_log_checkpoint_witnesses", NONE] == 1
    verdicts = [value for (name, _), value in samples.items() if name == "counterfoil_verdicts"]
    assert sum(verdicts) == 2
    values = {value for _, labels in samples for _, value in labels}
    assert not any(name in value for value in values for name in ("acme", "bolt", "alpha", "beta"))
