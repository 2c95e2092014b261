"""What a receipt claims about its end and its effort is possible, or is said not to be."""

from dataclasses import replace

import pytest

from shared.runtime.errors import CounterfoilError
from shared.statements.orders import Order
from shared.statements.receipts import EnergyQuality, Finish, Receipt, Usage
from shared.verification.receipt_claims import (
    MAX_WATTS,
    SKEW_MS,
    SLACK_MS,
    implausible,
    unfounded_end,
)

H = bytes(range(32))
NOW = 1_700_000_000_000
ORDER = Order(
    tenant="acme",
    number=0,
    attempt=0,
    ctx=H,
    kc=H,
    envelope=H,
    bundle=H,
    created=NOW,
    expiry=NOW + 60_000,
    max_output_tokens=64,
    max_input_tokens=64,
    rate_card=H,
    max_ms=20_000,
)
USAGE = Usage(
    input=4,
    cached=0,
    output=8,
    energy_quality=EnergyQuality.MEASURED,
    compute_ms=400,
    energy_mj=9_000,
)
RECEIPT = Receipt(
    order=H,
    bundle=H,
    ctx=H,
    kc=H,
    envelope=H,
    node_nonce=H,
    h_final=H,
    model_root=H,
    numeric_profile=H,
    usage=USAGE,
    finish=Finish.LENGTH,
    started=NOW + 5,
    ended=NOW + 505,
    node_sequence=0,
    previous=bytes(32),
    rate_card=H,
    tenant="acme",
    number=0,
    attempt=0,
)


def used(**changes):
    return replace(RECEIPT, usage=replace(USAGE, **changes))


def ended(finish, after_ms, **changes):
    return replace(RECEIPT, finish=finish, ended=RECEIPT.started + after_ms, **changes)


@pytest.mark.parametrize("finish", [Finish.STOP, Finish.LENGTH, Finish.FAILED])
def test_what_the_rules_end_needs_nobodys_wish(finish):
    assert unfounded_end(ORDER, ended(finish, 1)) is None


def test_a_cancellation_needs_the_tenants_signature():
    assert "did not sign" in (unfounded_end(ORDER, ended(Finish.CANCELLED, 100)) or "")
    assert unfounded_end(ORDER, ended(Finish.CANCELLED, 100, cancel=bytes(64))) is None


def test_a_cancelling_signature_is_only_in_what_was_cancelled():
    with pytest.raises(CounterfoilError, match="was not cancelled"):
        ended(Finish.STOP, 100, cancel=bytes(64))


@pytest.mark.parametrize(
    ("max_ms", "after_ms", "founded"),
    [
        (20_000, 20_000, True),
        (20_000, 20_000 - SLACK_MS, True),
        (20_000, 20_000 - SLACK_MS - 1, False),
        (20_000, 1, False),
        (500, 0, True),
        (None, 10**9, False),
    ],
)
def test_a_deadline_is_the_orders(max_ms, after_ms, founded):
    order = replace(ORDER, max_ms=max_ms)
    assert (unfounded_end(order, ended(Finish.DEADLINE, after_ms)) is None) == founded


@pytest.mark.parametrize(
    ("receipt", "word"),
    [
        (RECEIPT, None),
        (used(compute_ms=None), None),
        (used(energy_mj=None, energy_quality=EnergyQuality.UNMEASURED), None),
        (used(compute_ms=500 + SLACK_MS), None),
        (used(compute_ms=501 + SLACK_MS), "computed"),
        (used(compute_ms=10**9), "computed"),
        (used(energy_mj=MAX_WATTS * (500 + SLACK_MS)), None),
        (used(energy_mj=MAX_WATTS * (500 + SLACK_MS) + 1), "mJ"),
        (used(energy_mj=10**12), "mJ"),
        (used(output=150_000), None),
        (used(output=150_001), "generated"),
        (replace(RECEIPT, started=NOW - SKEW_MS), None),
        (replace(RECEIPT, started=NOW - SKEW_MS - 1), "before its order"),
    ],
)
def test_claims_stay_within_physics(receipt, word):
    found = implausible(ORDER, receipt)
    assert (found is None) if word is None else (word in found)
