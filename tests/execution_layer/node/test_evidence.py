"""Evidence leaves the node for an audit authority only, as ciphertexts only, and not for ever."""

import grpc
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_aio_channel
from shared.statements.audits import DisclosureRequest, DrawReason
from shared.statements.cose import entry_of, sign
from tests.execution_layer.asking import ask, make_request, random32
from tests.execution_layer.waiting import until
from tests.execution_layer.world import small_world

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET = "a secret that must not leave in the clear"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with small_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(world):
    async with world.node() as node:
        yield node


async def served(world, node):
    """Serve a request; return it, its answer and the entry of its receipt, which the log has acknowledged."""
    request = make_request(world, node, SECRET)
    messages = await ask(world, node, request.order, request.envelope)
    await until(lambda: not node.spool.counts().pending)
    ordered = entry_of(request.order)
    (found,) = [item for item in world.audit.receipts() if item.payload["order"] == ordered]
    return request, messages, found.entry


def wanted(world, entry, key=None):
    value = DisclosureRequest(
        receipt=entry,
        index=1,
        draw=random32(),
        reason=DrawReason.DRAW,
        recipient=random32(),
        deadline=2 * 10**12,
    )
    return sign(value, key=key or world.authority, issuer="authority")


async def evidence(world, node, statement):
    async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
        stub = execution_pb2_grpc.EvidenceStub(channel)
        request = execution_pb2.GetEvidenceRequest(disclosure_request=statement)
        try:
            return await stub.GetEvidence(request, timeout=10)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error


async def refused(world, node, statement):
    with pytest.raises(CounterfoilError) as caught:
        await evidence(world, node, statement)
    return caught.value.code


async def test_an_authority_gets_what_went_over_the_wire(world, node):
    request, messages, entry = await served(world, node)
    found = await evidence(world, node, wanted(world, entry))
    assert (found.order, found.envelope) == (request.order, request.envelope)
    assert found.node_nonce == messages[0].accepted.node_nonce
    assert list(found.frames) == [message.frame.ciphertext for message in messages[1:-1]]
    assert found.final_record == messages[-1].final_record.ciphertext
    assert SECRET.encode() not in found.SerializeToString()
    assert request.sealed.ts not in found.SerializeToString()


async def test_nobody_else_does(world, node):
    _, _, entry = await served(world, node)
    stranger = Ed25519PrivateKey.generate()
    for key in (stranger, world.tenant_key, node.ring.signing_key):
        assert await refused(world, node, wanted(world, entry, key)) is Code.UNTRUSTED_KEY
    good = wanted(world, entry)
    spoiled = good[:-1] + bytes([good[-1] ^ 1])
    assert await refused(world, node, spoiled) is Code.BAD_SIGNATURE
    for junk in (b"", b"\x00", good[:-1]):
        assert await refused(world, node, junk) is Code.MALFORMED


async def test_another_statement_of_the_authority_opens_nothing(world, node):
    request, _, _ = await served(world, node)
    order = sign(request.value, key=world.authority, issuer="authority")
    assert await refused(world, node, order) is Code.MALFORMED


async def test_a_receipt_that_is_not_this_nodes_is_not_found(world, node):
    assert await refused(world, node, wanted(world, random32())) is Code.NOT_FOUND


async def test_evidence_ends_but_the_receipt_and_the_refusal_of_a_replay_do_not(world, node):
    request, _, entry = await served(world, node)
    assert await node.store.purge_evidence(before_ms=2 * 10**12, max_bytes=2**40)
    assert await refused(world, node, wanted(world, entry)) is Code.NOT_FOUND
    assert node.spool.counts().signed == len(world.audit.receipts())
    with pytest.raises(CounterfoilError) as caught:
        await ask(world, node, request.order, request.envelope)
    assert caught.value.code is Code.REPLAYED


async def test_evidence_whose_receipt_was_not_acknowledged_is_kept_whatever_the_limits(world, node):
    world.audit.away = True
    try:
        request = make_request(world, node)
        await ask(world, node, request.order, request.envelope)
        await node.store.purge_evidence(before_ms=2 * 10**12, max_bytes=0)
        (pending,) = node.spool.pending(10)
    finally:
        world.audit.away = False
    assert node.store.evidence_of(entry_of(pending.statement)) is not None


async def test_the_oldest_evidence_goes_first_when_there_is_too_much(world, node):
    entries = [(await served(world, node))[2] for _ in range(3)]
    one = node.store.evidence_of(entries[0])
    size = len(one.envelope) + len(one.final_record) + sum(map(len, one.frames))
    await node.store.purge_evidence(before_ms=0, max_bytes=int(1.5 * size))
    kept = [node.store.evidence_of(entry) is not None for entry in entries]
    assert kept == [False, False, True]


async def test_a_node_without_authorities_hands_out_nothing(world):
    settings = world.settings("lonely")
    audit = settings.audit.model_copy(update={"authority_keys": ()})
    async with world.node(name="lonely", audit=audit) as node:
        _, _, entry = await served(world, node)
        assert await refused(world, node, wanted(world, entry)) is Code.UNTRUSTED_KEY


async def test_transcript_secrets_are_encrypted_on_disk_and_the_key_lies_elsewhere(world):
    async with world.node(name="careful") as node:
        request, _, _ = await served(world, node)
    folder = world.folder / "careful"
    for path in folder.glob("node.sqlite*"):
        data = path.read_bytes()
        assert request.sealed.ts not in data
        assert SECRET.encode() not in data
    assert (folder / "keys" / "storage.key").exists()


async def test_a_database_under_another_storage_key_is_corrupt_and_not_served(world, monkeypatch):
    async def full(*_arguments, **_options):
        raise OSError("no space left on device")

    async with world.node(name="moved") as node:
        monkeypatch.setattr(node.store, "finish", full)  # its receipt is left to the next start
        request = make_request(world, node)
        with pytest.raises(CounterfoilError) as caught:
            await ask(world, node, request.order, request.envelope)
        assert caught.value.code is Code.UNAVAILABLE
    key = world.folder / "moved" / "keys" / "storage.key"
    true = key.read_text()
    key.write_text("00" * 32)
    with pytest.raises(CounterfoilError) as caught:
        async with world.node(name="moved"):
            pass
    assert caught.value.code is Code.CORRUPT
    key.write_text(true)
    async with world.node(name="moved") as node:
        await until(lambda: node.spool.counts().delivered == 1)
    assert world.audit.receipts()[-1].payload["finish"] == "failed"
