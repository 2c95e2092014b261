"""A proof of an invoice's line: an honest one verifies, and whatever is wrong with another is found at its own step."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of, read_as
from shared.statements.periods import PeriodSeal
from shared.statements.receipts import Finish
from shared.statements.verdicts import Reason, Verdict
from shared.verification.bundle_check import Report
from shared.verification.line_proof import verify_line
from shared.verification.line_proof_file import (
    MAX_FILE,
    MAX_RECEIPTS,
    LineProof,
    ReceiptPart,
    parse_line_proof,
    read_line_proof,
)
from shared.verification.payable import State
from shared.verification.rating import TokenKind
from shared.verification.trust import Trust
from tests.shared.verification.lines import (
    CARD,
    DAY,
    OWN,
    SIGNERS,
    Case,
    changed,
    expected,
    line_of,
    policy,
    seal_of,
    signed,
    verdict,
)
from tests.vectors.bundle_samples import KEY_BUNDLE
from tests.vectors.samples import BUNDLE, NOW, octets, signing_key

CASE = Case.made()
HONEST = CASE.proof()
TEXT = HONEST.encode()

POLICY, CHECKPOINT, KEY_BUNDLES, CARDS, RECEIPTS, ORDERS, VERDICTS, SEALS = range(1, 9)
SCOPE, OUTCOMES, BILLS, ARITHMETIC, DIFFERENCE = range(9, 14)


def told(proof: LineProof, trust: Trust = OWN) -> tuple[int, str | None, str]:
    """Return the last step: its number, its error's code and its detail."""
    last = verify_line(proof, trust).steps[-1]
    return last.number, last.code, last.detail or ""


def fails(proof: LineProof, step: int, code: Code, words: str = "") -> None:
    """Check that verification ends at a step, with nothing claimed."""
    report = verify_line(proof, OWN)
    last = report.steps[-1]
    assert (last.number, last.code) == (step, code.name), last
    assert words in (last.detail or ""), last
    assert all(item.holds for item in report.steps[:-1])
    assert report.facts == {}


def with_receipt(at: int, part: ReceiptPart, **changes: Any) -> LineProof:
    """Return the honest proof with another part in a receipt's place."""
    parts = list(HONEST.receipts)
    parts[at] = part
    return CASE.proof(receipts=tuple(parts), **changes)


# -- what an honest proof shows ----------------------------------------------------------------------


@pytest.mark.parametrize("trust", [Trust(), OWN], ids=["on its word", "own pins"])
def test_an_honest_line_is_proved(trust: Trust):
    report = verify_line(HONEST, trust)
    assert report.verified, report.steps
    assert len(report.steps) == DIFFERENCE
    assert report.facts["receipts"] == {"payable": 2, "held": 1, "refused": 1}
    assert report.facts["entries"] == [entry_of(raw) for raw in CASE.receipts]
    shown = report.facts["figures"]
    assert (shown["proven"], shown["held"], shown["difference"]) == ("0.38", "0.08", "0.62")
    assert "190 output × 2 / 1000 = 0.38 EUR" in str(report.steps[ARITHMETIC - 1].detail)
    assert "output 500 billed, 190 proven" in report.as_text()


def test_what_rests_on_the_makers_word_is_said():
    own, alone = verify_line(HONEST, OWN), verify_line(HONEST, Trust())
    assert any("your own policy" in sentence for sentence in own.rests_on)
    assert any("only its maker says" in sentence for sentence in alone.rests_on)
    for report in (own, alone):
        assert any("these are all receipts behind the line" in one for one in report.rests_on)
        assert any("ab" * 32 in sentence for sentence in report.rests_on)
    bare = CASE.proof(
        seals=(), receipts=tuple(changed(part, sealed=()) for part in HONEST.receipts)
    )
    report = verify_line(bare, OWN)
    assert report.verified
    assert any("no closed period bills" in sentence for sentence in report.rests_on)
    assert not any("no closed period bills" in sentence for sentence in own.rests_on)


def test_a_line_without_any_receipt_is_proved_to_be_unproven():
    nothing = expected(CASE.card, 0, "0", "1").model_copy(
        update={"terms": (), "proven": "0", "difference": "1"}
    )
    empty = CASE.proof(receipts=(), others=(), seals=(), key_bundles=(), figures=nothing)
    report = verify_line(empty, OWN)
    assert report.verified, report.steps
    assert report.facts["figures"]["difference"] == "1"


def test_a_proof_in_another_currency_is_exchanged_at_the_stated_rate_and_says_whose_it_is():
    abroad = HONEST.invoice.model_copy(update={"currency": "USD"})
    figures = HONEST.figures.model_copy(
        update={"fx_rate": "1.25", "proven": "0.475", "difference": "0.525"}
    )
    report = verify_line(CASE.proof(invoice=abroad, figures=figures), OWN)
    assert report.verified, report.steps
    assert any("exchange rate" in sentence for sentence in report.rests_on)
    at_par = verify_line(CASE.proof(invoice=abroad), OWN)
    assert at_par.verified
    assert any("exchange rate" in sentence for sentence in at_par.rests_on)
    assert not any("exchange rate" in sentence for sentence in verify_line(HONEST, OWN).rests_on)
    fails(CASE.proof(figures=figures), ARITHMETIC, Code.COMMITMENT_MISMATCH, "within one currency")
    free = HONEST.figures.model_copy(
        update={"fx_rate": "0", "proven": "0", "difference": "1", "held": "0.08"}
    )
    fails(CASE.proof(invoice=abroad, figures=free), ARITHMETIC, Code.COMMITMENT_MISMATCH)


def test_zeros_at_the_end_of_a_number_make_no_difference():
    figures = HONEST.figures.model_copy(update={"proven": "0.3800", "billed": "1.000"})
    assert verify_line(CASE.proof(figures=figures), OWN).verified


# -- receipts ----------------------------------------------------------------------------------------


def test_a_receipt_that_was_removed_is_missed_in_the_sum():
    fails(
        CASE.proof(receipts=HONEST.receipts[1:]), ARITHMETIC, Code.COMMITMENT_MISMATCH, "90 output"
    )


def test_a_receipt_that_was_doubled_is_refused():
    first, *rest = HONEST.receipts
    fails(CASE.proof(receipts=(first, first, *rest)), RECEIPTS, Code.COMMITMENT_MISMATCH, "follow")
    again = CASE.proof(others=(HONEST.receipts[0], *HONEST.others))
    fails(again, RECEIPTS, Code.COMMITMENT_MISMATCH)
    fails(
        CASE.proof(others=(HONEST.receipts[0],)), RECEIPTS, Code.COMMITMENT_MISMATCH, "there twice"
    )


def test_a_receipt_of_the_line_that_was_added_changes_the_sum():
    case = Case.made()
    extra = case.ledger.receipt(4, card=case.card, usage={"output": 60})
    proof = case.proof()
    added = case.proof(receipts=(*proof.receipts, case.ledger.part(extra)))
    fails(added, ARITHMETIC, Code.COMMITMENT_MISMATCH, "250 output")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ended": NOW + DAY, "started": NOW + DAY}, "ended on another day"),
        ({"model_root": octets("other model")}, "of another model"),
    ],
    ids=["another day", "another model"],
)
def test_a_receipt_that_is_not_the_lines_is_refused(changes: dict[str, Any], words: str):
    case = Case.made()
    bundle = KEY_BUNDLE
    if "model_root" in changes:
        roots = (*BUNDLE.model_roots, octets("other model"))
        bundle = case.ledger.add(signed(replace(BUNDLE, model_roots=roots), "gpu-farm"))
    extra = case.ledger.receipt(4, card=case.card, bundle=bundle, **changes)
    proof = case.proof()
    added = case.proof(
        receipts=(*proof.receipts, case.ledger.part(extra)),
        key_bundles=(*proof.key_bundles, *([case.ledger.logged(bundle)] * (bundle != KEY_BUNDLE))),
    )
    fails(added, SCOPE, Code.COMMITMENT_MISMATCH, words)


@pytest.mark.parametrize(
    ("name", "value"), [("tenant", "bolt"), ("node", "n2"), ("model_root", "00" * 32)]
)
def test_receipts_of_another_tenant_node_or_model_than_the_lines_are_refused(name, value):
    scope = HONEST.scope.model_copy(update={name: value})
    fails(CASE.proof(scope=scope), SCOPE, Code.COMMITMENT_MISMATCH, name.partition("_")[0])


def test_receipts_of_another_operator_than_the_invoices_are_refused():
    invoice = HONEST.invoice.model_copy(update={"operator": "rival"})
    fails(CASE.proof(invoice=invoice), SCOPE, Code.COMMITMENT_MISMATCH, "another operator")


def test_a_line_that_names_less_takes_in_more():
    scope = HONEST.scope.model_copy(update={"tenant": None, "node": None, "model_root": None})
    assert verify_line(CASE.proof(scope=scope), OWN).verified


def test_others_are_of_the_same_requests_and_not_the_lines():
    case = Case.made()
    stranger = case.ledger.receipt(9, card=case.card, started=NOW + DAY, ended=NOW + DAY)
    proof = case.proof()
    with_stranger = case.proof(others=(*proof.others, case.ledger.part(stranger)))
    fails(with_stranger, SCOPE, Code.COMMITMENT_MISMATCH, "of no request")
    wider = HONEST.scope.model_copy(update={"end": NOW + 2 * DAY})
    fails(CASE.proof(scope=wider), SCOPE, Code.COMMITMENT_MISMATCH, "among the others")


def test_a_receipt_by_another_key_than_its_bundles_is_refused():
    case = Case.made()
    forged = case.ledger.receipt(4, card=case.card, node="rival")
    proof = case.proof()
    fails(
        case.proof(receipts=(*proof.receipts, case.ledger.part(forged))),
        RECEIPTS,
        Code.UNTRUSTED_KEY,
        "index 11",
    )


def test_a_receipt_whose_key_bundle_is_not_shown_is_refused():
    fails(CASE.proof(key_bundles=()), RECEIPTS, Code.COMMITMENT_MISMATCH, "key bundle")


def test_an_order_that_is_not_the_receipts_is_refused():
    wrong = changed(HONEST.receipts[0], order=HONEST.receipts[1].order)
    fails(with_receipt(0, wrong), ORDERS, Code.COMMITMENT_MISMATCH, "another order")


def test_a_cancellation_that_the_tenant_did_not_sign_is_refused():
    for signer, step in (("node", ORDERS), ("tenant", ARITHMETIC)):
        case = Case.made()
        raw = case.ledger.receipt(4, card=case.card, finish=Finish.CANCELLED)
        own = case.ledger.orders[entry_of(raw)]
        signature = sign_cancellation(entry_of(own), signing_key(signer))
        raw = case.ledger.receipt(4, card=case.card, finish=Finish.CANCELLED, cancel=signature)
        proof = case.proof()
        found = told(case.proof(receipts=(*proof.receipts, case.ledger.part(raw))))
        assert found[0] == step, found


# -- the log -----------------------------------------------------------------------------------------


def _parts() -> list[tuple[str, int]]:
    return [("key_bundles", KEY_BUNDLES), ("rate_cards", CARDS), ("receipts", RECEIPTS), ("seals", SEALS)]  # fmt: skip


@pytest.mark.parametrize(("name", "step"), _parts())
def test_a_proof_of_inclusion_that_leads_elsewhere_is_refused(name: str, step: int):
    first, *rest = getattr(HONEST, name)
    other = type(first)(**{**first.model_dump(), "path": (octets("other"), *first.path[1:])})
    fails(CASE.proof(**{name: (other, *rest)}), step, Code.BAD_PROOF)
    short = type(first)(**{**first.model_dump(), "path": first.path[1:]})
    fails(CASE.proof(**{name: (short, *rest)}), step, Code.BAD_PROOF)


def test_a_verdict_that_is_not_in_the_log_is_refused():
    first, second = HONEST.receipts[1].verdicts
    moved = first.model_copy(update={"index": 2})
    wrong = changed(HONEST.receipts[1], verdicts=(moved, second))
    fails(with_receipt(1, wrong), VERDICTS, Code.BAD_PROOF, "a verdict about")


def test_too_few_witnesses_are_not_a_quorum():
    log = HONEST.log.model_copy(update={"checkpoint": CASE.ledger.note(witnesses=1)})
    fails(CASE.proof(log=log), CHECKPOINT, Code.NOT_WITNESSED)


def test_another_checkpoint_does_not_fit():
    grown = Case.made()
    grown.ledger.add(signed(replace(CARD, name="new"), "gpu-farm"))
    log = HONEST.log.model_copy(update={"checkpoint": grown.ledger.note()})
    fails(CASE.proof(log=log), KEY_BUNDLES, Code.BAD_PROOF)


def test_a_policy_that_cannot_be_read_fails_unless_the_verifier_has_its_own():
    log = HONEST.log.model_copy(update={"policy": "none"})
    assert told(CASE.proof(log=log), Trust())[0] == POLICY
    assert verify_line(CASE.proof(log=log), OWN).verified


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("gpu-farm", KEY_BUNDLES),
        ("acme", ORDERS),
        ("worker-2", VERDICTS),
        ("authority", SEALS),
    ],
)
def test_a_name_that_the_verifier_pins_has_no_other_keys(name: str, step: int):
    pins = {each: {public_bytes(signing_key(key))} for each, key in SIGNERS.items()}
    stranger = Trust(policy()).with_signers(pins | {name: {public_bytes(signing_key("stranger"))}})
    assert told(HONEST, stranger)[:2] == (step, "UNTRUSTED_KEY")


# -- rate cards --------------------------------------------------------------------------------------


def test_another_rate_card_than_the_receipts_name_prices_nothing():
    case = Case.made()
    cheap = tuple(replace(price, output="1") for price in CARD.prices)
    other = case.ledger.add(signed(replace(CARD, prices=cheap), "gpu-farm"))
    proof = case.proof(rate_cards=(case.ledger.logged(other),))
    fails(proof, OUTCOMES, Code.COMMITMENT_MISMATCH, "is refused, not payable")


def test_a_rate_card_of_another_signer_is_refused():
    case = Case.made()
    forged = case.ledger.add(signed(CARD, "gpu-farm", "rival"))
    fails(case.proof(rate_cards=(case.ledger.logged(forged),)), CARDS, Code.UNTRUSTED_KEY)


def test_a_dropped_rate_card_is_missed_by_the_bill():
    """The file calls its receipts refused then: the sealed bill knows better."""
    parts = [
        changed(part, state=State.REFUSED, because=None) for part in HONEST.receipts
    ]  # fmt: skip
    others = tuple(changed(part, because=None) for part in HONEST.others)
    proof = CASE.proof(rate_cards=(), receipts=tuple(parts), others=others)
    fails(proof, BILLS, Code.COMMITMENT_MISMATCH, "by itself it is not payable")


# -- verdicts ----------------------------------------------------------------------------------------


def test_a_dropped_verdict_no_longer_explains_what_the_file_says():
    first, _ = HONEST.receipts[1].verdicts
    for kept in ((), (first,)):
        wrong = changed(HONEST.receipts[1], verdicts=kept)
        fails(with_receipt(1, wrong), OUTCOMES, Code.COMMITMENT_MISMATCH, "not refused because of")


def test_a_verdict_dropped_with_everything_said_of_it_is_missed_by_the_sealed_bill():
    figures = expected(CASE.card, 220, "0.08", "1")
    lie = changed(HONEST.receipts[1], verdicts=(), state=State.PAYABLE, because=None)
    fails(
        with_receipt(1, lie, figures=figures),
        BILLS,
        Code.COMMITMENT_MISMATCH,
        "its period lacks it",
    )


def test_a_later_attempt_dropped_with_everything_said_of_it_is_missed_by_the_sealed_bill():
    """The earlier attempt would be payable alone; the bill of its period was sealed without it."""
    case = Case.made()
    day = {"start": NOW + DAY, "end": NOW + 2 * DAY, "at": NOW + 2 * DAY}
    lines = [(case.receipts[0], 1)]  # any other line
    seal = case.ledger.add(seal_of(lines, len(case.ledger.raws), **day))
    alone = case.ledger.part(case.early)
    shown = case.proof(
        scope=HONEST.scope.model_copy(update={"start": NOW + DAY, "end": NOW + 2 * DAY}),
        receipts=(alone,),
        others=(),
        seals=(case.ledger.logged(seal),),
        figures=expected(case.card, 9, "0", "1"),
    )
    fails(shown, BILLS, Code.COMMITMENT_MISMATCH, "its period lacks it")


def test_a_verdict_about_another_receipt_is_refused():
    moved = changed(HONEST.receipts[0], verdicts=HONEST.receipts[2].verdicts)
    fails(with_receipt(0, moved), VERDICTS, Code.COMMITMENT_MISMATCH, "about another receipt")


def test_a_verdict_that_nobody_of_that_name_signed_is_refused():
    case = Case.made()
    value = verdict(case.receipts[0], "worker-1", Reason.TOKENS)
    forged = case.ledger.add(signed(read_as(Verdict, value), "worker-1", "rival"))
    proof = case.proof()
    part = changed(proof.receipts[0], verdicts=(case.ledger.logged(forged),))
    parts = (part, *proof.receipts[1:])
    fails(case.proof(receipts=parts), VERDICTS, Code.UNTRUSTED_KEY)


def test_a_verdict_twice_is_refused():
    first, second = HONEST.receipts[1].verdicts
    wrong = changed(HONEST.receipts[1], verdicts=(first, second, second))
    fails(with_receipt(1, wrong), VERDICTS, Code.COMMITMENT_MISMATCH, "there twice")


def test_a_later_attempt_that_is_called_by_another_name_is_not_believed():
    wrong = tuple(changed(part, state=State.PAYABLE, because=None) for part in HONEST.others)
    fails(CASE.proof(others=wrong), OUTCOMES, Code.COMMITMENT_MISMATCH, "is refused because of")


# -- bills of closed periods ---------------------------------------------------------------------------


def test_a_path_that_does_not_lead_to_the_seal_is_refused():
    first = HONEST.receipts[0]
    (line,) = first.sealed
    for wrong in (
        line.model_copy(update={"path": (octets("other"), *line.path[1:])}),
        line.model_copy(update={"index": 1}),
        line.model_copy(update={"net": -1}),
    ):
        fails(with_receipt(0, changed(first, sealed=(wrong,))), BILLS, Code.BAD_PROOF)
    nowhere = line.model_copy(update={"seal": 1})
    fails(
        with_receipt(0, changed(first, sealed=(nowhere,))), BILLS, Code.COMMITMENT_MISMATCH, "seal"
    )
    twice = changed(first, sealed=(line, line))
    fails(with_receipt(0, twice), BILLS, Code.COMMITMENT_MISMATCH, "twice")


def test_a_payable_receipt_that_its_periods_bill_lacks_is_refused():
    missing = changed(HONEST.receipts[0], sealed=())
    fails(with_receipt(0, missing), BILLS, Code.COMMITMENT_MISMATCH, "its period lacks it")


def test_a_receipt_that_a_bill_takes_back_is_not_payable_without_a_reason():
    case = Case.made()
    lines = [(case.receipts[0], -1)]
    later = case.ledger.add(
        seal_of(lines, len(case.ledger.raws), start=NOW + DAY, end=NOW + 2 * DAY)
    )
    proof = case.proof()
    back = line_of(lines, case.receipts[0], seal=1)
    first = changed(proof.receipts[0], sealed=(*proof.receipts[0].sealed, back))
    spoiled = case.proof(
        receipts=(first, *proof.receipts[1:]), seals=(*proof.seals, case.ledger.logged(later))
    )
    fails(spoiled, BILLS, Code.COMMITMENT_MISMATCH, "takes it back")


def test_the_bill_of_other_parties_is_not_the_receipts():
    case = Case.made()
    lines = case.bill
    foreign = case.ledger.add(seal_of(lines, len(case.ledger.raws), tenant="bolt"))
    proof = case.proof(seals=(case.ledger.logged(foreign),))
    fails(proof, BILLS, Code.COMMITMENT_MISMATCH, "other parties")


def test_a_seal_by_another_than_the_authority_is_refused():
    case = Case.made()
    forged = case.ledger.add(signed(read_as(PeriodSeal, case.seal), "authority", "rival"))
    fails(case.proof(seals=(case.ledger.logged(forged),)), SEALS, Code.UNTRUSTED_KEY)


# -- arithmetic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"proven": "0.39", "difference": "0.61"}, ARITHMETIC),
        ({"held": "0"}, ARITHMETIC),
        ({"currency": "USD"}, ARITHMETIC),
        ({"terms": ()}, ARITHMETIC),
        ({"difference": "0.61"}, DIFFERENCE),
        ({"billed": "2", "difference": "1.62"}, DIFFERENCE),
    ],
)
def test_figures_that_do_not_follow_are_refused(changes: dict[str, Any], step: int):
    figures = HONEST.figures.model_copy(update=changes)
    fails(CASE.proof(figures=figures), step, Code.COMMITMENT_MISMATCH)


@pytest.mark.parametrize(
    "changes", [{"quantity": 191}, {"unit_price": "1"}, {"per": 1}, {"amount": "0.39"}]
)
def test_other_tokens_or_another_price_than_was_signed_are_refused(changes: dict[str, Any]):
    (term,) = HONEST.figures.terms
    figures = HONEST.figures.model_copy(update={"terms": (term.model_copy(update=changes),)})
    fails(CASE.proof(figures=figures), ARITHMETIC, Code.COMMITMENT_MISMATCH)


def test_another_amount_of_the_line_is_another_difference():
    claim = HONEST.claims[0].model_copy(update={"amount": "0.38"})
    fails(CASE.proof(claims=(claim,)), DIFFERENCE, Code.COMMITMENT_MISMATCH, "0.38 billed")


def test_another_kind_of_token_is_another_sum():
    claim = HONEST.claims[0].model_copy(update={"kind": TokenKind.INPUT})
    fails(CASE.proof(claims=(claim,)), ARITHMETIC, Code.COMMITMENT_MISMATCH, "input")


# -- files from a hostile hand ----------------------------------------------------------------------


def test_a_proof_that_is_written_is_read_again(tmp_path):
    path = tmp_path / "line.json"
    path.write_text(TEXT, "utf-8")
    assert read_line_proof(path) == HONEST
    assert read_line_proof(path).encode() == TEXT


def with_values(change: Callable[[dict[str, Any]], None]) -> bytes:
    values = json.loads(TEXT)
    change(values)
    return json.dumps(values).encode()


def put(*path: str | int, value: Any) -> bytes:
    def change(values: Any) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    return with_values(change)


HOSTILE = {
    "empty": b"",
    "not UTF-8": b"\xff",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "too large": b" " * (MAX_FILE + 1),
    "long number": b'{"format": 1' + b"0" * 9_999 + b"}",
    "member twice": TEXT.replace('"claims"', '"format": "counterfoil-line-proof/v1", "claims"').encode(),
    "another format": TEXT.replace("line-proof/v1", "line-proof/v2").encode(),
    "unknown member": put("more", value=1),
    "missing member": with_values(lambda values: values.pop("seals") and values.pop("log")),
    "text for a list": put("receipts", value="x"),
    "object for a list": put("receipts", value={}),
    "NaN": TEXT.replace('"net": 1', '"net": NaN').encode(),
    "float for a number": put("receipts", 0, "index", value=3.0),
    "bool for a number": put("receipts", 0, "index", value=True),
    "text for a number": put("receipts", 0, "index", value="3"),
    "negative index": put("receipts", 0, "index", value=-1),
    "huge index": put("receipts", 0, "index", value=2**63),
    "net 0": put("receipts", 0, "sealed", 0, "net", value=0),
    "other base64": put("receipts", 0, "statement", value="AB=="),
    "long base64": put("receipts", 0, "statement", value="A" * (1 << 18)),
    "long path": put("receipts", 0, "path", value=["A" * 43 + "="] * 64),
    "short hash": put("receipts", 0, "path", value=["AAAA"]),
    "many verdicts": put("receipts", 0, "verdicts", value=[{}] * 65),
    "many receipts": put("others", value=[{}] * (MAX_RECEIPTS + 1)),
    "no claim": put("claims", value=[]),
    "exponent": put("figures", "proven", value="1e9"),
    "digits of another script": put("figures", "proven", value="٣"),
    "many digits": put("claims", 0, "amount", value="9" * 41),
    "precise rate": put("figures", "fx_rate", value="1." + "1" * 13),
    "negative rate": put("figures", "fx_rate", value="-1"),
    "control in a label": put("claims", 0, "line_id", value="a\x1b[2J"),
    "lone surrogate": put("claims", 0, "line_id", value="\ud800"),
    "unknown state": put("receipts", 0, "state", value="paid"),
    "unknown kind": put("claims", 0, "kind", value="fee"),
    "per 0": put("figures", "terms", 0, "per", value=0),
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_malformed(data: bytes):
    with pytest.raises(CounterfoilError) as caught:
        parse_line_proof(data)
    assert caught.value.code is Code.MALFORMED
    assert caught.value.detail.isprintable()


def members(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every member of every object."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from members(inner, (*path, name))
    elif isinstance(value, list) and value:
        yield from members(value[0], (*path, 0))


@pytest.mark.parametrize(
    "path", [path for path in members(json.loads(TEXT)) if path[-1] != "refusal"], ids=str
)
def test_a_member_that_is_missing_is_malformed(path: tuple[str | int, ...]):
    def drop(values: Any) -> None:
        for key in path[:-1]:
            values = values[key]
        del values[path[-1]]

    with pytest.raises(CounterfoilError, match="MALFORMED"):
        parse_line_proof(with_values(drop))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_input_breaks_the_parser(data: bytes):
    with contextlib.suppress(CounterfoilError):
        parse_line_proof(data)


numbers = st.from_regex(r"[0-9]{1,26}(\.[0-9]{1,12})?", fullmatch=True)
stated = st.from_regex(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", fullmatch=True)


@settings(max_examples=30, deadline=None)
@given(numbers, stated)
def test_whatever_amounts_a_file_states_verification_ends_with_steps(rate: str, amount: str):
    figures = HONEST.figures.model_copy(update={"fx_rate": rate})
    claim = HONEST.claims[0].model_copy(update={"amount": amount})
    invoice = HONEST.invoice.model_copy(update={"currency": "USD"})
    report = verify_line(CASE.proof(invoice=invoice, figures=figures, claims=(claim,)), OWN)
    assert report.steps[-1].number in {ARITHMETIC, DIFFERENCE}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(TEXT.encode()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_found_or_changes_only_what_is_the_operators_word(at: int, change: int):
    data = TEXT.encode()
    spoiled = data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]
    with contextlib.suppress(CounterfoilError):  # it is not read at all
        report = verify_line(parse_line_proof(spoiled), OWN)
        if report.verified:
            assert _proven(report) == _proven(verify_line(HONEST, OWN))


def _proven(report: Report) -> tuple[Any, ...]:
    """Return what no maker of a file decides."""
    figures = report.facts["figures"]
    return figures["terms"], figures["proven"], figures["held"], report.facts["entries"]
