"""The benchmark of chains runs, and says of each what the formula says and what was served."""

import json

from click.testing import CliRunner

from benchmarks.pipeline.__main__ import cases, main
from benchmarks.pipeline.table import at_rest


def test_a_quick_run_serves_with_many_steps_under_way_with_one_and_through_a_break(tmp_path):
    file = tmp_path / "found.json"
    done = CliRunner().invoke(main, ["--quick", "--json", str(file)], catch_exceptions=False)
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert row["depth"] > 1
    assert all(row[how]["tokens_per_s"] > 0 for how in ("under_way", "one_step", "broken"))
    assert row["broken"]["resumed_s"] > 0 == (row["under_way"]["resumed_s"] or 0)
    assert "slow rows" in done.output


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
