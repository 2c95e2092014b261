"""What is possible one by one and impossible together is found, also for a minute of a plausible day."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.verification.devices import DEVICES
from shared.verification.physics import MOST, Model, Quantity, Serving, Work, check_receipt
from shared.verification.physics_node import check_node
from tests.shared.verification.arithmetic_text import recomputed
from tests.shared.verification.test_physics import SMALL

H100 = DEVICES["h100-sxm"]
SERVING = Serving(H100, largest_batch=64)
IDLE = replace(SERVING, device=replace(H100, idle_watts=100.0))
T = 1_700_000_000_000


def work(start, ms, *, compute=None, energy=None, output=100, model=SMALL):
    return Work(f"r{start}", T + start, T + start + ms, 10, 0, output, compute, energy, model)


def found(works, serving=SERVING):
    findings = check_node(works, serving).findings
    for finding in findings:
        for stated, computed in recomputed(finding.arithmetic):
            assert stated == pytest.approx(computed, rel=1e-4)
    return findings


def quantities(works, serving=SERVING):
    return {finding.quantity for finding in found(works, serving)}


def test_receipts_that_share_the_time_between_them_are_plausible():
    works = [work(100 * i, 10_000, compute=95, energy=100_000) for i in range(64)]
    assert found(works, IDLE) == ()


def test_compute_times_that_overlap_cannot_add_up_to_more_than_the_time():
    both = [work(0, 1_000, compute=600), work(200, 1_000, compute=600)]
    assert found(both) == ()  # 1,200 ms in 1,200 ms
    both[1] = replace(both[1], compute_ms=607)  # two receipts' rounding is 6 ms
    (finding,) = found(both)
    assert (finding.quantity, finding.claimed, finding.bound) == (Quantity.COMPUTE, 1_207, 1_206)
    assert finding.subject == f"2 receipts from {T} to {T + 1_200}"
    assert all(check_receipt(each, SERVING).findings == () for each in both)
    assert found(both, replace(SERVING, engines=2)) == ()


def test_tokens_of_many_receipts_need_steps_however_they_overlap():
    """64 sequences in a step of 5 to 7 ms: 64 × 1,000 tokens in a second are impossible, in ten they are not."""
    many = [work(i, 10_000, output=1000) for i in range(64)]
    assert found(many) == ()
    fast = [work(i, 4_000, output=1000) for i in range(128)]
    (finding,) = found(fast)
    assert finding.quantity is Quantity.TOKENS
    assert "129,152 positions / 64 in a step / 1 engines" in finding.arithmetic
    assert finding.loosened_by == ("batching: up to 64 positions share a step",)
    assert all(check_receipt(each, SERVING).findings == () for each in fast)
    assert found(fast, replace(SERVING, engines=2)) == ()
    assert found(fast, replace(SERVING, largest_batch=256)) == ()


def test_products_of_many_receipts_are_bounded_however_large_a_step():
    prompts = [
        replace(work(i, 5_000, output=1), input=80_000, cached=1_000) for i in range(10)
    ]  # 800,000 positions: 9.7 s
    (finding,) = found(prompts, replace(SERVING, largest_batch=10**6))
    assert finding.bound == pytest.approx(
        2 * (SMALL.body * 79_000 + SMALL.head) * 10 / (989.4e12 * 1.25) * 1e3
    )
    assert finding.loosened_by[0] == "caching: 10,000 of 800,000 input tokens were not computed"
    assert found(prompts, replace(SERVING, largest_batch=10**6, engines=2)) == ()
    assert found(prompts, replace(SERVING, largest_batch=10**6, together=2)) == ()


def test_several_models_add_up():
    other = Model(SMALL.body, SMALL.head + 1)
    half = [work(i, 4_000, output=1000, model=(SMALL, other)[i % 2]) for i in range(128)]
    (finding,) = found(half)
    assert finding.arithmetic.count("weights:") == 2
    assert finding.bound == pytest.approx(
        found([replace(each, model=SMALL) for each in half])[0].bound
    )


def test_energies_that_overlap_cannot_add_up_to_more_than_the_power_cap():
    both = [work(0, 1_000, energy=600_000), work(0, 1_000, energy=270_000)]
    assert found(both) == ()
    both[1] = replace(both[1], energy_mj=290_000)
    (finding,) = found(both)
    assert finding.quantity is Quantity.ENERGY
    assert all(check_receipt(each, SERVING).findings == () for each in both)


def test_energies_that_overlap_are_at_least_the_idle_power():
    both = [work(0, 1_000, compute=500, energy=30_000), work(0, 1_000, compute=500, energy=69_450)]
    assert found(both, IDLE) == ()
    both[1] = replace(both[1], energy_mj=69_000)
    (finding,) = found(both, IDLE)
    assert (finding.quantity, finding.bound) == (Quantity.ENERGY, 100 * (1_000 - 6))
    assert found(both) == ()
    assert check_node(both, SERVING).unbounded == {"the device's idle power is not known": 1}


def test_without_every_share_of_the_counter_nothing_is_said_about_too_little():
    """Unmeasured is not zero."""
    works = [work(0, 1_000, compute=500, energy=0), work(0, 1_000, compute=400)]
    report = check_node(works, IDLE)
    assert report.findings == ()
    assert report.unmeasured == {Quantity.ENERGY: 1}
    nothing = check_node([work(0, 100), work(50, 100)], IDLE)
    assert nothing.findings == ()
    assert nothing.unmeasured == {Quantity.COMPUTE: 2, Quantity.ENERGY: 2}


def test_models_of_unknown_size_are_counted_and_their_tokens_not_bounded():
    works = [work(i, 1, output=10**6, model=None) for i in range(5)]
    report = check_node([replace(each, ended=each.started + 3) for each in works], SERVING)
    assert report.findings == ()
    assert report.unbounded["the model's size is not known"] == 5


def test_an_impossible_minute_is_found_in_a_plausible_day():
    """A receipt that spans the day ties all others into one busy stretch, which as a whole has time enough."""
    day = work(0, 86_400_000, output=1)
    busy = [work(40_000_000 + 20 * i, 20_000, output=1000) for i in range(5_000)]
    assert found([day, *busy[:100]]) == ()
    findings = found([day, *busy, work(500, 1_000)])
    assert {each.quantity for each in findings} == {Quantity.TOKENS}
    assert all(20_000 <= each.claimed <= 120_000 for each in findings)  # none of them the day
    assert any(f"from {T + 40_000_000}" in each.subject for each in findings)


def test_a_stretch_across_the_border_of_two_windows_is_found():
    """The filler makes every longer window plausible; of the shortest ones, only those that begin half way hold both."""
    both = [work(8_000, 4_000, compute=4_000), work(8_000, 4_000, compute=4_000)]
    filler = work(-19_900, 59_800, output=1)
    (finding,) = found([filler, *both])
    assert (finding.quantity, finding.bound) == (Quantity.COMPUTE, 4_006)


def test_a_stretch_lasts_as_long_as_its_longest_receipt():
    long = work(0, 5_000_000, compute=4_999_500)
    short = work(1_000, 1_000, compute=0)
    assert found([long, short]) == ()
    (finding,) = found([long, short, work(5_000, 1_000, compute=900)])
    assert (finding.claimed, finding.bound) == (5_000_400, 5_000_008)


def test_energy_that_others_drew_in_a_window_is_not_missing():
    """They share the counter with one that lasts longer than the window."""
    long = work(0, 30_000, compute=0, energy=3_000_000)
    short = [work(2_000, 1_000, compute=500, energy=1_000) for _ in range(2)]
    assert found([long, *short], IDLE) == ()
    assert quantities(short, IDLE) == {Quantity.ENERGY}


def test_receipts_that_only_touch_do_not_overlap():
    assert found([work(0, 100, compute=100), work(100, 100, compute=100)]) == ()
    assert check_node([work(0, 100), work(100, 100)], SERVING).unbounded == {}


def test_one_receipt_alone_and_none_are_left_to_the_check_of_one():
    assert found([work(0, 1, compute=10**6, energy=10**12)]) == ()
    assert found([]) == ()


def test_a_finding_is_told_once_and_with_how_many_there_are():
    pairs = [
        work(100_000 * i + k, 1_000, compute=900 + i, output=1) for i in range(5) for k in range(2)
    ]
    findings = found(pairs)
    assert findings[0].subject.endswith("(the worst of 5)")
    assert findings[0].claimed == 1_808
    assert len({finding.arithmetic for finding in findings}) == len(findings)


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 30))
def test_whatever_an_engine_really_does_is_plausible(draw, engines, count):
    """Requests of a simulated node: every step has the time it needs, and its energy between idle and cap."""
    serving = replace(IDLE, engines=engines, largest_batch=8, in_flight=count)
    works = []
    for engine in range(engines):
        now = T + draw.randrange(1000)
        for n in range(count // engines + 1):
            together = draw.randint(1, 8)
            tokens = draw.randint(1, 40)
            steps = (
                10 * tokens + 9 + tokens
            )  # a prompt of ten positions for each, and one step for each token
            ms = draw.randint(8 * steps, 12 * steps)
            works += [
                Work(
                    f"{engine} {n} {k}", now, now + ms, 10, 0, tokens, ms // together,
                    ms * draw.randint(100, 800) // together, SMALL,
                )
                for k in range(together)
            ]  # fmt: skip
            now += ms + draw.choice((0, 0, 500))
    assert found(works, serving) == ()
    assert all(check_receipt(each, serving).findings == () for each in works)


NUMBERS = st.one_of(st.integers(0, 100), st.just(MOST), st.integers(0, MOST), st.just(2**63))


@given(
    st.lists(
        st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.none() | NUMBERS, st.none() | NUMBERS),
        max_size=12,
    )
)
def test_any_claims_get_findings_that_add_up(rows):
    works = [
        Work(
            str(i),
            min(a, b),
            max(a, b),
            c,
            min(c, 5),
            d,
            compute,
            energy,
            Model(c + 1 if c < MOST else c),
        )
        for i, (a, b, c, d, compute, energy) in enumerate(rows)
    ]
    for finding in found(works, IDLE):
        assert 0 <= finding.bound < float("inf")


def test_a_day_of_many_receipts_takes_time_in_proportion():
    """Each receipt is looked at in a few windows, whatever its times are."""
    draw = random.Random(1)
    works = [
        work(draw.randrange(86_400_000), draw.randrange(20_000), compute=1, output=5)
        for _ in range(20_000)
    ]
    assert found([*works, work(0, MOST - T, output=1)]) == ()


def test_a_stretch_that_reaches_beyond_the_time_that_is_known_is_not_held_to_its_energy():
    """A receipt that is not among them may have the rest of the counter."""
    both = [work(0, 1_000, compute=500, energy=1), work(0, 1_000, compute=500, energy=1)]
    assert quantities(both, IDLE) == {Quantity.ENERGY}
    for within, complete in (
        ((T, T + 1_000), True),
        ((T + 1, T + 1_000), False),
        ((T, T + 999), False),
    ):
        report = check_node(both, IDLE, within)
        assert bool(report.findings) == complete
        assert bool(report.unbounded) != complete
