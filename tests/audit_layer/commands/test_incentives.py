"""`counterfoil audit incentives` for people and for programs."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from audit_layer.commands.audit import audit
from shared.runtime.cli import run

GOLDEN = Path(__file__).with_name("incentives.txt")
PAGE = Path(__file__).parents[3] / "docs/incentives.md"
TERMS = PAGE.read_text("utf-8").partition("```toml\n")[2].partition("```")[0]
"""The page's example."""


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    file = tmp_path / "terms.toml"

    def call(*arguments, terms=TERMS):
        file.write_text(terms, "utf-8")
        code = run(audit, ["incentives", "--terms", str(file), *arguments])
        return code, *capsys.readouterr()

    return call


def test_the_inequalities_and_what_follows_are_shown(command):
    code, out, _ = command()
    assert code == 0
    assert [line.rstrip() for line in out.splitlines()] == GOLDEN.read_text("utf-8").splitlines()


def test_json_holds_the_same_and_the_exact_numbers(command):
    code, out, _ = command("--json")
    told = json.loads(out)
    assert code == 0
    assert told["holds"] is True
    assert (told["rate_ppm"], told["stake"], told["unsettled"], told["exposure"]) == (
        729,
        "18.75",
        1500,
        "15",
    )
    assert told["rates_ppm"] == {
        "suspended": 1_000_000,
        "watched": 7290,
        "new": 2916,
        "good": 729,
    }
    assert (told["planted_ppm"], told["bond"]) == (250, "0.05")
    for each in told["inequalities"]:
        assert Fraction(each["left_exact"]) >= Fraction(each["right_exact"])
    assert told["terms"]["power"] == "0.963"


def test_the_page_says_what_its_example_gives(command):
    told = json.loads(command("--json")[1])
    page = " ".join(PAGE.read_text("utf-8").split())
    rates = told["rates_ppm"]
    assert f"a rate of {rates['good'] / 10_000} % (new nodes {rates['new'] / 10_000} %)" in page
    assert f"a stake of {told['stake']} EUR for {told['unsettled']:,} unsettled receipts" in page
    assert f"worth {told['exposure']} EUR" in page
    assert f"planted in {told['planted_ppm'] / 10_000} % of audits" in page
    assert f"a bond of {told['bond']} EUR" in page


def test_an_amount_may_be_a_number_of_toml(command):
    assert command(terms=TERMS.replace('"0.007"', "0.007")) == command()


def test_options_overrule_the_file(command):
    _, out, _ = command("--json", "--honest-cost", "0.005", "--rate-ppm", "729")
    assert json.loads(out)["terms"]["honest_cost"] == "0.005"


def test_no_file_is_needed(capsys):
    needed = {
        "price": "1",
        "honest-cost": "0.5",
        "cheat-cost": "0",
        "audit-cost": "0.1",
        "receipts-per-year": "1000",
        "unsettled": "1",
    }
    options = [part for name, text in needed.items() for part in (f"--{name}", text)]
    code = run(audit, ["incentives", "--json", *options])
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert "bond" not in told
    assert "planted_ppm" not in told


def test_what_does_not_hold_ends_with_one_and_says_what_would_make_it_hold(command):
    code, out, _ = command("--rate-ppm", "72", "--stake", "18.75", "--json")
    told = json.loads(out)
    broken = {each["name"] for each in told["inequalities"] if not each["holds"]}
    assert (code, told["holds"], broken) == (1, False, {"deter", "burst"})
    assert all(each["remedy"] for each in told["inequalities"] if not each["holds"])
    code, out, _ = command("--rate-ppm", "72", "--stake", "18.75")
    assert code == 1
    assert "does not hold" in out


def test_terms_without_a_solution_end_with_two_and_a_remedy(command):
    code, out, err = command("--stake", "18.74")
    assert (code, out) == (2, "")
    assert "exposure cannot hold" in err
    assert "Stake at least 18.75" in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bounti = 1", "the nearest known one is bounty"),
        ("power = nan", "power"),
        ("power = -inf", "power"),
        ("power = true", "power"),
        ("power = [1]", "power"),
        ("power = 1979-05-27", "power"),
        ('power = "\\u001b[31m"', "power"),
        ("power = ", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_key(line, said, command):
    code, out, err = command(terms=TERMS + line)
    assert (code, out) == (2, "")
    assert said in err
    assert "\x1b" not in err
