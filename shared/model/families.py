"""What a model type adds to the one decoder, and which fields of `config.json` it may have.

A family is a row of `FAMILIES`. Every field is read, known to have no effect on inference, or permitted with the values that
are implemented; anything else is refused by name, so that no setting is silently dropped.
"""

import reprlib
from dataclasses import dataclass, field
from typing import Any

from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import shown

Values = dict[str, tuple[object, ...]]

READ = frozenset(
    {
        "architectures",
        "model_type",
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "rms_norm_eps",
        "tie_word_embeddings",
        "max_position_embeddings",
        "dtype",
        "torch_dtype",
        "eos_token_id",
        "layer_types",
    }
)
WITHOUT_EFFECT = frozenset(
    {
        "bos_token_id",
        "pad_token_id",
        "initializer_range",
        "use_cache",
        "transformers_version",
        "transformers.js_config",
        "is_llama_config",
        "_name_or_path",
        "_attn_implementation_autoset",
        "unsloth_fixed",
        "unsloth_version",
    }
)
KNOWN_VALUES: Values = {
    "hidden_act": ("silu",),
    "attention_dropout": (0.0, None),
    "quantization_config": (None,),
}
"""Fields that would change the numbers, and the values that this decoder implements."""
NO_WINDOW: Values = {"sliding_window": (None,)}
NO_BIAS: Values = {"attention_bias": (False, None)}


@dataclass(frozen=True, slots=True)
class Family:
    """One model type."""

    qkv_bias: bool = False
    """Query, key and value projections have a bias."""
    qk_norm: bool = False
    """Queries and keys are normalised, head by head, before they are rotated."""
    window: bool = False
    """`sliding_window` holds for all layers unless it is null."""
    switched_window: bool = False
    """`use_sliding_window` switches the window on: for the layers from `max_window_layers`, or those of `layer_types`."""
    required: frozenset[str] = frozenset()
    """Fields whose absence would mean a default of the family's own; they must be present."""
    values: Values = field(default_factory=dict)
    """What `KNOWN_VALUES` is for all families, for this one."""

    @property
    def read(self) -> frozenset[str]:
        """Names of the fields that are read."""
        if self.switched_window:
            return READ | {"use_sliding_window", "sliding_window", "max_window_layers"}
        return READ | {"sliding_window"} if self.window else READ


FAMILIES: dict[str, Family] = {
    "llama": Family(
        values={
            **NO_BIAS,
            **NO_WINDOW,
            "mlp_bias": (False, None),
            "pretraining_tp": (1, None),
            "rope_interleaved": (False, None),
        }
    ),
    "mistral": Family(
        window=True,
        required=frozenset({"sliding_window", "num_key_value_heads"}),
        values=NO_BIAS,
    ),
    "qwen2": Family(
        qkv_bias=True,
        switched_window=True,
        required=frozenset({"num_key_value_heads"}),
        values={"use_mrope": (False, None)},
    ),
    "qwen3": Family(
        qk_norm=True,
        switched_window=True,
        required=frozenset({"num_key_value_heads", "head_dim"}),
        values=NO_BIAS,
    ),
}


def family_of(data: dict[str, Any]) -> Family:
    """Return the family of a `config.json`, having checked that no field of it goes unread.

    UNSUPPORTED names a field that is unknown or has a value that is not implemented, MALFORMED one that is missing.
    """
    name = data.get("model_type")
    if name is None:
        raise malformed("model_type is missing")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise unsupported("model_type", name, f"supported are {', '.join(FAMILIES)}")
    permitted = KNOWN_VALUES | family.values
    for key, value in data.items():
        if key in permitted:
            if value not in permitted[key]:
                raise unsupported(key, value)
        elif key not in family.read and key not in WITHOUT_EFFECT:
            raise unsupported(key, value)
    for key in sorted(family.required - data.keys()):
        raise malformed(f"{key} is missing")
    _check_architectures(data.get("architectures"))
    return family


def _check_architectures(value: object) -> None:
    """Raise UNSUPPORTED for what is not read as a decoder of text: an encoder, a classifier, a reward model."""
    names = [] if value is None else value
    if not isinstance(names, list) or not all(
        isinstance(name, str) and name.endswith("ForCausalLM") for name in names
    ):
        raise unsupported("architectures", value, "only names that end with ForCausalLM are")


def unsupported(name: str, value: object, why: str = "") -> CounterfoilError:
    """Return the error for a field's value that is not implemented."""
    text = f"config.json: {shown(name)} = {reprlib.repr(value)} is not supported"
    return CounterfoilError(Code.UNSUPPORTED, f"{text}; {why}" if why else text)


def malformed(what: str, file: str = "config.json") -> CounterfoilError:
    """Return the error for a field that is missing or makes no sense."""
    return CounterfoilError(Code.MALFORMED, f"{file}: {what}")
