"""A client orders from a chain as from one node: it chooses by every stage, orders every part, and believes no part alone."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from execution_layer.client.archive import Archive, State
from execution_layer.client.chain_check import check_chain
from execution_layer.client.chains import Terms, orderable
from execution_layer.client.entries import NodeEntry
from execution_layer.client.explain import explain
from execution_layer.client.own_keys import own_keys
from execution_layer.client.reopening import reopened
from execution_layer.client.share import share_of, verify_share
from execution_layer.client.verify import export, trust_of, verify_transcript
from execution_layer.commands.client import verify
from execution_layer.commands.explaining import as_tree
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, read_as, sign
from shared.statements.disclosures import AuditRequest
from shared.statements.keys import Layers, Revocation
from shared.statements.orders import Order, Part
from shared.statements.ratecards import Price, RateCard
from shared.statements.receipts import Chain, Finish
from shared.verification.bundle_check import verify_bundle
from shared.verification.share import parse_share
from tests.execution_layer.asking import random32
from tests.execution_layer.chains import CUT, chain_of, relinked
from tests.execution_layer.commands.test_client import Shell
from tests.execution_layer.waiting import until
from tests.execution_layer.world import MODEL_ROOT

PROMPT = "hello"
OTHER = b"\x5a" * 32
S1, S2 = "farm/s1", "coop/s2"


async def refused(client, **wanted):
    with pytest.raises(CounterfoilError) as caught:
        await client.generate(**{"prompt": PROMPT, "max_tokens": 4, **wanted})
    return caught.value


def forget(client):
    """Have the next request read the directory."""
    client._directory._known.clear()


# -- ordering ------------------------------------------------------------------------------------------------------


async def test_every_part_is_ordered_under_the_heads_order_and_archived_before_it_is_sent(world):
    async with chain_of(world) as chain, world.client() as client:
        answer = await client.generate(prompt=PROMPT, max_tokens=4, cost_centre="sales")
        assert answer.node == "honest/head"
        (asked,) = chain.asked
        assert [stage.bundle for stage in asked.envelope.header.stages] == [
            stage.entry for stage in chain.stages
        ]
        for place, (part, _) in enumerate(asked.parts, start=1):
            stage = chain.stages[place - 1]
            operator = stage.bundle.operator
            assert part == replace(
                asked.order,
                bundle=stage.entry,
                rate_card=world.cards[operator],
                part=Part(asked.order_entry, place),
            )
        kept = client.archive.get(answer.transcript_id)
        assert [(part.node, part.order_entry) for part in kept.parts] == [
            (stage.name, entry) for stage, (_, entry) in zip(chain.stages, asked.parts, strict=True)
        ]
        assert [stage.entry for stage in answer.stages] == [p.receipt_entry for p in kept.parts]
        receipt = answer.receipt.value
        assert receipt.chain.stages == tuple(part.receipt_entry for part in kept.parts)


async def test_parts_are_on_disk_before_anything_is_sent(world):
    async with chain_of(world) as chain, world.client() as client:
        seen = []

        def look(request):
            other = Archive(client._policy.archive)
            try:
                (kept,) = other.latest(1)
            finally:
                other.close()
            seen.append(([part.order_statement for part in kept.parts], list(request.parts)))

        chain.on_request = look
        await client.generate(prompt=PROMPT, max_tokens=2)
    ((kept, sent),) = seen
    assert kept == sent
    assert len(sent) == 2


async def test_a_retry_orders_every_part_again_under_the_next_attempt(world):
    async with chain_of(world) as chain, world.client() as client:
        chain.finish = Finish.FAILED
        told = []

        def mend(*facts):
            told.append(facts)
            chain.finish = Finish.LENGTH

        answer = await client.generate(prompt=PROMPT, max_tokens=4, on_retry=mend)
        assert len(told) == 1
        first, second = chain.asked
        assert answer.attempt == second.order.attempt == 1
        assert [part.attempt for part, _ in second.parts] == [1, 1]
        assert first.order.ctx != second.order.ctx
        assert {part.part.head for part, _ in second.parts} == {second.order_entry}


async def test_nobody_beside_the_head_is_a_candidate_and_a_whole_node_has_no_heads_beside_it(world):
    async with chain_of(world) as chain, world.node() as node, world.client() as client:
        names = set()
        for _ in range(2):
            shown = []
            answer = await client.generate(
                prompt=PROMPT,
                max_tokens=2,
                candidates=4,
                on_choice=lambda nodes, _, shown=shown: shown.extend(nodes),
            )
            names.add(answer.node)
            assert len(shown) == 1
            forget(client)
        assert names == {"honest/head", "honest/node-1"}
        assert len(chain.asked[0].envelope.header.candidates) == 1
        assert node.ring.current().entry not in chain.asked[0].envelope.header.candidates


# -- choosing ------------------------------------------------------------------------------------------------------


async def test_a_stage_is_never_ordered_from(world):
    async with chain_of(world, stages=("farm/s1", "coop/nobody")), world.client() as client:
        for name in (None, S1, S2):
            error = await refused(client, node=name)
            assert error.code is Code.STALE_KEY
            assert "no key bundle of coop/nobody is accepted" in error.detail
    async with chain_of(world), world.client() as client:
        error = await refused(client, node=S1)
        assert error.code is Code.NOT_FOUND
        assert f"{S1} is a stage: it computes layers 8:16 for heads" in error.detail


async def test_a_chain_is_used_without_the_audit_server_too(world):
    async with chain_of(world):
        async with world.client() as client:
            await client.nodes()
        world.audit.away = True
        async with world.client() as restarted:
            answer = await restarted.generate(prompt=PROMPT, max_tokens=2)
            assert [stage.node for stage in answer.stages] == [S1, S2]


async def test_a_revoked_stage_takes_its_chain_with_it_and_the_reason_is_said(world):
    async with chain_of(world) as chain, world.client() as client:
        assert [node.name for node in await client.nodes()] == ["honest/head"]
        stage = chain.stages[1]
        value = Revocation(bundle=stage.entry, reason="key lost", at=now_ms() - 1000)
        world.audit.append(sign(value, key=stage.operator.key, issuer="coop"))
        forget(client)
        error = await refused(client)
        assert error.code is Code.STALE_KEY
        assert f"the chain of honest/head is not used: no key bundle of {S2}" in error.detail
        assert "is revoked" in error.detail
        assert chain.asked == []


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ({"forbidden_operators": ["coop"]}, "its operator is forbidden"),
        ({"regions": ["region-1"]}, "it does not say where it is"),
        ({"forbidden_regions": ["region-2"]}, "it is in region-2, which is forbidden"),
        ({"most_operators": 2}, "3 operators would see the request's states (honest, farm, coop)"),
        ({"arithmetics": ["fused-16"]}, "it computes in chain-1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_the_policy_holds_for_every_stage(world, nodes, said):
    async with chain_of(world), world.client(nodes=nodes) as client:
        error = await refused(client)
        assert error.code is Code.STALE_KEY
        assert said in error.detail


async def test_an_operator_that_is_not_pinned_computes_no_stage(world):
    async with chain_of(world):
        pins = {name: world.operator(name)[0].public_hex for name in ("honest", "farm")}
        async with world.client(operators=pins) as client:
            assert "does not pin operator coop" in (await refused(client)).detail


async def test_a_stage_rests_on_its_standing_too(world):
    async with chain_of(world), world.client(min_standing="good") as client:
        assert "the policy demands at least good" in (await refused(client)).detail


class Bare:
    """Listed nodes without a world: accepted key bundles, and a policy with rate cards for them."""

    def __init__(self, chain, policy):
        self.policy = policy
        self.nodes = [self.entry(node.bundle, node.entry) for node in (chain.head, *chain.stages)]

    @staticmethod
    def entry(bundle, entry):
        return NodeEntry(bundle, entry, b"", "", None)

    def changed(self, place, **facts):
        """Return the nodes, one of them with another key bundle."""
        nodes = list(self.nodes)
        bundle = replace(nodes[place].bundle, **facts)
        nodes[place] = self.entry(bundle, nodes[place].entry)
        return nodes

    def problem(self, nodes, *, layers=None, cards=None):
        """Return why the chain is not used; None if it is."""
        terms = Terms(self.policy, MODEL_ROOT, layers, cards or {}, 10)
        found, problems = orderable(nodes, terms)
        assert len(found) + len(problems) == 1
        return problems[0].detail if problems else None


@pytest.fixture
async def bare(world):
    async with chain_of(world) as chain:
        return Bare(chain, world.policy())


def card(operator, currency="EUR", root=MODEL_ROOT, **changes):
    values = {"valid_from": 1, "prices": (Price(root, "1", "1", "1", 10),), **changes}
    return RateCard("standard", operator, currency, **values)


async def test_layers_that_do_not_follow_one_another_are_no_chain(bare):
    assert bare.problem(bare.nodes) is None
    assert bare.problem(bare.nodes, layers=24) is None
    for changes, said in (
        ((2, {"layers": Layers(17, 24)}), "17:24 of coop/s2 leave a gap after those before, 8:16"),
        ((2, {"layers": Layers(15, 24)}), "15:24 of coop/s2 overlap those before, 8:16"),
        ((2, {"layers": Layers(0, 8)}), "0:8 of coop/s2 overlap those before, 8:16"),
        ((0, {"stages": (S1, S1)}), "it names a stage twice"),
        ((0, {"stages": (S1, "honest/head")}), "no key bundle of honest/head is accepted"),
        ((0, {"stages": (S1, "x" * 200)}), f"no key bundle of {'x' * 127} is accepted"),
        ((2, {"numeric_profile": b"\x08" * 32}), "coop/s2 has another numeric profile"),
        ((2, {"layers": None}), "no key bundle of coop/s2"),
    ):
        place, facts = changes
        nodes = bare.changed(place, **facts)
        if facts.get("layers", 0) is None:  # it has become a node of its own
            found, problems = orderable(nodes, Terms(bare.policy, MODEL_ROOT, None, {}, 10))
            assert [node.name for node in found] == [S2]
            assert said in problems[0].detail
            continue
        assert said in bare.problem(nodes)
    assert "ends at layer 24, and the model has 32" in bare.problem(bare.nodes, layers=32)


async def test_prices_that_cannot_be_added_up_are_no_chains(bare):
    cards = {name: card(name) for name in ("honest", "farm", "coop")}
    assert bare.problem(bare.nodes, cards=cards) is None
    for changed, said in (
        (card("coop", "USD"), "cannot be added up: honest/head in EUR and coop/s2 in USD"),
        (card("coop", root=b"x" * 32), "coop/s2 has no price: rate card 'standard' has no price"),
        (
            card("coop", valid_from=11),
            "coop/s2 has no price: rate card 'standard' is not valid now",
        ),
    ):
        assert said in bare.problem(bare.nodes, cards={**cards, "coop": changed})


async def test_a_stage_may_have_a_rate_card_of_its_own(world):
    async with chain_of(world) as chain:
        own = random32()
        cards = {name: (entry.hex(),) for name, entry in world.cards.items()}
        async with world.client(rate_cards={**cards, S2: (own.hex(),)}) as client:
            await client.generate(prompt=PROMPT, max_tokens=2)
        assert chain.asked[0].parts[1][0].rate_card == own
        assert chain.asked[0].parts[0][0].rate_card == world.cards["farm"]


# -- what is said before -------------------------------------------------------------------------------------------


async def explained(client):
    (node,) = await client.nodes()
    wanted = client._wanted(None, None, {"prompt": PROMPT, "max_tokens": 7})
    return explain(
        client._policy, client.custodians, await client.rate_cards(), [node], wanted, 0, now_ms()
    )


async def test_it_is_said_who_sees_hidden_states_and_what_all_parts_cost_together(world):
    cut = (("farm", 8, 16), ("farm", 16, 20), ("coop", 20, 24))
    async with chain_of(world, cut) as chain, world.client() as client:
        facts = await explained(client)
    text = " ".join(facts["readers"])
    assert "farm/s1, farm/s2, coop/s3 (operators coop, farm)" in text
    assert "can be inverted to text" in text
    assert any(
        "region-1" not in s and "farm/s1" in s and "where they are" in s for s in facts["trusted"]
    )
    price = facts["checked"]["price"]
    amounts = {name: bound["amount"] for name, bound in price["at_most"].items()}
    one = float(amounts["honest"])
    assert amounts["coop"] == amounts["honest"]
    assert float(amounts["farm"]) == pytest.approx(2 * one)  # it is paid for both of its stages
    assert float(price["together"]["amount"]) == pytest.approx(4 * one)
    shown = Console(record=True, width=300, file=io.StringIO())
    shown.print(as_tree(facts))
    told = shown.export_text()
    for part in (
        "stage 1: farm/s1 at",
        "computes layers 20:24",
        "computes embedding and head, layers 0:8",
        "says that it is in region-2, which nothing checks",
        "all parts of the chain together: at most",
        chain.stages[2].entry.hex(),
    ):
        assert part in told


# -- believing -----------------------------------------------------------------------------------------------------


async def disbelieved(chain, client):
    """Ask, and return the error; the evidence is kept, no receipt of it counts, and nothing is retried elsewhere."""
    error = await refused(client)
    assert len(chain.asked) == 1
    (kept,) = client.archive.latest(10)
    assert kept.state is State.DISBELIEVED
    assert kept.final_record
    assert kept.receipt is None
    assert [part.receipt for part in kept.parts] == [None, None]
    assert error.detail.removeprefix("honest/head: ") in kept.problem
    assert client.archive.unproved_parts() == []
    return error


async def test_a_stage_that_lies_disbelieves_the_answer_and_the_evidence_is_kept(world):
    async with chain_of(world) as chain, world.client() as client:
        chain.alter = lambda place, receipt: (
            relinked(receipt, received=OTHER) if place == 2 else receipt
        )
        error = await disbelieved(chain, client)
        assert error.code is Code.COMMITMENT_MISMATCH
        assert "stage 1 (farm/s1) signed that it sent other states than stage 2" in error.detail


async def test_a_chain_that_was_ordered_cannot_be_left_out(world):
    async with chain_of(world) as chain, world.client() as client:
        chain.in_chain = False
        error = await disbelieved(chain, client)
        assert "chain is missing: 2 stages were ordered" in error.detail


async def test_a_failure_has_a_receipt_without_a_chain(world):
    async with chain_of(world) as chain, world.client(max_attempts=1) as client:
        chain.finish = Finish.FAILED
        assert (await refused(client)).code is Code.UNAVAILABLE
        (kept,) = client.archive.latest(10)
        assert kept.state is State.ANSWERED
        assert [part.receipt for part in kept.parts] == [None, None]


async def test_a_whole_node_cannot_claim_a_chain(world):
    async with chain_of(world, head_facts={"stages": None}) as chain, world.client() as client:
        chain.in_chain = False
        claim = Chain(0, OTHER, OTHER, (OTHER,))
        chain.alter = lambda _, receipt: replace(receipt, chain=claim)
        error = await refused(client)
        assert "chain is there, though the answer was not ordered from a chain" in error.detail


# -- afterwards ----------------------------------------------------------------------------------------------------


async def test_stages_receipts_are_handed_in_with_their_orders_proved_and_exported(world):
    async with chain_of(world), world.client() as client:
        answer = await client.generate(prompt=PROMPT, max_tokens=4)
        assert (await client.upgrade_proofs()).missing == 3  # no node has delivered anything
        assert await client.hand_in_missing(after_s=0) == 3
        assert (await client.upgrade_proofs(10)).missing == 0
        kept = client.archive.get(answer.transcript_id)
        for part in kept.parts:
            assert world.audit.orders[part.receipt_entry] == part.order_statement
            assert part.handed_in is not None
            assert client.archive.part(part.receipt_entry) == part
            bundle = export(client.archive, part, client._policy)
            report = verify_bundle(bundle, trust_of(client._policy))
            assert report.verified, report.as_text()
        steps = verify_transcript(client.archive, kept, client._policy)
        assert all(step.holds for step in steps), [step for step in steps if not step.holds]
        assert sum(S1 in step.title for step in steps) == 3
        counts = client.archive.counts()
        assert (counts["receipts"], counts["proofs"]) == (3, 3)


async def test_the_archive_shows_every_part_and_exports_the_one_that_is_named(world, capsys):
    shell = Shell(world, capsys)
    async with chain_of(world):
        async with world.client() as client:
            answer = await client.generate(prompt=PROMPT, max_tokens=4)
            await client.hand_in_missing(after_s=0)
            assert (await client.upgrade_proofs(10)).missing == 0
        code, out, _ = await shell.client("archive list")
        receipts = [answer.receipt.entry.hex(), *(stage.entry.hex() for stage in answer.stages)]
        assert code == 0
        assert [line for line in receipts if line in out] == receipts
        file = world.folder / "part.json"
        code, out, _ = await shell.client("archive show", receipts[2], "--export", file, "--json")
        assert code == 0
        shown = json.loads(out)
        assert [stage["receipt"] for stage in shown["stages"]] == receipts[1:]
        assert shown["receipt"] == receipts[0]
        assert json.loads(file.read_text())
        code, out, _ = await shell(verify, file, "--json")
        assert json.loads(out)["facts"]["issuer"] == S2
        code, out, _ = await shell(verify, receipts[1], "--config", shell.config, "--json")
        assert json.loads(out)["verified"] is True


async def test_a_shared_answer_of_a_chain_says_what_of_it_was_not_checked(world):
    async with chain_of(world), world.client() as client:
        answer = await client.generate(prompt=PROMPT, max_tokens=4)
        await client.hand_in_missing(after_s=0)
        assert (await client.upgrade_proofs(10)).missing == 0
        kept = client.archive.get(answer.transcript_id)
        share = share_of(client.archive, kept, client._policy)
        opened = verify_share(parse_share(share.encode()), trust_of(client._policy))
        assert opened.shown is not None, opened.report.as_text()
        assert any("stages were not checked" in word for word in opened.report.rests_on)


async def test_an_audit_of_an_answer_is_asked_for_with_every_stages_part(world):
    async with chain_of(world), world.client(audit="always") as client:
        answer = await client.generate(prompt=PROMPT, max_tokens=4)
        await until(lambda: all(item.log_index is not None for item in client.archive.audits(9)))
        signed = {answer.receipt.entry, *(stage.entry for stage in answer.stages)}
        asked = [read_as(AuditRequest, raw).receipt for raw in world.audit.audit_requests()]
        assert sorted(asked) == sorted(signed)
        assert [item.node for item in client.archive.audits(9)] == ["honest/head", S1, S2]
        assert await client.audit(answer.stages[0].entry.hex()) == 0  # it is asked for once


async def test_an_audit_request_about_a_part_that_the_log_rejects_is_asked_again_when_wanted(world):
    async with chain_of(world), world.client() as client:
        answer = await client.generate(prompt=PROMPT, max_tokens=4)
        world.audit.refusals["audit-request"] = Code.FORBIDDEN
        assert await client.audit(answer.receipt.entry.hex()) == 0
        assert all(item.rejected for item in client.archive.audits(9))
        world.audit.refusals.clear()
        assert await client.audit(answer.stages[1].entry.hex()) == 3


async def test_an_archive_with_a_parts_order_altered_does_not_verify(world):
    async with chain_of(world), world.client() as client:
        answer = await client.generate(prompt=PROMPT, max_tokens=4)
        kept = client.archive.get(answer.transcript_id)
        order = replace(read_as(Order, kept.parts[0].order_statement), created=1)
        forged = sign(order, key=world.tenant_key, issuer="acme")
        parts = (
            replace(kept.parts[0], order_statement=forged, order_entry=entry_of(forged)),
            kept.parts[1],
        )
        steps = verify_transcript(client.archive, replace(kept, parts=parts), client._policy)
        failed = next(step for step in steps if not step.holds)
        assert "is not a part of the head's" in failed.detail
        assert len(CUT) == len(kept.parts)


async def test_what_an_earlier_process_ordered_is_resumed_and_checked_with_every_part(world):
    async with chain_of(world) as chain, world.client() as client:
        answer = await client.generate(prompt=PROMPT, max_tokens=4)
        kept = replace(client.archive.get(answer.transcript_id), state=State.ORDERED)
        key, own = client._terms.key, own_keys(client._policy)
        attempt, bundle = reopened(client.archive, kept, key, own, client._texts, None, None)
        assert bundle.issuer == "honest/head"
        signed = [stage.statement for stage in answer.stages]
        check_chain(answer.receipt.value, signed, attempt._sent.parts, now_ms())
        assert [entry for _, entry in attempt.ordered.parts] == [
            entry for _, entry in chain.asked[0].parts
        ]
