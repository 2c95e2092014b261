"""The probe notices: every switch that changes a bit, ignored or turned another way by a backend or a sampler, gives another hash.

Which switches there are is read off the dataclasses that hold them, so a new one must be probed here, or be listed with the
reason why it changes nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.model import arithmetic, cpu, functions
from shared.model import probe as probe_module
from shared.model import sampler as sampler_module
from shared.model.backend import Cache, Layers, Look, Packed, Rows
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend, CpuLayers
from shared.model.noise import Noise
from shared.model.probe import CASES, probe
from shared.model.rope import Rope
from shared.model.sampler import Sampler
from shared.model.weights import Weights, compute_dtype
from shared.statements.request import PPM, SamplingSettings
from tests.shared.model.mutants import (
    MUTANTS,
    OTHERS,
    UNCHANGED,
    mutated,
)
from tests.shared.model.paged import Paged

DTYPES = ("bfloat16", "float32")
HARMLESS = {
    "max_positions": "bounds what is asked for; a position's angles are its own",
    "eos_token_ids": "end a text, which no pass knows of",
}
HARMLESS_SETTINGS = {
    "max_tokens": "ends a text; no choice depends on it",
    "stop": "ends a text; no choice depends on it",
    "stop_token_ids": "end a text; no choice depends on them",
}


@cache
def honest(dtype: str) -> str:
    return probe(dtype, CpuBackend())


class Stepping:
    """Layers that are given other rows, or another cache, than they should be."""

    def __init__(self, layers: Layers, step: Callable[[Layers, Tensor, list[Rows], Cache], Tensor]):
        self._layers, self._step = layers, step

    def __call__(
        self, states: Tensor, rows: Iterable[Rows], cache: Cache, look: Look | None = None
    ) -> Tensor:
        return self._step(self._layers, states, list(rows), cache)


@dataclass
class Deaf(CpuBackend):
    """A backend that packs layers of another configuration, or other weights, than it is given."""

    config: Callable[[ModelConfig], ModelConfig] = lambda config: config
    weights: Callable[[ModelConfig, dict[str, Tensor]], None] = lambda _config, _weights: None
    packed: Callable[[CpuLayers], None] = lambda _layers: None

    def __post_init__(self) -> None:
        CpuBackend.__init__(self)

    def layers(self, config: ModelConfig, weights: Weights, first: int, last: int) -> Layers:
        other = dict(weights)
        self.weights(config, other)
        kind = self._kind(compute_dtype(config))
        found = CpuLayers(kind, self.config(config), other, first, last)
        self.packed(found)
        return found


def whole(width: int) -> int:
    """Return how much of a width fills whole lanes."""
    return width // 16 * 16


class CutVocabulary(CpuBackend):
    def logits(self, hidden: Tensor, head: Packed) -> Tensor:
        logits = super().logits(hidden, head)
        logits[:, whole(head.rows) :] = 0.0
        return logits


class OtherLastNorm(CpuBackend):
    def norm(self, states: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        return super().norm(states, weight, 2 * eps, dtype)


class LastBitLost(CpuBackend):
    def norm(self, states: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        hidden = super().norm(states, weight, eps, dtype)
        hidden.view(torch.int16 if dtype == torch.bfloat16 else torch.int32).bitwise_and_(~1)
        return hidden


class OtherRow(CpuBackend):
    """Looks up the row after a token's in a packed table, or in one that is not."""

    def __init__(self, table: type) -> None:
        super().__init__()
        self._table = table

    def embed(self, table: Packed | Tensor, tokens: Tensor) -> Tensor:
        if isinstance(table, self._table):
            rows = len(table) if isinstance(table, Tensor) else table.rows
            tokens = (tokens + 1) % rows
        return super().embed(table, tokens)


class NoBias(CpuBackend):
    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Packed:
        return super().pack(weight)


def cut(*names: str) -> Callable[[ModelConfig, dict[str, Tensor]], None]:
    """Leave out the inputs of some matrices that do not fill whole lanes."""

    def change(_config: ModelConfig, weights: dict[str, Tensor]) -> None:
        for name, tensor in weights.items():
            if name.endswith(tuple(f"{each}.weight" for each in names)):
                weights[name] = tensor.clone()
                weights[name][:, whole(tensor.shape[1]) :] = 0.0

    return change


def first_layer_for_all(_config: ModelConfig, weights: dict[str, Tensor]) -> None:
    for name in weights:
        number = name.removeprefix("model.layers.").partition(".")[0]
        if number.isdigit():
            weights[name] = weights[name.replace(f".{number}.", ".0.", 1)]


def keys_by_turns(config: ModelConfig, weights: dict[str, Tensor]) -> None:
    """Let head h read the keys of head h % kv_heads, instead of those of its group."""
    order = sorted(range(config.heads), key=lambda head: head % config.kv_heads)
    for name, tensor in weights.items():
        if "q_proj" in name:
            weights[name] = tensor.unflatten(0, (-1, config.head_dim))[order].flatten(0, 1)
        if "o_proj" in name:
            weights[name] = tensor.unflatten(1, (-1, config.head_dim))[:, order].flatten(1, 2)


def keys_of_another_head(config: ModelConfig, weights: dict[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if "k_proj" in name:
            weights[name] = tensor.roll(config.head_dim, 0)


def scale_of_the_filled_width(layers: CpuLayers) -> None:
    layers._shape.scale = layers._shape.head_dim**-0.5


def rope(of: str, **changes: Any) -> Deaf:
    """A backend that turns by other angles where the rotation is of one kind."""
    return Deaf(
        lambda config: replace(
            config, rope=replace(config.rope, **changes) if config.rope.kind == of else config.rope
        )
    )


def config(**changes: Any) -> Deaf:
    return Deaf(lambda given: replace(given, **changes))


def longer_window(width: int, layer: int) -> Deaf:
    """A backend that errs about one layer of the model of that width."""

    def change(given: ModelConfig) -> ModelConfig:
        windows = list(given.layer_windows)
        windows[layer] += 1
        return replace(given, layer_windows=tuple(windows))

    return Deaf(lambda given: change(given) if given.hidden_size == width else given)


CONFIG: dict[str, dict[str, Callable[[], CpuBackend]]] = {
    "vocab_size": {"logits end with whole lanes": CutVocabulary},
    "hidden_size": {"inputs end with whole lanes": lambda: Deaf(weights=cut("q_proj", "up_proj"))},
    "layers": {"all are the first one": lambda: Deaf(weights=first_layer_for_all)},
    "heads": {"keys by turns": lambda: Deaf(weights=keys_by_turns)},
    "kv_heads": {"keys of another head": lambda: Deaf(weights=keys_of_another_head)},
    "head_dim": {"scale of the filled width": lambda: Deaf(packed=scale_of_the_filled_width)},
    "intermediate_size": {"inputs end with whole lanes": lambda: Deaf(weights=cut("down_proj"))},
    "rms_norm_eps": {
        "in layers": lambda: Deaf(lambda config: replace(config, rms_norm_eps=1e-5)),
        "in the last norm": OtherLastNorm,
    },
    "tie_word_embeddings": {
        "another row of a tied table": lambda: OtherRow(arithmetic.Packed),
        "another row of an untied table": lambda: OtherRow(Tensor),
    },
    "dtype": {"less precise than it says": LastBitLost},
    "rope": {
        "theta": lambda: rope("default", theta=10_001.0),
        "theta with factors": lambda: rope("llama3", theta=500.1),
    },
    "qkv_bias": {"none in layers": lambda: config(qkv_bias=False), "none in products": NoBias},
    "qk_norm": {"none": lambda: config(qk_norm=False)},
    "layer_windows": {
        "none": lambda: config(layer_windows=()),
        "of another layer": lambda: Deaf(
            lambda given: replace(given, layer_windows=given.layer_windows[::-1])
        ),
        **{
            f"one longer in layer {layer} of width {case.config.hidden_size}": partial(
                longer_window, case.config.hidden_size, layer
            )
            for case in CASES
            for layer, window in enumerate(case.config.layer_windows)
            if window
        },
    },
}
ROPE: dict[str, dict[str, Callable[[], CpuBackend]]] = {
    "theta": {"linear": lambda: rope("linear", theta=1_000.1)},
    "kind": {
        "linear": lambda: rope("linear", kind="default"),
        "llama3": lambda: rope("llama3", kind="linear"),
    },
    "factor": {
        "linear": lambda: rope("linear", factor=2.501),
        "llama3": lambda: rope("llama3", factor=4.001),
    },
    "low_freq_factor": {"llama3": lambda: rope("llama3", low_freq_factor=1.001)},
    "high_freq_factor": {"llama3": lambda: rope("llama3", high_freq_factor=4.001)},
    "original_positions": {"llama3": lambda: rope("llama3", original_positions=65)},
}


def names(of: type) -> set[str]:
    return {field.name for field in fields(of)}


def test_what_is_listed_as_harmless_changes_nothing():
    assert probe("float32", config(max_positions=10_000, eos_token_ids=(3,))) == honest("float32")


def test_every_switch_of_a_configuration_is_probed_or_listed_as_harmless():
    assert CONFIG.keys() | HARMLESS.keys() == names(ModelConfig)
    assert not CONFIG.keys() & HARMLESS.keys()
    assert ROPE.keys() == names(Rope)


def every(table: dict[str, dict[str, Callable[[], CpuBackend]]]) -> list[object]:
    return [
        pytest.param(make, id=f"{name}: {what}")
        for name, ways in table.items()
        for what, make in ways.items()
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "make", [*every(CONFIG), *every({f"rope.{n}": w for n, w in ROPE.items()})]
)
def test_a_backend_that_ignores_one_switch_of_a_configuration_shows(dtype, make):
    assert probe(dtype, make()) != honest(dtype)


def forgets(layers: Layers, states: Tensor, rows: list[Rows], cache: Cache) -> Tensor:
    """Every pass begins with empty memory."""
    assert isinstance(cache, cpu.KVCache)
    for tensor in (*cache.keys, *cache.values):
        tensor.zero_()
    return layers(states, rows, cache)


def one_memory(layers: Layers, states: Tensor, rows: list[Rows], cache: Cache) -> Tensor:
    """All sequences of a pass have the blocks of the first."""
    return layers(states, [replace(each, blocks=rows[0].blocks) for each in rows], cache)


def one_sequence(layers: Layers, states: Tensor, rows: list[Rows], cache: Cache) -> Tensor:
    """All sequences of a pass begin where the first one does."""
    return layers(states, [replace(each, position=rows[0].position) for each in rows], cache)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", [forgets, one_memory, one_sequence])
def test_a_backend_that_errs_about_sequences_of_a_pass_or_between_passes_shows(dtype, step):
    class Stumbling(CpuBackend):
        def layers(self, *arguments) -> Layers:
            return Stepping(super().layers(*arguments), step)

    assert probe(dtype, Stumbling()) != honest(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mutant", [UNCHANGED, *MUTANTS, *OTHERS])
def test_kernels_with_one_line_changed_show(dtype, mutant, tmp_path_factory, monkeypatch):
    before = honest(dtype)
    kernels = mutated(mutant, tmp_path_factory)
    for module in (arithmetic, cpu):  # those of the sampler's functions stay as they are
        monkeypatch.setattr(module, "kernels", lambda: kernels)
    kernels.use(min(kernels.best, 2))  # AVX-512-BF16 flushes denormals whatever the setting
    try:
        assert (probe(dtype, CpuBackend()) == before) == (mutant == UNCHANGED)
    finally:
        kernels.use(kernels.best)


@pytest.mark.parametrize("dtype", DTYPES)
def test_angles_beyond_the_first_table_are_probed(dtype, monkeypatch):
    before, ours = honest(dtype), functions.angles

    def other(frequencies, positions):
        cosines, sines = ours(frequencies, positions)
        cosines[cpu.SHORT :] += np.float32(2.0**-9)
        return cosines, sines

    monkeypatch.setattr(functions, "angles", other)
    assert probe(dtype, CpuBackend()) != before


@pytest.mark.parametrize("name", ["ln", "exp"])
def test_functions_that_err_by_an_ulp_show(name, monkeypatch):
    before, ours = honest("float32"), getattr(functions, name)
    monkeypatch.setattr(functions, name, lambda x: np.nextafter(ours(x), 9.0))
    assert probe("float32", CpuBackend()) != before


def test_one_angle_that_errs_by_an_ulp_shows(monkeypatch):
    before, ours = honest("float32"), functions.angles

    def other(frequencies, positions):
        cosines, sines = ours(frequencies, positions)
        sines[-1, -1] = np.nextafter(sines[-1, -1], np.float32(9.0))
        return cosines, sines

    monkeypatch.setattr(functions, "angles", other)
    assert probe("float32", CpuBackend()) != before


SETTINGS: dict[str, object] = {
    "temperature_ppm": PPM,
    "top_k": 0,
    "top_p_ppm": PPM,
    "min_p_ppm": None,
    "repetition_penalty_ppm": None,
    "presence_penalty_ppm": None,
    "frequency_penalty_ppm": None,
    "logprobs": None,
}
"""What a sampler that ignores a setting takes it for."""


def test_every_setting_of_a_sampler_is_probed_or_listed_as_harmless():
    assert SETTINGS.keys() | HARMLESS_SETTINGS.keys() == names(SamplingSettings)
    assert not SETTINGS.keys() & HARMLESS_SETTINGS.keys()


def test_what_is_listed_as_harmless_for_a_sampler_changes_nothing(monkeypatch):
    before = honest("float32")
    others = {"max_tokens": 9, "stop": ("a",), "stop_token_ids": (1, 2)}
    assert others.keys() == HARMLESS_SETTINGS.keys()

    def other(settings, *arguments):
        return Sampler(replace(settings, **others), *arguments)

    monkeypatch.setattr(probe_module, "Sampler", other)
    assert probe("float32", CpuBackend()) == before


@pytest.mark.parametrize("name", SETTINGS)
def test_a_sampler_that_ignores_one_setting_shows(name, monkeypatch):
    before = honest("float32")

    def deaf(settings, *arguments):
        return Sampler(replace(settings, **{name: SETTINGS[name]}), *arguments)

    monkeypatch.setattr(probe_module, "Sampler", deaf)
    assert probe("float32", CpuBackend()) != before


@pytest.mark.parametrize(
    "other", [lambda _seed, choice: Noise(bytes(32), choice), lambda seed, _choice: Noise(seed, 0)]
)
def test_noise_of_another_seed_or_choice_shows(other, monkeypatch):
    before = honest("float32")
    monkeypatch.setattr(sampler_module, "Noise", other)
    assert probe("float32", CpuBackend()) != before


@pytest.mark.parametrize("name", ["words", "words_at", "blocks"])
def test_noise_of_another_position_shows_however_it_is_made(name, monkeypatch):
    """All of a row's, a few one by one, and in blocks where there are very many."""
    before, ours = honest("float32"), getattr(Noise, name)
    monkeypatch.setattr(Noise, name, lambda self, position, what: ours(self, position + 1, what))
    assert probe("float32", CpuBackend()) != before


def test_the_dtype_of_the_checkpoint_shows_also_where_it_is_computed_in_another():
    assert len({honest(dtype) for dtype in (*DTYPES, "float16")}) == 3


def test_the_probe_is_the_same_every_time():
    assert probe("float32", CpuBackend()) == honest("float32")


def test_the_probe_is_the_same_in_blocks_of_another_size():
    """A backend may page its memory as it likes: two that compute the same have the same profile."""
    assert probe("float32", Paged()) == honest("float32")
