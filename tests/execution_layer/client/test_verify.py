"""`counterfoil verify`: offline, step by step; one altered byte fails the step that it belongs to."""

import asyncio
import base64
import json
import sqlite3

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.client.archive import Archive
from execution_layer.client.cli import client as client_group
from execution_layer.client.cli import verify
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.verify import (
    MAX_FILE,
    ReceiptFile,
    read_receipt_file,
    verify_file,
    verify_transcript,
)
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import open_as, sign
from shared.statements.receipts import Receipt
from shared.translog.tlog_proof import TlogProof, parse_tlog_proof
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.world import small_world

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Kept:
    """Two proved answers in an archive, and the first one exported; nothing is running any more."""

    def __init__(self, folder, entries, node_key):
        self.folder = folder
        self.config = str(folder / "client.toml")
        self.policy = ClientPolicy.load(self.config)
        self.entries = entries
        self.file = folder / "receipt.json"
        self.node_key = node_key

    def receipt_file(self):
        return read_receipt_file(self.file)

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
    arguments = ["archive", "show", "--config", kept.config, entries[0].hex()]
    assert run(client_group, [*arguments, "--export", str(kept.file), "--json"]) == 0
    return kept


def failing(steps):
    """Return the title of the step that fails; everything before it holds, and nothing comes after it."""
    assert steps, "nothing was checked"
    assert all(step.holds for step in steps[:-1])
    return None if steps[-1].holds else steps[-1].title


async def test_an_exported_receipt_verifies_with_nothing_but_the_policy(kept):
    steps = verify_file(kept.receipt_file(), kept.policy)
    assert failing(steps) is None
    assert [step.number for step in steps] == [1, 2, 3, 4, 5]
    assert "w" in steps[-1].detail  # who witnessed it, and when


async def test_the_archive_verifies_again_from_stream_to_proof(kept):
    steps = kept.transcript_steps()
    assert failing(steps) is None
    assert len(steps) == 12


async def test_the_export_opens_nothing(kept):
    archive = Archive(kept.policy.archive)
    found = archive.by_entry(kept.entries[0])
    archive.close()
    text = kept.file.read_text()
    for secret in (found.secret, found.envelope, found.final_record, *found.frames):
        assert base64.b64encode(secret).decode() not in text
        assert secret.hex() not in text


def altered(file, name, value):
    return ReceiptFile(**{**{n: getattr(file, n) for n in ReceiptFile.__slots__}, name: value})


def spoiled(data, place=-1):
    copy = bytearray(data)
    copy[place] ^= 1
    return bytes(copy)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("bundle", "the key bundle is signed"),
        ("receipt", "the receipt is a valid statement"),
        ("order", "the order that it answers"),
    ],
)
async def test_one_spoiled_byte_fails_the_step_that_it_belongs_to(kept, name, title):
    file = kept.receipt_file()
    for place in (-1, -70, 10):
        forged = altered(file, name, spoiled(getattr(file, name), place))
        assert failing(verify_file(forged, kept.policy)).startswith(title)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("bundle_proof", "the key bundle is in the witnessed log"),
        ("tlog_proof", "the receipt is in the witnessed log"),
    ],
)
async def test_a_forged_proof_fails_its_step(kept, name, title):
    file = kept.receipt_file()
    true = parse_tlog_proof(getattr(file, name))
    unsigned = true.note.rpartition("— ")[0]
    forgeries = [
        TlogProof(true.index + 1, true.path, true.note).encode(),
        TlogProof(true.index, (bytes(32), *true.path[1:]), true.note).encode(),
        TlogProof(true.index, true.path, unsigned).encode(),  # without the witness
        "no proof",
    ]
    for forged in forgeries:
        assert failing(verify_file(altered(file, name, forged), kept.policy)) == title


async def test_a_receipt_without_proof_is_told_how_to_get_one(kept):
    steps = verify_file(altered(kept.receipt_file(), "tlog_proof", None), kept.policy)
    assert failing(steps) == "the receipt is in the witnessed log"
    assert "client proofs" in steps[-1].detail


async def test_a_receipt_that_somebody_else_signed_is_refused(kept):
    file = kept.receipt_file()
    receipt, statement = open_as(Receipt, file.receipt, None)
    facts = {"issuer": statement.issuer, "subject": statement.subject}
    forged = sign(receipt, key=Ed25519PrivateKey.generate(), **facts)
    steps = verify_file(altered(file, "receipt", forged), kept.policy)
    assert failing(steps).startswith("the receipt is a valid statement")


async def test_a_receipt_for_another_order_is_refused_though_the_node_signed_it(kept):
    file = kept.receipt_file()
    archive = Archive(kept.policy.archive)
    other = archive.by_entry(kept.entries[1])
    archive.close()
    steps = verify_file(altered(file, "order", other.order_statement), kept.policy)
    assert failing(steps).startswith("the order that it answers")


async def test_an_operator_that_the_policy_does_not_pin_is_refused(kept):
    for operators in ({}, {"honest": "ab" * 32}):
        policy = kept.policy.model_copy(update={"operators": operators})
        steps = verify_file(kept.receipt_file(), policy)
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
        ("UPDATE transcripts SET finished = 1", "the times are sane"),
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


def values(kept):
    return json.loads(kept.file.read_text())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: "",
        lambda _: "[]",
        lambda text: text[:-20],
        lambda text: text.replace("counterfoil-receipt/v1", "counterfoil-receipt/v2"),
        lambda text: text.replace('"order"', '"ordre"'),
        lambda text: text.replace('"receipt": "', '"receipt": "*'),
        lambda text: text.replace('"bundle_proof"', '"bundle_prof"'),
        lambda _: "[" * 100_000,
        lambda text: " " * MAX_FILE + text,
        lambda text: json.dumps({**json.loads(text), "tlog_proof": 5}),
        lambda text: json.dumps({**json.loads(text), "order": 5}),
    ],
)
async def test_a_file_that_is_no_export_is_malformed(kept, spoil):
    with pytest.raises(CounterfoilError) as caught:
        ReceiptFile.parse(spoil(kept.file.read_text()).encode())
    assert caught.value.code is Code.MALFORMED


def command(*arguments):
    return run(verify, [str(argument) for argument in arguments])


async def test_the_command_prints_numbered_steps_and_exits_with_0(kept, capsys):
    assert command(kept.file, "--config", kept.config) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:5] for line in lines if line[:1] == "✓"] == [f"✓ ({n})" for n in range(1, 6)]
    assert lines[-1] == "verified"
    assert command(kept.entries[0].hex(), "--config", kept.config, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] is True
    assert len(told["steps"]) == 12


async def test_the_command_exits_with_3_at_the_first_step_that_fails(kept, capsys, tmp_path):
    forged = tmp_path / "forged.json"
    file = kept.receipt_file()
    forged.write_text(altered(file, "receipt", spoiled(file.receipt)).to_json())
    assert command(forged, "--config", kept.config, "--json") == 3
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] is False
    assert [step["holds"] for step in told["steps"]] == [True, True, False]
    assert "BAD_SIGNATURE" in told["steps"][-1]["detail"]
    assert command(forged, "--config", kept.config) == 3
    assert "NOT verified" in capsys.readouterr().out
    assert command(kept.entries[2].hex(), "--config", kept.config) == 3  # it has no proof yet
    assert "client proofs" in capsys.readouterr().out


async def test_what_is_not_there_exits_with_4_and_what_is_no_export_with_3(kept, capsys, tmp_path):
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
