"""An explanation says in plain words what was checked, found and decided, and what follows; and promises nothing else."""

import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from audit_layer.api.account_schemas import (
    AccountView,
    EpochView,
    JudgementView,
    OpinionView,
    PayableView,
)
from audit_layer.api.schemas import ReceiptView, VerdictView
from audit_layer.commands.explanation import explain
from audit_layer.commands.explanation_page import for_people, page
from audit_layer.commands.explanation_words import HOLDS, MEANS
from audit_layer.replay.judge import PART, STEPS
from shared.statements.verdicts import Blame, Reason
from shared.verification.judgement import Check, Difference, Judgement

RECEIPT = ReceiptView(
    entry="ab" * 32,
    log_index=40,
    order="01" * 32,
    bundle="02" * 32,
    tenant="acme",
    number=7,
    attempt=0,
    operator="alpha",
    node="one",
    node_sequence=3,
    model_root="03" * 32,
    numeric_profile="04" * 32,
    input_tokens=14,
    cached_tokens=0,
    output_tokens=64,
    compute_ms=40,
    energy_mj=None,
    energy_quality="unmeasured",
    finish="length",
    started=1_790_000_000_000,
    ended=1_790_000_001_000,
    rate_card="05" * 32,
)
DRAWN = EpochView(number=4, state="drawn", rate_ppm=10_000, floor=2, whole=False)
PAYABLE = PayableView(state="payable", reason=None, because=None)
HELD = PayableView(
    state="held", reason="FAIL that no second worker has confirmed", because="06" * 32
)
REFUSED = PayableView(state="refused", reason="confirmed FAIL: tokens", because="07" * 32)


def opinion(
    reason: Reason | None,
    difference: Difference | None = None,
    *,
    kind: str = "primary",
    confirms: str | None = None,
    **facts: int | str,
) -> OpinionView:
    """Return a worker's part, with the checks that lead to its reason; without a reason it is still at work."""
    name = {"primary": "carol", "confirm": "dave"}[kind]
    verdict = judgement = None
    if reason is not None:
        verdict = VerdictView(
            entry=("11" if kind == "primary" else "22") * 32,
            asked=False,
            log_index=50 if kind == "primary" else 60,
            receipt=RECEIPT.entry,
            worker=name,
            outcome=reason.outcome,
            reason=reason,
            confirms=confirms,
            at=RECEIPT.ended,
            tenant="acme",
            operator="alpha",
            node="one",
        )
        ends = next((at for at, step in enumerate(STEPS) if step[2] is reason), len(STEPS))
        checks = [Check(number, name, why) for number, name, why, _ in STEPS[:ends]]
        if ends < len(STEPS):
            checks.append(Check(*STEPS[ends][:3], difference or Difference()))
        judgement = JudgementView.of(Judgement(reason, facts, tuple(checks)))
    return OpinionView(
        kind=kind,
        worker=name,
        asked="draw" if kind == "primary" else "confirm",
        deadline=RECEIPT.ended + 60_000,
        waits_for=None if reason else "NOT_WITNESSED: soon",
        verdict=verdict,
        judgement=judgement,
    )


def account(*opinions: OpinionView, **changes) -> AccountView:
    given = {"receipt": RECEIPT, "epoch": DRAWN, "opinions": list(opinions), "payable": PAYABLE}
    return AccountView(**{**given, **changes})


def shown(found: AccountView) -> str:
    console = Console(width=100, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(for_people(explain(found)))
    return captured.get()


def words(found: AccountView) -> str:
    """Return the same on one line."""
    return " ".join(shown(found).split())


WRONG = Difference("the sampler's choice", "another token", {"output_position": 40, "wrong": 24})


def test_every_check_and_every_reason_has_its_words():
    assert {name for _, name, _, _ in (*STEPS, *PART)} == HOLDS.keys()
    assert set(MEANS) == set(Reason)


def test_a_pass_says_what_was_recomputed():
    passed = opinion(Reason.EXACT, prompt_tokens=14, output_tokens=64, blocks=3)
    found = explain(account(passed))
    assert found.good is True
    text = shown(account(passed))
    assert "14 tokens of prompt and 64 of answer were computed again" in words(account(passed))
    assert "It is payable." in text
    assert text.count("✓") == len(STEPS) + 1
    assert "✗" not in text


def test_a_fail_names_the_place_and_who_looks_next():
    waiting = opinion(None, kind="confirm")
    text = words(account(opinion(Reason.TOKENS, WRONG), waiting, payable=HELD))
    assert text.startswith("FAIL (tokens), not confirmed yet;")
    assert "token 40 of the answer (counted from 0)" in text
    assert "24 places differ" in text
    assert "dave (second opinion) was asked" in text
    assert "counterfoil node deposit" in text
    assert "held" in text


def test_a_confirmed_fail_says_so_and_what_it_costs():
    first, second = (
        opinion(Reason.TOKENS, WRONG),
        opinion(Reason.TOKENS, WRONG, kind="confirm", confirms="11" * 32),
    )
    text = words(account(first, second, payable=REFUSED))
    assert text.startswith("FAIL (tokens), confirmed by a second auditor; not payable.")
    assert "dave (second opinion, " in text
    assert "not payable: confirmed FAIL: tokens" in text
    assert "counts in the node's standing" in text


def test_a_fail_that_a_second_worker_contradicts_has_no_consequence():
    found = account(opinion(Reason.TOKENS, WRONG), opinion(Reason.EXACT, kind="confirm"))
    text = words(found)
    assert text.startswith("FAIL (tokens), not confirmed yet;")
    assert "did not agree, so it has no consequence" in text


@pytest.mark.parametrize(
    ("epoch", "words"),
    [
        (None, "Not audited yet"),
        (DRAWN.model_copy(update={"state": "open", "whole": None}), "Not audited yet"),
        (DRAWN, "That is not a PASS"),
    ],
)
def test_a_receipt_that_nobody_judged_says_why(epoch, words):
    assert words in explain(account(epoch=epoch)).headline


@pytest.mark.parametrize("reason", list(Reason))
def test_blame_is_never_put_on_a_node_for_what_is_not_its_doing(reason):
    found = explain(account(opinion(reason)))
    assert found.good is {Blame.NODE: False, Blame.NOBODY: True}.get(reason.blame)
    text = shown(account(opinion(reason)))
    assert ("second auditor will be asked" in text) == (reason.blame is Blame.NODE)


def test_what_never_came_is_shown_with_what_the_sources_said():
    text = words(account(opinion(Reason.WITHHELD, why="node.example: UNAVAILABLE")))
    assert "What the sources answered: node.example: UNAVAILABLE" in text
    assert "An outage looks the same as a refusal" in text


class Tags(HTMLParser):
    """Collects tags, to see that no text became one."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


def test_the_page_holds_the_same_lines_and_nothing_of_it_can_act():
    hostile = opinion(Reason.WITHHELD, why="<script>alert(1)</script>\x1b[2J & more")
    found = explain(account(hostile))
    made = page(found, "Audit of <b>it</b>")
    tags = Tags()
    tags.feed(made)
    assert tags.tags == {"html", "meta", "title", "style", "body", "h1", "h2", "ul", "li"}
    assert len(re.findall("<li", made)) == sum(len(section.lines) for section in found.sections)
    assert "\x1b" not in shown(account(hostile))
