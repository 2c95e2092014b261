"""`counterfoil verify`: offline, step by step; one altered byte fails the step that it belongs to."""

import asyncio
import base64
import json
import sqlite3
from dataclasses import replace

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.client.archive import Archive
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.verify import export, trust_of, verify_transcript
from execution_layer.commands.client import client as client_group
from execution_layer.commands.client import verify
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.receipts import Receipt
from shared.translog.policy_file import PolicyFile
from shared.translog.tlog_proof import TlogProof, parse_tlog_proof
from shared.verification.bundle import Bundle, read_bundle
from shared.verification.bundle_check import verify_bundle
from shared.verification.trust import Trust
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.world import small_world
from tests.vectors.generate_translog import FOLDER
from tests.vectors.samples import SAMPLES

pytestmark = pytest.mark.asyncio(loop_scope="module")


STRANGER = Ed25519PrivateKey.generate()


class Kept:
    """Two proved answers in an archive, and the first one exported; nothing is running any more."""

    def __init__(self, folder, entries, node_key):
        self.folder = folder
        self.config = str(folder / "client.toml")
        self.policy = ClientPolicy.load(self.config)
        self.entries = entries
        self.file = folder / "bundle.json"
        self.node_key = node_key

    def bundle(self):
        return read_bundle(self.file)

    def exported(self, entry):
        archive = Archive(self.policy.archive)
        try:
            return export(archive, archive.by_entry(entry), self.policy)
        finally:
            archive.close()

    def transcript_steps(self, entry=None):
        archive = Archive(self.policy.archive)
        try:
            found = archive.by_entry(entry or self.entries[0])
            return verify_transcript(archive, found, self.policy)
        finally:
            archive.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept(tmp_path_factory):
    async with small_world(tmp_path_factory.mktemp("world")) as world:
        async with world.node(FakeEngine(pause_s=0.01)) as node, world.client() as client:
            answers = [await client.generate(prompt="hello", max_tokens=9) for _ in range(2)]
            assert (await client.upgrade_proofs(20)).missing == 0
            unproved = await client.generate(prompt="hello", max_tokens=3)
        entries = [answer.receipt.entry for answer in (*answers, unproved)]
        kept = Kept(world.folder / "client", entries, node.ring.signing_key)
        for name, value, issuer in (
            ("verdict.json", replace(SAMPLES["verdict"][0], worker="worker-b"), "worker-b"),
            ("card.json", replace(SAMPLES["rate-card"][0], operator="stranger"), "stranger"),
        ):
            signed = sign(value, key=STRANGER, issuer=issuer)
            world.audit.append(signed)
            bundle = Bundle(
                statement=signed,
                tlog_proof=world.audit.proof(world.audit.index[entry_of(signed)]),
                policy=PolicyFile.of(kept.policy.log.policy()).encode(),
                keys=(public_bytes(STRANGER),),
            )
            (kept.folder / name).write_text(bundle.encode())
    arguments = ["archive", "show", "--config", kept.config, entries[0].hex()]
    assert run(client_group, [*arguments, "--export", str(kept.file), "--json"]) == 0
    return kept


def failing(steps):
    """Return the title of the step that fails; everything before it holds, and nothing comes after it."""
    assert steps, "nothing was checked"
    assert all(step.holds for step in steps[:-1])
    return None if steps[-1].holds else steps[-1].title


def steps_of(bundle, policy):
    return verify_bundle(bundle, trust_of(policy)).steps


async def test_an_exported_receipt_verifies_by_the_policys_pins_alone(kept):
    report = verify_bundle(kept.bundle(), trust_of(kept.policy))
    assert failing(report.steps) is None
    assert [step.number for step in report.steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert "yours" in report.steps[0].detail
    assert "witnessed by w" in report.steps[5].detail  # who witnessed it, and when
    assert report.facts["entry"] == kept.entries[0]
    assert "your own policy" in report.rests_on[0]


async def test_without_pins_it_verifies_on_the_word_of_the_bundle_and_says_so(kept):
    report = verify_bundle(kept.bundle(), Trust())
    assert failing(report.steps) is None
    assert "the bundle's own" in report.steps[0].detail
    assert "on the bundle's word" in report.steps[1].detail
    assert "only its maker says" in report.rests_on[0]


async def test_the_archive_verifies_again_from_stream_to_proof(kept):
    steps = kept.transcript_steps()
    assert failing(steps) is None
    assert len(steps) == 13


async def test_the_export_opens_nothing(kept):
    archive = Archive(kept.policy.archive)
    found = archive.by_entry(kept.entries[0])
    archive.close()
    text = kept.file.read_text()
    for secret in (found.secret, found.envelope, found.final_record, *found.frames):
        assert base64.b64encode(secret).decode() not in text
        assert secret.hex() not in text


PARTS = {"order": "order", "bundle": "key_bundle", "bundle_proof": "key_bundle_proof"}


def altered(bundle, name, value):
    if name in PARTS:
        return replace(bundle, context=replace(bundle.context, **{PARTS[name]: value}))
    return replace(bundle, **{name: value})


def part(bundle, name):
    return getattr(bundle.context, PARTS[name]) if name in PARTS else getattr(bundle, name)


def spoiled(data, place=-1):
    copy = bytearray(data)
    copy[place] ^= 1
    return bytes(copy)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("bundle", "the key bundle is signed"),
        ("statement", "the receipt is a valid statement"),
        ("order", "the order that it answers"),
    ],
)
async def test_one_spoiled_byte_fails_the_step_that_it_belongs_to(kept, name, title):
    file = kept.bundle()
    for place in (-1, -70, 10):
        forged = altered(file, name, spoiled(part(file, name), place))
        assert failing(steps_of(forged, kept.policy)).startswith(title)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("bundle_proof", "the key bundle is in the witnessed log"),
        ("tlog_proof", "the receipt is in the witnessed log"),
    ],
)
async def test_a_forged_proof_fails_its_step(kept, name, title):
    file = kept.bundle()
    true = parse_tlog_proof(part(file, name))
    unsigned = true.note.rpartition("— ")[0]
    forgeries = [
        TlogProof(true.index + 1, true.path, true.note).encode(),
        TlogProof(true.index, (bytes(32), *true.path[1:]), true.note).encode(),
        TlogProof(true.index, true.path, unsigned).encode(),  # without the witness
        "no proof",
    ]
    for forged in forgeries:
        assert failing(steps_of(altered(file, name, forged), kept.policy)) == title


async def test_a_receipt_without_proof_is_not_exported_and_told_how_to_get_one(kept):
    with pytest.raises(CounterfoilError) as caught:
        kept.exported(kept.entries[2])
    assert caught.value.code is Code.NOT_WITNESSED
    assert "client proofs" in caught.value.remedy


async def test_a_receipt_that_somebody_else_signed_is_refused(kept):
    file = kept.bundle()
    receipt, statement = open_as(Receipt, file.statement, None)
    facts = {"issuer": statement.issuer, "subject": statement.subject}
    forged = sign(receipt, key=Ed25519PrivateKey.generate(), **facts)
    steps = steps_of(altered(file, "statement", forged), kept.policy)
    assert failing(steps).startswith("the receipt is a valid statement")


async def test_a_receipt_for_another_order_is_refused_though_the_node_signed_it(kept):
    file = kept.bundle()
    archive = Archive(kept.policy.archive)
    other = archive.by_entry(kept.entries[1])
    archive.close()
    steps = steps_of(altered(file, "order", other.order_statement), kept.policy)
    assert failing(steps).startswith("the order that it answers")


async def test_an_operator_that_the_policy_does_not_pin_is_refused(kept):
    for operators in ({}, {"honest": "ab" * 32}):
        policy = kept.policy.model_copy(update={"operators": operators})
        steps = steps_of(kept.bundle(), policy)
        assert failing(steps).startswith("the key bundle is signed")


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ("UPDATE frames SET ciphertext = zeroblob(80) WHERE position = 1", "every frame opens"),
        ("DELETE FROM frames WHERE position = 2", "every frame opens"),
        ("UPDATE frames SET signature = zeroblob(64)", "every frame opens"),
        ("UPDATE transcripts SET node_nonce = zeroblob(32)", "every frame opens"),
        ("UPDATE transcripts SET final_record = zeroblob(272)", "every frame opens"),
        ("UPDATE transcripts SET final_record = NULL", "every frame opens"),
        ("UPDATE transcripts SET secret = zeroblob(32)", "order and envelope"),
        ("UPDATE transcripts SET envelope = zeroblob(9)", "order and envelope"),
        ("UPDATE bundles SET statement = zeroblob(9)", "the key bundle is signed"),
        ("UPDATE bundles SET proof = 'none'", "the key bundle is in"),
        ("UPDATE transcripts SET finished = 1", "the times are plausible"),
        ("UPDATE transcripts SET proof = NULL", "the receipt is in"),
    ],
)
async def test_an_archive_that_was_tampered_with_fails_the_step_that_it_belongs_to(
    kept, change, title, tmp_path
):
    path = tmp_path / "archive.sqlite"
    with sqlite3.connect(kept.policy.archive) as source, sqlite3.connect(path) as copy:
        source.backup(copy)
        copy.execute(change)
    source.close()
    copy.close()
    path.chmod(0o600)
    archive = Archive(path)
    try:
        steps = verify_transcript(archive, archive.by_entry(kept.entries[0]), kept.policy)
    finally:
        archive.close()
    assert failing(steps).startswith(title)


def command(*arguments):
    return run(verify, [str(argument) for argument in arguments])


async def test_the_command_prints_numbered_steps_and_exits_with_0(kept, capsys):
    assert command(kept.file, "--config", kept.config) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:5] for line in lines if line[:1] == "✓"] == [f"✓ ({n})" for n in range(1, 9)]
    assert lines[-1] == "verified"
    assert command(kept.entries[0].hex(), "--config", kept.config, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] is True
    assert len(told["steps"]) == 13


async def test_the_command_needs_no_configuration_and_takes_the_verifiers_own_pins(
    kept, capsys, tmp_path, monkeypatch
):
    monkeypatch.delenv("COUNTERFOIL_CLIENT_CONFIG", raising=False)
    assert command(kept.file) == 0
    shown = capsys.readouterr().out
    assert "the bundle's own" in shown
    assert "only its maker says" in shown
    policy = tmp_path / "policy"
    policy.write_text(kept.bundle().policy)
    (operator,) = kept.policy.operators
    pin = f"{operator}={kept.policy.operators[operator]}"
    assert command(kept.file, "--policy", policy, "--signer", pin, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["facts"]["entry"] == kept.entries[0].hex()
    assert told["facts"]["type"] == "receipt"
    assert "yours" in told["steps"][0]["detail"]
    assert command(kept.file, "--signer", f"{operator}={'ab' * 32}") == 3
    assert "UNTRUSTED_KEY" in capsys.readouterr().out
    policy.write_text("quorum none\n")
    assert command(kept.file, "--policy", policy) == 2  # a policy that cannot be used
    policy.write_text("junk\n")
    assert command(kept.file, "--policy", policy) == 3
    assert command(kept.file, "--policy", tmp_path / "nowhere") == 2
    assert command(kept.file, "--signer", "junk") == 2
    assert command(kept.entries[0].hex()) == 2  # an entry needs an archive


async def test_an_auditors_bundle_verifies_under_a_clients_policy_which_pins_no_auditor(
    kept, capsys, monkeypatch
):
    monkeypatch.setenv("COUNTERFOIL_CLIENT_CONFIG", kept.config)
    for options in ((), ("--config", kept.config)):
        assert command(kept.folder / "verdict.json", *options, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert "yours" in told["steps"][0]["detail"]
        assert "on the bundle's word" in told["steps"][1]["detail"]
    assert command(kept.folder / "verdict.json", "--signer", f"worker-a={'ab' * 32}") == 3
    pin = f"worker-b={public_bytes(STRANGER).hex()}"
    assert command(kept.folder / "verdict.json", "--signer", pin) == 0
    capsys.readouterr()
    assert command(kept.folder / "card.json") == 3  # an operator that the policy does not pin
    assert "UNTRUSTED_KEY" in capsys.readouterr().out


async def test_a_policy_of_the_environment_is_left_aside_where_the_bundle_is_of_another_log(
    kept, capsys, monkeypatch, tmp_path
):
    vectors = json.loads((FOLDER / "bundle.json").read_text("utf-8"))
    other = tmp_path / "other.json"
    other.write_text(vectors["valid"][0]["bundle"])
    monkeypatch.setenv("COUNTERFOIL_CLIENT_CONFIG", kept.config)
    assert command(other, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert "client.toml is for another log, so it was ignored" in told["rests_on"][0]
    assert "the bundle's own" in told["steps"][0]["detail"]
    assert command(other) == 0
    assert "so it was ignored" in capsys.readouterr().out
    assert command(other, "--config", kept.config) == 3  # whoever names it means it


async def test_the_command_exits_with_3_at_the_first_step_that_fails(kept, capsys, tmp_path):
    forged = tmp_path / "forged.json"
    file = kept.bundle()
    forged.write_text(altered(file, "statement", spoiled(file.statement)).encode())
    assert command(forged, "--config", kept.config, "--json") == 3
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] is False
    assert [step["holds"] for step in told["steps"]] == [True, True, True, False]
    assert "BAD_SIGNATURE" in told["steps"][-1]["detail"]
    assert command(forged, "--config", kept.config) == 3
    assert "NOT verified" in capsys.readouterr().out
    assert command("latest", "--config", kept.config) == 3  # it has no proof yet
    assert "client proofs" in capsys.readouterr().out


async def test_what_is_not_there_exits_with_4_and_what_is_not_an_export_with_3(
    kept, capsys, tmp_path
):
    junk = tmp_path / "junk.json"
    junk.write_text("{}")
    assert command("00" * 32, "--config", kept.config) == 4
    assert command(junk, "--config", kept.config) == 3
    assert (
        command(tmp_path / "nowhere.json", "--config", kept.config) == 2
    )  # neither file nor entry
    assert command(kept.file, "--config", tmp_path / "nowhere.toml") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("Error: ") == 4
    assert "an entry must be 64" in shown.err
    assert "Traceback" not in shown.err


async def test_verification_asks_nobody(kept, monkeypatch):
    """Nothing of the world is running any more; nor does the command open a channel."""
    import grpc

    def refuse(*_arguments, **_options):
        raise AssertionError("a channel was opened")

    monkeypatch.setattr(grpc, "secure_channel", refuse)
    monkeypatch.setattr(grpc.aio, "secure_channel", refuse)
    arguments = [kept.entries[0].hex(), "--config", kept.config]
    assert await asyncio.to_thread(command, *arguments) == 0
