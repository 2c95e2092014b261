"""The judge: an honest request passes, and each lie fails at its own step with its own reason."""

from dataclasses import replace

import pytest

from audit_layer.replay.judge import judge
from shared.commitments.exact import Activations
from shared.envelope.shape import Shape
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.receipts import EnergyQuality, Finish, Usage
from shared.statements.request import RequestBody, SamplingSettings, Slots
from shared.statements.verdicts import Reason
from shared.verification.judgement import Difference, Judgement
from tests.audit_layer.replay.inference import (
    FakeArithmetic,
    H,
    SamplingArithmetic,
    Story,
    make_case,
)

OTHER = b"\xee" * 32
OTHER_USAGE = Usage(input=1, cached=0, output=1, energy_quality=EnergyQuality.UNMEASURED)


def verdict(story=None, **changes):
    arithmetic = FakeArithmetic()
    result = judge(replace(make_case(story), **changes), arithmetic)
    return f"{result.outcome} {result.reason}"


def test_an_honest_request_passes_with_one_replay():
    arithmetic = FakeArithmetic()
    result = judge(make_case(), arithmetic)
    assert (result.outcome, result.reason) == ("PASS", "exact")
    assert arithmetic.passes == 1
    assert result.facts["output_tokens"] == 6


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (Story(activations=Activations((OTHER,), (OTHER,))), "FAIL activations"),
        (Story(tokens=(5, 6, 7, 8, 9, 10)), "FAIL tokens"),
        (Story(frames_lie=True), "FAIL evidence"),
        (Story(evidence_tokens=(1, 2)), "FAIL evidence"),
        (Story(usage={"output": 7}), "FAIL usage"),
        (Story(usage={"input": 6}), "FAIL usage"),
        (Story(usage={"cached": 5}), "FAIL usage"),
        (Story(receipt_changes={"settings": OTHER}), "FAIL settings"),
        (Story(receipt_changes={"input": OTHER}), "FAIL input"),
        (Story(receipt_changes={"output": OTHER}), "FAIL evidence"),
        (Story(receipt_changes={"activation_root": OTHER}), "FAIL evidence"),
        (Story(receipt_changes={"activation_root": None}), "FAIL evidence"),
        (Story(receipt_changes={"evidence": None}), "FAIL evidence"),
        (Story(finish=Finish.STOP), "FAIL finish"),
        (Story(profile=OTHER), "INCONCLUSIVE profile"),
        (Story(receipt_changes={"h_final": OTHER}), "FAIL stream"),
        (Story(receipt_changes={"evidence": OTHER}), "FAIL evidence"),
        (Story(text=lambda text: "The contract is void."[: len(text)]), "FAIL text"),
        (Story(text=lambda text: text + "."), "FAIL text"),
        (Story(text=lambda text: text[:0]), "FAIL text"),
        (Story(final_text="The contract is void."), "FAIL text"),
        (Story(evidence_text="The contract is void."), "FAIL text"),
        (Story(final_changes={"tokens": (9, 9)}), "FAIL stream"),
        (Story(final_changes={"receipt": b"another"}), "FAIL stream"),
        (Story(final_changes={"usage": OTHER_USAGE}), "FAIL usage"),
        (Story(final_changes={"finish": Finish.STOP}), "FAIL finish"),
        (Story(final_changes={"evidence": None}), "FAIL evidence"),
        (Story(header_model=OTHER), "FAIL model"),
        (Story(finish=Finish.CANCELLED), "FAIL finish"),
        (Story(finish=Finish.DEADLINE), "FAIL finish"),
        (Story(finish=Finish.CANCELLED, receipt_changes={"cancel": bytes(64)}), "FAIL finish"),
        (Story(finish=Finish.DEADLINE, order_changes={"max_ms": 1}), "FAIL finish"),
        (Story(usage={"compute_ms": 10**9}), "FAIL implausible"),
        (Story(order_changes={"created": 10**9}), "FAIL implausible"),
    ],
)
def test_each_lie_has_its_reason(story, expected):
    assert verdict(story) == expected


ASKED = SamplingSettings(
    12,
    temperature_ppm=1_500_000,
    min_p_ppm=400_000,
    repetition_penalty_ppm=1_400_000,
    presence_penalty_ppm=900_000,
    frequency_penalty_ppm=700_000,
    logprobs=3,
)
PROMPT = "hello"


def judged(asked, *, served=None, choice=0, served_choice=None, spoil=lambda told: told):
    """Have a node serve a request, perhaps under settings of its own, and judge it by those that were requested."""
    arithmetic = SamplingArithmetic()
    prompt = arithmetic.tokenise(RequestBody(asked, prompt=PROMPT))
    used = choice if served_choice is None else served_choice
    tokens, told = arithmetic.serve(prompt, served or asked, H, used)
    finish = Finish.STOP if arithmetic.stops_at(tokens, served or asked) else Finish.LENGTH
    story = Story(
        settings=asked, choice=choice, seed=H, tokens=tokens, logprobs=spoil(told), finish=finish
    )
    result = judge(make_case(story, prompt=PROMPT, arithmetic=arithmetic), arithmetic)
    return f"{result.outcome} {result.reason}"


def test_a_node_that_keeps_to_every_setting_passes():
    assert judged(ASKED) == "PASS exact"
    assert judged(replace(ASKED, logprobs=None), choice=3) == "PASS exact"
    assert judged(replace(ASKED, logprobs=0)) == "PASS exact"


@pytest.mark.parametrize(
    "ignored",
    [
        "min_p_ppm",
        "repetition_penalty_ppm",
        "presence_penalty_ppm",
        "frequency_penalty_ppm",
    ],
)
def test_a_node_that_ignores_a_filter_or_penalty_fails(ignored):
    only = SamplingSettings(64, temperature_ppm=1_500_000, **{ignored: getattr(ASKED, ignored)})
    assert judged(only) == "PASS exact"
    assert judged(only, served=replace(only, **{ignored: None})) == "FAIL tokens"


PREFIX = (7, 3, 3, 19)
"""Tokens that earlier attempts delivered, one of them twice."""


def going_on(*, served=None, tokens=None, receipt_changes=None, treated=None):
    """Have a node serve a request with a prefix, perhaps as if its last `served` tokens had been delivered, and judge it."""
    arithmetic = SamplingArithmetic()
    body = RequestBody(ASKED, prompt=PROMPT, seed=H, prefix=PREFIX)
    taken = treated or body
    inputs, delivered = arithmetic.tokenise(taken), len(taken.prefix) if served is None else served
    answer, told = arithmetic.serve(inputs, ASKED, H, 0, delivered)
    story = Story(
        settings=ASKED,
        seed=H,
        prefix=PREFIX,
        treated=treated,
        tokens=answer if tokens is None else tokens,
        logprobs=told,
        receipt_changes=receipt_changes,
    )
    result = judge(make_case(story, prompt=PROMPT, arithmetic=arithmetic), arithmetic)
    return f"{result.outcome} {result.reason}"


def test_an_answer_goes_on_from_a_prefix_as_if_it_had_been_its_own():
    arithmetic = SamplingArithmetic()
    prompt = arithmetic.tokenise(RequestBody(ASKED, prompt=PROMPT))
    whole, told = arithmetic.serve(prompt, ASKED, H)
    for place in range(1, len(whole)):
        rest = replace(ASKED, max_tokens=len(whole) - place)
        served = arithmetic.serve((*prompt, *whole[:place]), rest, H, 0, place)
        assert served == (whole[place:], told[place:])
        story = Story(
            settings=rest, seed=H, prefix=whole[:place], tokens=served[0], logprobs=served[1]
        )
        case = make_case(story, prompt=PROMPT, arithmetic=arithmetic)
        assert judge(case, arithmetic).reason is Reason.EXACT


def test_a_prefix_that_is_taken_for_a_part_of_the_prompt_fails():
    """Positions that start again at 0, or penalties that do not count what was delivered, are another sampling."""
    assert going_on(served=0) == "FAIL tokens"
    assert going_on(served=len(PREFIX) - 1) == "FAIL tokens"


def test_a_node_that_serves_another_prefix_than_the_sealed_one_fails():
    for prefix in ((), PREFIX[:-1], (*PREFIX, 5), PREFIX[::-1]):
        other = RequestBody(ASKED, prompt=PROMPT, seed=H, prefix=prefix)
        assert going_on(treated=other) == "FAIL input"


def test_a_receipt_that_commits_to_a_longer_prefix_of_the_same_input_fails():
    """The input is the same tokens; where the prompt ends in them is the tenant's to say."""
    arithmetic = SamplingArithmetic()
    prompt = arithmetic.tokenise(RequestBody(ASKED, prompt=PROMPT))
    letter = PROMPT[-1].encode()[0] % 24
    longer = RequestBody(ASKED, prompt=PROMPT[:-1], seed=H, prefix=(letter, *PREFIX))
    assert arithmetic.tokenise(longer) == (*prompt, *PREFIX)
    assert going_on(treated=longer, served=len(PREFIX)) == "FAIL settings"
    assert going_on(treated=longer) == "FAIL tokens"


def test_a_node_that_delivers_the_prefix_again_fails():
    assert going_on(tokens=(*PREFIX, *range(8))) == "FAIL tokens"


def test_a_node_that_answers_what_has_come_to_its_end_fails():
    """A prefix that is a whole answer has no input to begin with: honest nodes refuse it."""

    class Ended(SamplingArithmetic):
        def tokenise(self, body):
            if body.prefix:
                raise CounterfoilError(Code.INVALID_ARGUMENT, "the prefix is a whole answer")
            return super().tokenise(body)

    story = Story(
        settings=ASKED,
        seed=H,
        prefix=PREFIX,
        tokens=(1,) * 12,
        treated=RequestBody(ASKED, prompt=PROMPT),
    )
    case = make_case(story, prompt=PROMPT, arithmetic=SamplingArithmetic())
    assert judge(case, Ended()).reason is Reason.INPUT


def test_an_answer_in_time_slots_passes_with_its_empty_frames_and_fails_under_other_sizes():
    slots = Slots(50, 256)
    assert verdict(Story(slots=slots, added=("", "", ""))) == "PASS exact"
    for shape in (Shape(), Shape(Slots(50, 512), 256), Shape(slots, 2**20)):
        assert verdict(Story(slots=slots, shape=shape)) == "FAIL stream"
    assert verdict(Story(shape=Shape(slots, 256))) == "FAIL stream"


def test_a_node_that_answers_under_another_choice_fails():
    assert judged(ASKED, choice=2) == "PASS exact"
    assert judged(ASKED, choice=2, served_choice=0) == "FAIL tokens"
    assert judged(ASKED, choice=0, served_choice=1) == "FAIL tokens"


def test_a_node_that_continues_after_a_stop_token_of_the_request_fails():
    free = SamplingSettings(64, temperature_ppm=1_500_000)
    asked = replace(free, stop_token_ids=(3, 5, 7, 2**32 - 1))
    assert judged(asked) == "PASS exact"
    assert judged(asked, served=free) == "FAIL finish"
    assert judged(free, served=asked) == "FAIL finish"  # and so does one that stops too soon


def altered(told, place, **changes):
    return (*told[:place], replace(told[place], **changes), *told[place + 1 :])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: altered(told, 0, logprob=told[0].logprob - 1),
        lambda told: altered(told, 11, top_logprobs=(0, *told[11].top_logprobs[1:])),
        lambda told: altered(told, 5, top_tokens=told[5].top_tokens[::-1]),
        lambda told: tuple(
            replace(item, top_tokens=item.top_tokens[:2], top_logprobs=item.top_logprobs[:2])
            for item in told
        ),
        lambda told: (told[1], told[0], *told[2:]),
        lambda _: (),
    ],
    ids=["own", "last", "order", "fewer", "swapped", "none"],
)
def test_a_lie_in_the_log_probabilities_has_a_reason_of_its_own(spoil):
    assert judged(ASKED, spoil=spoil) == "FAIL logprobs"


def test_log_probabilities_that_nobody_asked_for_fail():
    assert judged(replace(ASKED, logprobs=None), served=ASKED) == "FAIL logprobs"


def test_wrong_tokens_are_reported_before_wrong_log_probabilities():
    other = replace(ASKED, min_p_ppm=None, presence_penalty_ppm=None)
    assert judged(ASKED, served=other, spoil=lambda told: told[::-1]) == "FAIL tokens"


def test_fewer_tokens_than_asked_for_need_a_reason():
    honest = make_case()
    short = judge(honest, FakeArithmetic())
    assert short.outcome == "PASS"
    arithmetic = FakeArithmetic()
    seedless = Story(max_tokens=6)
    case = make_case(seedless)
    assert judge(case, arithmetic).outcome == "PASS"
    assert verdict(Story(max_tokens=6, tokens=(), finish=Finish.LENGTH)) == "FAIL finish"


def test_a_wrong_secret_blames_nobody():
    assert verdict(secret=OTHER) == "INCONCLUSIVE escrow"


def test_a_final_record_that_its_node_signed_and_nobody_can_open_fails():
    case = make_case()
    spoiled = case.final_record[:-1] + bytes([case.final_record[-1] ^ 1])
    result = judge(replace(case, final_record=spoiled), FakeArithmetic())
    assert (result.outcome, result.reason) == ("FAIL", "stream")


def test_a_node_that_was_cut_off_is_judged_by_its_tokens():
    cut = {"activation_root": None, "evidence": None}
    case = make_case(Story(finish=Finish.FAILED, receipt_changes=cut))
    assert judge(replace(case, final_record=b""), FakeArithmetic()).outcome == "PASS"
    lying = make_case(Story(finish=Finish.FAILED, receipt_changes=cut, tokens=(1, 2, 3)))
    result = judge(replace(lying, final_record=b""), FakeArithmetic())
    assert (result.outcome, result.reason) == ("FAIL", "tokens")


def test_dropped_frames_fail():
    case = make_case()
    result = judge(replace(case, frames=case.frames[:-1]), FakeArithmetic())
    assert (result.outcome, result.reason) == ("FAIL", "stream")


def test_frames_beyond_what_was_ordered_are_not_opened():
    """A hostile answer of 64 MiB can hold tokens that take gigabytes once they are opened."""
    case, opened = make_case(Story(tokens=tuple(range(40)) * 2)), []

    def each():
        for frame in (*case.frames, b"never looked at"):
            opened.append(frame)
            yield frame

    result = judge(replace(case, frames=each()), FakeArithmetic())
    assert (result.outcome, result.reason) == ("FAIL", "stream")
    assert result.checks[-1].difference.expected == "at most 64 tokens"
    assert b"never looked at" not in opened


def test_judgements_survive_the_pipe():
    found = judge(make_case(), FakeArithmetic())
    assert Judgement.from_bytes(found.to_bytes()) == found


def test_frames_are_passed_over_once():
    case = make_case()
    result = judge(replace(case, frames=iter(case.frames)), FakeArithmetic())
    assert (result.outcome, result.reason) == ("PASS", "exact")


def test_secrets_do_not_appear_in_representations():
    case = replace(make_case(), secret=H)
    assert H.hex() not in repr(case)
    assert repr(H) not in repr(case)


# -- how far the evidence goes --------------------------------------------------------------------------------


def short(**given):
    """Return what a node makes of a request that ends after two of six tokens."""
    arithmetic = FakeArithmetic()
    prompt = tuple(b"hello")
    given.setdefault("finish", Finish.CANCELLED)
    return Story(seed=H, max_tokens=6, tokens=arithmetic.generate(prompt, 2, H), **given)


def test_an_answer_that_its_tenant_or_its_order_ended_passes():
    assert verdict(short(receipt_changes={"cancel": bytes(64)})) == "PASS exact"
    late = short(finish=Finish.DEADLINE, order_changes={"max_ms": 1_001})
    assert verdict(late) == "PASS exact"


@pytest.mark.parametrize(
    "story",
    [
        short(),
        short(finish=Finish.DEADLINE),
        short(finish=Finish.DEADLINE, order_changes={"max_ms": 1_002}),
        short(finish=Finish.LENGTH),
        short(finish=Finish.STOP),
    ],
)
def test_an_answer_that_only_its_node_ended_fails(story):
    assert verdict(story) == "FAIL finish"


def without_output(count, *, prompt="x" * 100, blocks=None, signature=bytes(64)):
    """Return the case of a request that ended before its first token, after `count` blocks of its prompt."""
    arithmetic = FakeArithmetic()
    whole = arithmetic.activations(tuple(prompt.encode()), ())
    made = whole.prompt_blocks[:count] if blocks is None else blocks
    story = Story(
        tokens=(),
        activations=Activations(made, ()),
        finish=Finish.CANCELLED,
        receipt_changes={"cancel": signature},
    )
    return make_case(story, prompt=prompt)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_a_prompt_is_replayed_also_without_an_answer(count):
    assert judge(without_output(count), FakeArithmetic()).reason is Reason.EXACT


@pytest.mark.parametrize("blocks", [(OTHER,), (OTHER,) * 4, (OTHER,) * 9])
def test_invented_prompt_hashes_fail(blocks):
    result = judge(without_output(0, blocks=blocks), FakeArithmetic())
    assert result.reason is Reason.ACTIVATIONS
    assert result.decisive is not None
    assert result.decisive.difference is not None
    assert result.decisive.difference.where == {"prompt_block": 0, "prompt_position": 0}


def test_more_prompt_blocks_than_the_prompt_has_fail():
    whole = FakeArithmetic().activations(tuple(b"x" * 100), ()).prompt_blocks
    result = judge(without_output(0, blocks=(*whole, OTHER)), FakeArithmetic())
    assert result.reason is Reason.ACTIVATIONS


def test_committing_to_nothing_fails_unless_it_failed():
    bare = Story(
        activations=Activations((), ()),
        receipt_changes={"activation_root": None},
    )
    assert verdict(bare) == "FAIL activations"


def test_an_absent_final_record_is_withheld_only_if_the_frames_are_right():
    assert verdict(Story(), final_record=b"") == "INCONCLUSIVE withheld"
    assert verdict(Story(tokens=(5, 6, 7, 8, 9, 10)), final_record=b"") == "FAIL tokens"
    assert verdict(Story(text=lambda text: text + "."), final_record=b"") == "FAIL text"
    assert verdict(Story(activations=Activations((), (OTHER,))), final_record=b"") == (
        "FAIL activations"
    )
    assert verdict(Story(usage={"output": 7}), final_record=b"") == "FAIL usage"


# -- what a judgement says ------------------------------------------------------------------------------------


def difference(case):
    found = judge(case, FakeArithmetic())
    assert found.decisive is not None
    assert found.checks[-1] == found.decisive
    assert all(check.held for check in found.checks[:-1])
    assert found.decisive.difference is not None
    return found.decisive.difference


def test_a_pass_lists_every_step_in_the_protocols_order():
    checks = judge(make_case(), FakeArithmetic()).checks
    assert all(check.held for check in checks)
    assert [check.step for check in checks] == sorted(check.step for check in checks)
    assert {check.step for check in checks} == set(range(11))


def long(**given):
    tokens = FakeArithmetic().generate(tuple(b"hello"), 70, H)
    given.setdefault("tokens", tokens)
    asked = SamplingSettings(max_tokens=70)
    return tokens, Story(seed=H, settings=asked, **given)


def test_a_judgement_names_the_first_block_that_differs():
    tokens, story = long()
    honest = FakeArithmetic().activations(tuple(b"hello"), tokens)
    lying = replace(honest, output_blocks=(*honest.output_blocks[:1], OTHER, OTHER))
    found = difference(make_case(replace(story, activations=lying)))
    assert found.where == {"output_block": 1, "output_position": 32}
    fewer = replace(honest, output_blocks=honest.output_blocks[:2])
    assert difference(make_case(replace(story, activations=fewer))).where["output_block"] == 2


def test_a_judgement_names_the_first_token_that_was_not_chosen_and_how_many():
    tokens, _ = long()
    spoiled = (*tokens[:40], 101, *tokens[41:])
    _, story = long(tokens=spoiled)
    found = difference(make_case(story))
    assert found.where["output_position"] == 40
    assert found.where["wrong"] >= 1
    assert found == Difference("the sampler's choice", "another token", found.where)


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_a_judgement_names_the_first_frame_with_another_text(frame):
    seen = iter(range(9))
    story = Story(text=lambda text: "?" if next(seen) == frame else text)
    assert difference(make_case(story)).where == {"frame": frame}


def test_a_judgement_says_nothing_of_what_the_request_says():
    """Tokens, text and block hashes are what its audit server must not learn."""
    tokens, story = long(text=lambda text: text.upper())
    case = make_case(story)
    wrong = [
        make_case(replace(story, text=str, tokens=tuple(reversed(tokens)))),
        make_case(replace(story, text=str, activations=Activations((OTHER,), (OTHER,)))),
        case,
    ]
    for item in wrong:
        found = judge(item, FakeArithmetic())
        data = found.to_bytes()
        assert found.outcome == "FAIL"
        assert OTHER not in data
        assert OTHER.hex().encode() not in data
        assert FakeArithmetic.text(tokens)[:8].encode() not in data
        assert FakeArithmetic.text(tokens)[:8].upper().encode() not in data
