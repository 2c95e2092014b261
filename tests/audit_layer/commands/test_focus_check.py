"""`counterfoil cost check` for people and for programs."""

import json

import pytest

from audit_layer.commands.cost import cost
from shared.runtime.cli import run
from tests.audit_layer.costs.focus_check.files import VALID, charges, csv_bytes


@pytest.fixture
def command(tmp_path, capsys):
    def call(rows, *arguments):
        path = tmp_path / "bill.csv"
        path.write_bytes(csv_bytes(list(rows.values())))
        code = run(cost, ["check", str(path), *arguments])
        return code, *capsys.readouterr()

    return call


def test_a_valid_file_ends_with_zero(command):
    code, out, _ = command(charges())
    assert code == 0
    assert "bill.csv conforms to FOCUS 1.2" in out


def test_a_broken_rule_ends_with_three_and_is_shown(command):
    rows = charges()
    rows["usage"]["ListCost"] = "99"
    code, out, _ = command(rows)
    assert code == 3
    assert "CF-0401" in out
    assert "does not conform" in out


def test_advice_alone_ends_with_zero_and_is_shown(command):
    rows = charges()
    rows["usage"]["PricingUnit"] = "tokens"
    code, out, _ = command(rows)
    assert code == 0
    assert "CF-0214" in out


@pytest.mark.parametrize("dataset", sorted(VALID), ids=" ".join)
def test_every_dataset_can_be_named(dataset, command):
    name, version = dataset
    code, out, _ = command(VALID[dataset](), "--dataset", name, "--focus", version, "--json")
    told = json.loads(out)
    assert (code, told["conforms"], told["dataset"], told["focus"]) == (0, True, name, version)


def test_a_dataset_of_1_4_needs_no_version(command):
    code, out, _ = command(VALID["billing-period", "1.4"](), "--dataset", "billing-period")
    assert code == 0
    assert "FOCUS 1.4" in out


def test_json_has_every_finding_and_rule(command):
    rows = charges()
    rows["usage"]["BilledCost"] = "1,5"
    code, out, err = command(rows, "--json")
    told = json.loads(out)
    assert (code, err) == (3, "")
    (finding,) = told["findings"]
    assert (finding["row"], finding["column"], finding["value"]) == (2, "BilledCost", "1,5")
    (rule,) = told["rules"]
    assert (rule["rule"], rule["force"], rule["findings"]) == ("CF-0202", "must", 1)


def test_a_skipped_rule_is_named_in_the_outcome(command):
    rows = charges()
    rows["usage"]["BilledCost"] = "x"
    code, out, _ = command(rows, "--skip", "CF-0202")
    assert code == 0
    assert "Rules not held: CF-0202" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--dataset", "billing-period", "--focus", "1.2"), "no dataset billing-period"),
        (("--skip", "CF-9999"), "CF-9999"),
    ],
)
def test_what_cannot_be_meant_is_an_error_of_usage(arguments, told, command):
    code, _, err = command(charges(), *arguments)
    assert code == 2
    assert told in err


def test_what_a_stranger_wrote_does_not_steer_the_terminal(command):
    rows = charges()
    rows["usage"]["BilledCost"] = "[red]\x1b[2J"
    _, out, _ = command(rows)
    assert "\x1b[2J" not in out
    assert "[red]" in out
