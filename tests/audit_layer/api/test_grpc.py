"""The gRPC services over TLS against a real server, database and witness."""

from typing import Any

import grpc
import pytest

from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.log_keys import load_cose_key, log_policy
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_aio_channel
from shared.runtime.keys import public_bytes
from shared.runtime.party import PartyRole
from shared.statements.cose import attach, detach, entry_of
from shared.translog.cose_receipt import verify_receipt
from shared.translog.policy import verify_witnessed
from shared.translog.tlog_proof import verify_tlog_proof
from tests.audit_layer.api import statements as made
from tests.audit_layer.served import ORIGIN, World, call, until
from tests.parties import shown_by
from tests.postgres import Database


def submit(*items: tuple[bytes, bytes]) -> audit_pb2.SubmitRequest:
    return audit_pb2.SubmitRequest(
        submissions=[audit_pb2.Submission(statement=raw, order=order) for raw, order in items]
    )


async def test_a_statement_gets_its_index_once_and_a_proof_of_it(world: World):
    raw = made.bundle("alpha", not_after=made.NOW + made.HOUR)
    async with world.stubs() as (intake, log, _):
        first = (await call(intake.Submit, submit((raw, b"")))).results[0].sequenced
        again = (await call(intake.Submit, submit((raw, b""), (raw, b"")))).results
        assert not first.duplicate
        assert first.entry == entry_of(raw)
        assert all(item.sequenced.duplicate for item in again)
        assert {item.sequenced.index for item in again} == {first.index}
        request = audit_pb2.GetProofRequest(entry=first.entry)
        proof = await until(lambda: call(log.GetProof, request), Code.NOT_WITNESSED)
        checkpoint = await call(log.GetCheckpoint, audit_pb2.GetCheckpointRequest())
    policy = log_policy(load_settings(world.config))
    assert proof.index == first.index
    assert verify_tlog_proof(proof.tlog_proof, first.entry, policy).checkpoint.size > first.index
    assert verify_witnessed(checkpoint.note, policy).checkpoint.size > first.index


async def test_a_receipt_that_is_asked_for_comes_with_the_index(world: World):
    raw = made.bundle("alpha", not_after=made.NOW + 3 * made.HOUR)
    request = submit((raw, b""), (b"junk", b""))
    request.receipts = True
    async with world.stubs() as (intake, _, _):
        first, refused = (await call(intake.Submit, request)).results
        again = (await call(intake.Submit, request)).results[0]
        without = (await call(intake.Submit, submit((raw, b"")))).results[0]
    key = public_bytes(load_cose_key(load_settings(world.config).keys_folder))
    for result in (first, again):
        found = verify_receipt(result.sequenced.receipt, entry_of(raw), key)
        assert found.index == result.sequenced.index
        assert found.size > found.index
        carried, _ = detach(attach(raw, [result.sequenced.receipt]))
        assert entry_of(carried) == entry_of(raw)
    assert refused.WhichOneof("result") == "rejected"
    assert without.sequenced.receipt == b""


async def test_one_bad_statement_does_not_spoil_the_others(world: World):
    good = made.bundle("beta", not_after=made.NOW + made.HOUR)
    tampered = bytearray(made.bundle("beta", not_after=made.NOW + 2 * made.HOUR))
    tampered[-1] ^= 1
    node = made.Node(
        "alpha", world.filled.bundles["alpha"], bytes(32), number=90, previous=bytes([1] * 32)
    )
    orderless = node.receipt("acme").statement
    async with world.stubs() as (intake, _, _):
        answer = await call(
            intake.Submit,
            submit((b"junk", b""), (bytes(tampered), b""), (good, b""), (orderless, b"")),
        )
    kinds = [result.WhichOneof("result") for result in answer.results]
    assert kinds == ["rejected", "rejected", "sequenced", "rejected"]
    codes = [result.rejected.code for result in answer.results if result.HasField("rejected")]
    assert codes == ["MALFORMED", "BAD_SIGNATURE", "NO_ORDER"]


async def test_two_receipts_under_one_number_are_refused_and_found(world: World):
    node = made.Node("alpha", world.filled.bundles["alpha"], bytes(32))
    node.orders["acme"] = 50
    other = node.receipt("acme")
    async with world.stubs() as (intake, _, _):
        answer = await call(intake.Submit, submit((other.statement, other.order or b"")))
    assert answer.results[0].rejected.code == "EQUIVOCATION"
    (finding,) = (await world.get("/v1/findings")).json()
    assert finding["kind"] == "equivocation"


async def test_deposits_are_for_receipts_in_the_log_and_bounded(world: World):
    entry = world.filled.receipts["acme"][0]
    sent = made.delivered(world.filled.signed[entry])

    def deposit(receipt: bytes, **changes: object) -> audit_pb2.DepositRequest:
        fields = {
            "envelope": sent.envelope,
            "node_nonce": sent.node_nonce,
            "frames": sent.frames,
            "final_record": sent.final_record,
            "final_signature": sent.final_signature,
            **changes,
        }
        return audit_pb2.DepositRequest(receipt=receipt, **fields)  # type: ignore[arg-type]  # as above

    async with world.stubs() as (intake, _, _):
        for _repeat in range(2):
            await call(intake.Deposit, deposit(entry))
        for request, code in (
            (deposit(bytes(32)), Code.NOT_FOUND),
            (deposit(b"short"), Code.INVALID_ARGUMENT),
            (deposit(entry, node_nonce=b"nonce"), Code.INVALID_ARGUMENT),
            (deposit(entry, final_record=b"junk"), Code.COMMITMENT_MISMATCH),
            (deposit(entry, envelope=b"nonsense"), Code.COMMITMENT_MISMATCH),
        ):
            with pytest.raises(CounterfoilError) as refused:
                await call(intake.Deposit, request)
            assert refused.value.code is code


async def test_the_directory_shows_rate_cards_by_their_entries_and_nothing_else(world: World):
    card = made.rate_card("alpha")
    receipt = world.filled.receipts["acme"][0]
    async with world.stubs() as (intake, _, directory):
        await call(intake.Submit, submit((card, b"")))
        wanted = [entry_of(card), receipt, bytes(32), world.filled.bundles["alpha"]]
        request = audit_pb2.GetRateCardsRequest(entries=wanted)
        assert list((await call(directory.GetRateCards, request)).statements) == [card]
        for bad in ([b"short"], [bytes(32)] * 65):
            with pytest.raises(CounterfoilError) as refused:
                await call(directory.GetRateCards, audit_pb2.GetRateCardsRequest(entries=bad))
            assert refused.value.code is Code.INVALID_ARGUMENT


async def test_the_directory_lists_live_bundles_with_proof_and_revocation(world: World):
    model = made.some("other model")
    expired = made.bundle("alpha", not_after=made.NOW - 1)
    special = made.bundle("beta", not_after=made.NOW + made.HOUR, model=model)
    async with world.stubs() as (intake, log, directory):
        await call(intake.Submit, submit((expired, b""), (special, b"")))
        revoked = made.revocation("alpha", world.filled.bundles["alpha"])
        answer = await call(intake.Submit, submit((revoked, b"")))
        assert answer.results[0].HasField("sequenced"), answer
        request = audit_pb2.GetProofRequest(entry=entry_of(revoked))
        await until(lambda: call(log.GetProof, request), Code.NOT_WITNESSED)
        listed = (await call(directory.ListKeyBundles, audit_pb2.ListKeyBundlesRequest())).bundles
        only = await call(
            directory.ListKeyBundles, audit_pb2.ListKeyBundlesRequest(model_root=model)
        )
    found = {entry_of(item.statement): item for item in listed}
    assert set(found) == {*world.filled.bundles.values(), entry_of(special)}
    assert [item.statement for item in only.bundles] == [special]
    assert [entry for entry, item in found.items() if item.revoked] == [
        world.filled.bundles["alpha"]
    ]
    policy = log_policy(load_settings(world.config))
    for entry, item in found.items():
        verify_tlog_proof(item.tlog_proof, entry, policy)


async def test_unknown_entries_and_calls_without_deadline_are_refused(world: World):
    async with world.stubs() as (_, log, directory):
        for entry, code in ((bytes(32), Code.NOT_FOUND), (b"short", Code.INVALID_ARGUMENT)):
            with pytest.raises(CounterfoilError) as refused:
                await call(log.GetProof, audit_pb2.GetProofRequest(entry=entry))
            assert refused.value.code is code
        request = audit_pb2.ListKeyBundlesRequest(model_root=b"x")
        with pytest.raises(CounterfoilError) as refused:
            await call(directory.ListKeyBundles, request)
        assert refused.value.code is Code.INVALID_ARGUMENT
        endlessly: Any = log.GetCheckpoint
        with pytest.raises(grpc.RpcError) as endless:
            await endlessly(audit_pb2.GetCheckpointRequest())
        assert error_from_rpc(endless.value).code is Code.DEADLINE_REQUIRED


async def test_while_the_database_is_down_calls_say_so_and_afterwards_all_continues(
    world: World, database: Database
):
    raw = made.bundle("alpha", not_after=made.NOW + made.HOUR)

    world.token("auditor")
    async with world.stubs() as (intake, log, _):
        database.allow(False)
        try:
            with pytest.raises(CounterfoilError) as down:
                await call(intake.Submit, submit((raw, b"")))
            assert down.value.code is Code.UNAVAILABLE
            assert down.value.retry_after_s
            assert (await world.get("/v1/receipts")).status_code == 503
            assert (await world.get("/healthz", None)).status_code == 503
        finally:
            database.allow(True)
        answer = await until(lambda: call(intake.Submit, submit((raw, b""))), Code.UNAVAILABLE)
        assert answer.results[0].HasField("sequenced")
        request = audit_pb2.GetProofRequest(entry=entry_of(raw))
        await until(lambda: call(log.GetProof, request), Code.NOT_WITNESSED)
    assert (await world.get("/v1/receipts")).status_code == 200


async def test_without_a_certificate_only_what_tenants_and_operators_hand_in_is_taken(world: World):
    """Their own signatures are right all the same: a certificate adds to them and replaces none."""
    bundle = made.bundle("alpha", not_after=made.NOW + 5 * made.HOUR)
    receipt = world.filled.by_operator["alpha"][0]
    brought = world.filled.signed[receipt]
    request = submit(
        (bundle, b""),
        (made.verdict(world.filled.by_operator["alpha"][2]), b""),
        (made.rate_card("alpha"), b""),
        (brought.statement, brought.order or b""),
        (b"junk", b""),
    )
    async with secure_aio_channel(world.grpc, world.ca) as channel:
        stub = audit_pb2_grpc.IntakeStub(channel)
        answers = (await call(stub.Submit, request)).results
    assert [answer.rejected.code for answer in answers[:2]] == ["FORBIDDEN"] * 2
    assert "key-bundle" in answers[0].rejected.detail
    assert answers[3].sequenced.duplicate
    assert answers[4].rejected.code == "MALFORMED"
    audit = shown_by(PartyRole.AUDIT, ORIGIN, world.ca)
    for party, code in ((audit, "FORBIDDEN"), (world.worker, "")):
        async with secure_aio_channel(world.parties, world.ca, party) as channel:
            stub = audit_pb2_grpc.IntakeStub(channel)
            (answer,) = (await call(stub.Submit, submit((bundle, b"")))).results
        assert answer.rejected.code == code
