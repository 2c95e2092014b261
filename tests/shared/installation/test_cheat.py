"""Which dishonest node a demonstration gets, and what a user is told who asks for one that does not exist."""

import json
from pathlib import Path

import pytest

from shared.installation.cheat import USUAL, WRAPPER, choose_cheat
from shared.runtime.errors import Code, CounterfoilError

KNOWN = {
    "int8": {"does": "rounds", "seldom": ""},
    "one-in-hundred": {"does": "cheats rarely", "seldom": "it is rare"},
}


class Listing:
    """A double of the command runner, under which the repository's dishonest node lists what there is."""

    async def run(self, *arguments, program):
        assert (arguments, program[1:]) == (("--list",), (str(WRAPPER),))
        return json.dumps(KNOWN)


async def test_without_a_name_it_is_the_usual_one():
    cheat = await choose_cheat(Listing(), None, None)
    assert cheat.program == (str(WRAPPER), USUAL)
    assert cheat.does == "rounds"


async def test_a_name_chooses_what_it_does_and_whether_a_run_shows_it():
    cheat = await choose_cheat(Listing(), None, "one-in-hundred")
    assert cheat.program == (str(WRAPPER), "one-in-hundred")
    assert (cheat.does, cheat.seldom) == ("cheats rarely", "it is rare")


async def test_an_unknown_name_is_refused_with_all_known_ones():
    with pytest.raises(CounterfoilError) as caught:
        await choose_cheat(Listing(), None, "int9")
    assert caught.value.code is Code.CONFIGURATION
    assert "int9" in str(caught.value)
    assert all(name in str(caught.value) for name in KNOWN)


@pytest.mark.parametrize(("name", "after"), [(None, ()), ("quietly", ("quietly",))])
async def test_a_program_of_the_users_own_is_run_as_it_is_with_the_name_if_there_is_one(
    name, after
):
    cheat = await choose_cheat(None, Path("/own/node.py"), name)
    assert cheat.program == ("/own/node.py", *after)
    assert "node.py" in cheat.does


async def test_a_missing_repository_is_told_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("shared.installation.cheat.WRAPPER", tmp_path / "node.py")
    with pytest.raises(CounterfoilError, match="--dishonest-node"):
        await choose_cheat(None, None, None)
