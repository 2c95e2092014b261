"""A real node that goes on from a prefix: the rest of the answer, its receipt, and what becomes of a node that treats the
prefix as something else.
"""

from contextlib import AbstractContextManager
from dataclasses import replace

import pytest

from execution_layer.engine.protocol import GenerationRequest
from execution_layer.node import intake as intake_module
from execution_layer.node.admission import Admission, Admitted, Checked
from execution_layer.node.start import Start
from shared.runtime.errors import Code
from shared.statements.cose import read_as
from shared.statements.receipts import Finish, Receipt
from shared.statements.request import Message, RequestBody, SamplingSettings
from shared.statements.verdicts import Reason
from tests.adversaries.adversary import Adversary, patched
from tests.adversaries.trial import Ask, Trial

BODY = RequestBody(
    SamplingSettings(
        28,
        temperature_ppm=1_300_000,
        presence_penalty_ppm=900_000,
        frequency_penalty_ppm=500_000,
        logprobs=1,
    ),
    (Message("user", "Tell me everything about the beaver."),),
    seed=b"\x05" * 32,
)
CUT = 11


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def whole(trial):
    (tried,) = trial.run([Ask(BODY)])
    assert tried.claimed.finish is Finish.LENGTH
    return tried


def rest_of(whole, place):
    """The body of the next attempt, after `place` tokens were delivered."""
    left = replace(BODY.settings, max_tokens=BODY.settings.max_tokens - place)
    return Ask(replace(BODY, settings=left, prefix=whole.output_ids[:place]))


def requested(**changes: int) -> AbstractContextManager[None]:
    """Have the node's engine take another number of the last tokens for delivered ones."""
    ordinary = intake_module._generation_request

    def altered(admitted: Admitted, start: Start) -> GenerationRequest:
        request = ordinary(admitted, start)
        return replace(request, delivered=request.delivered + changes["by"])

    return patched((intake_module, "_generation_request", altered))


def longer() -> AbstractContextManager[None]:
    """Have the node add a token of its own to the prefix, and bill it."""
    ordinary = Admission.open

    def opened(self: Admission, checked: Checked, now_ms: int) -> Admitted:
        admitted = ordinary(self, checked, now_ms)
        return replace(admitted, prompt_ids=(*admitted.prompt_ids, admitted.prompt_ids[-1]))

    return patched((Admission, "open", opened))


def adversary(change) -> Adversary:
    return Adversary("prefix", "treats a prefix as something else", change, frozenset())


def test_two_attempts_together_are_the_answer_in_one_piece(trial, whole):
    rests = trial.run([rest_of(whole, place) for place in (1, CUT, 27)])
    for place, rest in zip((1, CUT, 27), rests, strict=True):
        assert rest.refusal is None
        assert (*whole.output_ids[:place], *rest.output_ids) == whole.output_ids
        assert (*whole.logprobs[:place], *rest.logprobs) == whole.logprobs
        assert whole.text.endswith(rest.text)
        receipt = read_as(Receipt, rest.receipt)
        assert receipt.usage.input == read_as(Receipt, whole.receipt).usage.input + place
        assert receipt.usage.output == len(whole.output_ids) - place
        assert trial.judge(rest).reason is Reason.EXACT


@pytest.mark.parametrize("by", [-CUT, -1, 1])
def test_a_node_that_moves_the_end_of_the_prompt_is_convicted_by_its_tokens(trial, whole, by):
    change = adversary(lambda: requested(by=by))
    (tried,) = trial.run([rest_of(whole, CUT)], change)
    assert tried.output_ids != whole.output_ids[CUT:]
    assert trial.judge(tried).reason is Reason.TOKENS


def test_a_node_that_claims_a_longer_prefix_is_refused_and_convicted(trial, whole):
    (tried,) = trial.run([rest_of(whole, CUT)], adversary(longer))
    assert tried.refusal.code is Code.COMMITMENT_MISMATCH
    assert trial.judge(tried).reason is Reason.INPUT


def test_a_prefix_that_nobody_ever_signed_is_input_like_any_other(trial, whole):
    """What a client puts there is its own business: the node's answer is judged by what it was given."""
    invented = replace(rest_of(whole, CUT).body, prefix=(5, 6, 7, 8))
    (tried,) = trial.run([Ask(invented)])
    assert tried.refusal is None
    assert trial.judge(tried).reason is Reason.EXACT
