"""A verdict names the node of a chain that computed something else, and no other (protocol §6.3.1)."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.replay.case import ChainCase, Member
from audit_layer.replay.judge import OF_CHAINS, judge, judge_chain
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import entry_of
from shared.statements.keys import Layers
from shared.statements.receipts import EnergyQuality, Finish, Usage
from tests.audit_layer.replay.chained import (
    LAYERS,
    PROMPT,
    Place,
    TinyArithmetic,
    cut,
    model,
    tell,
)
from tests.audit_layer.replay.inference import FakeArithmetic, make_case

OTHER = b"\xee" * 32


def verdicts(told) -> list[str]:
    """Judge every place of a chain by itself."""
    found = [judge(told.of(place), TinyArithmetic()) for place in range(len(told.members))]
    return [f"{item.outcome} {item.reason}" for item in found]


PASS, BOUNDARY, GUILTY = "PASS exact", "INCONCLUSIVE boundary", "FAIL activations"


def test_what_is_asked_of_a_receipt_is_asked_of_its_place_in_a_chain():
    told = tell(cut(2))
    plain = {check.name for check in judge(make_case(), FakeArithmetic()).checks}
    head, stage = (
        {check.name for check in judge(told.of(place), TinyArithmetic()).checks}
        for place in range(2)
    )
    assert head - plain == OF_CHAINS
    assert plain <= head
    assert not stage & {"evidence", "tokens", "text", "settings", "finish", "activations"}
    assert {"received", "sent"} <= stage


@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(0, LAYERS - 1), min_size=1, max_size=LAYERS))
def test_an_honest_chain_passes_at_every_place_wherever_it_is_cut(cuts):
    """Also with a head that has no layers of its own."""
    told = tell(cut(*sorted(cuts)))
    assert verdicts(told) == [PASS] * (len(cuts) + 1)


def rounded():
    """The model's weights with fewer bits."""
    return {name: tensor.to(torch.float8_e4m3fn).to(tensor.dtype) for name, tensor in model()[1].items()}  # fmt: skip


def nudged(position):
    """Change one number of one row, as little as a float32 can."""

    def spoil(states, first):
        if first <= position < first + len(states):
            states = states.clone()
            number = states[position - first, 3]
            states[position - first, 3] = torch.nextafter(number, torch.tensor(torch.inf))
        return states

    return spoil


CHEATS: dict[str, dict[str, Any]] = {
    "skips a layer": {"skips": 2},
    "rounds its weights": {"weights": rounded},
    "nudges one row of the prompt": {"spoil": lambda: nudged(5)},
    "nudges the last row of the answer": {"spoil": lambda: nudged(len(PROMPT) + 2)},
}


def cheating(how: str, at: int) -> list[Place]:
    """Return a chain of a head and three stages, of which one cheats."""
    places = cut(1, 2, 4)
    made = {name: value() if callable(value) else value for name, value in CHEATS[how].items()}
    if "skips" in made:
        made["skips"] = places[at].first
    places[at] = replace(places[at], **made)
    return places


@pytest.mark.parametrize("how", CHEATS)
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_whoever_computes_something_else_is_the_only_one_who_fails(how: str, at: int):
    found = verdicts(tell(cheating(how, at)))
    assert found[at] == GUILTY
    honest = {place: reason for place, reason in enumerate(found) if place != at}
    assert set(honest.values()) <= {PASS, BOUNDARY}
    assert all(honest[place] == PASS for place in range(1, at)), "what came before is untouched"
    assert found[(at + 1) % 4] == BOUNDARY, "the next place was given something else"
    if at and not how.startswith("nudges"):  # later layers may round the least change away
        assert found[0] == BOUNDARY, "what came back to the head was wrong"


@pytest.mark.parametrize("drawn", [0, 1, 3])
def test_whichever_receipt_was_drawn_all_places_are_judged_from_one_pass(drawn: int):
    told, arithmetic = tell(cheating("skips a layer", 2)), TinyArithmetic()
    judged = judge_chain(told.of(drawn), arithmetic)
    found = dict(judged.others) | {entry_of(told.members[drawn].receipt): judged.judgement}
    if drawn == 1:  # nothing is wrong with what it was given: it says nothing of the others
        assert (judged.judgement.reason, judged.others) == ("exact", {})
        return
    reasons = [found[entry_of(member.receipt)].reason for member in told.members]
    assert reasons == ["boundary", "exact", "activations", "boundary"]
    assert arithmetic.passes == 1


def test_who_says_that_it_received_something_else_is_excused_and_nobody_else_is_blamed():
    """Its chain is not paid, since its neighbour says that it sent another thing (§8.3 step 6)."""
    places = cheating("skips a layer", 1)
    places[1] = replace(places[1], chain={"received": OTHER})
    found = verdicts(tell(places))
    assert found[1] == BOUNDARY
    assert not [one for one in found if one.startswith("FAIL")]


def test_a_stage_that_says_that_it_sent_something_else_fails():
    places = cut(1, 3)
    places[1] = replace(places[1], chain={"sent": OTHER})
    assert verdicts(tell(places)) == [PASS, GUILTY, PASS]


def counts(prompt: int, output: int, cached: int = 0) -> dict[str, Usage]:
    return {"usage": Usage(prompt, cached, output, EnergyQuality.UNMEASURED)}


def test_a_stage_bills_the_positions_that_it_computed():
    """How they divide into prompt and output, it was told by the head."""
    long = len(PROMPT)
    for said, expected in (
        (counts(long + 1, 4), "FAIL usage"),
        (counts(long, 5), "FAIL usage"),
        (counts(long + 1, 3), BOUNDARY),
        (counts(long, 4, cached=long), BOUNDARY),
        (counts(long, 4, cached=long - 1), PASS),
    ):
        places = cut(1, 3)
        places[2] = replace(places[2], receipt=said)
        assert verdicts(tell(places)) == [PASS, PASS, expected]


def test_lies_of_the_head_alone_are_nothing_against_stages():
    for lie, expected in (
        ({"settings": OTHER}, "FAIL settings"),
        ({"input": OTHER}, "FAIL input"),
        ({"finish": Finish.STOP}, "FAIL finish"),
        ({"evidence": OTHER}, "FAIL evidence"),
        ({"activation_root": OTHER}, "FAIL evidence"),
    ):
        places = cut(2, 4)
        places[0] = replace(places[0], receipt=lie)
        assert verdicts(tell(places)) == [expected, PASS, PASS]
    garbled = cut(2, 4)
    garbled[0] = replace(garbled[0], receipt={"h_final": OTHER})
    assert verdicts(tell(garbled)) == ["FAIL stream", BOUNDARY, BOUNDARY]


def test_the_final_record_holds_the_receipts_that_the_head_lists():
    assert verdicts(tell(cut(2), stages=None))[0] == "FAIL stream"
    assert verdicts(tell(cut(2), stages=(b"no statement",)))[0] == "FAIL stream"


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": Layers(3, LAYERS)},
        {"layers": Layers(2, LAYERS - 1)},
        {"layers": Layers(2, LAYERS + 1)},
        {"layers": None},
        {"numeric_profile": OTHER},
        {"model_roots": (OTHER,)},
    ],
    ids=repr,
)
def test_a_chain_whose_layers_do_not_fit_is_the_heads_doing(wrong: dict[str, object]):
    """It should have refused it (§4.10.1 rule 5)."""
    places = cut(1, 2)
    places[2] = replace(places[2], bundle=wrong)
    assert verdicts(tell(places)) == ["FAIL model", BOUNDARY, BOUNDARY]


def test_a_stage_at_another_place_than_the_header_names_it_at_fails():
    for lie in ({"bundle": OTHER}, {"part": None}):
        places = cut(1, 3)
        told = tell(places)
        if "part" in lie:
            swapped = replace(told.of(1), order=told.members[2].order)
            assert judge(swapped, TinyArithmetic()).reason == "model"
            continue
        places[1] = replace(places[1], receipt=lie, order=lie)
        assert verdicts(tell(places))[1] == "FAIL model"


def test_an_order_for_another_request_blames_whoever_handed_it_over():
    """A tenant and a head could otherwise have a stage commit under secrets of their choice, and have it fail."""
    places = cut(1, 3)
    places[1] = replace(places[1], receipt={"ctx": OTHER}, order={"ctx": OTHER})
    assert verdicts(tell(places)) == [PASS, BOUNDARY, PASS]


def test_a_receipt_of_another_request_that_a_head_lists_is_not_judged_as_its_stages():
    honest, told = tell(cut(1, 3)), tell(cheating("skips a layer", 2))
    foreign = honest.members[1]
    members = (told.members[0], foreign, *told.members[1:])
    assert told.case.chain is not None
    case = replace(told.case, chain=ChainCase(told.case.chain.bundles, members))
    judged = judge_chain(case, TinyArithmetic())
    assert entry_of(foreign.receipt) not in judged.others
    moved = Member(told.members[1].receipt, told.members[3].order)
    case = replace(told.case, chain=ChainCase(told.case.chain.bundles, (told.members[0], moved)))
    assert judge_chain(case, TinyArithmetic()).others == {}


def test_a_chain_that_is_too_long_to_replay_is_judged_without_the_pass():
    told, arithmetic = tell(cut(1, 3)), TinyArithmetic()
    for place in range(3):
        assert judge(told.of(place), arithmetic, longest=10).reason == "unreplayable"
    assert arithmetic.passes == 0


def test_a_head_without_its_chain_is_no_head():
    """Of a header that names stages, an answer by one node alone is not what was ordered."""
    places = cut(2)
    told = tell([replace(places[0], receipt={"chain": None}), places[1]], stages=None)
    assert verdicts(told)[0] == "FAIL model"
    with pytest.raises(CounterfoilError, match="without the chain"):
        judge(replace(told.of(1), chain=None), TinyArithmetic())
