"""Evidence leaves the node only for the worker in a logged disclosure request, only as ciphertexts, and not forever."""

import asyncio
from dataclasses import replace
from hashlib import sha256

import grpc
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_layer.disclosure.evidence import Asking, check_evidence, fetch_from_node
from execution_layer.node import evidence_service
from execution_layer.node.settings import NodeParty
from shared.codec.moment import now_ms
from shared.envelope.delivered import evidence_request_message
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_aio_channel
from shared.runtime.keys import public_bytes
from shared.runtime.party import PartyRole
from shared.statements.cose import entry_of, parse_statement, read_as, sign
from shared.statements.disclosures import DisclosureReason, DisclosureRequest
from shared.statements.keys import KeyBundle
from shared.statements.receipts import Chain, Receipt
from tests.execution_layer.asking import ask, make_request, random32
from tests.execution_layer.waiting import until
from tests.execution_layer.world import small_world
from tests.parties import shown_by

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


def wanted(world, entry, key=None, *, logged=True, **changes):
    """Return a disclosure request to the world's worker, which is in the log unless `logged` says otherwise."""
    value = DisclosureRequest(
        receipt=entry,
        index=1,
        draw=random32(),
        reason=DisclosureReason.DRAW,
        recipient=world.worker_hpke.key_id,
        deadline=now_ms() + 60_000,
    )
    raw = sign(replace(value, **changes), key=key or world.authority, issuer="authority")
    if logged:
        world.audit.append(raw)
    return raw


def call(world, statement, *, key=None, proof=None, skew_ms=0, signed_for=None, receipt=None):
    """Return the call of the worker that the request names, with a test's alterations."""
    at = now_ms() + skew_ms
    entry = sha256(statement).digest()
    index = world.audit.index.get(entry)
    shown = "" if index is None else world.audit.proof(index)
    try:
        about = parse_statement(statement).payload["receipt"]
    except (CounterfoilError, KeyError):
        about = bytes(32)
    message = evidence_request_message(entry, signed_for or about, at)
    return execution_pb2.GetEvidenceRequest(
        disclosure_request=statement,
        request_proof=shown if proof is None else proof,
        at=at,
        signature=(key or world.worker).sign(message),
        receipt=receipt,
    )


async def evidence(world, node, statement, *, address=None, party=None, **options):
    to = address or node.address
    async with secure_aio_channel(to, world.ca.ca_file, party) as channel:
        stub = execution_pb2_grpc.EvidenceStub(channel)
        try:
            return [
                part
                async for part in stub.GetEvidence(call(world, statement, **options), timeout=10)
            ]
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error


async def refused(world, node, statement, **options):
    with pytest.raises(CounterfoilError) as caught:
        await evidence(world, node, statement, **options)
    return caught.value.code


async def test_the_worker_to_whom_it_is_disclosed_gets_what_went_over_the_wire(world, node):
    request, messages, entry = await served(world, node)
    head, *parts = await evidence(world, node, wanted(world, entry))
    assert (head.head.order, head.head.envelope) == (request.order, request.envelope)
    assert head.head.node_nonce == messages[0].accepted.node_nonce
    frames = [part.frame for part in parts if part.WhichOneof("part") == "frame"]
    final = b"".join(part.final_record for part in parts[len(frames) :])
    assert frames == [message.frame.ciphertext for message in messages[1:-1]]
    assert final == messages[-1].final_record.ciphertext
    assert head.head.final_signature == messages[-1].final_record.signature
    whole = b"".join(part.SerializeToString() for part in (head, *parts))
    assert SECRET.encode() not in whole
    assert request.sealed.ts not in whole


async def test_a_head_hands_out_what_the_receipt_of_one_of_its_stages_is_about(
    world, node, monkeypatch
):
    """The worker asks for the head's receipt by a request about the stage's, which the head's must list."""
    request, _, entry = await served(world, node)
    stage = random32()
    about_stage, asked = wanted(world, stage), {"signed_for": entry, "receipt": entry}
    assert await refused(world, node, about_stage, **asked) is Code.NOT_FOUND
    evidence_of = node.store.evidence_of
    chain = Chain(0, sent=random32(), received=random32(), stages=(random32(), stage))

    def listing(wanted_entry):
        found = evidence_of(wanted_entry)
        receipt = replace(read_as(Receipt, found.receipt), chain=chain)
        return replace(found, receipt=sign(receipt, key=world.authority, issuer="node"))

    monkeypatch.setattr(node.store, "evidence_of", listing)
    head, *_ = await evidence(world, node, about_stage, **asked)
    assert head.head.envelope == request.envelope
    other = wanted(world, random32())
    assert await refused(world, node, other, **asked) is Code.NOT_FOUND
    unsigned = {"receipt": entry, "signed_for": stage}
    assert await refused(world, node, about_stage, **unsigned) is Code.BAD_SIGNATURE


async def test_the_audit_layer_puts_the_parts_together(world, node, monkeypatch):
    request, _, entry = await served(world, node)
    monkeypatch.setattr(evidence_service, "PIECE", 100)
    raw = wanted(world, entry)
    asking = Asking(raw, world.audit.proof(world.audit.index[entry_of(raw)]), entry, world.worker)
    found = await asyncio.to_thread(
        fetch_from_node, node.address, world.ca.ca_file, asking, timeout_s=10
    )
    (statement,) = [raw for raw in world.audit.statements if entry_of(raw) == entry]
    check_evidence(found, read_as(Receipt, statement), public_bytes(node.ring.signing_key))
    assert found.order == request.order


async def test_a_request_that_is_not_in_the_log_or_too_late_gives_nothing(world, node):
    _, _, entry = await served(world, node)
    assert await refused(world, node, wanted(world, entry, logged=False)) is not Code.NOT_FOUND
    good, other = wanted(world, entry), wanted(world, entry)
    proof = world.audit.proof(world.audit.index[entry_of(other)])
    assert await refused(world, node, good, proof=proof) is Code.BAD_PROOF
    expired = wanted(world, entry, deadline=now_ms() - 3_600_000)
    assert await refused(world, node, expired) is Code.EXPIRED


async def test_strangers_who_show_a_logged_request_get_nothing(world, node):
    _, _, entry = await served(world, node)
    good = wanted(world, entry)
    for key in (Ed25519PrivateKey.generate(), world.tenant_key, world.authority):
        assert await refused(world, node, good, key=key) is Code.BAD_SIGNATURE
    assert await refused(world, node, good, signed_for=random32()) is Code.BAD_SIGNATURE
    for skew_ms in (-3_600_000, 3_600_000):
        assert await refused(world, node, good, skew_ms=skew_ms) is Code.EXPIRED
    unknown = wanted(world, entry, recipient=random32())
    assert await refused(world, node, unknown) is Code.UNTRUSTED_KEY


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


async def test_transcript_secrets_are_encrypted_on_disk_and_the_key_is_elsewhere(world):
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
    assert (
        world.audit.receipts()[-1].payload["finish"] == "length"
    )  # it goes on from its last frame


async def test_evidence_is_for_workers_by_certificate_at_the_address_that_the_key_bundle_names(
    world,
):
    own = shown_by(PartyRole.NODE, "honest/apart", world.ca.ca_file)
    async with world.node(name="apart", party=NodeParty(**own.model_dump())) as node:
        _, _, entry = await served(world, node)
        statement = wanted(world, entry)
        named = read_as(KeyBundle, node.ring.current().statement).evidence
        assert named not in {None, node.address}
        worker = shown_by(PartyRole.WORKER, "worker", world.ca.ca_file)
        assert await evidence(world, node, statement, address=named, party=worker)
        for address, party in ((node.address, None), (node.address, worker), (named, own)):
            told = await refused(world, node, statement, address=address, party=party)
            assert told is Code.FORBIDDEN
        assert await refused(world, node, statement, address=named) is Code.UNAVAILABLE
        stranger = Ed25519PrivateKey.generate()
        told = await refused(world, node, statement, address=named, party=worker, key=stranger)
        assert told is Code.BAD_SIGNATURE  # the certificate alone opens nothing
