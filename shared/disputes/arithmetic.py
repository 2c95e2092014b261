"""Arithmetics that the referee computes, one element at a time (protocol §7.2.2, 7.2.3): products, sums, norms, attention, gate.

Numbers are binary32, as `binary32` has them; T is the type of products' inputs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.disputes.binary32 import (
    LARGEST,
    add,
    chain,
    divide,
    fma,
    multiply,
    nearest,
    read,
    read_all,
    root,
    to_bfloat16,
)
from shared.disputes.exponential import exp
from shared.runtime.errors import Code, CounterfoilError

CHAIN_1: Final = "chain-1"
PAIRS_32: Final = "pairs-32"
LANES: Final = 16


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """One arithmetic with one T, `bfloat16` or `float32`. UNSUPPORTED for one that is not decided here."""

    name: str
    dtype: str

    def __post_init__(self) -> None:
        known = {CHAIN_1: ("bfloat16", "float32"), PAIRS_32: ("bfloat16",)}
        if self.dtype not in known.get(self.name, ()):
            raise CounterfoilError(
                Code.UNSUPPORTED,
                f"no dispute is decided under the arithmetic {self.name[:40]} for {self.dtype[:40]}",
            )

    @property
    def group(self) -> int:
        """What widths of products are padded to multiples of."""
        return 32 if self.name == PAIRS_32 else LANES

    def rounded(self, x: float) -> float:
        """Round to T."""
        return to_bfloat16(x) if self.dtype == "bfloat16" else x

    def stored(self, x: float) -> float:
        """Return a key or a value as it is stored (rule 9)."""
        most = LARGEST[self.dtype]
        return self.rounded(0.0 if math.isnan(x) else min(max(x, -most), most))

    def product(
        self,
        x: Sequence[float],
        w: Sequence[float],
        bias: float | None = None,
        *,
        width: int | None = None,
    ) -> float:
        """Return one element of a product; padding comes after every `width` inputs (by default after all)."""
        width = len(x) if width is None else width
        found = self.sum(0.0, self._padded(x, width), self._padded(w, width))
        return found if bias is None else add(found, bias)

    def sum(self, acc: float, x: Sequence[float], w: Sequence[float]) -> float:
        """Return acc with the products of two rows added, from a place on at which a group begins."""
        if self.name == CHAIN_1:
            order = _swapped if self.dtype == "bfloat16" else read_all
            return chain(order(x), order(w), read(acc))
        for first in range(0, len(x), 32):
            a, b = read_all(x[first : first + 32]), read_all(w[first : first + 32])
            acc = add(acc, add(chain(a[0::2], b[0::2]), chain(a[1::2], b[1::2])))
        return acc

    def norm_scale(self, x: Sequence[float], eps: float) -> float:
        """Return 1 / sqrt(mean of squares + eps) of a row (rule 7)."""
        own = read_all(x)
        lanes = [chain(own[lane::LANES], own[lane::LANES]) for lane in range(LANES)]
        mean = divide(by_halves(lanes), float(len(x)))
        return divide(1.0, root(add(mean, nearest(eps))))

    def attended(self, total: float, weighted: float) -> float:
        """Return an element of attention's output (rule 10(e))."""
        return self.rounded(divide(add(weighted, 0.0), total))

    def gated(self, g: float, u: float) -> float:
        """Return silu(g) · u (rule 11)."""
        e = exp(-abs(g))
        t = 1.0 if g >= 0 else e
        return self.rounded(multiply(divide(multiply(g, t), add(1.0, e)), u))

    def _padded(self, row: Sequence[float], width: int) -> Sequence[float]:
        missing = [0.0] * (-width % self.group)
        if not missing:
            return row
        found: list[float] = []
        for first in range(0, len(row), width):
            found += [*row[first : first + width], *missing]
        return found


def by_halves(lanes: Sequence[float]) -> float:
    """Return the sum of sixteen lanes (rule 6)."""
    while (half := len(lanes) // 2) > 0:
        lanes = [add(lanes[i], lanes[i + half]) for i in range(half)]
    return lanes[0]


def rotated(a: float, b: float, turn: tuple[float, float], *, low: bool) -> float:
    """Return an element of a pair (a, b) turned by an angle's cosine and sine (rule 8): the lower one, or the upper."""
    cosine, sine = turn
    if low:
        return fma(-b, sine, multiply(a, cosine))
    return fma(a, sine, multiply(b, cosine))


def _swapped(row: Sequence[float]) -> list[float]:
    """Return operands in the order in which bfloat16 is summed: the odd one of each pair first."""
    found = read_all(row)
    if len(found) % 2:  # one is alone in its pair, since what it would be with is hidden
        return [*_swapped(found[:-1]), found[-1]]
    found[0::2], found[1::2] = found[1::2], found[0::2]
    return found
