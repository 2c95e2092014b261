"""Everything that keeps a card from being used is said before a model is read, each with a remedy; and so is a lack of memory."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from shared.model.cuda import device
from shared.model.cuda.backend import CudaBackend
from shared.model.cuda.device import arithmetic_of, open_card
from shared.model.cuda.memory import Plan
from shared.model.cuda.shape import Shape
from shared.model.probe import PLAIN
from shared.runtime.cards import Card, NoCardsError
from shared.runtime.errors import Code, CounterfoilError

HOPPER = Card("H100", (9, 0), 80 << 30)
QWEN3_8B = replace(
    PLAIN,
    vocab_size=151_936,
    hidden_size=4096,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate_size=12_288,
    max_positions=40_960,
    dtype="bfloat16",
    layer_windows=(),
)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine on which nothing is missing; tests take something away."""
    monkeypatch.setattr(device, "cards", lambda: [HOPPER])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "kept" / "here"))
    return monkeypatch


def refused(*arguments: str) -> CounterfoilError:
    with pytest.raises(CounterfoilError) as caught:
        open_card(*arguments)
    assert caught.value.code is Code.CONFIGURATION
    assert caught.value.remedy
    return caught.value


def test_a_card_is_opened_in_its_own_arithmetic(machine):
    assert open_card().arithmetic == open_card("fused-16").arithmetic == "fused-16"
    machine.setattr(device, "cards", lambda: [Card("A100", (8, 0), 40 << 30), HOPPER])
    assert open_card().arithmetic == "fused-8"


def test_another_arithmetic_than_the_cards_is_refused(machine):
    for name in ("chain-1", "fused-8", "x"):
        assert f"computes fused-16, not {name}" in str(refused(name))


def test_no_driver_and_no_card(machine):
    def none():
        raise NoCardsError("there is no NVIDIA driver")

    machine.setattr(device, "cards", none)
    assert "there is no NVIDIA driver" in str(refused())


@pytest.mark.parametrize(
    ("capability", "why"),
    [((7, 5), "no matrix unit for bfloat16"), ((8, 7), "not known"), ((11, 0), "not known")],
)
def test_a_card_of_no_use_is_named(capability, why):
    card = Card("Old card", capability, 1 << 30)
    with pytest.raises(
        CounterfoilError, match=rf"Old card .*{capability[0]}\.{capability[1]}.*{why}"
    ) as caught:
        arithmetic_of(card)
    assert caught.value.code is Code.CONFIGURATION
    assert "8.0" in caught.value.remedy


def test_torch_without_cuda(machine):
    machine.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in str(refused())


def test_a_driver_that_is_too_old_for_torch(machine):
    machine.setattr(torch.cuda, "is_available", lambda: False)
    assert "older than CUDA 13.0 needs" in str(refused())


def test_no_triton(machine):
    machine.setattr(device, "util", SimpleNamespace(find_spec=lambda _name: None))
    assert "Triton is not installed" in str(refused())


def test_no_compiler(machine):
    machine.delenv("CC", raising=False)
    machine.setattr(device, "which", lambda _name: None)
    assert "no C compiler" in str(refused())


def test_a_folder_for_compiled_kernels_that_cannot_be_written(machine, tmp_path):
    (tmp_path / "file").write_text("")
    machine.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert "cannot be kept in" in str(error := refused())
    assert "TRITON_CACHE_DIR" in (error.remedy or "")
    machine.delenv("TRITON_CACHE_DIR")
    machine.setattr(Path, "home", lambda: tmp_path / "file")
    assert str(tmp_path / "file" / ".triton") in str(refused())


def test_a_plan_has_the_models_weights_and_all_else_that_a_node_takes():
    plan = Plan.of(QWEN3_8B, 8 << 30, rows=2048 + 64, batch=64, context=4096)
    assert plan.weights == 2 * 8_190_427_136  # Qwen3-8B's parameters, but for the norms
    assert plan.cache == 8 << 30
    assert 1 << 30 < plan.workspace < 4 << 30
    plan.check(plan.total)
    with pytest.raises(
        CounterfoilError, match=r"15\.3 GiB of weights \+ 8\.0 GiB of keys"
    ) as caught:
        plan.check(plan.total - 1)
    assert caught.value.code is Code.CONFIGURATION
    assert "kv_memory_mib" in (caught.value.remedy or "")


def test_a_tied_model_has_its_table_once():
    tied = replace(QWEN3_8B, tie_word_embeddings=True)
    sizes = [Plan.of(each, 0, rows=1, batch=1, context=1).weights for each in (QWEN3_8B, tied)]
    assert sizes[0] - sizes[1] == 2 * 151_936 * 4096


@pytest.mark.parametrize(("name", "width"), [("head_dim", 258), ("hidden_size", 32_770)])
def test_widths_that_the_kernels_cannot_have_are_named(name, width):
    with pytest.raises(CounterfoilError, match=f"{name} is at most .* has {width}") as caught:
        Shape.of(replace(QWEN3_8B, **{name: width}))
    assert caught.value.code is Code.UNSUPPORTED


def test_dtypes_that_the_arithmetic_does_not_define_are_refused():
    backend = CudaBackend("fused-16", torch.device("cpu"))
    with pytest.raises(CounterfoilError, match="fused-16 is not defined for float32") as caught:
        backend.pack(torch.zeros(2, 2))
    assert caught.value.code is Code.UNSUPPORTED


def test_weights_and_eps_that_the_arithmetic_does_not_define_are_refused():
    backend = CudaBackend("fused-16", torch.device("cpu"))
    large = torch.full((2, 2), 2.0**33, dtype=torch.bfloat16)
    for asked in (
        lambda: backend.pack(large),
        lambda: backend.pack(large / 4, bias=torch.full((2,), 2.0**33)),
        lambda: backend.to_device(large),
        lambda: backend.to_device(torch.full((2,), -(2.0**33))),
        lambda: backend.norm(torch.zeros(1, 2), torch.zeros(2), 2.0**-41, torch.bfloat16),
    ):
        with pytest.raises(CounterfoilError, match="not defined"):
            asked()
    assert backend.to_device(torch.full((2, 2), 2.0**33)).max() == 2.0**33  # states of another node
