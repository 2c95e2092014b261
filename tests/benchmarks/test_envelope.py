"""The benchmark of the envelope runs, and says of each step what it took and of each shape what it adds."""

import json

from click.testing import CliRunner

from benchmarks.envelope.__main__ import main
from benchmarks.envelope.figures import AIMS, LARGEST
from benchmarks.envelope.steps import World
from benchmarks.envelope.table import SHOWN


def test_a_quick_run_measures_every_step_of_the_shape_with_aims(tmp_path):
    file = tmp_path / "found.json"
    done = CliRunner().invoke(main, ["--quick", "--json", str(file)], catch_exceptions=False)
    (shape,) = json.loads(file.read_text(encoding="utf-8"))["shapes"]
    assert shape["aims"] == AIMS
    assert set(shape["microseconds"]) == set(SHOWN) == set(World(LARGEST).steps())
    assert all(step["median"] > 0 for step in shape["microseconds"].values())
    size = shape["bytes"]
    assert size["added"] == size["envelope"] + size["order"] - size["body"] > 0
    assert "3 of 5" in done.output
    assert "≤ 3000" in done.output
