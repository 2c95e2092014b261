"""The widths of one model as the kernels see them, padded, and which widths they can have."""

from dataclasses import dataclass
from typing import Final, Self

from shared.model.config import ModelConfig
from shared.model.cuda.tiles import filled, power
from shared.runtime.errors import Code, CounterfoilError

LEAST_HEAD: Final = 16
"""Inputs of one step of the matrix unit."""
MOST_HEAD: Final = 256
"""A segment of wider keys and values does not fit into a card's shared memory."""
MOST_HIDDEN: Final = 1 << 15
"""One program norms a whole row."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Own and padded widths."""

    hidden: int
    hidden_filled: int
    heads: int
    kv_heads: int
    head: int
    head_filled: int
    """A power of two."""
    qkv: int
    """Padded outputs of queries, keys and values together."""
    attended: int
    """Padded width of the outputs of attention, every head padded by itself."""
    inner: int
    """Padded."""

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """Return a model's widths; UNSUPPORTED for those that the kernels cannot have."""
        for name, width, most in (
            ("head_dim", config.head_dim, MOST_HEAD),
            ("hidden_size", config.hidden_size, MOST_HIDDEN),
        ):
            if width > most:
                raise CounterfoilError(
                    Code.UNSUPPORTED,
                    f"on a GPU, {name} is at most {most}, and this model has {width}",
                    remedy='Serve it with device = "cpu".',
                )
        head = power(config.head_dim, LEAST_HEAD)
        return cls(
            hidden=config.hidden_size,
            hidden_filled=filled(config.hidden_size),
            heads=config.heads,
            kv_heads=config.kv_heads,
            head=config.head_dim,
            head_filled=head,
            qkv=filled((config.heads + 2 * config.kv_heads) * config.head_dim),
            attended=filled(config.heads * head),
            inner=filled(config.intermediate_size),
        )
