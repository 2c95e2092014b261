"""Two receipts under one envelope: each is audited with its own stream, and what is disclosed for one opens no more than it must.

The first candidate dies in the middle of its answer and ends it after its restart; meanwhile the second one has answered
the whole request. Nodes, client, evidence and judge are the real ones; the log is a double.
"""

import asyncio
import contextlib
import signal
from dataclasses import replace

import pytest

from audit_layer.disclosure.evidence import Asking, Ciphertexts, check_evidence, fetch_from_node
from audit_layer.replay.child import Bench
from execution_layer.node.drafts import stream_context
from execution_layer.wiring.node import build_node
from shared.codec.moment import now_ms
from shared.envelope.header import Envelope
from shared.envelope.release import ReleaseContext, open_release, seal_release
from shared.envelope.sealing import open_escrow, open_with_secret
from shared.envelope.shares import combine
from shared.envelope.stream import FrameOpener
from shared.model.root import model_root
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.party import PartyRole
from shared.statements.cose import entry_of, open_as, parse_statement, read_as, sign
from shared.statements.disclosures import DisclosureReason, DisclosureRequest
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Finish, Receipt
from shared.statements.verdicts import Reason
from tests.adversaries.trial import case_of
from tests.execution_layer.asking import random32
from tests.execution_layer.node.test_crashes import node_process
from tests.execution_layer.waiting import until
from tests.execution_layer.world import small_world
from tests.parties import shown_by
from tests.shared.model import tiny

TOKENS = 40


@contextlib.asynccontextmanager
async def serving(settings):
    """Run a real node in this process until its key bundle is witnessed, and on."""
    node = build_node(settings)
    try:
        async with node.running():
            await node.registration.witnessed.wait()
            yield node
    finally:
        node.close()


class Audit:
    """One receipt's disclosure: the logged request, the evidence of its node, the share that its custodian releases."""

    def __init__(self, world, item):
        self.world, self.entry, self.raw = world, item.entry, item.raw
        self.receipt = Receipt.from_payload(item.payload)
        raw = next(raw for raw in world.audit.statements if entry_of(raw) == self.receipt.bundle)
        self.bundle, _ = open_as(KeyBundle, raw, None)
        value = DisclosureRequest(
            receipt=item.entry,
            index=world.audit.index[item.entry],
            draw=random32(),
            reason=DisclosureReason.DRAW,
            recipient=world.worker_hpke.key_id,
            deadline=now_ms() + 60_000,
        )
        self.request = sign(value, key=world.authority, issuer="authority")
        world.audit.append(self.request)

    async def evidence(self, of=None):
        """Ask this receipt's node for the evidence of a disclosure request: its own, or another's."""
        asked = of or self
        world = self.world
        proof = world.audit.proof(world.audit.index[entry_of(asked.request)])
        party = shown_by(PartyRole.WORKER, "worker", world.ca.ca_file)
        asking = Asking(asked.request, proof, asked.entry, world.worker)
        return await asyncio.to_thread(
            fetch_from_node,
            self.address(),
            world.ca.ca_file,
            asking,
            timeout_s=20,
            party=party,
        )

    def address(self):
        """Where the node is now: a test's node has another port after its restart."""
        opened = [parse_statement(raw) for raw in self.world.audit.statements]
        bundles = [item.read(KeyBundle) for item in opened if item.type == KeyBundle.TYPE]
        return [bundle.evidence for bundle in bundles if bundle.node == self.bundle.node][-1]

    def context(self):
        entry = entry_of(self.request)
        return ReleaseContext(entry, self.world.custodian.key_id, self.receipt.ctx, self.receipt.kc)

    def released(self, envelope):
        """What the custodian seals to the worker for this request."""
        world = self.world
        opened = open_escrow(
            envelope, custodian_key_id=world.custodian.key_id, hpke_private=world.custodian
        )
        return seal_release(
            world.worker_hpke.public_bytes, self.context(), opened.index, opened.share
        )

    def secret(self, envelope, sealed):
        """What the worker makes of a sealed share."""
        header = Envelope.from_bytes(envelope).header
        share = open_release(self.world.worker_hpke, self.context(), header, sealed)
        return combine({share[0]: share[1]}, header.threshold)


@pytest.mark.timeout(240)
async def test_each_of_two_receipts_under_one_envelope_is_opened_and_judged_by_its_own_stream(
    tmp_path,
):
    model = tiny.write_folder(tmp_path / "model")
    root = model_root(model)
    async with small_world(tmp_path / "world") as world:
        common = {"model": (model, root), "frame_interval_ms": 1}
        first = world.settings("node-1", **common)
        second = world.settings("node-2", **common)
        words = ("shared.runtime", "node", "serve", "--config")
        command = (*words, str(first.spool.parent / "node.toml"), "--ready-file")
        policy = {"model_root": root, "candidates": 2, "resume_patience_s": 0}
        async with (
            world.client(**policy) as client,
            node_process(world, *command, fault="node.frame.stored:kill") as dying,
        ):
            await until(lambda: kinds(world).count("key-bundle") == 1, 60)
            async with serving(second):
                await client.nodes()
                answer = await client.generate(
                    prompt="the engine", max_tokens=TOKENS, seed=5, temperature="1.3"
                )
                assert (answer.node, answer.attempt) == ("honest/node-2", 1)
                assert await asyncio.wait_for(dying.wait(), 60) == -signal.SIGKILL
                async with serving(first):
                    await world.audit.wait_for_receipts(2, 60)
                    await check(world, model)


def kinds(world):
    return [parse_statement(raw).type for raw in world.audit.statements]


async def check(world, model):
    audits = {
        audit.bundle.node: audit for audit in (Audit(world, i) for i in world.audit.receipts())
    }
    one, two = audits["node-1"], audits["node-2"]
    assert (one.receipt.ctx, one.receipt.kc, one.receipt.envelope) == (
        two.receipt.ctx, two.receipt.kc, two.receipt.envelope,
    )  # fmt: skip
    assert (one.receipt.number, one.receipt.attempt, two.receipt.attempt) == (0, 0, 1)
    assert {one.receipt.finish, two.receipt.finish} <= {Finish.LENGTH, Finish.STOP}
    found = {audit: await audit.evidence() for audit in (one, two)}
    for mine, other in ((one, two), (two, one)):
        await judged(mine, found[mine], model)
        await opens_no_more(mine, other, found)


async def judged(audit, found, model):
    """What the worker fetched and opened for this receipt passes, and it is this receipt's stream that it judged."""
    sent, lack = check_evidence(found, audit.receipt, audit.bundle.signing_key)
    assert lack == ""
    envelope = sent.sent.envelope
    secret = audit.secret(envelope, audit.released(envelope))
    case = case_of(sent.order, audit.raw, sent.sent, secret)
    bench = Bench((model,), 1)
    assert bench.judge(case).reason is Reason.EXACT
    cut = replace(case, frames=case.frames[:-1])
    assert bench.judge(cut).reason is not Reason.EXACT


async def opens_no_more(mine, other, found):
    """Neither evidence nor share of one request is of use for the other, or holds anything of it."""
    with pytest.raises(CounterfoilError) as refused:
        await mine.evidence(other)  # the other's request, at a node that did not answer it
    assert refused.value.code is Code.NOT_FOUND
    own, others = found[mine].sent, found[other].sent
    assert not {*own.frames, own.final_record} & {*others.frames, others.final_record}
    with pytest.raises(CounterfoilError) as refused:
        check_evidence(found[other], mine.receipt, mine.bundle.signing_key)
    assert refused.value.code is Code.COMMITMENT_MISMATCH
    swapped = Ciphertexts(found[mine].order, others)
    with pytest.raises(CounterfoilError) as refused:
        check_evidence(swapped, mine.receipt, mine.bundle.signing_key)
    assert refused.value.code is Code.COMMITMENT_MISMATCH
    sealed = mine.released(own.envelope)
    with pytest.raises(CounterfoilError) as refused:
        other.secret(own.envelope, sealed)  # a share released for one request opens under no other
    assert refused.value.code is Code.UNREADABLE
    secret = mine.secret(own.envelope, sealed)
    opened = open_with_secret(own.envelope, secret)
    order = read_as(Order, found[mine].order)
    wrong = FrameOpener(opened.keys, stream_context(order, own.node_nonce), opened.shape)
    with pytest.raises(CounterfoilError):
        wrong.open(others.frames[0])
