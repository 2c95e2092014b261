"""The compiled kernels (kernels.h) as Python sees them: structures, one function each, and no torch.

Callers are responsible for pointers and bounds: `shared.model.arithmetic`, `.cpu` and `.functions` are the only ones.
"""

import ctypes
from array import array
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from functools import cache, partial
from importlib.util import find_spec
from time import perf_counter

from shared.runtime.errors import Code, CounterfoilError

LANES = 16
"""Output rows of one panel of a packed weight."""
VARIANTS = ("portable", "avx2", "avx512", "avx512-bf16", "amx")
"""All variants give the same bits; the index is the kernels' number for each."""
SINGLES, PAIRS_CHAIN, PAIRS_32, FUSED_16, FUSED_8 = range(5)
KINDS = 5
"""Kinds of units and of sums: float32 by chain-1, and bfloat16 by each arithmetic."""
TRIALS = 5
"""Products by which a variant's speed is measured at start: about 50 µs each."""


class Matrix(Structure):
    """A packed weight (rows, units) and its bias."""

    _fields_ = (("data", c_void_p), ("bias", c_void_p), ("rows", c_int64), ("units", c_int64))


class Shape(Structure):
    """What all layers share."""

    _fields_ = (
        ("kind", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("inner", c_int64),
        ("eps", c_float),
        ("scale", c_float),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("own_hidden", c_int64),
        ("own_head_dim", c_int64),
    )


class Layer(Structure):
    """One layer's weights, and where its keys and values are."""

    _fields_ = (
        ("qkv", Matrix),
        ("o", Matrix),
        ("gate", Matrix),
        ("up", Matrix),
        ("down", Matrix),
        ("norm_in", c_void_p),
        ("norm_out", c_void_p),
        ("norm_q", c_void_p),
        ("norm_k", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("window", c_int64),
    )


class Batch(Structure):
    """Rows of one pass; `span` points to (spans, 4) int64: first row, rows, position, address of the block table."""

    _fields_ = (("rows", c_int64), ("spans", c_int64), ("span", c_void_p))


class Kernels:
    """The functions of the library, typed."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        matrix, shape, batch = POINTER(Matrix), POINTER(Shape), POINTER(Batch)
        self.best: int = library.cf_variants()
        """Number of the best variant that this processor can run."""
        self._use = library.cf_use
        self._threads = library.cf_threads
        self.pack = library.cf_pack
        self.pack.argtypes = (c_void_p, c_int64, c_int64, c_int, c_void_p)
        self.embed = library.cf_embed
        self.embed.argtypes = (matrix, c_void_p, c_int64, c_int, c_void_p)
        self.rotary = library.cf_rotary
        self.rotary.argtypes = (c_void_p, c_int64, c_int64, c_float, c_void_p, c_void_p)
        self.ln, self.exp = library.cf_ln, library.cf_exp
        self.ln.argtypes = self.exp.argtypes = (c_void_p, c_int64, c_void_p)
        self.workspace = library.cf_workspace
        self.workspace.argtypes = (shape, c_int64, batch)
        self.workspace.restype = c_int64
        self.layers = library.cf_layers
        places = (c_void_p, c_void_p, c_int64)
        self.layers.argtypes = (shape, POINTER(Layer), c_int64, batch, *places)
        self.norm = library.cf_norm
        self.norm.argtypes = (shape, c_void_p, c_void_p, c_int64, c_void_p)
        self.linear = library.cf_linear
        self.linear.argtypes = (matrix, c_void_p, c_int64, c_int, c_void_p)
        for function in (
            self.pack,
            self.embed,
            self.rotary,
            self.ln,
            self.exp,
            self.layers,
            self.norm,
            self.linear,
        ):
            function.restype = None
        self.choose()

    def use(self, variant: int, kind: int | None = None) -> None:
        """Choose a variant, at most `best`, for a kind or for all. Changes speed, not bits."""
        for number in range(KINDS) if kind is None else (kind,):
            self._use(number, variant)

    def choose(self) -> None:
        """Choose for each kind the variant that is fastest here, which the instructions' names do not tell."""
        for kind in range(KINDS):
            known = range(min(1, self.best), self.best + 1)
            self.use(min(known, key=partial(self._time, kind)), kind)

    def _time(self, kind: int, variant: int) -> float:
        """Return the seconds that a small product takes, the best of a few."""
        self.use(variant, kind)
        rows, columns, units = 8, 256, 512
        weight, x, out = (
            array("I", bytes(4 * n)) for n in (columns * units, rows * units, rows * columns)
        )
        matrix = Matrix(weight.buffer_info()[0], None, columns, units)
        taken = []
        for _ in range(TRIALS):
            begun = perf_counter()
            self.linear(matrix, x.buffer_info()[0], rows, kind, out.buffer_info()[0])
            taken.append(perf_counter() - begun)
        return min(taken)

    def threads(self, wanted: int) -> int:
        """Let passes use this many threads of the process; return how many they will use. Changes speed, not bits."""
        return int(self._threads(wanted))


@cache
def kernels() -> Kernels:
    """Return the library; CONFIGURATION when it was not built with the package."""
    spec = find_spec("shared.model.native._kernels")
    if spec is None or spec.origin is None:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "the CPU kernels were not built when counterfoil was installed",
            remedy="Install a C compiler (gcc or clang) and install counterfoil again.",
        )
    return Kernels(spec.origin)
