"""A line whose receipts fill several files: each part is proved, and together they are the whole or it is said what is not."""

from collections.abc import Sequence
from typing import Any

import pytest

from shared.runtime.errors import Code
from shared.verification.line_parts import verify_parts
from shared.verification.line_proof import A_PART, verify_line
from shared.verification.line_proof_file import END_INDEX, LineProof
from shared.verification.payable import State
from shared.verification.trust import Trust
from tests.shared.verification.lines import OWN, Case, changed, expected

CASE = Case.made()
HONEST = CASE.proof()
MIDDLE = HONEST.receipts[2].index
"""The log index at which the second part begins."""


def part(first: int, end: int, tokens: int, held: str, **changes: Any) -> LineProof:
    """Return the part of the line at log indexes [first, end)."""
    receipts = tuple(item for item in HONEST.receipts if first <= item.index < end)
    given = {
        "scope": HONEST.scope.model_copy(update={"first_index": first, "end_index": end}),
        "receipts": receipts,
        "others": HONEST.others if end == END_INDEX else (),
        "figures": expected(CASE.card, tokens, held, "1"),
        **changes,
    }
    return CASE.proof(**given)


FIRST = part(0, MIDDLE, 100, "0")
SECOND = part(MIDDLE, END_INDEX, 90, "0.08")


def fails(parts: Sequence[LineProof], step: int, words: str) -> None:
    report = verify_parts(parts, OWN)
    last = report.steps[-1]
    assert (last.number, last.code) == (step, Code.COMMITMENT_MISMATCH.name), last
    assert words in (last.detail or ""), last
    assert report.facts == {}


@pytest.mark.parametrize("trust", [Trust(), OWN], ids=["on its word", "own pins"])
@pytest.mark.parametrize("parts", [(FIRST, SECOND), (SECOND, FIRST)], ids=["in order", "not"])
def test_all_parts_together_prove_what_one_file_would(parts: Sequence[LineProof], trust: Trust):
    report, whole = verify_parts(parts, trust), verify_line(HONEST, trust)
    assert report.verified, report.steps[-1]
    for name in ("invoice", "claims", "scope", "receipts", "entries", "figures"):
        assert report.facts[name] == whole.facts[name], name
    assert report.rests_on == whole.rests_on
    assert len(report.steps) == 4


def test_one_part_alone_is_proved_as_what_it_is():
    report = verify_line(SECOND, OWN)
    assert report.verified
    assert A_PART in report.rests_on
    assert A_PART not in verify_line(HONEST, OWN).rests_on


def test_one_whole_file_is_all_parts():
    assert verify_parts([HONEST], OWN).verified


def test_a_part_that_is_missing_or_there_twice_is_named_by_its_log_indexes():
    fails([FIRST], 2, f"from {MIDDLE} to before {END_INDEX} are missing")
    fails([SECOND], 2, f"from 0 to before {MIDDLE} are missing")
    fails([FIRST, FIRST, SECOND], 4, f"from 0 to before {MIDDLE} are in two parts")


def test_a_part_that_does_not_verify_fails_with_its_own_step():
    wrong = part(MIDDLE, END_INDEX, 91, "0.08")
    fails([FIRST, wrong], 2, "step 12, ")


def test_parts_of_different_lines_are_refused():
    claim = HONEST.claims[0].model_copy(update={"line_id": "b"})
    fails([FIRST, part(MIDDLE, END_INDEX, 90, "0.08", claims=(claim,))], 3, "different lines")
    invoice = HONEST.invoice.model_copy(update={"number": 8})
    fails([FIRST, part(MIDDLE, END_INDEX, 90, "0.08", invoice=invoice)], 3, "different lines")


def test_parts_with_different_exchange_rates_are_refused():
    invoice = HONEST.invoice.model_copy(update={"currency": "USD"})
    exchanged = [
        part.model_copy(
            update={
                "invoice": invoice,
                "figures": part.figures.model_copy(
                    update={"fx_rate": rate, "proven": proven, "difference": difference}
                ),
            }
        )
        for part, rate, proven, difference in (
            (FIRST, "1.25", "0.25", "0.75"),
            (SECOND, "1.5", "0.27", "0.73"),
        )
    ]
    fails(exchanged, 3, "exchange rates")


def test_a_receipt_in_another_part_is_no_part_of_this_one():
    shifted = FIRST.scope.model_copy(update={"end_index": MIDDLE - 1})
    fails([FIRST.model_copy(update={"scope": shifted}), SECOND], 1, "another part of the proof")


def test_what_one_part_refuses_no_other_part_may_call_payable():
    """A part that hides the later attempt calls the earlier one payable: the part that has it does not."""
    case = Case.made()
    early = case.ledger.raws.index(case.early)
    proof = case.proof()
    wide = proof.scope.model_copy(
        update={"end": proof.scope.end + 86_400_000, "end_index": early + 1}
    )
    hidden = changed(proof.others[0], state=State.PAYABLE, because=None)
    first = case.proof(
        scope=wide, receipts=(hidden,), others=(), figures=expected(case.card, 9, "0", "1")
    )
    rest = proof.scope.model_copy(
        update={"end": wide.end, "first_index": early + 1, "end_index": END_INDEX}
    )
    second = case.proof(scope=rest)
    for each in (first, second):
        report = verify_line(each, OWN)
        assert report.verified, report.steps[-1]
    fails([first, second], 3, "in one part, and not so in another")
