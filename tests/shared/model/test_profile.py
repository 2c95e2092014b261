"""The numeric profile: equal where the bits are equal, another one where they are not."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from shared.model import functions
from shared.model import profile as profile_module
from shared.model.cli import model as command
from shared.model.decoder import Stage
from shared.model.native.library import VARIANTS
from shared.model.profile import numeric_profile, probe, profile_id
from tests.shared.model import tiny

PROGRAM = """
import json, sys
from shared.model.native.library import kernels
from shared.model.profile import numeric_profile
kernels().threads(int(sys.argv[1]))
kernels().use(int(sys.argv[2]))
json.dump([numeric_profile(name) for name in ("bfloat16", "float32")], sys.stdout)
"""


def elsewhere(threads: int, variant: int, **environment: str) -> list[dict[str, str | int]]:
    """Return the profiles of another process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(threads), str(variant)],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
        timeout=100,
    )
    profiles: list[dict[str, str | int]] = json.loads(done.stdout)
    return profiles


def test_processes_with_other_instructions_threads_and_libraries_have_the_same_profile():
    here = [numeric_profile(dtype) for dtype in ("bfloat16", "float32")]
    assert profile_id(here[0]) != profile_id(here[1])
    for variant in range(len(VARIANTS)):
        limited = {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": "X86_V4"}
        assert elsewhere(variant + 1, variant, **(limited if variant < 2 else {})) == here


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_probe_is_run_and_notices_other_arithmetic(dtype, monkeypatch):
    before = probe(dtype)
    assert probe(dtype) == before
    kept = Stage.__init__

    def other(self, weights, config, first, last):
        kept(self, weights, config, first, last)
        self._shape.eps *= 2

    monkeypatch.setattr(Stage, "__init__", other)
    assert probe(dtype) != before


@pytest.mark.parametrize("name", ["ln", "exp"])
def test_the_probe_notices_another_mathematical_function(name, monkeypatch):
    before = probe("float32")
    ours = getattr(functions, name)
    monkeypatch.setattr(functions, name, lambda x: np.nextafter(ours(x), 9.0))
    assert probe("float32") != before


def test_every_field_is_part_of_the_id(monkeypatch):
    profile = numeric_profile("float32")
    assert set(profile) == {"device", "architecture", "dtype", "kernels", "probe"}
    base = profile_id(profile)
    for name, value in profile.items():
        assert profile_id({**profile, name: f"{value}x"}) != base
    monkeypatch.setattr(profile_module, "KERNELS", "others")
    assert numeric_profile("float32")["kernels"] == "others"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_command_prints_the_profile_and_the_hash_that_receipts_name(dtype, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny.config_json(dtype=dtype)))
    expected = numeric_profile(dtype)
    printed = CliRunner().invoke(command, ["profile", str(tmp_path), "--json"])
    assert json.loads(printed.stdout) == {
        "numeric_profile": profile_id(expected).hex(),
        "profile": expected,
    }
    told = CliRunner().invoke(command, ["profile", str(tmp_path)]).stdout.splitlines()
    assert told[0].split() == ["numeric", "profile", profile_id(expected).hex()]
    assert [line.split() for line in told[1:]] == [[n, str(v)] for n, v in expected.items()]
