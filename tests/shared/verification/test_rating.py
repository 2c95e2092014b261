"""Rating: exact amounts, nothing rounded, nothing lost."""

from dataclasses import replace
from decimal import Decimal

import pytest

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.ratecards import Price, RateCard
from shared.statements.receipts import EnergyQuality, Finish, Receipt, Usage
from shared.verification.rating import TokenKind, Tokens, price_for, rate_tokens, rated
from tests.vectors.samples import ORDER

MODEL = b"\x01" * 32
H = b"\x02" * 32


def card(per=1_000_000):
    price = Price(model_root=MODEL, input="0.30", cached="0.03", output="0.60", per=per)
    return RateCard(name="list", operator="op", currency="EUR", valid_from=0, prices=(price,))


def receipt(finish=Finish.STOP, model=MODEL, **tokens):
    usage = Usage(
        **{"input": 0, "cached": 0, "output": 0, **tokens}, energy_quality=EnergyQuality.UNMEASURED
    )
    return Receipt(
        order=H, bundle=H, ctx=H, kc=H, envelope=H, node_nonce=H, h_final=H, model_root=model,
        numeric_profile=H, usage=usage, finish=finish, started=1, ended=2, node_sequence=1,
        previous=H, rate_card=H, tenant="acme", number=0, attempt=0,
    )  # fmt: skip


def rate(given, rates):
    usage = given.usage
    tokens = Tokens(usage.input - usage.cached, usage.cached, usage.output)
    return rate_tokens(tokens, price_for(rates, given.model_root))


def test_cached_tokens_are_subtracted_from_the_input_and_billed_at_their_own_price():
    lines = {line.kind: line for line in rate(receipt(input=100, cached=40, output=7), card())}
    assert lines[TokenKind.INPUT].amount == Decimal("0.000018")
    assert lines[TokenKind.CACHED].amount == Decimal("0.0000012")
    assert lines[TokenKind.OUTPUT].amount == Decimal("0.0000042")


def test_kinds_without_tokens_yield_no_line():
    assert [line.kind for line in rate(receipt(output=5), card())] == [TokenKind.OUTPUT]


def why_not(given, order=ORDER, **changes):
    """Return why a receipt is not billable; None if it is."""
    lines, reason = rated(replace(given, **changes), card(), "op", order)
    assert bool(lines) == (reason is None)
    return reason


def test_an_answer_that_its_tenant_cut_off_is_paid_for_what_was_delivered():
    signed = replace(receipt(Finish.CANCELLED, input=9, output=5), cancel=bytes(64))
    lines, reason = rated(signed, card(), "op", ORDER)
    assert reason is None
    assert {line.kind: line.quantity for line in lines} == {
        TokenKind.INPUT: 9,
        TokenKind.OUTPUT: 5,
    }
    late = replace(receipt(Finish.DEADLINE, input=9, output=5), ended=60_001)
    assert why_not(late, replace(ORDER, max_ms=60_000)) is None


def test_an_answer_that_only_its_node_wanted_to_end_is_not_paid():
    assert why_not(receipt(Finish.FAILED, output=5)) == "failed"
    unsigned = receipt(Finish.CANCELLED, output=5)
    assert why_not(unsigned) == (
        "it is called cancelled, but the tenant did not sign a cancellation"
    )
    late = receipt(Finish.DEADLINE, output=5)
    assert why_not(late, replace(ORDER, max_ms=None)) == (
        "it is called late, but the order sets no deadline"
    )
    assert "the order allows 60000 ms" in why_not(late, replace(ORDER, max_ms=60_000))


@pytest.mark.parametrize("finish", [Finish.STOP, Finish.LENGTH, Finish.CANCELLED, Finish.DEADLINE])
def test_an_answer_without_a_token_is_not_paid_however_it_ended(finish):
    cancel = bytes(64) if finish is Finish.CANCELLED else None
    empty = replace(receipt(finish, input=9), cancel=cancel)
    assert why_not(empty, replace(ORDER, max_ms=1)) == "nothing was delivered"


@pytest.mark.parametrize(("cached", "payable"), [("0.30", True), ("0.300000000001", False)])
def test_a_card_on_which_a_claim_of_cached_tokens_would_raise_the_bill_prices_nothing(
    cached, payable
):
    (price,) = card().prices
    odd = replace(card(), prices=(replace(price, cached=cached),))
    for tokens in ({"cached": 0}, {"cached": 4}):
        lines, reason = rated(receipt(input=9, output=1, **tokens), odd, "op", ORDER)
        assert bool(lines) is payable
        assert payable or "cached input (0.300000000001) is above that for input (0.30)" in reason


def test_a_model_without_a_price_is_an_error_that_names_it():
    with pytest.raises(CounterfoilError, match=H.hex()[:16]) as caught:
        rate(receipt(model=H, output=1), card())
    assert caught.value.code is Code.NOT_FOUND


def test_a_price_per_seven_tokens_is_refused_since_it_could_not_be_exact():
    with pytest.raises(CounterfoilError, match="power of ten"):
        rate(receipt(output=1), card(per=7))
