"""CSV files as a stranger might send them: each is judged or refused, none hangs, fills the memory or steers a terminal."""

import gzip
import random
import tracemalloc

import pytest

from audit_layer.costs.focus_check import reading
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.focus_check.files import charges, check, csv_bytes, found

VALID = csv_bytes(list(charges().values()))


def test_gzip_is_recognised_by_its_content(tmp_path):
    assert check(gzip.compress(VALID), tmp_path).conforms


def test_lines_may_end_in_lf(tmp_path):
    assert check(VALID.replace(b"\r\n", b"\n"), tmp_path).conforms


def test_a_cell_may_hold_quotes_commas_and_line_ends(tmp_path):
    row = {**charges()["usage"], "ChargeDescription": 'tokens, "cached",\nand others'}
    report = check(csv_bytes([row]), tmp_path)
    assert report.conforms
    assert report.rows == 1


def test_rows_count_records_not_lines(tmp_path):
    rows = charges()
    rows["usage"]["ChargeDescription"] = "first\nsecond"
    rows["reserved"]["BilledCost"] = "x"
    (finding,) = check(csv_bytes(list(rows.values())), tmp_path).findings
    assert (finding.row, finding.column) == (3, "BilledCost")


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le"])
def test_utf_16_never_conforms(codec, tmp_path):
    report = check(VALID.decode().encode(codec), tmp_path)
    assert not report.conforms


def test_utf_16_with_a_mark_is_named(tmp_path):
    report = check(VALID.decode().encode("utf-16"), tmp_path)
    assert "UTF-16" in report.findings[0].expected
    assert not report.complete


def test_bytes_that_are_no_utf_8_are_told_with_their_row(tmp_path):
    report = check(VALID.replace(b"charge 3", b"\xc3\x28charge"), tmp_path)
    (finding,) = report.findings
    assert (finding.rule, finding.row, finding.value) == ("CF-0001", 4, "c3 28 63 68 61 72 67 65")


def test_a_cell_of_ten_megabytes_is_skipped_and_the_rest_is_read(tmp_path):
    rows = charges()
    rows["adjustment"]["BilledCost"] = "x"
    content = csv_bytes(list(rows.values())).replace(b"charge 2", b"a" * 10_000_000)
    report = check(content, tmp_path)
    assert found(report) == {"CF-0004": 1, "CF-0202": 1}
    assert [finding.row for finding in report.findings] == [3, 10]


@pytest.mark.parametrize(("lines", "rule"), [(5, "CF-0002"), (50_000, "CF-0004")])
def test_reading_stops_where_a_quote_is_never_closed(lines, rule, tmp_path):
    content = VALID + b'"never closed\n' + b"a line\n" * lines
    report = check(content, tmp_path)
    assert not report.complete
    assert found(report) == {rule: 1}
    assert report.findings[0].row == 11


def test_a_line_without_end_is_not_taken_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE", 1 << 16)
    content = VALID + b"a" * 20_000_000
    tracemalloc.start()
    try:
        report = check(content, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found(report) == {"CF-0004": 1}
    assert not report.complete
    assert peak < 4_000_000


def test_memory_does_not_grow_with_the_rows_but_for_their_digests(tmp_path):
    row = charges()["usage"]
    rows = [{**row, "ChargeDescription": f"charge {at}"} for at in range(20_000)]
    content = csv_bytes(rows)
    del rows
    tracemalloc.start()
    try:
        assert check(content, tmp_path).conforms
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(content) // 3


def test_a_file_that_names_itself_gzip_and_is_none(tmp_path):
    report = check(b"\x1f\x8b" + random.Random(7).randbytes(1000), tmp_path)
    assert found(report) == {"CF-0005": 1}


def test_a_file_that_expands_out_of_proportion_is_read_no_further(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "ALWAYS_EXPANDS", 1 << 20)
    long = dict.fromkeys(
        ("x_Receipt", "x_LogIndex", "AvailabilityZone", "ResourceName"), "a" * 130_000
    )
    rows = [{**charges()["usage"], **long, "ChargeDescription": str(at)} for at in range(40)]
    report = check(gzip.compress(csv_bytes(rows)), tmp_path)
    assert found(report) == {"CF-0006": 1}
    assert report.rows < 40


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_truncated_gzip_file_never_conforms(cut, tmp_path):
    report = check(gzip.compress(VALID)[:-cut], tmp_path)
    assert not report.complete
    assert "CF-0005" in found(report)


def test_a_header_alone_conforms(tmp_path):
    report = check(VALID.split(b"\r\n")[0] + b"\r\n", tmp_path)
    assert report.conforms
    assert report.rows == 0


def test_blank_lines_are_rows_without_cells(tmp_path):
    assert found(check(VALID + b"\r\n\r\n", tmp_path)) == {"CF-0003": 2}


def test_a_header_that_is_no_csv(tmp_path):
    report = check(b'"BilledCost"x,b\r\n1,2\r\n', tmp_path)
    assert found(report) == {"CF-0002": 1}
    assert not report.complete


def test_line_ends_of_old_macs_are_refused(tmp_path):
    report = check(VALID.replace(b"\r\n", b"\r"), tmp_path)
    assert "CF-0002" in found(report)
    assert not report.complete


def test_a_nul_in_the_header_is_shown_harmless(tmp_path):
    report = check(VALID.replace(b"x_Receipt", b"x_\x00\x1b[2J", 1), tmp_path)
    (finding,) = report.findings
    assert finding.column == "x_\\x00\\x1b[2J"


@pytest.mark.parametrize("cell", ["\x1b]0;title\x07", "\u202eevil", "a\nb"])
def test_what_is_shown_of_a_cell_does_not_steer_a_terminal(cell, tmp_path):
    row = {**charges()["usage"], "BilledCost": cell}
    (finding,) = check(csv_bytes([row]), tmp_path).findings
    assert finding.value.isprintable()


def test_what_is_shown_of_a_long_cell_is_short(tmp_path):
    row = {**charges()["usage"], "BilledCost": "x" * 100_000}
    (finding,) = check(csv_bytes([row]), tmp_path).findings
    assert len(finding.value) < 120
    assert "100,000 characters" in finding.value


@pytest.mark.parametrize(
    "number", ["1E400", "-1E-400", "9" * 76, "0." + "1" * 75, "1E999999999", "1" * 100_000]
)
def test_numbers_of_any_size_are_judged(number, tmp_path):
    row = {**charges()["usage"], "ListUnitPrice": number, "ListCost": number}
    assert not check(csv_bytes([row]), tmp_path).conforms


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 20_000, '{"a": ' + "1" * 10_000 + "}"])
def test_json_that_is_deep_or_large_is_judged(text, tmp_path):
    row = {**charges()["usage"], "Tags": text}
    assert found(check(csv_bytes([row]), tmp_path)) == {"CF-0207": 1}


def test_a_header_of_many_strange_columns_is_judged(tmp_path):
    names = ",".join(f"c{at}" for at in range(20_000))
    assert found(check(f"{names}\r\n".encode(), tmp_path))["CF-0105"] == 20_000


def test_what_cannot_be_opened_is_an_error_of_the_caller(tmp_path):
    from audit_layer.costs.focus_check.checking import check_file
    from audit_layer.costs.focus_check.columns import DATASETS

    with pytest.raises(CounterfoilError) as caught:
        check_file(tmp_path / "none.csv", DATASETS["cost-and-usage", "1.2"])
    assert caught.value.code is Code.CONFIGURATION


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_progress_ends_at_the_size_of_the_file(pack, tmp_path):
    row = charges()["usage"]
    content = pack(csv_bytes([{**row, "ChargeDescription": str(at)} for at in range(3000)]))
    told = []
    check(content, tmp_path, progress=lambda done, size: told.append((done, size)))
    assert len(told) == 3
    assert told == sorted(told)
    assert told[-1] == (len(content), len(content))
