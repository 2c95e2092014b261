"""What a dispute is about: the definition of a pass, and the claim that fixes what both sides compute from (protocol §10.2)."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from shared.disputes.arithmetic import Arithmetic
from shared.statements.rules import Count, Octets, Whole
from shared.statements.schema import U32, Boolean, Bytes32, Record, Uint

Size = Annotated[int, Whole(1 << 24, 1)]
Binary64 = Annotated[bytes, Octets(8, 8)]
"""A number as the eight bytes of its binary64 form, big-endian."""
MAX_TOKENS: Final = 1 << 22
WAYS: Final = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Into how many parts one step may cut what is left."""
VERSION: Final[Mapping[str, int]] = {"v": 1}


class Type(StrEnum):
    """A checkpoint's dtype."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Rotation(StrEnum):
    """A `rope_type`."""

    DEFAULT = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"


class DefinedBy(StrEnum):
    """Arithmetics that the referee computes."""

    CHAIN_1 = "chain-1"
    PAIRS_32 = "pairs-32"


class EndKind(StrEnum):
    """What of a receipt is disputed."""

    DIGEST = "digest"
    """The hash of a block of hidden states (§6)."""
    DRAW = "draw"
    """An output token."""


def binary64(x: float) -> bytes:
    """Return a number as a field holds it."""
    return struct.pack(">d", x)


def number(field: bytes) -> float:
    """Return the number of a field."""
    value: float = struct.unpack(">d", field)[0]
    return value


@dataclass(frozen=True, slots=True)
class Definition(Record):
    """A model's config.json as a pass reads it (§7.2.5), and the arithmetic."""

    CONSTANTS: ClassVar[Mapping[str, int]] = VERSION
    arithmetic: DefinedBy
    dtype: Type
    vocab: Size
    hidden: Size
    layers: Annotated[int, Whole(1024, 1)]
    heads: Annotated[int, Whole(1024, 1)]
    kv_heads: Annotated[int, Whole(1024, 1)]
    head_dim: Annotated[int, Whole(4096, 2)]
    inner: Size
    eps: Binary64
    rope: Rotation
    theta: Binary64
    tied: Boolean
    biases: Boolean
    """Of queries, keys and values."""
    norms: Boolean
    """Of queries and keys."""
    windows: Annotated[tuple[Uint, ...], Count(1, 1024)]
    """Of each layer; 0 is none."""
    factor: Binary64 | None = None
    low: Binary64 | None = None
    high: Binary64 | None = None
    original: Uint | None = None

    def check(self) -> None:
        """Check that shapes fit together and that the arithmetic is defined for the dtype."""
        self.require(self.heads % self.kv_heads == 0, "has heads that do not share keys evenly")
        self.require(self.head_dim % 2 == 0, "has an odd head width")
        self.require(self.heads * self.head_dim <= 1 << 20, "has heads wider than any model's")
        self.require(len(self.windows) == self.layers, "has not one window for each layer")
        scaled = self.rope is not Rotation.DEFAULT
        self.require((self.factor is not None) == scaled, "has a factor that its rotation has not")
        smooth = None not in (self.low, self.high, self.original)
        self.require(smooth == (self.rope is Rotation.LLAMA3), "has no whole llama3 rotation")
        self._check_numbers()
        self.by()

    def _check_numbers(self) -> None:
        self.require(1e-20 <= number(self.eps) <= 1.0, "has an eps that is none")
        self.require(1.0 <= number(self.theta) <= 1e12, "has a theta that is none")
        if self.factor is not None:
            self.require(1.0 <= number(self.factor) <= 1e12, "has a factor that is none")
        if self.low is not None and self.high is not None:
            self.require(0.0 < number(self.low) < number(self.high) <= 1e12, "has no whole bounds")
            self.require(1 <= (self.original or 0) <= 1 << 24, "was trained on no positions")

    def by(self) -> Arithmetic:
        """Return the arithmetic; UNSUPPORTED where it is not decided."""
        wide = "bfloat16" if self.dtype is Type.BFLOAT16 else "float32"
        return Arithmetic(self.arithmetic, wide)


@dataclass(frozen=True, slots=True)
class Sampling(Record):
    """How tokens were drawn, where neither filters nor penalties were ordered; others are not decided by games."""

    temperature_ppm: U32
    seed: Bytes32
    choice: U32
    delivered: Uint
    """How many of the prompt's last tokens are the output's first ones (§3.3.1)."""


@dataclass(frozen=True, slots=True)
class Claim(Record):
    """What a receipt and its disclosed request fix before the game begins, and what of it is said to be false."""

    CONSTANTS: ClassVar[Mapping[str, int]] = VERSION
    definition: Definition
    weights: Bytes32
    """The weights root."""
    tokens: Bytes32
    """The root over prompt and output tokens."""
    prompt: Annotated[int, Whole(MAX_TOKENS, 1)]
    output: Annotated[int, Whole(MAX_TOKENS, 1)]
    ways: Annotated[int, Whole(WAYS[-1], WAYS[0])]
    kind: EndKind
    index: Uint
    """The number of the block (those of the prompt come first), or of the output token, counted from 0."""
    value: Annotated[bytes, Octets(32, 4)]
    """What the receipt says there: a block's hash, or a token as a little-endian u32."""
    sampling: Sampling | None = None

    def check(self) -> None:
        """Check that the end exists."""
        self.require(self.ways in WAYS, "cuts into a number of parts that is no power of two")
        self.require(self.prompt + self.output <= MAX_TOKENS, "has more tokens than any model")
        draw = self.kind is EndKind.DRAW
        self.require(len(self.value) == (4 if draw else 32), "has a value of another kind")
        self.require(not draw or self.sampling is not None, "disputes a token, but not its drawing")
        ends = self.output if draw else -(-(self.prompt - 1) // 32) + -(-self.output // 32)
        self.require(self.index < ends, "disputes something beyond the end")
        delivered = 0 if self.sampling is None else self.sampling.delivered
        self.require(delivered < self.prompt, "has more tokens delivered than there are")

    @property
    def positions(self) -> int:
        """How many positions the pass has."""
        return self.prompt + self.output - 1
