"""What the fused arithmetics are not defined for is refused by every backend that computes them, tensor by tensor."""

from dataclasses import replace

import pytest
import torch

from shared.model.cpu import CpuBackend
from shared.model.cuda.backend import CudaBackend
from shared.model.decoder import Decoder
from shared.model.fused import FUSED, LEAST_EPS, MOST
from shared.model.weights import expected_shapes
from shared.runtime.errors import Code, CounterfoilError
from tests.vectors.arithmetic import PASS, pass_weights

CONFIG = replace(PASS, dtype="bfloat16", layers=1, layer_windows=(0,))
NAMES = [*expected_shapes(CONFIG)]
BACKENDS = (
    *(CpuBackend(arithmetic=name) for name in FUSED),
    CudaBackend("fused-16", torch.device("cpu")),
)
BY = pytest.mark.parametrize("backend", BACKENDS, ids=lambda each: f"{each.name} {each.arithmetic}")


def weights_with(name, value):
    found = {each: torch.from_numpy(pass_weights("bfloat16")[each]).bfloat16() for each in NAMES}
    found[name].view(-1)[-1] = value
    return found


@BY
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_weight_beyond_the_limit_is_refused_wherever_it_is(backend, name, sign):
    Decoder(CONFIG, weights_with(name, sign * MOST), backend)
    beyond = weights_with(name, sign * MOST * 1.0078125)
    with pytest.raises(CounterfoilError) as caught:
        Decoder(CONFIG, beyond, backend)
    assert (caught.value.code, "2^32" in caught.value.detail) == (Code.UNSUPPORTED, True)
    Decoder(CONFIG, beyond, CpuBackend())


@BY
def test_an_eps_below_the_limit_is_refused(backend):
    weights = weights_with(NAMES[0], 0.0)
    Decoder(replace(CONFIG, rms_norm_eps=LEAST_EPS), weights, backend)
    with pytest.raises(CounterfoilError) as caught:
        Decoder(replace(CONFIG, rms_norm_eps=LEAST_EPS / 2), weights, backend)
    assert (caught.value.code, "2^-40" in caught.value.detail) == (Code.UNSUPPORTED, True)


@BY
def test_states_of_another_node_are_no_weights(backend):
    """Their magnitude is not limited: a norm comes first."""
    states = torch.full((2, 3), 2.0**90)
    assert torch.equal(backend.to_device(states), states)
