"""Every adversary is caught on the first audited request that differs from the honest one, and nobody else is."""

import functools
import sys
import types

import pytest

from shared.model.decoder import load_decoder
from shared.statements.receipts import Finish
from shared.statements.verdicts import Blame, Reason
from tests.adversaries.asked import CHOSEN, REQUESTS
from tests.adversaries.catalogue import ADVERSARIES, MODULES
from tests.adversaries.other_model import write_other_model
from tests.adversaries.selective import is_chosen, looks_like_a_canary
from tests.adversaries.told import told
from tests.adversaries.trial import MODEL, Trial


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    return Trial(folder, others=[write_other_model(folder / "other", MODEL)])


@pytest.fixture(scope="module")
def honest(trial):
    """What an honest node answers. Nobody changes it."""
    return trial.run(REQUESTS)


@pytest.fixture(scope="module")
def answers(trial):
    """The answers of an adversary, by its name."""
    return functools.cache(lambda name: trial.run(REQUESTS, ADVERSARIES[name]))


def differences(answers, honest):
    """For each answer, whether it is another one than the honest node's."""
    return [told(a) != told(b) for a, b in zip(answers, honest, strict=True)]


def test_an_honest_node_is_believed_by_clients_and_passes_every_audit(trial, honest):
    assert [tried.refusal for tried in honest] == [None] * len(REQUESTS)
    assert [trial.judge(tried).reason for tried in honest] == [Reason.EXACT] * len(REQUESTS)


def test_two_honest_runs_say_the_same(trial, honest):
    assert [told(tried) for tried in trial.run(REQUESTS)] == [told(tried) for tried in honest]


def test_the_requests_end_in_every_way_that_an_adversary_could_pretend(honest):
    ends = {tried.claimed.finish for tried in honest}
    assert ends == {Finish.STOP, Finish.LENGTH}
    assert any(len(tried.prompt_ids) > 64 for tried in honest)
    assert is_chosen(CHOSEN)
    assert not any(looks_like_a_canary(tried.text) for tried in honest)


@pytest.mark.parametrize("name", list(ADVERSARIES))
def test_a_client_refuses_what_it_can_see_and_nothing_else(name, answers, honest):
    refusals = ADVERSARIES[name].refusals or {None}
    different = differences(answers(name), honest)
    assert any(different), "it cheats on none of these requests"
    for differs, tried in zip(different, answers(name), strict=True):
        said = None if tried.refusal is None else tried.refusal.code
        assert said in (refusals if differs else {None}), tried.refusal


@pytest.mark.parametrize("name", list(ADVERSARIES))
def test_an_auditor_names_the_first_request_that_differs_and_no_other(name, trial, answers, honest):
    different = differences(answers(name), honest)
    for differs, tried in zip(different, answers(name), strict=True):
        found = trial.judge(tried).reason
        assert found in (ADVERSARIES[name].expected if differs else {Reason.EXACT})


@pytest.mark.parametrize("name", list(ADVERSARIES))
def test_an_adversary_changes_the_program_while_it_is_applied_and_restores_all_of_it(name):
    before = program()
    with ADVERSARIES[name].applied():
        assert program() != before
    assert program() == before


def test_an_error_under_an_adversary_restores_the_program_too():
    before = program()
    with pytest.raises(RuntimeError), ADVERSARIES["regenerated"].applied():
        raise RuntimeError
    assert program() == before


def test_names_are_unique_and_reasons_blame_the_node():
    assert len(ADVERSARIES) == sum(len(module.ADVERSARIES) for module in MODULES)
    for adversary in ADVERSARIES.values():
        assert adversary.expected
        assert {reason.blame for reason in adversary.expected} == {Blame.NODE}


def program():
    """The ordinary program of this process: what each of its modules and classes holds, and the default weights."""
    held = {"weights_loader": load_decoder.__kwdefaults__["weights_loader"]}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in {"shared", "execution_layer", "audit_layer"}:
            for key, value in vars(module).items():
                held[name, key] = id(value)
                if isinstance(value, type) and value.__module__ == name:
                    held |= {(name, key, part): id(one) for part, one in _own(value)}
    return held


def _own(kind):
    """What a class's methods are; caches and tables of other kinds may grow."""
    functions = (types.FunctionType, classmethod, staticmethod, property)
    return [(part, one) for part, one in vars(kind).items() if isinstance(one, functions)]
