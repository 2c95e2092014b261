"""The numeric profile: equal where the bits are equal, different where they are not."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from click.testing import CliRunner

from shared.model.arithmetic import Kind, kind_of
from shared.model.cli import model as command
from shared.model.cpu import CpuBackend, own_arithmetic
from shared.model.native.library import VARIANTS
from shared.model.probe import probe
from shared.model.profile import PROBES, numeric_profile, profile_id
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.model import tiny

KNOWN = list(PROBES)
PROGRAM = """
import json, sys
from shared.model.cpu import CpuBackend
from shared.model.native.library import kernels
from shared.model.profile import PROBES, numeric_profile
kernels().threads(int(sys.argv[1]))
kernels().use(int(sys.argv[2]))
found = [numeric_profile(dtype, CpuBackend(arithmetic=name)) for name, dtype in PROBES]
json.dump(found, sys.stdout)
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


def test_processes_with_other_instructions_threads_and_libraries_have_the_same_profiles():
    here = [numeric_profile(dtype, CpuBackend(arithmetic=name)) for name, dtype in KNOWN]
    assert len({profile_id(profile) for profile in here}) == len(KNOWN)
    for variant in range(len(VARIANTS)):
        limited = {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": "X86_V4"}
        assert elsewhere(variant + 1, variant, **(limited if variant < 2 else {})) == here


def test_a_profile_is_arithmetic_dtype_and_probe_and_each_is_part_of_the_id():
    profile = numeric_profile("float32", tiny.BACKEND)
    probe_ = probe("float32", tiny.BACKEND)
    assert profile == {"arithmetic": "chain-1", "dtype": "float32", "probe": probe_}
    base = profile_id(profile)
    for name, value in profile.items():
        assert profile_id({**profile, name: f"{value}x"}) != base


class Impostor(CpuBackend):
    """Computes an arithmetic other than the one it names."""

    def __init__(self, claimed: str) -> None:
        super().__init__(arithmetic="pairs-32" if claimed == "chain-1" else "chain-1")
        self._computed, self.arithmetic = self.arithmetic, claimed

    def _kind(self, dtype: torch.dtype) -> Kind:
        return kind_of(self._computed, dtype)


@pytest.mark.parametrize(
    ("claimed", "computed"), [("chain-1", "pairs-32"), ("pairs-32", "chain-1")]
)
def test_a_process_with_another_arithmetics_bits_does_not_serve_and_says_whose_they_are(
    claimed, computed
):
    with pytest.raises(CounterfoilError) as caught:
        numeric_profile("bfloat16", Impostor(claimed))
    assert caught.value.code is Code.CONFIGURATION
    assert caught.value.detail.endswith(f"those of {computed}")


class OneUlpOff(CpuBackend):
    def linear(self, x, weight):
        return torch.nextafter(super().linear(x, weight), torch.tensor(torch.inf))


@pytest.mark.parametrize(("arithmetic", "dtype"), KNOWN)
def test_a_process_with_bits_of_its_own_does_not_serve(arithmetic, dtype):
    with pytest.raises(CounterfoilError) as caught:
        numeric_profile(dtype, OneUlpOff(arithmetic=arithmetic))
    assert caught.value.code is Code.CONFIGURATION
    assert caught.value.detail.endswith("those of no known arithmetic")


def test_an_unknown_arithmetic_is_refused_by_name():
    with pytest.raises(CounterfoilError) as caught:
        CpuBackend(arithmetic="abacus")
    assert (caught.value.code, "abacus" in caught.value.detail) == (Code.CONFIGURATION, True)
    with pytest.raises(CounterfoilError) as caught:
        probe("float32", CpuBackend(arithmetic="pairs-32"))
    assert caught.value.code is Code.UNSUPPORTED


def test_the_command_prints_every_arithmetic_that_is_asked_for(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny.config_json(dtype="bfloat16")))
    run = partial(CliRunner().invoke, command, catch_exceptions=False)
    every = json.loads(run(["profile", str(tmp_path), "--arithmetic", "all", "--json"]).stdout)
    assert [each["profile"]["arithmetic"] for each in every] == [
        "chain-1",
        "pairs-32",
        "fused-16",
        "fused-8",
    ]
    for each in every:
        name = each["profile"]["arithmetic"]
        one = run(["profile", str(tmp_path), "--arithmetic", name, "--json"])
        assert json.loads(one.stdout) == each
    assert run(["profile", str(tmp_path), "--arithmetic", "all"]).stdout.count("probe") == 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_command_prints_the_profile_and_the_hash_that_receipts_name(dtype, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny.config_json(dtype=dtype)))
    expected = numeric_profile(dtype, CpuBackend(arithmetic=own_arithmetic(dtype)))
    printed = CliRunner().invoke(command, ["profile", str(tmp_path), "--json"])
    assert json.loads(printed.stdout) == {
        "numeric_profile": profile_id(expected).hex(),
        "profile": expected,
    }
    printed = CliRunner().invoke(command, ["profile", str(tmp_path)]).stdout.splitlines()
    assert printed[0].split() == ["numeric", "profile", profile_id(expected).hex()]
    assert [line.split() for line in printed[1:]] == [[n, str(v)] for n, v in expected.items()]
