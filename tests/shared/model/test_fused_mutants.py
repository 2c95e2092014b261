"""Fused kernels with one line changed: the vectors show each, and the probe those that a pass shows."""

import pytest

from shared.model import arithmetic, cpu
from shared.model.cpu import CpuBackend
from shared.model.probe import probe
from shared.model.profile import PROBES
from tests.shared.model import test_arithmetic_vectors as vectors
from tests.shared.model.mutants import BEYOND_THE_PROBE, OF_FUSED, UNCHANGED, mutated
from tests.vectors.arithmetic import ARITHMETICS

FUSED_16 = next(by for by in ARITHMETICS if by.name == "fused-16")
PARTS = (
    *(vectors.test_products, vectors.test_norms, vectors.test_rounding, vectors.test_a_pass),
    *(vectors.test_gates, vectors.test_rotation_norms_of_heads_and_what_is_stored),
    vectors.test_attention,
)
"""The slowest one last."""


def shown() -> bool:
    """Return whether any part of the vectors differs."""
    for part in PARTS:
        try:
            part(FUSED_16)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("mutant", [*OF_FUSED, UNCHANGED])
def test_one_changed_line_is_shown(mutant, monkeypatch, tmp_path_factory):
    kernels = mutated(mutant, tmp_path_factory, portable=True)
    for module in (arithmetic, cpu):
        monkeypatch.setattr(module, "kernels", lambda: kernels)
    monkeypatch.setattr(vectors, "variants", lambda: iter([kernels.use(0)]))
    assert shown() == (mutant != UNCHANGED)
    defined = PROBES["fused-16", "bfloat16"]
    found = probe("bfloat16", CpuBackend(arithmetic="fused-16"))
    assert (found == defined) == (mutant in (*BEYOND_THE_PROBE, UNCHANGED))
