"""`counterfoil infer --explain`: what was checked, and what is trusted, before anything leaves the machine."""

import io
import json
from dataclasses import replace
from functools import partial

from rich.console import Console

from execution_layer.client.explain import explain
from execution_layer.client.prices import most
from execution_layer.commands.explaining import as_tree
from shared.codec.moment import now_ms
from shared.codec.money import exact_sum, format_decimal
from shared.statements.ratecards import Price, RateCard
from shared.verification.rating import Tokens, price_for, rate_tokens
from tests.execution_layer.commands.test_client import Shell

PROMPT = "a prompt that nobody else reads"


def words(text):
    """Return a tree's text without branches and line breaks."""
    return " ".join(text.translate({ord(c): " " for c in "│├└─"}).split())


async def test_people_read_on_standard_error_what_was_checked_and_the_answer_follows(world, capsys):
    async with world.node() as node:
        commands = Shell(world, capsys)
        code, out, err = await commands.infer(PROMPT, "--max-tokens", "3", "--explain")
    assert code == 0
    assert out.startswith("w")
    bundle = node.ring.current()
    text = words(err)
    for part in (
        "Before the prompt leaves this machine",
        f"node honest/node-1 at {bundle.bundle.endpoint}, listed by the audit server",
        "custodians: any 1 of 1 can open it, fewer cannot; audit policy: sampled",
        "standing new; the policy demands watched",
        "Who can read it",
        "The node honest/node-1: it reads it, and whoever controls its machine.",
        "Any 1 of the 1 custodians (c1) together, without the log knowing; fewer learn nothing.",
        "What remains trusted",
        "The node's word for the prompt's tokens and the answer's text, until an audit.",
        "That no 1 of 1 witnesses conspire with the log to show you a history of your own.",
        f"key bundle {bundle.entry.hex()}, valid until",
        f"signed with the operator's key {world.operator('honest')[0].public_hex[:16]}…, which your policy pins",
        "in log.test/fake; witnessed by witness.test/one 20",
        "s ago; the policy accepts 900 s",
        "none of these is among the 0 known here; newer than",
        "c1: key ",
        "output tokens are paid for",
        f"honest: rate card {world.cards['honest'].hex()}, which your policy accepts",
        "numeric profile 0707",
        "device fake",
    ):
        assert part in text
    assert PROMPT not in err


async def test_a_dry_run_sends_nothing_and_uses_no_number(world, capsys):
    async with world.node() as node:
        commands = Shell(world, capsys)
        code, out, err = await commands.infer(PROMPT, "--dry-run")
        assert code == 0
        assert "Nothing was sent." in err
        assert out == ""
        code, out, _ = await commands.infer(PROMPT, "--dry-run", "--json")
        facts = json.loads(out)
        assert facts["sent"] is False
        (told,) = facts["explained"]["checked"]["nodes"]
        assert told["name"] == "honest/node-1"
        assert told["key_bundle"] == node.ring.current().entry.hex()
        assert told["log"]["index"] < told["log"]["size"]
        assert PROMPT not in out
        code, out, _ = await commands.infer(PROMPT, "--max-tokens", "2", "--explain", "--json")
    first, second = (json.loads(line) for line in out.splitlines())
    assert first["sent"] is True
    assert second["number"] == 0


async def test_every_candidate_is_named_as_a_reader(world, capsys):
    async with world.node(), world.node(name="node-2"):
        commands = Shell(world, capsys)
        code, out, _ = await commands.infer(PROMPT, "--candidates", "2", "--dry-run", "--json")
    assert code == 0
    facts = json.loads(out)["explained"]
    names = {node["name"] for node in facts["checked"]["nodes"]}
    assert names == {"honest/node-1", "honest/node-2"}
    assert "each of them reads it" in facts["readers"][0]


async def test_what_was_kept_and_who_did_not_answer_is_said(world):
    async with world.node(), world.client() as client:
        await client.nodes()
        world.audit.away = True
        client._directory._known.clear()
        (node,) = await client.nodes()
        wanted = client._wanted(None, None, {"prompt": PROMPT})
        facts = explain(client._policy, client.custodians, {}, [node, node], wanted, 3, now_ms())
    assert facts["checked"]["nodes"][0]["log"]["accepted_age_s"] == 3600
    assert facts["checked"]["revocations"]["known"] == 3
    assert "The audit server did not answer. The key bundles are those kept" in facts["trusted"][1]
    assert "each of them reads it" in facts["readers"][0]


async def test_the_price_is_bounded_in_money_exactly_as_the_books_rate(world, capsys):
    async with world.node(), world.client() as client:
        commands = Shell(world, capsys)
        code, out, err = await commands.infer(PROMPT, "--max-tokens", "7", "--dry-run", "--json")
        assert code == 0
        checked = json.loads(out)["explained"]["checked"]["price"]
        (node,) = await client.nodes()
        card = (await client.rate_cards())["honest"]
        price = price_for(card, node.bundle.model_roots[0])
        lines = rate_tokens(Tokens(checked["max_input_tokens"], 0, 7), price)
        total = exact_sum(line.amount for line in lines)
        bound = checked["at_most"]["honest"]
        assert bound == {"amount": format_decimal(total), "currency": "EUR", "unknown": None}
        assert total > 0
        code, _, err = await commands.infer(PROMPT, "--max-tokens", "7", "--dry-run")
    assert f"honest: at most {bound['amount']} EUR for this attempt" in words(err)
    assert "was not read here" not in err


async def test_a_card_that_is_not_the_one_accepted_prices_nothing(world, capsys):
    """A server that shows another card under the accepted one's entry, or none, is not believed."""
    async with world.node():
        commands = Shell(world, capsys)
        bundle = next(raw for raw in world.audit.statements if b"key-bundle" in raw)
        for shown in ([], [bundle], [b"junk"]):
            world.audit.cards_shown = shown
            code, out, _ = await commands.infer(PROMPT, "--dry-run", "--json")
            assert code == 0
            told = json.loads(out)["explained"]
            assert told["checked"]["price"]["at_most"]["honest"]["amount"] is None
            assert any("was not read here" in sentence for sentence in told["trusted"])


def test_a_bound_outside_the_cards_time_or_models_is_not_known():
    card = RateCard(
        name="standard", operator="honest", currency="EUR", valid_from=10, valid_to=20,
        prices=(Price(b"m" * 32, "0.10", "0.01", "2", 10**6),),
    )  # fmt: skip
    at = partial(most, card)
    assert at(b"m" * 32, (3, 5), 10).amount == "0.00001030"
    for model, now in ((b"m" * 32, 9), (b"m" * 32, 20), (b"x" * 32, 10)):
        assert at(model, (3, 5), now).amount is None
    assert most(None, b"m" * 32, (3, 5), 10).amount is None


async def test_who_gets_no_share_is_said_with_the_reason(world):
    async with world.node(), world.client() as client:
        (node,) = await client.nodes()
        wanted = client._wanted(None, None, {"prompt": PROMPT})
        chosen = replace(
            client.custodians, left_out={"c9": "2 missing of 3 releases"}, spared={"c1": "1 late"}
        )
        facts = explain(client._policy, chosen, {}, [node], wanted, 0, now_ms())
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(as_tree(facts))
    text = console.export_text()
    assert "c9 gets no share: 2 missing of 3 releases" in text
    assert "c1 gets a share, since too few would be left, in spite of 1 late" in text


def test_a_name_steers_no_terminal_and_is_no_markup():
    node = {
        "name": "[red]x[/red]\x1b[2J", "endpoint": "e", "key_bundle": "0", "valid_until": "t", "operator_key": "k",
        "listed_by": "s", "standing": "new", "demanded_standing": "new", "numeric_profile": "0", "profile": {},
        "log": {"origin": "o", "index": 0, "size": 1, "witnesses": {}, "age_s": 1, "accepted_age_s": 2},
    }  # fmt: skip
    checked = {
        "nodes": [node], "revocations": {"known": 0, "unknown_since": "t"}, "model_root": "0",
        "custodians": {"threshold": 1, "of": 1, "pinned_keys": {}, "audit": "never"},
        "price": {"rate_cards": {}, "at_most": {}, "max_input_tokens": 1, "max_output_tokens": 1, "counted_here": True},
    }  # fmt: skip
    tree = as_tree({"checked": checked, "readers": [], "trusted": []})
    label = tree.children[0].children[0].label
    assert "[red]x" in label.plain
    assert "\x1b" not in label.plain
