"""The numeric profile: equal where the bits are equal, another one where they are not."""

import json
import os
import subprocess
import sys

import pytest
import torch

from shared.model import profile as profile_module
from shared.model.arithmetic import rms_norm
from shared.model.profile import numeric_profile, probe, profile_id

PROGRAM = """
import json, sys, torch
from shared.model.profile import numeric_profile
torch.set_num_threads(1)
json.dump([numeric_profile(name) for name in ("bfloat16", "float32")], sys.stdout)
"""


def elsewhere(**environment: str) -> list[dict[str, str | int]]:
    """Return the profiles of another process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
        timeout=100,
    )
    profiles: list[dict[str, str | int]] = json.loads(done.stdout)
    return profiles


def test_another_process_on_this_machine_has_the_same_profile():
    here = [numeric_profile(dtype) for dtype in ("bfloat16", "float32")]
    assert elsewhere() == here
    assert profile_id(here[0]) != profile_id(here[1])


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the machine has one capability"
)
def test_a_process_with_fewer_instructions_has_another_profile():
    limited = elsewhere(ATEN_CPU_CAPABILITY="avx2")[1]
    here = numeric_profile("float32")
    assert profile_id(limited) != profile_id(here)
    assert limited["instructions"] == "AVX2"


def test_profiles_differ_by_threads():
    one = numeric_profile("float32")
    torch.set_num_threads(2)
    assert profile_id(numeric_profile("float32")) != profile_id(one)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_probe_is_run_and_notices_other_arithmetic(dtype, monkeypatch):
    before = probe(dtype)
    assert probe(dtype) == before
    monkeypatch.setattr(
        "shared.model.decoder.rms_norm", lambda x, weight, eps: rms_norm(x, weight, eps * 2)
    )
    assert probe(dtype) != before


def test_every_field_is_part_of_the_id(monkeypatch):
    profile = numeric_profile("float32")
    base = profile_id(profile)
    for name, value in profile.items():
        other = value + 1 if isinstance(value, int) else value + "x"
        assert profile_id({**profile, name: other}) != base
    monkeypatch.setattr(profile_module, "KERNELS", "others")
    assert numeric_profile("float32")["kernels"] == "others"
