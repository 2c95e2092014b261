"""The numeric profile: equal where the bits are equal, another one where they are not."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from shared.model.cli import model as command
from shared.model.cpu import CpuBackend
from shared.model.native.library import VARIANTS
from shared.model.probe import probe
from shared.model.profile import numeric_profile, profile_id
from tests.shared.model import tiny

PROGRAM = """
import json, sys
from shared.model.cpu import CpuBackend
from shared.model.native.library import kernels
from shared.model.probe import probe
from shared.model.profile import numeric_profile
backend = CpuBackend(int(sys.argv[1]))
kernels().use(int(sys.argv[2]))
json.dump([numeric_profile(name, backend) for name in ("bfloat16", "float32")], sys.stdout)
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
    here = [numeric_profile(dtype, tiny.BACKEND) for dtype in ("bfloat16", "float32")]
    assert profile_id(here[0]) != profile_id(here[1])
    for variant in range(len(VARIANTS)):
        limited = {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": "X86_V4"}
        assert elsewhere(variant + 1, variant, **(limited if variant < 2 else {})) == here


def test_every_field_is_part_of_the_id():
    profile = numeric_profile("float32", tiny.BACKEND)
    assert profile["probe"] == probe("float32", tiny.BACKEND)
    assert set(profile) == {"device", "architecture", "dtype", "kernels", "probe"}
    base = profile_id(profile)
    for name, value in profile.items():
        assert profile_id({**profile, name: f"{value}x"}) != base


class Elsewhere(CpuBackend):
    device, arithmetic = "abacus", "beads-10"

    def __init__(self) -> None:
        super().__init__()
        self.architecture = "wood"


def test_device_architecture_and_arithmetic_are_what_the_backend_says():
    here, there = (numeric_profile("float32", backend) for backend in (tiny.BACKEND, Elsewhere()))
    told = {"device": "abacus", "architecture": "wood", "kernels": "beads-10"}
    assert there == here | told


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_command_prints_the_profile_and_the_hash_that_receipts_name(dtype, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny.config_json(dtype=dtype)))
    expected = numeric_profile(dtype, tiny.BACKEND)
    printed = CliRunner().invoke(command, ["profile", str(tmp_path), "--json"])
    assert json.loads(printed.stdout) == {
        "numeric_profile": profile_id(expected).hex(),
        "profile": expected,
    }
    told = CliRunner().invoke(command, ["profile", str(tmp_path)]).stdout.splitlines()
    assert told[0].split() == ["numeric", "profile", profile_id(expected).hex()]
    assert [line.split() for line in told[1:]] == [[n, str(v)] for n, v in expected.items()]
