"""Every rule is broken by a file that breaks nothing else, and by no valid file."""

from pathlib import Path

import pytest

from audit_layer.costs.focus_check.report import Force
from audit_layer.costs.focus_check.rules import RULES
from tests.audit_layer.costs.focus_check.breaking import ELSEWHERE, EVERY, without
from tests.audit_layer.costs.focus_check.files import VALID, charges, check, csv_bytes, found


@pytest.mark.parametrize("dataset", VALID, ids=" ".join)
def test_a_valid_file_has_no_finding(dataset, tmp_path):
    report = check(csv_bytes(list(VALID[dataset]().values())), tmp_path, *dataset)
    assert report.findings == ()
    assert report.conforms


@pytest.mark.parametrize("broken", EVERY, ids=str)
def test_a_broken_rule_is_found_and_no_other(broken, tmp_path):
    report = check(broken.content(), tmp_path, *broken.dataset)
    assert set(found(report)) == {broken.rule}, report.findings
    must = RULES[broken.rule].force is Force.MUST
    assert report.conforms is not must
    if broken.row and broken.rule < "CF-06":
        rows = list(VALID[broken.dataset]())
        assert {finding.row for finding in report.findings} == {rows.index(broken.row) + 2}
        named = {finding.column for finding in report.findings}
        assert named <= {*dict(broken.cells), *RELATED.get(broken.rule, ())}


RELATED = {
    "CF-0303": {"InvoiceDetailId", "AllocatedResourceId", "AllocatedResourceName", "AllocatedTags"},
    "CF-0315": {"ChargeCategory"},
    "CF-0402": {"ListCost"},
    "CF-0404": {"ContractedCost"},
    "CF-0501": {"BillingPeriodEnd"},
}
"""Rules that name the cell that depends on the one that was changed."""


def test_every_rule_has_a_file_that_breaks_it():
    assert {broken.rule for broken in EVERY} | ELSEWHERE == set(RULES)


def test_rule_numbers_and_words_are_unique():
    assert len({rule.says for rule in RULES.values()}) == len(RULES)
    assert all(number == rule.id for number, rule in RULES.items())


def test_a_missing_column_silences_no_other_rule(tmp_path):
    rows = charges()
    rows["usage"]["ListCost"] = "14"
    content = without("ProviderName")(list(rows.values()))
    assert set(found(check(content, tmp_path))) == {"CF-0101", "CF-0401"}


def test_all_findings_are_counted_and_the_first_are_listed(tmp_path):
    row = {**charges()["usage"], "BilledCost": "x"}
    rows = [{**row, "ChargeDescription": str(at)} for at in range(50)]
    report = check(csv_bytes(rows), tmp_path, most=3)
    assert found(report) == {"CF-0202": 50}
    assert [finding.row for finding in report.findings] == [2, 3, 4]


def test_a_skipped_rule_is_not_held_and_named(tmp_path):
    rows = charges()
    rows["usage"]["BilledCost"] = "x"
    report = check(csv_bytes(list(rows.values())), tmp_path, skipped=frozenset({"CF-0202"}))
    assert report.conforms
    assert report.skipped == ("CF-0202",)


def test_a_column_of_another_version_is_named_as_such(tmp_path):
    rows = VALID["cost-and-usage", "1.4"]()
    report = check(csv_bytes(list(rows.values())), tmp_path)
    told = {f.column: f.expected for f in report.findings if f.rule == "CF-0105"}
    assert "FOCUS 1.4 has it" in told["ServiceProviderName"]


def test_the_documentation_lists_every_rule():
    page = Path(__file__).parents[4].joinpath("docs", "focus.md").read_text("utf-8")
    rows = [line for line in page.split("\n") if line.startswith("| CF-")]
    assert rows == [
        f"| {rule.id} | {rule.force.value} | {rule.says} | {rule.source} |"
        for rule in sorted(RULES.values(), key=lambda rule: rule.id)
    ]
