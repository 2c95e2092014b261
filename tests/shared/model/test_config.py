"""The configuration: every family's own rules, both spellings, and no field that is silently dropped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from shared.model.config import ROPE_FIELDS, ModelConfig
from shared.model.families import FAMILIES, KNOWN_VALUES, WITHOUT_EFFECT
from shared.model.rope import Rope, inverse_frequencies
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.model import tiny

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
OWN: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
}
"""What each family must specify beyond the common fields."""


def of(family: str, **changes: object) -> dict[str, object]:
    """A parsed config.json of a family; a change to `...` removes the field."""
    data = tiny.config_json(**{"model_type": family, **OWN[family], **changes})
    return {name: value for name, value in data.items() if value is not ...}


def refused(code: Code, name: str, data: dict[str, object]) -> None:
    with pytest.raises(CounterfoilError, match=name) as caught:
        ModelConfig.from_json(data)
    assert caught.value.code is code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "model", hidden_size=32, intermediate_size=32, head_dim=32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_a_row_of_the_table(family):
    config = ModelConfig.from_json(of(family))
    assert config.qkv_bias is (family == "qwen2")
    assert config.qk_norm is (family == "qwen3")
    assert config.layer_windows == (0, 0)
    assert config.rope == Rope(10_000.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "gemma"),
        ("model_type", ["llama"]),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("rope_scaling", {"rope_type": "longrope"}),
        ("rope_parameters", {"rope_type": "yarn"}),
        ("rope_parameters", {"rope_type": "default", "factor": 2.0}),
        ("sliding_window", 128),
        ("quantization_config", {"bits": 4}),
        ("head_dim", 33),
        ("dtype", "float64"),
        ("number_of_experts", 8),
    ],
)
def test_a_field_that_is_not_implemented_is_named(field, value):
    with pytest.raises(CounterfoilError, match=field) as caught:
        ModelConfig.from_json(tiny.config_json(**{field: value}))
    assert caught.value.code is Code.UNSUPPORTED


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", "64"),
        ("vocab_size", 0),
        ("vocab_size", True),
        ("num_hidden_layers", 10**9),
        ("num_attention_heads", -4),
        ("num_key_value_heads", 3),
        ("rope_theta", "x"),
        ("rms_norm_eps", float("nan")),
        ("rope_parameters", [1]),
        ("tie_word_embeddings", "false"),
        ("eos_token_id", 10**6),
        ("eos_token_id", "end"),
        ("eos_token_id", [1, -1]),
        ("max_position_embeddings", 1.5),
    ],
)
def test_a_field_that_makes_no_sense_is_named(field, value):
    with pytest.raises(CounterfoilError, match=field) as caught:
        ModelConfig.from_json(tiny.config_json(**{field: value}))
    assert caught.value.code is Code.MALFORMED


def test_both_spellings_of_the_rotary_base_are_read():
    old = tiny.config_json(rope_theta=500.0)
    new = {name: value for name, value in old.items() if name != "rope_theta"}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 500.0}
    assert ModelConfig.from_json(new) == ModelConfig.from_json(old)


def test_the_generation_configs_stops_are_added(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 5]}')
    assert ModelConfig.from_folder(folder).eos_token_ids == (3, 5, tiny.END)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", Code.MALFORMED),
        (b"[1]", Code.MALFORMED),
        (b"\xff\xfe", Code.MALFORMED),
        (b"[" * 200_000, Code.MALFORMED),
        (b" " * (1 << 20) + b"{}", Code.MALFORMED),
        (b"{}", Code.MALFORMED),
        (b'{"model_type": "gpt2"}', Code.UNSUPPORTED),
        (b'{"model_type": ["llama"]}', Code.UNSUPPORTED),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_before_any_weight_is_read(
    folder, content, code
):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CounterfoilError, match=r"config\.json") as caught:
        tiny.load(folder)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("llama", "layer_types", ["full_attention", "linear_attention"]),
        ("llama", "use_sliding_window", False),
        ("llama", "max_window_layers", 2),
        ("llama", "rope_interleaved", True),
        ("llama", "partial_rotary_factor", 0.5),
        ("mistral", "attention_bias", True),
        ("mistral", "use_sliding_window", True),
        ("mistral", "mlp_bias", False),
        ("qwen2", "attention_bias", False),
        ("qwen2", "use_mrope", True),
        ("qwen2", "layer_types", ["full_attention", ["x"]]),
        ("qwen3", "attention_bias", True),
        ("qwen3", "num_experts", 8),
    ],
)
def test_what_a_family_does_not_have_is_named(family, field, value):
    refused(Code.UNSUPPORTED, field, of(family, **{field: value}))


FUNCTIONS: dict[str, object] = {
    "alibi": True,
    "attention_bias": True,
    "attention_multiplier": 0.5,
    "attention_chunk_size": 8192,
    "attn_logit_softcapping": 50.0,
    "auto_map": {"AutoModelForCausalLM": "modeling.Model"},
    "architectures": ["LlamaForSequenceClassification"],
    "cache_implementation": "hybrid",
    "clip_qkv": 8.0,
    "dim_model_base": 256,
    "embedding_multiplier": 12.0,
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "is_causal": False,
    "kv_lora_rank": 512,
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.25,
    "logits_scaling": 8.0,
    "moe_intermediate_size": 64,
    "mlp_bias": True,
    "n_routed_experts": 8,
    "no_rope_layers": [1, 0],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "num_kv_shared_layers": 1,
    "parallel_attn": True,
    "partial_rotary_factor": 0.5,
    "pretraining_tp": 2,
    "quantization_config": {"quant_method": "awq", "bits": 4},
    "query_pre_attn_scalar": 256,
    "residual_multiplier": 0.2,
    "rope_interleaved": True,
    "rope_local_base_freq": 10_000.0,
    "rope_pct": 0.25,
    "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    "rotary_dim": 16,
    "rotary_pct": 0.25,
    "scale_attn_by_inverse_layer_idx": True,
    "scale_depth": 1.4,
    "scale_emb": 12,
    "sliding_window_pattern": 6,
    "use_bidirectional_attention": True,
    "use_mrope": True,
    "use_parallel_residual": True,
    "use_qk_norm": True,
}
"""Fields of one decoder or another that change its function, with a value that does."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("field", FUNCTIONS)
def test_a_field_that_changes_the_function_is_refused_by_name_in_every_family(family, field):
    refused(Code.UNSUPPORTED, f"config.json: {field}", of(family, **{field: FUNCTIONS[field]}))


@pytest.mark.parametrize("value", ["LlamaForCausalLM", [3], ["LlamaModel"], [None]])
def test_only_a_decoder_of_text_is_read_as_one(value):
    refused(Code.UNSUPPORTED, "architectures", of("llama", architectures=value))
    ModelConfig.from_json(of("llama", architectures=None))


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT & LlamaConfig().to_dict().keys()))
def test_fields_listed_as_without_effect_have_none_in_transformers(name):
    value = {"initializer_range": 0.5, "use_cache": False}.get(name, 3)
    plain, changed = (
        LlamaForCausalLM(LlamaConfig(**{**of("llama"), "dtype": None, **changes})).eval()
        for changes in ({}, {name: value})
    )
    changed.load_state_dict(plain.state_dict())
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        assert torch.equal(changed(ids).logits, plain(ids).logits)


def test_the_generation_configs_stops_are_in_the_vocabulary(folder):
    for value in (tiny.VOCABULARY, -1, "x", True):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
        with pytest.raises(CounterfoilError, match=r"generation_config\.json: eos_token_id"):
            ModelConfig.from_folder(folder)


def test_a_generation_config_that_changes_what_is_generated_is_refused_when_the_model_is_loaded(
    folder,
):
    (folder / "generation_config.json").write_text('{"suppress_tokens": [5]}')
    with pytest.raises(CounterfoilError, match=r"generation_config\.json: suppress_tokens"):
        tiny.load(folder)


@pytest.mark.parametrize(
    ("family", "field", "changes"),
    [
        ("mistral", "sliding_window", {"sliding_window": ...}),
        ("mistral", "num_key_value_heads", {"num_key_value_heads": ...}),
        ("qwen2", "num_key_value_heads", {"num_key_value_heads": ...}),
        ("qwen3", "head_dim", {"head_dim": ...}),
        ("qwen3", "head_dim", {"head_dim": None}),
        ("mistral", "sliding_window", {"sliding_window": 0}),
        ("mistral", "sliding_window", {"sliding_window": 8, "layer_types": ["full_attention"] * 2}),
        ("qwen2", "sliding_window", {"use_sliding_window": True, "max_window_layers": 0}),
        ("qwen2", "max_window_layers", {"use_sliding_window": True, "sliding_window": 8}),
        ("qwen2", "max_window_layers", {"max_window_layers": -1}),
        ("qwen2", "use_sliding_window", {"use_sliding_window": "no"}),
        ("qwen3", "layer_types", {"layer_types": ["sliding_attention"] * 2}),
        ("qwen3", "layer_types", {"layer_types": ["full_attention"]}),
        ("llama", "layer_types", {"layer_types": ["sliding_attention"] * 2}),
        ("llama", "layer_types", {"layer_types": "full_attention"}),
        ("llama", "hidden_size", {"num_attention_heads": 3, "num_key_value_heads": 3}),
        ("llama", "dtype", {"dtype": "float32", "torch_dtype": "bfloat16"}),
    ],
)
def test_what_a_family_must_say_and_what_contradicts_itself_is_named(family, field, changes):
    refused(Code.MALFORMED, field, of(family, **changes))


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("code", "field", "changes"),
    [
        (Code.UNSUPPORTED, "rope_type", {"rope_type": "dynamic"}),
        (Code.UNSUPPORTED, "rope_type", {"rope_type": None}),
        (Code.UNSUPPORTED, "rope_type", {"rope_type": ["llama3"]}),
        (Code.UNSUPPORTED, "rope_type", {"type": "linear"}),
        (Code.UNSUPPORTED, "beta_fast", {"beta_fast": 32}),
        (Code.UNSUPPORTED, "partial_rotary_factor", {"partial_rotary_factor": 0.5}),
        (Code.UNSUPPORTED, "full_attention", {"full_attention": {"rope_type": "default"}}),
        (Code.MALFORMED, "factor", {"factor": 0.5}),
        (Code.MALFORMED, "factor", {"factor": "8"}),
        (Code.MALFORMED, "low_freq_factor", {"low_freq_factor": None}),
        (Code.MALFORMED, "high_freq_factor", {"high_freq_factor": 1.0}),
        (Code.MALFORMED, "original_max", {"original_max_position_embeddings": 64.0}),
        (Code.MALFORMED, "rope_theta", {"rope_theta": -1.0}),
    ],
)
def test_a_rotary_setting_that_is_not_implemented_or_makes_no_sense_is_named(
    spelling, code, field, changes
):
    refused(code, f"{spelling}.{field}", of("llama", **{spelling: {**LLAMA3, **changes}}))


def test_two_spellings_of_the_rotary_scaling_may_not_differ():
    linear = {"type": "linear", "factor": 2.0}
    refused(
        Code.MALFORMED, "rope_scaling", of("llama", rope_scaling=linear, rope_parameters=LLAMA3)
    )
    same = ModelConfig.from_json(of("llama", rope_scaling=LLAMA3, rope_parameters=LLAMA3))
    assert same.rope == Rope(10_000.0, "llama3", 8.0, 1.0, 4.0, 64)
    old = ModelConfig.from_json(of("llama", rope_scaling=linear, rope_theta=500.0))
    assert old.rope == Rope(500.0, "linear", 2.0)


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, (0, 0, 0)),
        ({"sliding_window": 8, "max_window_layers": 1}, (0, 0, 0)),
        ({"sliding_window": 8, "max_window_layers": 1, "use_sliding_window": True}, (0, 8, 8)),
        ({"sliding_window": 8, "max_window_layers": 9, "use_sliding_window": True}, (0, 0, 0)),
        (
            {
                "sliding_window": 8,
                "max_window_layers": 3,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            },
            (8, 0, 0),
        ),
    ],
)
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_windows_are_those_of_transformers(family, changes, windows):
    data = of(family, num_hidden_layers=3, **changes)
    assert ModelConfig.from_json(data).layer_windows == windows
    theirs = AutoConfig.for_model(**data)
    sliding = [theirs.sliding_window if "sliding" in kind else 0 for kind in theirs.layer_types]
    assert tuple(sliding) == windows


def test_a_mistral_has_one_window_for_all_layers_or_none():
    assert ModelConfig.from_json(of("mistral", sliding_window=8)).layer_windows == (8, 8)
    types = ["sliding_attention"] * 2
    agreed = ModelConfig.from_json(of("mistral", sliding_window=8, layer_types=types))
    assert agreed.layer_windows == (8, 8)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("spelling", ["dtype", "torch_dtype"])
def test_three_dtypes_are_read_in_both_spellings(dtype, spelling):
    data = of("llama", **{"dtype": ..., spelling: dtype})
    assert ModelConfig.from_json(data).dtype == dtype


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 4.0},
        LLAMA3,
        {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192},
    ],
)
def test_frequencies_are_those_of_transformers(head_dim, theta, scaling):
    data = of("llama", head_dim=head_dim, rope_theta=theta, rope_scaling=scaling)
    rope = ModelConfig.from_json(data).rope
    theirs = LlamaConfig(
        head_dim=head_dim,
        max_position_embeddings=16384,
        rope_parameters={**scaling, "rope_theta": theta},
    )
    if rope.kind == "default":
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        expected, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(theirs)
    else:
        expected, factor = ROPE_INIT_FUNCTIONS[rope.kind](theirs, torch.device("cpu"))
    assert factor == 1.0
    ours = inverse_frequencies(head_dim, rope)
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, expected.double().numpy(), rtol=2e-5)


@pytest.mark.parametrize(
    "text",
    ['{"vocab_size": 1, "vocab_size": 2}', '{"rope_scaling": {"factor": 1, "factor": 2}}'],
)
def test_a_name_that_occurs_twice_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    name = "factor" if "factor" in text else "vocab_size"
    with pytest.raises(CounterfoilError, match=f"'{name}' occurs twice") as caught:
        ModelConfig.from_folder(folder)
    assert caught.value.code is Code.MALFORMED


NAMES = st.sampled_from(sorted({*LLAMA3, "type", "rope_theta"})) | st.text(max_size=6)
WORDS = st.sampled_from(["llama3", "linear", "sliding_attention", "full_attention", "silu"])
NUMBERS = st.integers(-(2**70), 2**70) | st.integers(0, 64) | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=6,
)
FIELDS = sorted(
    {name for family in FAMILIES.values() for name in {*family.read, *family.values}}
    | {*KNOWN_VALUES, "unheard_of"}
)
CONTRADICTED = {"eos_token_id", "head_dim", "sliding_window"}
"""What no longer fits when another field is changed: vocab_size, hidden_size, layer_types and their like."""


@settings(max_examples=400, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=2),
)
@example(family="llama", changes={"rope_scaling": {"rope_type": "linear", "factor": 10**400}})
@example(family="llama", changes={"hidden_size": 10**400, "dtype": {}})
@example(family="llama", changes={"vocab_size": 1})
@example(family="llama", changes={"hidden_size": 12})
@example(family="qwen2", changes={"layer_types": [[], {}]})
@example(family="llama", changes={"vocab_size": 1})
def test_whatever_a_field_holds_it_is_read_or_named(family, changes):
    """Either the field's own name, or that of a field which it contradicts, is in the message."""
    data = of(family, **changes)
    found: ModelConfig | CounterfoilError
    try:
        found = ModelConfig.from_json(data)
    except CounterfoilError as error:
        found = error
    if isinstance(found, ModelConfig):
        assert len(found.layer_windows) == found.layers
        assert "unheard_of" not in changes
        assert np.isfinite(inverse_frequencies(found.head_dim, found.rope)).all()
    else:
        assert found.code in {Code.MALFORMED, Code.UNSUPPORTED}
        assert any(name in found.detail for name in {*changes, *CONTRADICTED})


def test_the_page_on_models_names_every_family_and_rotary_scaling():
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    for name in (*FAMILIES, *ROPE_FIELDS):
        assert f"`{name}`" in page
