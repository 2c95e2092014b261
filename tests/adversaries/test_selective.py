"""Nodes that choose whom to cheat: they are honest with everybody else, which is what makes them hard to find."""

import random

import pytest

from shared.statements.request import Message, RequestBody, SamplingSettings
from shared.statements.verdicts import Reason
from tests.adversaries.asked import CHOSEN
from tests.adversaries.catalogue import ADVERSARIES
from tests.adversaries.selective import ONE_IN, is_chosen
from tests.adversaries.trial import Ask, Trial

ORDINARY = RequestBody(
    SamplingSettings(16), (Message("user", "Tell me everything about the owl."),), seed=bytes(32)
)
CANARY = RequestBody(
    SamplingSettings(16), (Message("user", "This is a test. What is 2 + 2?"),), seed=bytes(32)
)


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("trial"))


def test_a_node_that_knows_a_test_question_answers_it_honestly_and_cheats_on_others(trial):
    asks = [Ask(CANARY), Ask(ORDINARY)]
    test, other = trial.run(asks, ADVERSARIES["honest-on-canaries"])
    honest = trial.run(asks)
    assert test.output_ids == honest[0].output_ids
    assert trial.judge(test).reason is Reason.EXACT
    assert trial.judge(other).reason is Reason.TOKENS


def test_a_node_that_cheats_one_request_in_a_hundred_is_honest_in_the_others(trial):
    asks = [Ask(ORDINARY, CHOSEN), Ask(ORDINARY, (701).to_bytes(16, "big"))]
    cheated, served = trial.run(asks, ADVERSARIES["one-in-hundred"])
    assert trial.judge(cheated).reason is Reason.TOKENS
    assert trial.judge(served).reason is Reason.EXACT


def test_one_request_in_a_hundred_is_chosen():
    draw = random.Random(1)
    count = sum(is_chosen(draw.randbytes(16)) for _ in range(50_000))
    assert abs(count - 50_000 // ONE_IN) < 120  # five standard deviations
