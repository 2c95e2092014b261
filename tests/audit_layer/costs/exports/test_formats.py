import subprocess
import sys
from pathlib import Path

import pytest

from audit_layer.costs.exports.formats import Format, check_extension, format_named
from shared.runtime.errors import Code, CounterfoilError


@pytest.mark.parametrize("chosen", Format)
def test_a_format_is_found_by_its_name_and_accepts_its_own_extension_in_any_case(chosen):
    assert format_named(chosen.value) is chosen
    for name in (
        f"a.{chosen.container}",
        f"A.{chosen.container.upper()}",
        "no-extension",
        "of-2026.11",
    ):
        assert check_extension(Path(name), chosen).name == name


@pytest.mark.parametrize(
    "name", ["csv", "parquet", "focus", "focus-1.3-csv", "FOCUS-1.2-CSV", "", "xlsx\n", "x" * 500]
)
def test_any_other_name_is_refused_with_the_list(name):
    with pytest.raises(CounterfoilError) as caught:
        format_named(name)
    assert caught.value.code is Code.UNSUPPORTED
    assert "focus-1.2-parquet" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("a.parquet", Format.FOCUS_1_2_CSV), ("a.csv", Format.FOCUS_1_4_PARQUET), ("a.CSV", Format.XLSX), ("a.xls", Format.XLSX),
     ("a.csv.gz", Format.GL_CSV), ("a.xlsx", Format.INVOICE_DETAIL_CSV), ("a.txt", Format.BILLING_PERIOD_CSV)],
)  # fmt: skip
def test_an_extension_that_contradicts_the_format_is_refused(name, chosen):
    with pytest.raises(CounterfoilError, match=str(chosen)) as caught:
        check_extension(Path(name), chosen)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_the_libraries_of_other_formats_are_not_loaded_for_csv():
    script = (
        "import sys, audit_layer.costs.exports.focus_csv, audit_layer.costs.exports.invoice_detail, "
        "audit_layer.costs.exports.journal, audit_layer.costs.exports.workbook; "
        "print(sorted({'numpy', 'pyarrow', 'xlsxwriter', 'sqlalchemy'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert found.stdout == "[]\n"
