"""A judgement is read back as it was written, and nothing else is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec import cbor
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.verdicts import Outcome, Reason
from shared.verification.judgement import MAX_CHECKS, Check, Difference, Judgement

NAMES = st.text("abc_", min_size=1, max_size=8)
FACTS = st.one_of(st.integers(0, 2**63 - 1), st.text(max_size=20))
DIFFERENCES = st.builds(
    Difference,
    st.none() | FACTS,
    st.none() | FACTS,
    st.dictionaries(NAMES, st.integers(0, 2**63 - 1), max_size=8),
)
CHECKS = st.builds(
    Check, st.integers(0, 10), NAMES, st.sampled_from(Reason), st.none() | DIFFERENCES
)
JUDGEMENTS = st.builds(
    Judgement,
    st.sampled_from(Reason),
    st.dictionaries(NAMES, FACTS, max_size=4),
    st.lists(CHECKS, max_size=5).map(tuple),
)


@given(JUDGEMENTS)
def test_a_judgement_is_read_back_as_it_was_written(judgement):
    assert Judgement.from_bytes(judgement.to_bytes()) == judgement


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data):
    with pytest.raises(CounterfoilError):
        Judgement.from_bytes(data)


GOOD = {"v": 1, "outcome": "FAIL", "reason": "tokens", "checks": [], "facts": {}}
CHECK = {"step": 8, "name": "tokens", "reason": "tokens", "held": True}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"v": 2}, Code.UNSUPPORTED),
        ({"outcome": "PASS"}, Code.MALFORMED),
        ({"outcome": "GUILTY"}, Code.MALFORMED),
        ({"reason": "made-up"}, Code.MALFORMED),
        ({"facts": {"a": b"bytes"}}, Code.MALFORMED),
        ({"facts": {1: 1}}, Code.MALFORMED),
        ({"facts": {"a": True}}, Code.MALFORMED),
        ({"facts": {"a": -1}}, Code.MALFORMED),
        ({"checks": [{**CHECK, "held": 1}]}, Code.MALFORMED),
        ({"checks": [{**CHECK, "found": 1}]}, Code.MALFORMED),
        ({"checks": [{**CHECK, "held": False, "where": {"a": -1}}]}, Code.MALFORMED),
        ({"checks": [{**CHECK, "held": False, "where": {1: 1}}]}, Code.MALFORMED),
        ({"checks": [CHECK] * (MAX_CHECKS + 1)}, Code.MALFORMED),
        ({"more": 1}, Code.MALFORMED),
    ],
)
def test_what_is_not_of_the_protocol_is_refused(change, code):
    assert Judgement.from_bytes(cbor.encode(GOOD)).outcome is Outcome.FAIL
    with pytest.raises(CounterfoilError) as caught:
        Judgement.from_bytes(cbor.encode({**GOOD, **change}))
    assert caught.value.code is code


def test_the_decisive_check_is_the_one_that_gave_the_reason():
    withheld = Check(5, "delivery", Reason.WITHHELD, Difference("it", "none"))
    decisive = Check(8, "tokens", Reason.TOKENS, Difference())
    assert Judgement(Reason.TOKENS, {}, (withheld, decisive)).decisive is decisive
    assert Judgement(Reason.WITHHELD, {}, (withheld,)).decisive is withheld
    assert Judgement(Reason.EXACT, {}, ()).decisive is None
