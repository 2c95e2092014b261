"""Each bound admits what hardware can do, refuses what it cannot, and shows arithmetic that can be recomputed."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.receipts import EnergyQuality
from shared.verification.devices import DEVICES
from shared.verification.physics import (
    HEADROOM,
    MOST,
    ROUNDING_MS,
    Model,
    Quantity,
    Serving,
    Work,
    check_receipt,
)
from tests.shared.verification.arithmetic_text import recomputed
from tests.shared.verification.test_receipt_claims import RECEIPT, used

DOCUMENT = Path(__file__).parents[3] / "docs" / "plausibility.md"
H100 = DEVICES["h100-sxm"]
SMALL = Model(body=7_504_924_672, head=525_336_576)
"""Llama 3 8B: of its 8.03 billion parameters, another 0.5 billion are embeddings."""
SERVING = Serving(H100, largest_batch=256)
WORK = Work(
    "receipt-1",
    started=1_000_000,
    ended=1_010_000,
    input=1000,
    cached=0,
    output=1000,
    compute_ms=2_000,
    energy_mj=3_000_000,
    model=SMALL,
)


def found(work=WORK, serving=SERVING):
    return check_receipt(work, serving).findings


def only(work=WORK, serving=SERVING):
    (finding,) = found(work, serving)
    for stated, computed in recomputed(finding.arithmetic):
        assert stated == pytest.approx(computed, rel=1e-4)
    return finding


def lasting(ms, **changes):
    return replace(WORK, ended=WORK.started + ms, compute_ms=None, energy_mj=None, **changes)


def test_what_a_card_really_does_is_plausible():
    assert found() == ()
    assert found(lasting(7_000)) == ()  # 143 tokens a second for one request is usual on this card


def test_more_tokens_than_the_weights_can_be_read_for_are_not():
    """1000 passes over 16.06 GB less 130 MB at 3.35 TB/s and a quarter more are 3804 ms."""
    assert found(lasting(3_805)) == ()
    finding = only(lasting(3_700))
    assert (finding.quantity, finding.claimed) == (Quantity.TOKENS, 3_700)
    expected = 1000 * ((SMALL.body + SMALL.head) * 2 - 130e6) / (3.35e12 * HEADROOM) * 1e3
    assert finding.bound == pytest.approx(expected)
    assert finding.loosened_by == ()
    assert "⌈1,000 tokens / 1 a pass⌉" in finding.arithmetic
    assert finding.arithmetic.endswith("claimed: 3,700 ms from start to end")


def test_the_documented_example_is_what_is_found():
    finding = only(lasting(2_000))
    assert finding.arithmetic in " ".join(DOCUMENT.read_text("utf-8").split())
    assert found(lasting(2_000), replace(SERVING, tokens_per_pass=2)) == ()


def test_more_tokens_than_there_are_operations_for_are_not():
    """A prompt of 10⁶ positions costs 15 · 10¹⁵ operations: 12 s."""
    long = lasting(20_000, input=1_000_000, output=1)
    assert found(long) == ()
    finding = only(lasting(12_000, input=1_000_000, output=1))
    expected = 2 * (SMALL.body * 1_000_000 + SMALL.head) / (989.4e12 * HEADROOM) * 1e3
    assert finding.bound == pytest.approx(expected)
    assert "7,504,924,672 × 1,000,000" in finding.arithmetic


def test_a_bound_is_exact_to_the_millisecond():
    bound = only(lasting(1)).bound
    assert found(lasting(int(bound) - ROUNDING_MS - 1))
    assert not found(lasting(int(bound) + 1))


@pytest.mark.parametrize(
    ("work", "serving", "word"),
    [
        (
            {"input": 10**7, "cached": 9_500_000, "output": 1},
            {},
            "caching: 9,500,000 of 10,000,000",
        ),
        ({}, {"tokens_per_pass": 5}, "speculation: a pass yields up to 5"),
        ({}, {"weight_bits": 4}, "quantisation: 4 bits for each parameter, not 16"),
        (
            {"model": Model(3_000_000_000, 500_000_000, resident=47_000_000_000)},
            {},
            "mixture: 3,000,000,000 of 47,000,000,000 parameters",
        ),
    ],
)
def test_what_is_declared_loosens_the_bound_and_is_named(work, serving, word):
    loose = only(lasting(1, **work), replace(SERVING, **serving))
    undeclared = {"cached": 0} if "cached" in work else {}
    tight = only(lasting(1, **{**work, **undeclared, "model": SMALL}), SERVING)
    assert loose.bound < tight.bound
    (reason,) = loose.loosened_by
    assert reason.startswith(word)
    assert tight.loosened_by == ()


def test_longer_numbers_than_the_models_own_do_not_tighten_it():
    assert only(lasting(1), replace(SERVING, weight_bits=32)).bound == only(lasting(1)).bound


def test_devices_that_work_together_share_the_work():
    alone, four = only(lasting(1)), only(lasting(1), replace(SERVING, together=4))
    assert (
        0.2 < four.bound / alone.bound < 0.25
    )  # four cards also keep four times as much on their chips


def test_a_model_that_stays_on_the_chip_need_not_be_read():
    tiny = Model(body=10_000_000)
    assert found(lasting(1, model=tiny, output=50)) == ()


def test_without_output_nothing_must_have_been_computed():
    assert found(lasting(0, input=10**9, output=0)) == ()
    assert found(lasting(0, input=0, output=0)) == ()


def test_compute_time_below_its_share_of_the_steps_is_found():
    """1,999 positions, 256 in a step, are 7.8 readings of the body's 15 GB: 28 ms."""
    finding = only(replace(WORK, compute_ms=20, energy_mj=None))
    assert finding.quantity is Quantity.COMPUTE
    assert finding.bound == pytest.approx(
        1999 / 256 * (SMALL.body * 2 - 130e6) / (3.35e12 * HEADROOM) * 1e3
    )
    assert finding.loosened_by == ("batching: up to 256 positions share a step",)
    assert found(replace(WORK, compute_ms=28, energy_mj=None)) == ()
    alone = only(replace(WORK, compute_ms=7_000, energy_mj=None), replace(SERVING, largest_batch=1))
    assert alone.loosened_by == ()


def test_compute_time_below_its_operations_is_found_however_large_the_batch():
    finding = only(
        replace(WORK, compute_ms=20, energy_mj=None), replace(SERVING, largest_batch=10**9)
    )
    assert finding.bound == pytest.approx(2 * SMALL.body * 1999 / (989.4e12 * HEADROOM) * 1e3)


def test_compute_time_beyond_the_time_that_passed_is_found():
    assert found(replace(WORK, compute_ms=10_000 + ROUNDING_MS)) == ()
    finding = only(replace(WORK, compute_ms=10_001 + ROUNDING_MS))
    assert (finding.quantity, finding.bound) == (Quantity.COMPUTE, 10_000 + ROUNDING_MS)


def test_energy_beyond_the_power_cap_is_found():
    most = 700 * HEADROOM * (10_000 + ROUNDING_MS)
    assert found(replace(WORK, energy_mj=int(most))) == ()
    finding = only(replace(WORK, energy_mj=int(most) + 1))
    assert (finding.quantity, finding.bound) == (Quantity.ENERGY, most)
    whole = replace(SERVING, together=2, engines=4, host_watts=1000)
    assert found(replace(WORK, energy_mj=int(most * 8)), whole) == ()
    assert only(replace(WORK, energy_mj=int(most * 10)), whole).bound == pytest.approx(
        (8 * 700 * HEADROOM + 1000) * (10_000 + ROUNDING_MS)
    )


def test_energy_below_the_idle_power_is_found_where_it_was_measured():
    idle = replace(SERVING, device=replace(H100, idle_watts=100.0), in_flight=4)
    least = 100 * (2_000 - ROUNDING_MS) // 4
    assert found(replace(WORK, energy_mj=least), idle) == ()
    finding = only(replace(WORK, energy_mj=least - 2), idle)
    assert (finding.quantity, finding.bound) == (Quantity.ENERGY, least)
    assert finding.loosened_by == ("batching: up to 4 requests share the counter",)
    assert only(replace(WORK, energy_mj=0), replace(idle, in_flight=1)).loosened_by == ()


@pytest.mark.parametrize(
    ("serving", "why"),
    [
        (replace(SERVING, in_flight=4), "the device's idle power is not known"),
        (
            replace(SERVING, device=replace(H100, idle_watts=100.0)),
            "how many requests share the energy counter is not known",
        ),
    ],
)
def test_a_bound_that_needs_what_nobody_measured_is_said_to_be_missing(serving, why):
    report = check_receipt(replace(WORK, energy_mj=0), serving)
    assert report.findings == ()
    assert report.unbounded == {why: 1}


def test_unmeasured_is_counted_and_is_not_zero():
    idle = replace(SERVING, device=replace(H100, idle_watts=100.0), in_flight=1)
    report = check_receipt(replace(WORK, compute_ms=None, energy_mj=None), idle)
    assert report.findings == ()
    assert report.unmeasured == {Quantity.COMPUTE: 1, Quantity.ENERGY: 1}
    assert {each.quantity for each in found(replace(WORK, compute_ms=0, energy_mj=0))} == {
        Quantity.COMPUTE
    }
    assert check_receipt(WORK, idle).unmeasured == {}


def test_a_model_of_unknown_size_is_counted_and_still_bounded_by_time_and_power():
    report = check_receipt(replace(WORK, model=None, compute_ms=10**6, energy_mj=10**12), SERVING)
    assert [each.quantity for each in report.findings] == [Quantity.COMPUTE, Quantity.ENERGY]
    assert report.unbounded["the model's size is not known"] == 1


def test_a_receipts_claims_are_taken_over():
    work = Work.of("name", used(cached=2, compute_ms=7), SMALL)
    assert (work.input, work.cached, work.output, work.compute_ms, work.energy_mj) == (
        4,
        2,
        8,
        7,
        9_000,
    )
    assert (work.elapsed, work.positions) == (500, 4 - 2 + 8 - 1)
    unmeasured = used(compute_ms=None, energy_mj=None, energy_quality=EnergyQuality.UNMEASURED)
    assert (Work.of("name", unmeasured, None).compute_ms, RECEIPT.usage.energy_mj) == (None, 9_000)


TOKENS = st.one_of(st.integers(0, 5000), st.just(0), st.just(MOST), st.integers(0, MOST))
SIZES = st.one_of(st.integers(1, 10**12), st.just(MOST), st.just(2**63))


@given(
    times=st.tuples(TOKENS, TOKENS),
    tokens=st.tuples(TOKENS, TOKENS, TOKENS),
    measured=st.tuples(st.none() | TOKENS, st.none() | TOKENS),
    sizes=st.tuples(SIZES, SIZES),
    declared=st.tuples(*[st.one_of(st.integers(1, 1000), st.just(MOST))] * 5),
    device=st.sampled_from(sorted(DEVICES)),
)
def test_any_claims_get_finite_bounds_on_the_right_side_with_arithmetic_that_adds_up(
    times, tokens, measured, sizes, declared, device
):
    work = Work(
        "r",
        min(times),
        max(times),
        max(tokens[:2]),
        min(tokens[:2]),
        tokens[2],
        *measured,
        Model(*sizes),
    )
    known = replace(DEVICES[device], idle_watts=50.0)
    for finding in check_receipt(
        work, Serving(known, *declared[:4], in_flight=declared[4])
    ).findings:
        assert 0 <= finding.bound < float("inf")
        assert finding.bound != finding.claimed
        assert f"{int(finding.claimed):,}" in finding.arithmetic
        pairs = recomputed(finding.arithmetic)
        assert pairs
        for stated, computed in pairs:
            assert stated == pytest.approx(computed, rel=1e-4)
        assert max(stated for stated, _ in pairs) == pytest.approx(finding.bound, rel=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(WORK, ended=WORK.started - 1),
        lambda: replace(WORK, cached=1001),
        lambda: replace(WORK, output=-1),
        lambda: replace(WORK, cached=-1),
        lambda: replace(WORK, compute_ms=-1),
        lambda: replace(WORK, energy_mj=MOST + 1),
        lambda: replace(WORK, started=-1),
        lambda: Model(0),
        lambda: Model(MOST + 1),
        lambda: Model(1, -1),
        lambda: Model(1, 1, 0),
        lambda: Model(2, resident=1),
        lambda: replace(SERVING, together=0),
        lambda: replace(SERVING, engines=-1),
        lambda: replace(SERVING, largest_batch=0),
        lambda: replace(SERVING, tokens_per_pass=0),
        lambda: replace(SERVING, in_flight=0),
        lambda: replace(SERVING, weight_bits=0),
        lambda: replace(SERVING, host_watts=float("nan")),
        lambda: replace(SERVING, host_watts=float("inf")),
    ],
)
def test_what_cannot_be_claimed_at_all_is_refused(make):
    with pytest.raises(CounterfoilError) as caught:
        make()
    assert caught.value.code is Code.INVALID_ARGUMENT
