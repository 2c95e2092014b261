"""The benchmark of the arithmetics runs, and says of each way what it took."""

import json

from click.testing import CliRunner

from benchmarks.arithmetic.__main__ import main
from benchmarks.arithmetic.figures import ways
from shared.model.fused import FUSED


def test_a_quick_run_measures_every_arithmetic_by_all_instructions(tmp_path):
    file = tmp_path / "found.json"
    done = CliRunner().invoke(main, ["--quick", "--json", str(file)], catch_exceptions=False)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert {name for name, _ in ways()} == {"chain-1", "pairs-32", *FUSED}
    for part in ("products", "pass"):
        assert len(found[part]) == len(ways())
        assert all(row["ms"]["median"] > 0 for row in found[part])
        native = min(
            r["times_chain_1"]["median"] for r in found[part] if r["arithmetic"] == "chain-1"
        )
        assert native == 1.0
    assert "fused-16" in done.output
