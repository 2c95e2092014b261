"""Fair between tenants, counted in computed positions; nobody waits longer because another has sent more."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from execution_layer.engine.fairness import Service, fair_shares
from execution_layer.engine.pace import KEPT, LONGEST_S, SHORTEST_S, UNKNOWN_S, WINDOW_S, Pace
from execution_layer.engine.protocol import FinishReason
from execution_layer.engine.scheduler import Limits, Plan, Scheduler
from execution_layer.engine.sequence import SequenceState
from shared.runtime.errors import Code, CounterfoilError
from tests.execution_layer.engine.steps import advance, distinct, sequence

relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck))
sizes = st.tuples(st.integers(2, 100), st.integers(1, 60))
ROOMY = {"queue": 10_000, "queue_per_tenant": 10_000, "blocks": 500}


def backlog(
    scheduler: Scheduler, demands: dict[str, list[tuple[int, int]]]
) -> dict[str, list[SequenceState]]:
    """Enqueue sequences of (prompt, budget) for each tenant; no two share a beginning."""
    made: dict[str, list[SequenceState]] = {}
    for place, (tenant, items) in enumerate(demands.items()):
        made[tenant] = [
            sequence(distinct(1000 * place + n, prompt), budget, tenant)
            for n, (prompt, budget) in enumerate(items)
        ]
        for item in made[tenant]:
            scheduler.enqueue(item)
    return made


def had(plan: Plan) -> Counter[str]:
    """Return the positions that each tenant got from a plan."""
    counts = Counter[str]()
    for item, count in plan:
        counts[item.request.tenant] += count
    return counts


@settings(relaxed, max_examples=60)
@given(
    st.lists(sizes, min_size=3, max_size=12),
    st.lists(sizes, min_size=3, max_size=12),
    st.integers(1, 6),
    st.data(),
)
def test_two_tenants_with_work_to_do_are_never_further_apart_than_one_request(a, b, places, data):
    scheduler = Scheduler(Limits(sequences=places, **ROOMY))
    made = backlog(scheduler, {"a": a, "b": b})
    longest = max(item.longest for items in made.values() for item in items)
    early = places == 1 and data.draw(st.booleans())
    served = Counter[str]()
    while set(scheduler._waiting) == {"a", "b"}:
        served += had(advance(scheduler))
        promised = Counter(served)
        for item in scheduler.running:
            promised[item.request.tenant] += item.longest - item.computed
        if set(scheduler._waiting) == {"a", "b"}:
            assert abs(promised["a"] - promised["b"]) <= longest
        if early and scheduler.running and data.draw(st.integers(0, 9)) == 0:
            scheduler.running[0].ended = FinishReason.STOP
            list(scheduler.remove_ended())


@settings(relaxed, max_examples=30)
@given(st.lists(sizes, min_size=1, max_size=8), st.integers(1, 5), sizes)
def test_how_much_a_tenant_sends_does_not_delay_another_one(flood, places, lonely):
    waited = []
    for times in (2, 20):
        scheduler = Scheduler(Limits(sequences=places, **ROOMY))
        backlog(scheduler, {"many": flood * times * places})
        advance(scheduler)
        item = sequence(distinct(9000, lonely[0]), lonely[1], "one")
        scheduler.enqueue(item)
        steps = 0
        while item.admitted is None:
            advance(scheduler)
            steps += 1
        waited.append(steps)
    assert waited[0] == waited[1] <= max(prompt + budget for prompt, budget in flood) * places


def test_a_tenant_that_was_away_has_built_up_no_credit():
    scheduler = Scheduler(Limits(sequences=1, **ROOMY))
    backlog(scheduler, {"steady": [(10, 10)] * 60})
    for _ in range(300):
        advance(scheduler)
    backlog(scheduler, {"back": [(10, 10)] * 30})
    served = Counter[str]()
    for _ in range(200):
        served += had(advance(scheduler))
    assert abs(served["steady"] - served["back"]) <= 2 * 19


def test_leaving_for_a_moment_does_not_erase_what_was_had():
    service = Service()
    for tenant in "ab":
        service.enter(tenant)
    service.add("a", 100)
    service.leave("a")
    service.enter("a")
    assert (service.of("a"), service.of("b")) == (100, 0)


def test_tenants_without_work_are_forgotten():
    service = Service()
    service.enter("stays")
    for n in range(1000):
        service.enter(name := f"t{n}")
        service.add(name, 10)
        service.add("stays", 11)
        service.leave(name)
    assert len(service) <= 2
    service.leave("stays")
    assert len(service) == 0


def test_prefill_is_divided_between_tenants_before_it_is_divided_between_prompts():
    scheduler = Scheduler(Limits(prefill_rows=60, **ROOMY))
    made = backlog(scheduler, {"many": [(90, 1)] * 5, "one": [(90, 1)]})
    plan = dict(advance(scheduler))
    assert plan[made["one"][0]] == 30
    assert [plan[item] for item in made["many"]] == [6] * 5


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=10), st.integers(0, 200))
def test_shares_are_all_that_there_is_and_nobody_envies(wanted, total):
    shares = fair_shares(wanted, total)
    assert sum(shares) == min(total, sum(wanted))
    assert all(0 <= share <= want for share, want in zip(shares, wanted, strict=True))
    unmet = [share for share, want in zip(shares, wanted, strict=True) if share < want]
    assert max(shares, default=0) - min(unmet, default=max(shares, default=0)) <= 1
    assert unmet == sorted(unmet, reverse=True)


def test_one_tenant_cannot_fill_the_queue():
    scheduler = Scheduler(Limits(queue=10, queue_per_tenant=4))
    for _ in range(4):
        scheduler.enqueue(sequence())
    with pytest.raises(CounterfoilError, match="of a are waiting") as caught:
        scheduler.enqueue(sequence())
    assert caught.value.code is Code.OVERLOADED
    assert caught.value.retry_after_s
    scheduler.enqueue(sequence(tenant="b"))


def test_the_hint_when_to_try_again_follows_the_rate_at_which_sequences_end():
    pace = Pace()
    for second in range(11):
        pace.note_end(100.0 + second / 2)
    assert pace.seconds_for(8, 105.0) == pytest.approx(4.0)
    assert pace.seconds_for(8, 115.0) == pytest.approx(12.0)  # nothing has ended since


@pytest.mark.parametrize(
    ("ends", "now", "ahead", "hint"),
    [
        ([], 5.0, 100, UNKNOWN_S),
        ([5.0], 5.0, 100, UNKNOWN_S),
        ([5.0, 6.0], 6.0 + WINDOW_S + 1, 100, UNKNOWN_S),  # a night with nothing to do
        ([5.0, 5.0], 5.0, 100, SHORTEST_S),
        ([5.0, 35.0], 35.0, 100, LONGEST_S),
    ],
)
def test_the_hint_is_bounded_and_sensible_after_a_pause(ends, now, ahead, hint):
    pace = Pace()
    for end in ends:
        pace.note_end(end)
    assert pace.seconds_for(ahead, now) == hint


def test_the_pace_remembers_a_bounded_number_of_ends():
    pace = Pace()
    for end in range(1000):
        pace.note_end(end / 1000)
    assert len(pace) == KEPT
