"""A trial is a node as it is: any arithmetic, any batch, any settings, and the same bits each time."""

import pytest

from shared.model.cpu import arithmetics_for
from shared.statements.request import RequestBody, SamplingSettings, Slots
from shared.statements.verdicts import Reason
from tests.adversaries.asked import REQUESTS
from tests.adversaries.catalogue import ADVERSARIES
from tests.adversaries.trial import Ask, Trial


@pytest.mark.parametrize("arithmetic", arithmetics_for("bfloat16"))
def test_honest_and_cheap_nodes_are_told_apart_in_every_arithmetic(arithmetic, tmp_path):
    trial = Trial(tmp_path, arithmetic=arithmetic)
    for adversary, reason in ((None, Reason.EXACT), (ADVERSARIES["int8"], Reason.ACTIVATIONS)):
        answers = trial.run(REQUESTS[:2], adversary)
        assert {trial.judge(tried).reason for tried in answers} == {reason}


def test_one_at_a_time_or_all_at_once_the_answers_are_the_same(tmp_path):
    alone, together = (
        [item.evidence for item in Trial(tmp_path, sequences=count).run(REQUESTS)]
        for count in (1, 16)
    )
    assert alone == together
    assert None not in alone


def test_a_plain_prompt_under_every_setting_is_believed(tmp_path):
    settings = SamplingSettings(
        12,
        temperature_ppm=900_000,
        top_k=50,
        top_p_ppm=900_000,
        stop=("\n",),
        min_p_ppm=10_000,
        repetition_penalty_ppm=1_100_000,
        presence_penalty_ppm=100_000,
        frequency_penalty_ppm=-100_000,
        stop_token_ids=(7,),
        logprobs=3,
    )
    trial = Trial(tmp_path)
    (tried,) = trial.run([Ask(RequestBody(settings, prompt="The fox", choice=2), max_ms=60_000)])
    assert tried.refusal is None
    assert len(tried.logprobs) == len(tried.output_ids) > 0
    assert trial.judge(tried).reason is Reason.EXACT


def test_an_answer_in_time_slots_is_believed_and_passes(tmp_path):
    """It has more frames than tokens, some of them empty; whoever takes it in must not mind."""
    settings = SamplingSettings(3, temperature_ppm=900_000, logprobs=1)
    body = RequestBody(settings, prompt="The fox", slots=Slots(20, 1024))
    trial = Trial(tmp_path)
    (tried,) = trial.run([Ask(body, max_ms=60_000)])
    assert tried.refusal is None
    assert len(tried.frames) == 16
    assert trial.judge(tried).reason is Reason.EXACT
