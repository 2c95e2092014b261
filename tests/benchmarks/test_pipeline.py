"""The benchmark of chains runs, and says of each what the formula says and what was served."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from benchmarks.pipeline.__main__ import cases, main
from benchmarks.pipeline.table import at_rest


def test_a_quick_run_serves_with_many_steps_under_way_with_one_and_through_a_break(tmp_path):
    file = tmp_path / "found.json"
    done = CliRunner().invoke(main, ["--quick", "--json", str(file)], catch_exceptions=False)
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert row["depth"] > 1
    assert all(
        row[how]["tokens_per_s"] > 0 for how in ("under_way", "measured", "one_step", "broken")
    )
    assert len(row["measured"]["busy"]) == row["stages"]
    assert row["broken"]["resumed_s"] > 0 == (row["under_way"]["resumed_s"] or 0)
    assert "slow rows" in done.output


@pytest.mark.slow
def test_a_quick_run_over_a_network_serves_plain_and_accountable(tmp_path):
    file = tmp_path / "found.json"
    words = ["-m", "benchmarks.pipeline", "--quick", "--kind", "network", "--json", str(file)]
    done = subprocess.run([sys.executable, *words], capture_output=True, timeout=300, check=True)
    rows = json.loads(file.read_text(encoding="utf-8"))["compared"]
    assert [row["sequences"] for row in rows] == [1, 64]
    assert all(row[how]["tokens_per_s"] > 0 for row in rows for how in ("plain", "accountable"))
    assert all(row["bytes_plain"] < row["bytes"] <= 4 * row["width"] + 100 for row in rows)
    assert b"accountable" in done.stdout


def test_every_row_has_its_like_without_a_round_trip():
    rows = [
        {
            "kind": c.kind,
            "stages": c.stages,
            "sequences": c.sequences,
            "trip_ms": c.trip_ms,
            "x": {"tokens_per_s": 2.0},
        }
        for c in cases(quick=False)
    ]
    assert {at_rest(row, rows, "x") for row in rows} == {1.0}
