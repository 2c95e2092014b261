"""Model configuration: Hugging Face `config.json` of the Llama family, read strictly."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from shared.runtime.errors import Code, CounterfoilError

MAX_FILE = 1 << 20
KNOWN_VALUES: dict[str, tuple[object, ...]] = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
    "attention_dropout": (0.0, 0, None),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
    "sliding_window": (None,),
}
"""Fields that would change the numbers, and the values that this decoder implements."""
READ = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "rope_theta",
        "rope_parameters",
        "rms_norm_eps",
        "tie_word_embeddings",
        "max_position_embeddings",
        "dtype",
        "torch_dtype",
        "eos_token_id",
    }
)
WITHOUT_EFFECT = frozenset(
    {
        "architectures",
        "bos_token_id",
        "pad_token_id",
        "initializer_range",
        "use_cache",
        "transformers_version",
        "_name_or_path",
    }
)
DTYPES = ("bfloat16", "float32")
ALIGNMENT = 32
"""Widths are multiples of this, so that no vector operation ends in a scalar tail."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes and constants of one decoder."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    max_positions: int
    dtype: str
    eos_token_ids: tuple[int, ...]

    @property
    def kv_width(self) -> int:
        """Width of the keys of one position."""
        return self.kv_heads * self.head_dim

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read `config.json` (and `generation_config.json`).

        UNSUPPORTED names a field with a value that this decoder does not implement; MALFORMED a field that is missing or
        makes no sense; CONFIGURATION says that there is no such file.
        """
        data = read_json(folder / "config.json")
        config = cls.from_json(data)
        generation = folder / "generation_config.json"
        if generation.exists():
            stops = _token_ids(read_json(generation).get("eos_token_id"))
            return config.stopping_at({*config.eos_token_ids, *stops})
        return config

    def stopping_at(self, tokens: set[int]) -> Self:
        """Return the configuration with these end-of-sequence tokens."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return type(self)(**{**values, "eos_token_ids": tuple(sorted(tokens))})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read a parsed `config.json`."""
        _check_fields(data)
        heads = _whole(data, "num_attention_heads")
        hidden = _whole(data, "hidden_size")
        rope = _rope_parameters(data)
        config = cls(
            vocab_size=_whole(data, "vocab_size"),
            hidden_size=hidden,
            layers=_whole(data, "num_hidden_layers", most=1024),
            heads=heads,
            kv_heads=_whole(data, "num_key_value_heads", default=heads),
            head_dim=_whole(data, "head_dim", default=hidden // heads),
            intermediate_size=_whole(data, "intermediate_size"),
            rope_theta=_number(data | rope, "rope_theta", 10_000.0),
            rms_norm_eps=_number(data, "rms_norm_eps", 1e-6),
            tie_word_embeddings=_flag(data, "tie_word_embeddings"),
            max_positions=_whole(data, "max_position_embeddings"),
            dtype=str(data.get("dtype") or data.get("torch_dtype") or "float32"),
            eos_token_ids=_token_ids(data.get("eos_token_id")),
        )
        config.check()
        return config

    def check(self) -> None:
        """Raise UNSUPPORTED or MALFORMED for shapes that do not fit together."""
        if self.dtype not in DTYPES:
            raise _unsupported("dtype", self.dtype)
        if self.heads % self.kv_heads:
            raise CounterfoilError(
                Code.MALFORMED,
                "config.json: num_attention_heads is no multiple of num_key_value_heads",
            )
        for name in ("hidden_size", "intermediate_size", "head_dim"):
            if getattr(self, name) % ALIGNMENT:
                raise _unsupported(
                    name, getattr(self, name), f"it must be a multiple of {ALIGNMENT}"
                )
        if any(token >= self.vocab_size for token in self.eos_token_ids):
            raise CounterfoilError(
                Code.MALFORMED, "config.json: eos_token_id is not in the vocabulary"
            )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 1 MiB."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} cannot be read: {error.strerror}",
            remedy="A model folder holds config.json, tokenizer.json and model.safetensors.",
        ) from error
    try:
        parsed = json.loads(data) if len(data) <= MAX_FILE else None
    except (ValueError, RecursionError) as error:
        raise CounterfoilError(Code.MALFORMED, f"{path} is not JSON") from error
    if not isinstance(parsed, dict):
        raise CounterfoilError(Code.MALFORMED, f"{path} is not a JSON object of at most 1 MiB")
    return parsed


def _check_fields(data: dict[str, Any]) -> None:
    for name, value in data.items():
        if name in KNOWN_VALUES:
            if value not in KNOWN_VALUES[name]:
                raise _unsupported(name, value)
        elif name not in READ and name not in WITHOUT_EFFECT:
            raise _unsupported(name, value)
    if "model_type" not in data:
        raise CounterfoilError(Code.MALFORMED, "config.json: model_type is missing")


def _rope_parameters(data: dict[str, Any]) -> dict[str, Any]:
    rope = data.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise CounterfoilError(Code.MALFORMED, "config.json: rope_parameters is not an object")
    for name, value in rope.items():
        if name != "rope_theta" and (name, value) != ("rope_type", "default"):
            raise _unsupported(f"rope_parameters.{name}", value)
    return rope


def _flag(data: dict[str, Any], name: str) -> bool:
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise CounterfoilError(Code.MALFORMED, f"config.json: {name} is neither true nor false")
    return bool(value)


def _unsupported(name: str, value: object, why: str = "") -> CounterfoilError:
    text = f"config.json: {name} = {str(value)[:80]!r} is not supported"
    return CounterfoilError(Code.UNSUPPORTED, f"{text}; {why}" if why else text)


def _whole(
    data: dict[str, Any], name: str, *, default: int | None = None, most: int = 1 << 24
) -> int:
    value = data.get(name)
    value = default if value is None else value
    if type(value) is not int or not 0 < value <= most:
        raise CounterfoilError(Code.MALFORMED, f"config.json: {name} is not a positive integer")
    return value


def _number(data: dict[str, Any], name: str, default: float) -> float:
    value = data.get(name)
    value = default if value is None else value
    if type(value) not in {int, float} or not 0 < value < 1e12:
        raise CounterfoilError(Code.MALFORMED, f"config.json: {name} is not a positive number")
    return float(value)


def _token_ids(value: object) -> tuple[int, ...]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(item) is int and item >= 0 for item in items):
        raise CounterfoilError(Code.MALFORMED, "eos_token_id is not a token or a list of tokens")
    return tuple(sorted(set(items)))
