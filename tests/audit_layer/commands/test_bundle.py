"""`counterfoil log bundle`: its output verifies with nothing else at hand, for every type of statement."""

import asyncio
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from audit_layer.commands.bundle import bundle
from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.log_keys import log_policy
from shared.proto.counterfoil.audit.v1 import audit_pb2
from shared.runtime.cli import run
from shared.runtime.errors import Code
from shared.statements.cose import detach, entry_of, open_as, sign
from shared.statements.identities import Holder
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.refusals import Refusal
from shared.verification.bundle import read_bundle
from shared.verification.bundle_check import verify_bundle
from shared.verification.trust import Trust
from tests.audit_layer.api import statements as made
from tests.audit_layer.served import World, call, until
from tests.audit_layer.trail.test_identities import add


async def made_of(world: World, entry: bytes, out: Path) -> dict[str, object]:
    """Run the command as soon as a witnessed checkpoint covers the entry; return what it prints."""

    def attempt() -> dict[str, object]:
        arguments = [entry.hex(), "--out", str(out), "--config", str(world.config), "--json"]
        result = CliRunner().invoke(bundle, arguments, catch_exceptions=False)
        printed: dict[str, object] = json.loads(result.stdout)
        return printed

    found: dict[str, object] = await until(lambda: asyncio.to_thread(attempt), Code.NOT_WITNESSED)
    return found


async def test_a_bundle_of_every_type_verifies_alone_and_by_the_auditors_own_pins(
    world: World, tmp_path: Path
):
    filled = world.filled
    pins = {name: {made.public(name)} for name in ("alpha", "beta", "acme", "authority", "worker")}
    own = Trust(log_policy(load_settings(world.config))).with_signers(pins)
    entries = {
        "receipt": filled.receipts["acme"][0],
        "key-bundle": filled.bundles["alpha"],
        "verdict": filled.verdicts["acme"],
        "disclosure-request": filled.disclosures["acme"],
        "epoch-open": filled.epoch,
    }
    for kind, entry in entries.items():
        out = tmp_path / f"{kind}.json"
        printed = await made_of(world, entry, out)
        assert printed["bytes"] == out.stat().st_size
        written = read_bundle(out)
        for trust in (Trust(), own):
            report = verify_bundle(written, trust)
            assert report.verified, report.steps
            assert report.facts["type"] == kind
            assert report.facts["entry"] == entry
            assert report.facts["cose_receipts"] == 1
            assert list(report.facts["witnesses"]) == ["witness"]
        plain, (_,) = detach(written.statement)
        assert entry_of(written.statement) == sha256(plain).digest() == entry
        assert (written.context is not None) == (kind == "receipt")
    receipt = read_bundle(tmp_path / "receipt.json")
    strangers = verify_bundle(
        receipt, Trust(own.log).with_signers({"alpha": {made.public("beta")}})
    )
    assert [step.code for step in strangers.steps] == [None, "UNTRUSTED_KEY"]


async def test_the_bundle_of_a_refusal_carries_the_order_that_it_refuses(
    world: World, tmp_path: Path
):
    node = made.Node("alpha", world.filled.bundles["alpha"], bytes(32), orders={"acme": 70})
    refused = node.refusal("acme")
    assert refused.order is not None
    async with world.stubs() as (intake, _, _):
        item = audit_pb2.Submission(statement=refused.statement, order=refused.order)
        answer = await call(intake.Submit, audit_pb2.SubmitRequest(submissions=[item]))
    assert answer.results[0].HasField("sequenced"), answer
    out = tmp_path / "refusal.json"
    await made_of(world, entry_of(refused.statement), out)
    written = read_bundle(out)
    assert written.context is not None
    assert written.context.order == refused.order
    pins = {name: {made.public(name)} for name in ("alpha", "acme")}
    own = Trust(log_policy(load_settings(world.config))).with_signers(pins)
    report = verify_bundle(written, own)
    assert (report.verified, report.facts["type"], len(report.steps)) == (True, "refusal", 7)
    strangers = Trust(own.log).with_signers(pins | {"acme": {made.public("beta")}})
    assert verify_bundle(written, strangers).steps[-1].code == "UNTRUSTED_KEY"


async def test_a_bundle_leads_from_first_keys_to_those_that_signed(world: World, tmp_path: Path):
    """Key bundle and order are signed by keys that were added later; a verifier that pins the first ones needs nothing else."""
    value, _ = open_as(KeyBundle, made.bundle("alpha", not_after=made.NOW + made.HOUR), None)
    later = sign(value, key=made.key("alpha 2"), issuer="alpha")
    refused = made.Node("alpha", entry_of(later), bytes(32), orders={"acme": 80}).refusal("acme")
    order, _ = open_as(Order, refused.order or b"", None)
    ordered = sign(order, key=made.key("acme 2"), issuer="acme")
    said, statement = open_as(Refusal, refused.statement, None)
    refusal = sign(
        replace(said, order=entry_of(ordered)), key=made.key("alpha/one"), issuer=statement.issuer
    )
    chain = (add("alpha", "alpha 2", "alpha", Holder.OPERATOR), add("acme", "acme 2", "acme"))
    async with world.stubs() as (intake, _, _):
        for raw, about in ((chain[0], b""), (chain[1], b""), (later, b""), (refusal, ordered)):
            item = audit_pb2.Submission(statement=raw, order=about)
            answer = await call(intake.Submit, audit_pb2.SubmitRequest(submissions=[item]))
            assert answer.results[0].HasField("sequenced"), answer
    out = tmp_path / "later.json"
    await made_of(world, entry_of(refusal), out)
    written = read_bundle(out)
    assert tuple(raw for raw, _ in written.identities) == chain
    pins = {name: {made.public(name)} for name in ("alpha", "acme")}
    own = Trust(log_policy(load_settings(world.config))).with_signers(pins)
    report = verify_bundle(written, own)
    assert (report.verified, len(report.steps)) == (True, 8), report.as_text()
    alone = verify_bundle(replace(written, identities=()), own)
    assert [step.code for step in alone.steps] == [None, "UNTRUSTED_KEY"]


async def test_what_the_log_does_not_have_is_not_bundled(world: World, tmp_path: Path):
    out = tmp_path / "bundle.json"
    at = ["--out", str(out), "--config", str(world.config)]
    assert await asyncio.to_thread(run, bundle, ["0" * 64, *at]) == 4
    assert await asyncio.to_thread(run, bundle, ["junk", *at]) == 2
    assert not out.exists()


@pytest.mark.parametrize("flag", ["--out", "--config"])
def test_file_and_configuration_have_to_be_named(flag: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COUNTERFOIL_AUDIT_CONFIG", raising=False)
    given = {"--out": "x", "--config": "y"}
    del given[flag]
    arguments = ["0" * 64, *(word for pair in given.items() for word in pair)]
    assert run(bundle, arguments) == 2
