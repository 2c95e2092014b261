"""The demonstration's facts: each holds for an honest run, and fails when its own subject changes."""

import copy
import dataclasses
import io
import json
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from shared.installation.audit_view import AuditView
from shared.installation.cheat import Cheat
from shared.installation.demo import PROMPTS
from shared.installation.facts import Report, facts_of
from shared.installation.layout import NodePlan, Plan
from shared.installation.report import render, what_to_try

NODES = (NodePlan("node-a", "operator-a"), NodePlan("node-c", "operator-c", wrapper=("cheat.py",)))
CAUGHT = (10, "0.006")
"""Output tokens of the one receipt with a confirmed FAIL, and what they cost."""
SEAL, EMPTY = "5e", {"missing": 0}


def receipts() -> list[dict]:
    return [
        {
            "log_index": i,
            "entry": f"r{i}",
            "node": NODES[i % 2].name,
            "tenant": "acme",
            "number": i,
            "attempt": 0,
            "finish": "stop",
            "input_tokens": 0,
            "cached_tokens": 0,
            "output_tokens": 10,
        }
        for i in range(4)
    ]


def epochs() -> list[dict]:
    return [
        {"type": "epoch-seal", "entry": SEAL, "payload": {"first": 0, "size": 4}},
        {"type": "draw", "entry": "d", "payload": {"seal": SEAL, "drawn": [0, 1]}},
    ]


def verdicts() -> list[dict]:
    return [
        verdict("r0", "node-a", "PASS", "exact"),
        verdict("r1", "node-c", "FAIL", "tokens"),
        verdict("r1", "node-c", "FAIL", "tokens", confirms="v1"),
    ]


def verdict(
    receipt: str, node: str, outcome: str, reason: str, confirms: str | None = None
) -> dict:
    return {
        "receipt": receipt,
        "node": node,
        "outcome": outcome,
        "reason": reason,
        "confirms": confirms,
    }


def invoice(output: int) -> dict:
    prices = {"input": "0.30", "cached": "0.03", "output": "0.60"}
    quantities = {"input": 100, "cached": 0, "output": output}
    return {
        "lines": [
            {"kind": kind, "quantity": quantities[kind], "unit_price": prices[kind], "per": 1000}
            for kind in prices
        ]
    }


def reconciled(over: int, value: str, refused: int = 0, unproven: str = "0") -> dict:
    key = {"tokens": {"output": over + refused}, "refused": {"output": refused}}
    return {
        "currency": "EUR",
        "keys": [key] if over or refused else [],
        "parts": {
            "unproven": unproven,
            "quantity": value,
            "price": "0",
            "missing": "0",
            "rounding": "0.001",
        },
        "proven": "0.04",
        "held": "0",
        "billed": "0.05",
        "gap": "0.01",
    }


def costs() -> dict:
    return {
        "meters": {"operator-a": invoice(20), "operator-c": invoice(20)},
        "claims": {"operator-a": invoice(20), "operator-c": invoice(23)},
        "reconciled": {
            "operator-a": reconciled(0, "0"),
            "operator-c": reconciled(3, "0.0018", *CAUGHT),
        },
        "focus": {"rows": 8, "file": "focus.csv"},
        "payable": [{"operator": "operator-a", "amount": "0.012"}],
        "invoices": {"operator-a": "a.json", "operator-c": "c.json"},
    }


def answer() -> dict:
    return {"checked": True, "usage": {"output": 10}, "ttft_ms": 20.0, "total_ms": 90.0}


def found() -> dict:
    return {
        "answers": [answer() for _ in range(4)],
        "receipts": receipts(),
        "epochs": epochs(),
        "verdicts": verdicts(),
        "proofs": {"missing": 0},
        "costs": costs(),
        "fsck": {"findings": []},
        "refusals": [],
        "status": {"node-c": {"bundle_witnessed": True, "receipts": 2, "delivered": 2}},
        "seldom": "",
    }


def report(facts: dict) -> Report:
    status = {"size": 9, "witnessed_size": 9, "witnessed_root": "ab" * 32, "findings": 0}
    return Report(
        plan=Plan(Path("data"), NODES),
        cheat=Cheat(("cheat.py",), "samples from another seed", facts["seldom"]),
        answers=facts["answers"],
        refusals=facts["refusals"],
        prompts=4,
        proofs=facts["proofs"],
        view=AuditView.of(facts["receipts"], facts["epochs"], facts["verdicts"]),
        costs=facts["costs"],
        status=facts["status"],
        log={"fsck": facts["fsck"], "status": status},
        deaths=[],
        seconds={"start": 1.0, "answers": 2.0, "all": 4.0},
        addresses={},
    )


def test_the_commands_at_the_end_are_for_the_folder_and_can_be_copied():
    odd = Path("/data/it's 100%, [new]")
    made = dataclasses.replace(report(found()), plan=Plan(odd, NODES))
    commands = [
        shlex.split(line) for line in what_to_try(made).splitlines() if "counterfoil" in line
    ]
    assert commands[0] == ["counterfoil", "up", "--folder", str(odd)]
    assert commands[1][:4] == ["counterfoil", "infer", "--config", f"{odd}/client/client.toml"]
    assert commands[2][:3] == ["counterfoil", "cost", "reconcile"]


def fallen(facts: dict) -> list[str]:
    return [fact.promise for fact in facts_of(report(facts)) if not fact.holds]


def test_every_fact_holds_for_a_run_that_did_its_job():
    assert fallen(found()) == []


def unchecked(facts):
    facts["answers"][0]["checked"] = False


def unanswered(facts):
    facts["answers"].pop()


def unproved(facts):
    facts["proofs"]["missing"] = 1


def lost_receipt(facts):
    facts["receipts"].pop()


def uncovered(facts):
    facts["epochs"][0]["payload"]["size"] = 3


def unjudged(facts):
    facts["verdicts"].pop(0)


def honest_failed(facts):
    facts["verdicts"][0]["outcome"] = "FAIL"


def honest_named(facts):
    facts["verdicts"].append(verdict("r0", "node-a", "FAIL", "tokens", confirms="v"))


def cheater_unnamed(facts):
    facts["verdicts"] = [facts["verdicts"][0], verdict("r1", "node-c", "PASS", "exact")]


def honest_refused_by_the_client(facts):
    facts["refusals"].append({"node": "node-a", "error": "COMMITMENT_MISMATCH", "detail": "no"})


def unconfirmed(facts):
    facts["verdicts"].pop()


def overclaim_missed(facts):
    facts["costs"]["reconciled"]["operator-c"] = reconciled(0, "0", *CAUGHT)


def overclaim_by_one_token(facts):
    facts["costs"]["reconciled"]["operator-c"] = reconciled(2, "0.0012", *CAUGHT)


def overclaim_by_a_hundredth_cent(facts):
    facts["costs"]["reconciled"]["operator-c"]["parts"]["quantity"] = "0.0017"


def honest_overclaims(facts):
    facts["costs"]["reconciled"]["operator-a"] = reconciled(3, "0.0018")


def caught_is_paid(facts):
    facts["costs"]["reconciled"]["operator-c"] = reconciled(3, "0.0018")


def refused_at_another_price(facts):
    facts["costs"]["reconciled"]["operator-c"]["parts"]["unproven"] = "0.007"


def honest_refused(facts):
    facts["costs"]["reconciled"]["operator-a"] = reconciled(0, "0", *CAUGHT)


def other_variance(facts):
    facts["costs"]["reconciled"]["operator-a"]["parts"]["price"] = "0.01"


def no_export(facts):
    facts["costs"]["focus"]["rows"] = 0


def fsck_finds(facts):
    facts["fsck"]["findings"] = ["tile 0 differs"]


def fsck_failed(facts):
    facts["fsck"] = {"error": "the database is away"}


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (unchecked, "every prompt was answered"),
        (unanswered, "every prompt was answered"),
        (unproved, "every receipt is in the log"),
        (lost_receipt, "every receipt is in the log"),
        (uncovered, "every drawn receipt was judged"),
        (unjudged, "every drawn receipt was judged"),
        (honest_failed, "no honest node has a FAIL"),
        (honest_named, "is named"),
        (cheater_unnamed, "is named"),
        (honest_refused_by_the_client, "is named"),
        (honest_refused_by_the_client, "every prompt was answered"),
        (unconfirmed, "is named"),
        (overclaim_missed, "operator-c's invoice"),
        (overclaim_by_one_token, "operator-c's invoice"),
        (overclaim_by_a_hundredth_cent, "operator-c's invoice"),
        (honest_overclaims, "operator-a's invoice"),
        (other_variance, "operator-a's invoice"),
        (caught_is_paid, "nothing is payable of what node-c was caught at"),
        (refused_at_another_price, "operator-c's invoice"),
        (honest_refused, "operator-a's invoice"),
        (no_export, "FOCUS"),
        (fsck_finds, "the log is whole"),
        (fsck_failed, "the log is whole"),
    ],
)
def test_a_fact_falls_when_its_subject_changes(change, promise):
    facts = copy.deepcopy(found())
    change(facts)
    assert any(promise in fact for fact in fallen(facts))


def told(facts: dict, promise: str) -> str:
    """What was found about the one promise with these words in it, which must hold."""
    (fact,) = [fact for fact in facts_of(report(facts)) if promise in fact.promise]
    assert fact.holds, fact
    return fact.found


def nothing_refused() -> dict:
    """A run in which no verdict blames anybody, and nothing but the overclaim is amiss."""
    facts = found()
    cheater_unnamed(facts)
    facts["costs"]["reconciled"]["operator-c"] = reconciled(3, "0.0018")
    return facts


def test_a_node_is_named_by_two_auditors_with_their_reasons():
    assert (
        told(found(), "is named") == "node-c by two auditors that agree on 1 answers: FAIL tokens"
    )


def test_a_node_is_named_by_two_auditors_whom_it_withholds_its_evidence():
    facts = found()
    facts["verdicts"][1:] = [
        verdict("r1", "node-c", "INCONCLUSIVE", "withheld", confirms=one) for one in (None, "v1")
    ]
    assert "INCONCLUSIVE withheld" in told(facts, "is named")
    assert fallen(facts) == []
    facts["verdicts"].pop()
    assert len(fallen(facts)) == 2  # neither judged to the end nor named


def test_a_node_whose_answers_the_client_refuses_is_named_by_the_client():
    facts = nothing_refused()
    refusal = {"node": "node-c", "error": "COMMITMENT_MISMATCH", "detail": "the text is another"}
    facts["refusals"] = [refusal, refusal]
    assert "by the client, which refuses 2" in told(facts, "is named")
    assert "2 of them by another node" in told(facts, "every prompt was answered")
    assert fallen(facts) == []


def test_a_node_whose_key_bundle_the_log_refuses_is_named_by_the_log_and_bills_nothing():
    facts = nothing_refused()
    facts["status"]["node-c"]["bundle_witnessed"] = False
    for what in ("claims", "meters", "reconciled", "invoices"):
        del facts["costs"][what]["operator-c"]
    for item in (*facts["receipts"], *facts["verdicts"]):
        item["node"] = "node-a"
    assert "by the log" in told(facts, "is named")
    assert told(facts, "nothing to bill") == "0 receipts"
    assert fallen(facts) == []
    assert "operator-c" in shown(facts, 80)
    facts["receipts"][3]["node"] = "node-c"
    assert "no price" in " ".join(fact.promise for fact in facts_of(report(facts)))
    assert not any("nothing to bill" in fact for fact in fallen(facts))
    facts["costs"]["payable"].append({"operator": "operator-c", "amount": "0.006"})
    assert any("nothing to bill" in fact for fact in fallen(facts))


def test_a_node_that_seldom_cheats_may_get_through_a_run_in_words():
    facts = nothing_refused()
    assert any("is named" in fact for fact in fallen(facts))
    facts["seldom"] = "it cheats on one request in a hundred"
    said = told(facts, "is named")
    assert (
        said
        == "nobody, this time: it cheats on one request in a hundred, and 1 of 2 answers were audited"
    )
    assert fallen(facts) == []
    honest_named(facts)
    assert any("is named" in fact for fact in fallen(facts))


def test_what_no_receipt_in_the_log_supports_is_unproven_to_the_last_token():
    facts = nothing_refused()
    facts["refusals"] = [{"node": "node-c", "error": "COMMITMENT_MISMATCH", "detail": "no"}]
    facts["status"]["node-c"]["delivered"] = 0
    bare = reconciled(23, "0", 0, "0.0138")
    facts["costs"]["reconciled"]["operator-c"] = bare
    assert "23 tokens, 0.0138 EUR over" in told(facts, "no payable receipt in the log supports")
    facts["status"]["node-c"]["delivered"] = facts["status"]["node-c"].get("receipts", 0)
    assert "0.0138 EUR over" in told(facts, "no payable receipt in the log supports")
    bare["parts"]["unproven"] = "0.0137"
    assert any("no payable receipt in the log supports" in fact for fact in fallen(facts))


def answered_twice() -> dict:
    """The client went from node-a to another node for its first request, and node-a answered it after its restart."""
    facts = nothing_refused()
    facts["receipts"][3] |= {"number": 0, "attempt": 1}
    facts["costs"]["reconciled"]["operator-a"] = reconciled(0, "0", 10, "0.006")
    return facts


def test_an_honest_node_is_not_blamed_for_an_answer_that_another_one_gave_as_well():
    facts = answered_twice()
    assert "1 superseded, 0.006 EUR not payable" in told(facts, "operator-a's invoice")
    facts["receipts"][3]["finish"] = "failed"  # which supersedes nothing: there is no excuse then
    assert any("operator-a's invoice" in fact for fact in fallen(facts))


def test_what_an_honest_node_may_bill_in_vain_is_what_was_superseded_to_the_token():
    facts = answered_twice()
    facts["costs"]["reconciled"]["operator-a"] = reconciled(0, "0", 11, "0.0066")
    assert any("operator-a's invoice" in fact for fact in fallen(facts))


def shown(facts: dict, width: int) -> str:
    written = io.StringIO()
    Console(width=width, file=written).print(render(report(facts)))
    return written.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_reads_at_usual_widths_and_says_how_it_ended(width):
    text = shown(found(), width)
    assert "Every fact holds." in text
    assert "node-c" in text
    assert "operator-c" in text
    assert max(map(len, text.splitlines())) <= width
    bad = found()
    no_export(bad)
    assert "NOT every fact holds" in shown(bad, width)


def test_answers_without_a_token_have_no_first_one_to_time():
    facts = found()
    for told in facts["answers"]:
        told.update(ttft_ms=None, usage={"output": 0})
    assert "4 with 0 output tokens" in shown(facts, 80)


def test_the_shipped_prompts_are_what_the_demonstration_promises():
    lines = [json.loads(line) for line in PROMPTS.read_text("utf-8").splitlines()]
    texts = [
        " ".join(m["content"] for m in line.get("messages", [])) or line["prompt"] for line in lines
    ]
    turns = [[m["role"] for m in line.get("messages", [])] for line in lines]
    assert len(lines) >= 64
    assert min(map(len, texts)) < 30
    assert max(map(len, texts)) > 300
    assert any("system" in roles for roles in turns)
    assert any(roles.count("user") > 1 for roles in turns)
    assert any(ord(letter) > 0x1F300 for text in texts for letter in text)


def test_an_epoch_that_is_drawn_after_the_next_one_is_waited_for():
    """Missing reveals delay a draw; what the later epoch's draw covers says nothing of the earlier one."""
    seals = [
        {"type": "epoch-seal", "entry": "s0", "payload": {"first": 0, "size": 3}},
        {"type": "epoch-seal", "entry": "s1", "payload": {"first": 3, "size": 4}},
    ]
    late = {"type": "draw", "entry": "d1", "payload": {"seal": "s1", "drawn": [3]}}
    judged = [verdict("r3", "node-c", "PASS", "exact")]
    view = AuditView.of(receipts(), [*seals, late], judged)
    assert view.covered == 1
    assert not view.complete
    first = {"type": "draw", "entry": "d0", "payload": {"seal": "s0", "drawn": []}}
    assert AuditView.of(receipts(), [*seals, late, first], judged).complete


def test_a_charge_waits_for_whoever_confirms_or_refutes_it_however_often_it_is_made():
    """Of a chain, one auditor may make it once for each receipt that it was given."""
    drawn = [
        {"type": "epoch-seal", "entry": "s0", "payload": {"first": 0, "size": 9}},
        {"type": "draw", "entry": "d0", "payload": {"seal": "s0", "drawn": []}},
    ]
    charge = verdict("r3", "node-c", "FAIL", "activations") | {"confirms": None}
    assert not AuditView.of(receipts(), drawn, [charge, charge]).complete
    for other in (charge | {"confirms": "v1"}, charge | {"outcome": "PASS", "reason": "exact"}):
        assert AuditView.of(receipts(), drawn, [charge, other]).complete


def falsified(refused: int, unproven: str, *, chained: bool = True) -> list[str]:
    """Return what is said of operator-a's invoice, and whether it falls, where node-c is a stage of node-a's chain, and
    convicted for its part of the first of two answers.
    """
    facts = found()
    for stage, head in ((1, 0), (3, 2)):
        facts["receipts"][stage]["number"] = head
    facts["costs"]["reconciled"]["operator-a"] = reconciled(0, "0", refused, unproven)
    nodes = NODES
    if chained:
        stage_of = dataclasses.replace(NODES[1], head="node-a", part="1:2")
        nodes = (NODES[0], stage_of)
    made = dataclasses.replace(report(facts), plan=Plan(Path("data"), nodes))
    [fact] = [fact for fact in facts_of(made) if "operator-a's invoice" in fact.promise]
    return [fact.promise, fact.found] if fact.holds else []


def test_an_honest_operator_bills_its_part_of_a_falsified_answer_in_vain_and_is_not_blamed():
    promise, said = falsified(10, "0.006")
    assert "a place of its chain has falsified" in promise
    assert "1 of false chains, 0.006 EUR not payable" in said
    assert not falsified(20, "0.012")  # the other answer was not falsified
    assert not falsified(10, "0.005")
    assert not falsified(10, "0.006", chained=False)
