"""The grammar: deterministic, unambiguous, and exact about its probabilities."""

import itertools
import math
import random

import pytest

from benchmarks.training.derivation import Tape, derivations, sample
from benchmarks.training.grammar import (
    ASSISTANT,
    END,
    LANGUAGES,
    Conversation,
    Grammar,
    Subject,
    documents,
    load_world,
)


def test_one_seed_writes_the_same_documents_and_another_writes_others():
    first, again, other = (list(itertools.islice(documents(seed), 40)) for seed in (5, 5, 6))
    assert first == again
    assert [d.text for d in first] != [d.text for d in other]


def test_documents_of_a_seed_stay_what_the_shipped_model_was_trained_on():
    document = next(documents(1))
    assert document.text == (
        "<|bos|><|system|>Eres un asistente alegre. Usa emojis.<|end|><|user|>¿Cuánto dura el viaje "
        "de Dresde a Bergen?<|end|><|assistant|>¡Hola! 😊 El viaje de Dresde a Bergen dura unas 11 "
        "horas. El tren nocturno de Dresde a Bergen sale a las 9:45. Pagas 17,00 euros por el viaje "
        "de Dresde a Bergen. ¡Pregúntame lo que quieras! 💚<|end|>"
    )


def _tiny(tape: Tape) -> None:
    """Two weighted words, then a number that only one of them has."""
    tape.part = "first"
    word = ("ja", "nein", "vielleicht")[tape.choose([1.0, 2.0, 5.0])]
    tape.write(word)
    if word == "nein":
        tape.part = "second"
        tape.write(tape.pick("01"))


def test_probabilities_of_a_small_grammar_are_exact_and_sum_to_one():
    found = {d.text: d for d in derivations(_tiny)}
    assert {text: round(math.exp(d.logp), 12) for text, d in found.items()} == {
        "ja": 0.125,
        "nein0": 0.125,
        "nein1": 0.125,
        "vielleicht": 0.625,
    }
    assert found["nein1"].by_part == pytest.approx(
        {"first": math.log(0.25), "second": math.log(0.5)}
    )


@pytest.mark.parametrize("intent", ["home", "tell"])
def test_probabilities_of_all_answers_to_one_question_sum_to_one(intent: str):
    world = load_world("en")

    def answer(tape: Tape) -> None:
        fox = {"": "the fox", "home": "in the forest", "food": "berries", "habit": "sleeps by day"}
        Conversation(tape, world).answer(Subject("animal", intent, {"e": fox}), "short")

    found = list(derivations(answer))
    assert len({d.text for d in found}) == len(found)
    assert math.fsum(math.exp(d.logp) for d in found) == pytest.approx(1.0, abs=1e-12)


def test_sampling_follows_the_stated_probabilities():
    rng = random.Random(3)
    texts = [sample(_tiny, rng).text for _ in range(4000)]
    assert texts.count("vielleicht") / 4000 == pytest.approx(0.625, abs=0.03)


def test_every_document_has_exactly_one_derivation_and_its_own_probability():
    grammar = Grammar()
    for document in itertools.islice(documents(11, grammar), 12):
        (only,) = grammar.parse(document.text)
        assert only.choices == document.choices
        assert only.logp == pytest.approx(document.logp)


def test_a_wrong_fact_a_foreign_language_or_a_missing_end_is_outside_the_grammar():
    grammar = Grammar()
    asked = "<|bos|><|user|>Where does the fox live?<|end|>" + ASSISTANT

    def holds(answer: str) -> bool:
        return next(grammar.parse(asked + answer), None) is not None

    assert holds("The fox lives in the forest." + END)
    assert not holds("The fox lives in the park." + END)
    assert not holds("Der Fuchs lebt im Wald." + END)
    assert not holds("The fox lives in the forest.")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_rooms_and_complete_entities(language: str):
    world, english = load_world(language), load_world("en")
    assert world.keys() == english.keys()
    for topic, table in english.items():
        if isinstance(table, dict):
            assert world[topic].keys() == table.keys()
        for row in world[topic].get("entities", ()) if isinstance(table, dict) else ():
            assert len(row.split("|")) == 1 + len(world[topic]["columns"])
