"""What would take too long to replay is judged as far as it can be: whatever shows without a pass still convicts."""

from dataclasses import replace

import pytest

from audit_layer.replay.judge import judge
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.receipts import Finish
from shared.statements.verdicts import Blame, Reason
from tests.audit_layer.replay.inference import FakeArithmetic, Story, make_case

OTHER = b"\xee" * 32
LENGTH = len(b"hello") + 6
"""Tokens of prompt and output of the story as it is."""


def without_pass(story=None, arithmetic=None, **changes):
    """Judge with time for one token less than there are."""
    arithmetic = arithmetic or FakeArithmetic()
    result = judge(replace(make_case(story), **changes), arithmetic, LENGTH - 1)
    assert arithmetic.passes == 0
    return result


def test_what_can_be_replayed_in_time_is():
    for longest in (None, LENGTH, 10**9):
        arithmetic = FakeArithmetic()
        assert judge(make_case(), arithmetic, longest).reason is Reason.EXACT
        assert arithmetic.passes == 1


def test_what_would_take_too_long_is_inconclusive_by_the_audits_doing_and_says_why():
    result = without_pass()
    assert (result.outcome, result.reason) == ("INCONCLUSIVE", "unreplayable")
    assert result.reason.blame is Blame.AUDIT
    facts = result.facts
    assert (facts["prompt_tokens"] + facts["output_tokens"], facts["longest"]) == (LENGTH, 10)
    assert "blocks" not in facts
    assert {check.step for check in result.checks} == {*range(7), 9, 10}


@pytest.mark.parametrize(
    ("story", "reason"),
    [
        (Story(frames_lie=True), Reason.EVIDENCE),
        (Story(header_model=OTHER), Reason.MODEL),
        (Story(text=lambda text: text + "."), Reason.TEXT),
        (Story(receipt_changes={"settings": OTHER}), Reason.SETTINGS),
        (Story(finish=Finish.STOP), Reason.FINISH),
        (Story(usage={"output": 5}), Reason.USAGE),
        (Story(usage={"compute_ms": 10**9}), Reason.IMPLAUSIBLE),
        (Story(profile=OTHER), Reason.PROFILE),
    ],
    ids=lambda value: value if isinstance(value, Reason) else "",
)
def test_a_lie_that_takes_no_pass_to_see_convicts_however_long_the_sequence(story, reason):
    assert without_pass(story).reason is reason


def test_a_sequence_that_no_model_has_convicts_however_long_it_is():
    class Strict(FakeArithmetic):
        """A double that has no such sequence."""

        def check(self, prompt, output):
            raise CounterfoilError(Code.INVALID_ARGUMENT, "longer than the context")

    result = without_pass(arithmetic=Strict())
    assert (result.outcome, result.reason) == ("FAIL", "tokens")
    assert result.decisive.name == "sequence"


def test_a_claimed_length_is_not_believed():
    """Else a node could escape the replay by a claim."""
    arithmetic = FakeArithmetic()
    result = judge(make_case(Story(usage={"output": 60})), arithmetic, LENGTH)
    assert (arithmetic.passes, result.reason) == (1, Reason.USAGE)


def test_withheld_evidence_stays_withheld_where_the_pass_would_take_too_long():
    assert without_pass(final_record=b"").reason is Reason.WITHHELD
