"""What docs/invoices.md shows is what happens."""

import re
from pathlib import Path

from audit_layer.costs.intake.forms import (
    FIELDS,
    MEANINGS,
    DateForm,
    FileForm,
    NumberForm,
    RowForm,
    TaxForm,
)
from audit_layer.costs.intake.mapping import InvoiceMapping
from audit_layer.costs.intake.read import preview
from audit_layer.costs.intake.shown import lines_of
from tests.audit_layer.costs.intake.files import SMALL

TEXT = (Path(__file__).parents[4] / "docs" / "invoices.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("### Invoices in other formats")[2].partition("\n## ")[0]


def block(kind: str) -> str:
    [found] = re.findall(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL)
    return str(found)


def test_the_example_is_read_with_its_mapping_as_the_dry_run_shows():
    made = preview(
        block("csv").encode(),
        mapping=InvoiceMapping.parse(block("toml").encode()),
        names={"small-7b": SMALL}.get,
        rows=1,
    )
    assert made.invoice is not None
    assert "\n".join(lines_of(made)) + "\n" == block("text")


def test_every_setting_field_and_meaning_is_described():
    models = (InvoiceMapping, FileForm, RowForm, NumberForm, DateForm, TaxForm)
    for name in {*FIELDS, *MEANINGS, *(name for model in models for name in model.model_fields)}:
        assert re.search(rf"\b{name}\b", SECTION), name
