"""Stages of other operators as full nodes, under a head and a client as they are: each has a receipt of its own for what it did."""

import asyncio
import contextlib
import json
import re
import signal
from dataclasses import replace
from types import SimpleNamespace

import grpc
import pytest

from audit_layer.replay.case import Case, ChainCase, Member
from audit_layer.replay.child import Bench
from audit_layer.trail.admission import admit
from execution_layer.node.identity import KeyRing
from execution_layer.node.invoice import make_invoice, read_meter
from execution_layer.pipeline import speed
from execution_layer.pipeline.settings import Chain, ChainStage, StageWork
from execution_layer.wiring.metrics import CHAIN, ENGINE, NODE, STAGE, node_metrics
from execution_layer.wiring.node import build_node
from execution_layer.wiring.stage import build_stage_node
from shared.codec.moment import Period, now_ms
from shared.model.root import model_root
from shared.proto.counterfoil.execution.v1 import (
    execution_pb2,
    execution_pb2_grpc,
    stages_pb2,
    stages_pb2_grpc,
)
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_aio_channel
from shared.runtime.keys import key_id, load_or_create_ed25519, public_bytes
from shared.runtime.metrics import EVERY_PROCESS
from shared.runtime.party import PartyRole
from shared.runtime.rpc_metrics import RPC
from shared.statements.cose import entry_of, parse_statement, read_as
from shared.statements.keys import KeyBundle, Layers
from shared.statements.receipts import Finish, Receipt
from tests.execution_layer.node.parting import request_for
from tests.execution_layer.node.test_crashes import node_process
from tests.execution_layer.waiting import until
from tests.parties import shown_by
from tests.shared.model import tiny
from tests.shared.runtime.test_metrics import parsed

HEAD, S1, S2 = "honest/head", "farm/s1", "coop/s2"
TOKENS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(speed, "BUDGET_S", 0.0)


@pytest.fixture
def model(tmp_path):
    folder = tiny.write_folder(tmp_path / "model", num_hidden_layers=4)
    return folder, model_root(folder)


def stage_settings(world, model, name, layers, callers, **changes):
    operator, node = name.split("/")
    work = StageWork(layers=layers, callers=callers, next_ca=world.ca.ca_file)
    return world.settings(node, operator, model, stage=work, region="eu-north", **changes)


@contextlib.asynccontextmanager
async def running(node):
    """Run a node, and wait until its key bundle is witnessed."""
    try:
        async with node.running() as server:
            await node.registration.witnessed.wait()
            node.address, node.party_address = server.address, server.party_address
            yield node
    finally:
        node.close()


@contextlib.asynccontextmanager
async def stages_of(world, model):
    """Run a stage of `farm` and one of `coop`."""
    first = build_stage_node(stage_settings(world, model, S1, "1:3", (HEAD,)))
    last = build_stage_node(stage_settings(world, model, S2, "3:4", (HEAD, S1)))
    async with running(first) as s1, running(last) as s2:
        yield s1, s2


def head_settings(world, model, s1, s2):
    places = (
        ChainStage(address=s1.party_address, layers="1:3", name=S1),
        ChainStage(address=s2.party_address, layers="3:4", name=S2),
    )
    return world.settings("head", "honest", model, chain=Chain(stages=places, ca=world.ca.ca_file))


def receipts(world):
    """Return the log's receipts by the nodes that signed them."""
    found = {}
    for item in world.audit.receipts():
        found.setdefault(item.issuer, []).append(Receipt.from_payload(item.payload))
    return found


async def test_a_chain_of_three_operators_answers_and_each_has_a_receipt_for_its_part(world, model):
    async with (
        stages_of(world, model) as (s1, s2),
        running(build_node(head_settings(world, model, s1, s2))) as head_node,
        world.client(model_root=model[1], max_attempts=1) as client,
    ):
        bundle = head_node.ring.current().bundle
        assert bundle.stages == (S1, S2)
        assert min(bundle.offer.decode_rows, bundle.offer.prefill_rows) >= 1
        answers = [await client.generate(prompt="the engine", max_tokens=TOKENS) for _ in range(2)]
        await world.audit.wait_for_receipts(6, 30)
        await until(lambda: s1.spool.counts().delivered == s2.spool.counts().delivered == 2, 30)
        assert s1.load.in_flight == s2.load.in_flight == 0
        last = client.archive.by_entry(answers[-1].receipt.entry)
        sent = head_node.store.evidence_of(answers[-1].receipt.entry)
    check_admission(world)
    await asyncio.to_thread(check_judgements, world, model[0], last.secret, sent)
    signed = receipts(world)
    assert {name: len(each) for name, each in signed.items()} == {HEAD: 2, S1: 2, S2: 2}
    for number, answer in enumerate(answers):
        head, first, last = (signed[name][number] for name in (HEAD, S1, S2))
        assert head == answer.receipt.value
        assert head.chain.sent == first.chain.received
        assert first.chain.sent == last.chain.received
        assert last.chain.sent == head.chain.received
        for place, receipt in enumerate((head, first, last)):
            assert (receipt.chain.place, receipt.node_sequence) == (place, number)
            assert (receipt.usage.input, receipt.usage.cached, receipt.usage.output) == (
                head.usage.input,
                head.usage.cached,
                head.usage.output,
            )
    (quantity,) = {
        line.quantity
        for line in invoice_of(stage_settings(world, model, S1, "1:3", (HEAD,))).lines
        if line.kind == "output"
    }
    assert quantity == sum(answer.receipt.value.usage.output for answer in answers)


async def test_a_stage_that_comes_back_in_the_middle_of_an_answer_has_its_order_and_signs_for_all_of_it(
    world, model, caplog
):
    caplog.set_level("WARNING")
    settings = stage_settings(world, model, S1, "1:4", (HEAD,))
    begun = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        s1 = await first.enter_async_context(running(build_stage_node(settings)))
        place = ChainStage(address=s1.party_address, layers="1:4", name=S1)
        chain = Chain(stages=(place,), ca=world.ca.ca_file)
        head = build_node(world.settings("head", "honest", model, chain=chain))
        await stack.enter_async_context(running(head))
        client = await stack.enter_async_context(world.client(model_root=model[1], max_attempts=1))
        asking = asyncio.create_task(
            client.generate(
                prompt="the engine",
                max_tokens=200,
                temperature=0,
                on_text=lambda _text: begun.set(),
            )
        )
        await asyncio.wait_for(begun.wait(), 30)
        await first.aclose()
        assert world.audit.receipts() == []
        party = settings.party.model_copy(update={"address": place.address})
        again = build_stage_node(settings.model_copy(update={"party": party}))
        s1 = await stack.enter_async_context(running(again))
        answer = await asyncio.wait_for(asking, 60)
        await world.audit.wait_for_receipts(2, 30)
    assert any("the chain broke" in record.message for record in caplog.records)
    signed = receipts(world)
    (head_receipt,), (stage_receipt,) = signed[HEAD], signed[S1]
    assert head_receipt == answer.receipt.value
    assert head_receipt.chain.sent == stage_receipt.chain.received
    assert stage_receipt.chain.sent == head_receipt.chain.received
    assert stage_receipt.usage.output == head_receipt.usage.output > 100
    assert stage_receipt.node_sequence == 0


class Trail:
    """A double of what the log knows: every key bundle that it was given, and one tenant."""

    def __init__(self, world):
        self.tenant = public_bytes(world.tenant_key)
        parsed = [parse_statement(raw) for raw in world.audit.statements]
        self.bundles = {
            item.entry: item.read(KeyBundle) for item in parsed if item.type == KeyBundle.TYPE
        }

    def bundle(self, entry):
        return self.bundles.get(entry)

    def revoked_at(self, _bundle):
        return None

    def ended_key(self, _role, _kid):
        return None

    def party_key(self, role, kid):
        return ("acme", self.tenant) if (role, kid) == ("tenant", key_id(self.tenant)) else None


def check_admission(world):
    """Check that the log's own admission takes every receipt in, with its order."""
    trail = Trail(world)
    for item in world.audit.receipts():
        admitted = admit(item.raw, world.audit.orders[item.entry], trail, now_ms())
        assert (admitted.order_value.part is None) == (item.issuer == HEAD)


def check_judgements(world, folder, secret, sent):
    """Check that an auditor computes again what each of the three has signed about an answer."""
    signed = {item.entry: item for item in world.audit.receipts()}
    bundles = {raw: entry_of(raw) for raw in world.audit.statements}
    by_entry = {entry: raw for raw, entry in bundles.items()}
    head = read_as(Receipt, sent.receipt)
    of = [entry_of(sent.receipt), *head.chain.stages]
    members = tuple(Member(signed[entry].raw, world.audit.orders[entry]) for entry in of)
    stages = tuple(by_entry[read_as(Receipt, member.receipt).bundle] for member in members[1:])
    case = Case(
        sent.receipt,
        sent.order,
        sent.envelope,
        sent.frames,
        sent.final_record,
        secret,
        ChainCase(stages, members),
    )
    bench = Bench([folder], 1)
    for member in members:
        judged = bench.judge(replace(case, receipt=member.receipt, order=member.order))
        assert judged.reason == "exact", judged.decisive


def invoice_of(settings):
    day = 86_400_000
    start = now_ms() // day * day
    return make_invoice(
        settings.operator,
        [read_meter(settings, Period(start - day, start + 2 * day))],
        Period(start - day, start + 2 * day),
        issued_ms=now_ms(),
    )


@contextlib.asynccontextmanager
async def calling(world, address, name):
    """Yield what calls a stage with the certificate of a node."""
    shown = shown_by(PartyRole.NODE, name, world.ca.ca_file)
    async with secure_aio_channel(address, world.ca.ca_file, shown) as channel:
        stub = stages_pb2_grpc.StagesStub(channel)

        async def call(method, **fields):
            request = getattr(stages_pb2, f"{method}Request")(**fields)
            try:
                return await getattr(stub, method)(request, timeout=10)
            except grpc.RpcError as error:
                raise error_from_rpc(error) from error

        yield call


def offered(world, ring, model, head=HEAD):
    """Return what the head of a chain with this stage hands to it, and the order's entry."""
    side = SimpleNamespace(folder=world.folder / "heads", ring=ring, tenant_key=world.tenant_key)
    changes = {"rate_card": world.cards["farm"]}
    request = request_for(side, head=head, root=model[1], order_changes=changes)
    its = request.offered
    return request.order, {
        "order": its.order,
        "header": its.header,
        "kc": its.kc,
        "wrap": its.wrap,
        "head_bundle": its.head_bundle,
    }


async def test_a_stage_shows_what_it_computes_and_answers_nothing_itself(world, model):
    node = build_stage_node(stage_settings(world, model, S1, "1:3", (HEAD,)))
    async with (
        running(node),
        secure_aio_channel(node.address, world.ca.ca_file) as channel,
    ):
        stub = execution_pb2_grpc.InferenceStub(channel)
        shown = await stub.GetKeyBundle(execution_pb2.GetKeyBundleRequest(), timeout=10)
        bundle = read_as(KeyBundle, shown.statement)
        assert shown.tlog_proof
        assert (bundle.layers, bundle.model_roots) == (Layers(1, 3), (model[1],))
        assert bundle.evidence == node.party_address
        assert (bundle.offer.memory_mib, bundle.offer.region) == (512, "eu-north")
        assert min(bundle.offer.decode_rows, bundle.offer.prefill_rows) >= 1
        for call in (
            anext(aiter(stub.Generate(execution_pb2.GenerateRequest(), timeout=10))),
            anext(aiter(stub.Resume(execution_pb2.ResumeRequest(), timeout=10))),
            anext(aiter(stub.GetModelFiles(execution_pb2.GetModelFilesRequest(), timeout=10))),
            stub.Cancel(execution_pb2.CancelRequest(), timeout=10),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                await call
            error = error_from_rpc(caught.value)
            assert error.code is Code.UNSUPPORTED
            assert "layers 1:3" in error.detail


async def test_nobody_but_its_callers_orders_from_a_stage_and_none_of_them_for_another(
    world, model
):
    other, stranger = "front/other", "front/stranger"
    node = build_stage_node(stage_settings(world, model, S1, "1:3", (HEAD, other)))
    async with running(node):
        order, its = offered(world, node.ring, model)
        for name in (other, stranger):
            async with calling(world, node.party_address, name) as call:
                with pytest.raises(CounterfoilError) as caught:
                    await call("Accept", **its)
                assert caught.value.code is Code.FORBIDDEN
        async with calling(world, node.party_address, HEAD) as call:
            answer = await call("Accept", **its)
            assert answer.bundle == node.ring.current().statement
            with pytest.raises(CounterfoilError) as caught:
                await call("Close", order=order, input=5, output=2)
            assert caught.value.code is Code.CONFLICT
        async with calling(world, node.party_address, other) as call:
            with pytest.raises(CounterfoilError) as caught:
                await call("Close", order=order)
            assert caught.value.code is Code.FORBIDDEN
        assert node.spool.counts().signed == 0


async def test_kill_9_of_a_stage_loses_no_receipt_and_signs_none_twice(world, model):
    settings = stage_settings(world, model, S1, "1:3", (HEAD,))
    ready = world.folder / "ready.json"
    config = settings.spool.parent / "node.toml"
    words = ("shared.runtime", "node", "serve", "--config", str(config), "--ready-file")
    async with node_process(world, *words, fault="node.part.closed:kill") as process:
        operator = load_or_create_ed25519(settings.operator_key_file)
        ring = KeyRing(settings.keys, operator)
        order, its = offered(world, ring, model)
        async with calling(world, json.loads(ready.read_text())["party"], HEAD) as call:
            await call("Accept", **its)
            with pytest.raises(CounterfoilError) as caught:
                await call("Close", order=order)
            assert caught.value.code is Code.UNAVAILABLE
        assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
    assert receipts(world) == {}
    async with node_process(world, *words) as process:
        async with calling(world, json.loads(ready.read_text())["party"], HEAD) as call:
            await call("Accept", **its)
            closed = await call("Close", order=order)
        await world.audit.wait_for_receipts(1, 30)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert receipts(world) == {S1: [read_as(Receipt, closed.receipt)]}
    (receipt,) = receipts(world)[S1]
    assert (receipt.finish, receipt.node_sequence) == (Finish.FAILED, 0)
    check_admission(world)


async def test_metrics_of_a_head_and_its_stages_say_what_the_receipts_say(world, model):
    async with (
        stages_of(world, model) as (s1, s2),
        running(build_node(head_settings(world, model, s1, s2))) as head_node,
        world.client(model_root=model[1], max_attempts=1) as client,
    ):
        for _ in range(2):
            await client.generate(prompt="the engine", max_tokens=TOKENS)
        await world.audit.wait_for_receipts(6, 30)
        await until(lambda: head_node.spool.counts().delivered == 2, 30)
        head, stage = (parsed(node_metrics(one).text()) for one in (head_node, s1))
    words = {"running", "waiting", "computed", "prefix cache", "length", "unmeasured"}
    assert values_of(head, "counterfoil_engine_tokens_total") == [2 * TOKENS]
    assert values_of(head, "counterfoil_engine_first_token_seconds_count") == [2]
    assert values_of(head, "counterfoil_engine_token_interval_seconds_count") == [2 * (TOKENS - 1)]
    assert values_of(head, "counterfoil_node_receipts_total") == [2]
    assert values_of(head, "counterfoil_node_requests_ended_total") == [2]
    assert values_of(head, "counterfoil_node_spool_receipts") == [0]
    assert values_of(head, "counterfoil_node_accepting") == [1]
    assert values_of(head, "counterfoil_chain_connected") == [1]
    assert values_of(head, "counterfoil_chain_steps_total") == values_of(
        head, "counterfoil_engine_steps_total"
    )
    assert len(values_of(head, "counterfoil_chain_stage_busy_seconds_total")) == 3  # its own, too
    assert values_of(stage, "counterfoil_stage_in_use") == [1]
    assert values_of(stage, "counterfoil_stage_step_seconds_count") == values_of(
        head, "counterfoil_chain_steps_total"
    )
    assert values_of(stage, "counterfoil_stage_rows_total")[0] >= 2 * TOKENS
    assert values_of(stage, "counterfoil_node_receipts_total") == [2]
    told = {value for name, labels in (*head, *stage) for _, value in labels if "acme" in value}
    assert not told  # no tenant
    documented = {one.name for one in (*NODE, *ENGINE, *CHAIN, *STAGE, *RPC, *EVERY_PROCESS)}
    for samples in (head, stage):
        assert values_of(samples, "counterfoil_metrics_failed_sources") == [0]
        names = {name for name, _ in samples if name.startswith("counterfoil_")}
        assert {re.sub("_(bucket|sum|count)$", "", name) for name in names} <= documented
    assert words <= {
        value for _, labels in head for key, value in labels if key not in {"name", "version"}
    }


def values_of(samples, name):
    return [value for (found, _), value in samples.items() if found == name]
