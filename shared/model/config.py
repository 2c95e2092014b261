"""Model configuration: Hugging Face `config.json`, read strictly.

Both spellings are read: `rope_theta`, `rope_scaling`, `torch_dtype`, and transformers 5's `rope_parameters`, `dtype`,
`layer_types`.
`families` says which model types there are and what sets them apart.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from shared.model.families import Family, family_of, malformed, unsupported
from shared.model.rope import Rope
from shared.text.files import read_json, read_json_if_there
from shared.text.generation import check_generation, token_ids

DTYPES = ("bfloat16", "float16", "float32")
MOST_HEADS = 1024
MOST_POSITIONS = 1 << 22
"""Positions whose angles are known to be exact; the longest contexts of the families here have as many."""
ROPE_FIELDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""What each kind of scaling must specify."""


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
    rms_norm_eps: float
    tie_word_embeddings: bool
    max_positions: int
    dtype: str
    eos_token_ids: tuple[int, ...]
    rope: Rope = field(default_factory=Rope)
    qkv_bias: bool = False
    """The query, key and value projections have a bias."""
    qk_norm: bool = False
    """Queries and keys are normalised, head by head, before they are rotated."""
    layer_windows: tuple[int, ...] = ()
    """For each layer, 0 or how many positions a row attends to: its own and those just before it. Empty: 0 for all."""

    def __post_init__(self) -> None:
        if not self.layer_windows:
            object.__setattr__(self, "layer_windows", (0,) * self.layers)
        assert len(self.layer_windows) == self.layers

    @property
    def kv_width(self) -> int:
        """Width of the keys of one position."""
        return self.kv_heads * self.head_dim

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read `config.json`, and the end-of-sequence tokens of `generation_config.json`, whose other fields are checked.

        UNSUPPORTED names a field that is unknown or has a value that this decoder does not implement; MALFORMED a field that is
        missing or makes no sense; CONFIGURATION says that there is no such file.
        """
        config = cls.from_json(read_json(folder / "config.json"))
        generation = read_json_if_there(folder / "generation_config.json")
        check_generation(generation)
        stops = token_ids(generation.get("eos_token_id"), "generation_config.json")
        found = config.stopping_at({*config.eos_token_ids, *stops})
        found.check("generation_config.json")
        return found

    def stopping_at(self, tokens: set[int]) -> Self:
        """Return the configuration with these end-of-sequence tokens."""
        return replace(self, eos_token_ids=tuple(sorted(tokens)))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read a parsed `config.json`."""
        family = family_of(data)
        heads = _whole(data, "num_attention_heads", most=MOST_HEADS)
        hidden = _whole(data, "hidden_size", most=1 << 17)
        layers = _whole(data, "num_hidden_layers", most=1024)
        config = cls(
            vocab_size=_whole(data, "vocab_size", most=1 << 22),
            hidden_size=hidden,
            layers=layers,
            heads=heads,
            kv_heads=_whole(data, "num_key_value_heads", default=heads, most=MOST_HEADS),
            head_dim=_head_dim(data, family, hidden, heads),
            intermediate_size=_whole(data, "intermediate_size", most=1 << 20),
            rope=_rope(data),
            rms_norm_eps=_number(data, "rms_norm_eps", 1e-6, least=1e-20, most=1.0),
            tie_word_embeddings=_flag(data, "tie_word_embeddings"),
            max_positions=_whole(data, "max_position_embeddings", most=MOST_POSITIONS),
            dtype=_dtype(data),
            eos_token_ids=token_ids(data.get("eos_token_id"), "config.json"),
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
            layer_windows=_windows(data, family, layers),
        )
        config.check()
        return config

    def check(self, stops_of: str = "config.json") -> None:
        """Raise UNSUPPORTED or MALFORMED for shapes that do not fit together; `stops_of` is the file with the stop tokens."""
        if self.heads % self.kv_heads:
            raise malformed("num_attention_heads is not a multiple of num_key_value_heads")
        if self.head_dim % 2:
            raise unsupported("head_dim", self.head_dim, "an odd width has no halves to rotate")
        if any(token >= self.vocab_size for token in self.eos_token_ids):
            raise malformed(
                f"eos_token_id is not in the vocabulary (vocab_size {self.vocab_size})", stops_of
            )


def _head_dim(data: dict[str, Any], family: Family, hidden: int, heads: int) -> int:
    if data.get("head_dim") is None and "head_dim" not in family.required and hidden % heads:
        raise malformed(
            "hidden_size is not a multiple of num_attention_heads, and head_dim is missing"
        )
    default = None if "head_dim" in family.required else hidden // heads
    return _whole(data, "head_dim", default=default, most=1 << 12)


def _dtype(data: dict[str, Any]) -> str:
    old, new = data.get("torch_dtype"), data.get("dtype")
    if old is not None and new is not None and old != new:
        raise malformed("dtype and torch_dtype contradict each other")
    value = new if new is not None else old if old is not None else "float32"
    if value not in DTYPES:
        raise unsupported("dtype" if new is not None else "torch_dtype", value)
    return str(value)


def _rope(data: dict[str, Any]) -> Rope:
    """Read the rotary embedding, in either spelling; a `rope_theta` inside the object takes precedence over one next to it."""
    spellings = ("rope_parameters", "rope_scaling")
    given = {name: data[name] for name in spellings if data.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, dict):
            raise malformed(f"{name} is not an object")
    if len(given) == 2 and given["rope_parameters"] != given["rope_scaling"]:
        raise malformed("rope_parameters and rope_scaling contradict each other")
    where = next(iter(given), "rope_parameters")
    inner: dict[str, Any] = given.get(where, {})
    kinds = [inner[name] for name in ("rope_type", "type") if name in inner] or ["default"]
    if not isinstance(kinds[0], str) or kinds[0] not in ROPE_FIELDS or kinds[-1] != kinds[0]:
        raise unsupported(f"{where}.rope_type", kinds[0] if len(kinds) == 1 else kinds)
    wanted = ROPE_FIELDS[kinds[0]]
    for name, value in inner.items():
        if name not in {"rope_type", "type", "rope_theta", *wanted}:
            raise unsupported(f"{where}.{name}", value)
    nested = {f"{where}.{name}": value for name, value in inner.items()}
    theta = _number(data, "rope_theta", 10_000.0, least=1.0)
    theta = _number(nested, f"{where}.rope_theta", theta, least=1.0)
    if not wanted:
        return Rope(theta)
    factor = _number(nested, f"{where}.factor")
    if factor < 1:
        raise malformed(f"{where}.factor is below 1")
    if kinds[0] == "linear":
        return Rope(theta, "linear", factor)
    low, high = (
        _number(nested, f"{where}.low_freq_factor"),
        _number(nested, f"{where}.high_freq_factor"),
    )
    if high <= low:
        raise malformed(f"{where}.high_freq_factor is not above low_freq_factor")
    original = _whole(nested, f"{where}.original_max_position_embeddings")
    return Rope(theta, "llama3", factor, low, high, original)


def _windows(data: dict[str, Any], family: Family, layers: int) -> tuple[int, ...]:
    """Return each layer's window. `layer_types` chooses layers only where the family lets it; elsewhere it must agree."""
    switched_on = family.switched_window and _flag(data, "use_sliding_window")
    window = 0
    if switched_on or (family.window and data["sliding_window"] is not None):
        window = _whole(data, "sliding_window")
    first = 0
    types = data.get("layer_types")
    if family.switched_window and (data.get("max_window_layers") is not None or switched_on):
        given = types is not None and data.get("max_window_layers") is None
        first = 0 if given else _whole(data, "max_window_layers", least=0)
    if types is None:
        return tuple(window if layer >= first else 0 for layer in range(layers))
    if not isinstance(types, list) or len(types) != layers:
        raise malformed("layer_types does not name every layer's type")
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise unsupported("layer_types", kind)
    sliding = [kind == "sliding_attention" for kind in types]
    if (any(sliding) and not window) or (family.window and not all(sliding) and window):
        raise malformed("layer_types contradicts sliding_window")
    return tuple(window if slides else 0 for slides in sliding)


def _flag(data: dict[str, Any], name: str) -> bool:
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise malformed(f"{name} is neither true nor false")
    return bool(value)


def _whole(
    data: dict[str, Any],
    name: str,
    *,
    default: int | None = None,
    least: int = 1,
    most: int = 1 << 24,
) -> int:
    value = data.get(name)
    value = default if value is None else value
    if type(value) is not int or not least <= value <= most:
        raise malformed(f"{name} is not a whole number from {least} to {most}")
    return value


def _number(
    data: dict[str, Any],
    name: str,
    default: float | None = None,
    *,
    least: float = 1e-12,
    most: float = 1e12,
) -> float:
    value = data.get(name)
    value = default if value is None else value
    if not (type(value) is int or type(value) is float) or not least <= value <= most:
        raise malformed(f"{name} is not a number from {least:g} to {most:g}")
    return float(value)
