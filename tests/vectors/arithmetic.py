"""The vectors of §7.2: every operation of every arithmetic, and one pass of a small model.

They are computed by `tests.shared.model.reference`, which is written from the text, and not by the kernels. Numbers are the
hexadecimal of their IEEE 754 bits, a row of them in one string.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from hashlib import sha256, shake_256
from math import prod

import numpy as np

from shared.model.config import ModelConfig
from shared.model.rope import Rope
from shared.model.weights import expected_shapes
from tests.shared.model import reference
from tests.shared.model.operations import INFINITY, LEAST, NAN, Doubles, Floats
from tests.shared.model.reference import Arithmetic, Model
from tests.shared.model.reference_fused import Fused
from tests.vectors.files import Json

ARITHMETICS = (
    Arithmetic("chain-1", "float32"),
    Arithmetic("chain-1", "bfloat16"),
    Arithmetic("pairs-32", "bfloat16"),
    Fused("fused-16", "bfloat16"),
    Fused("fused-8", "bfloat16"),
)
ROPES = (
    (128, Rope(10_000.0)),
    (80, Rope(1_000_000.0)),
    (10, Rope(1_000.0, "linear", 2.5)),
    (128, Rope(500_000.0, "llama3", 8.0, 1.0, 4.0, 8192)),
)
"""Head widths and what is said of their rotation."""
POSITIONS = (1, 4095, 2**22 - 1)
PASS = ModelConfig(
    vocab_size=50,
    hidden_size=40,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=6,
    intermediate_size=20,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    max_positions=128,
    dtype="float32",
    eos_token_ids=(),
    rope=Rope(500.0, "llama3", 4.0, 1.0, 4.0, 64),
    qkv_bias=True,
    qk_norm=True,
    layer_windows=(0, 20),
)
"""No family has biases and norms of queries and keys; one model that has both shows either."""
TOKENS = [(7 * place + place * place) % PASS.vocab_size for place in range(70)]
CHUNKS = (41, 29)
TELLING = np.array(
    [
        0xC299ED8D,
        0xC071BE6C,
        0xBEE3D15B,
        0xBEA1B3FD,
        0xBE9112D4,
        0xBF72261D,
        0xBE95DF47,
        0xBF8215DB,
        0xC0285881,
    ],
    np.uint32,
).view(np.float32)
"""Arguments whose exponential depends on the last bits of the polynomial's coefficients and of the reduction's."""
RULE = (
    "A tensor is read from SHAKE-256 of its name (ASCII), in row order, as little-endian two's complement integers n of 16 bits "
    "for float32 and 8 bits for bfloat16; u = n / 2^15 or n / 2^7. Elements of matrices are u / 2, those of biases u, and those "
    "of norms 1 + u. All are exact in their dtype."
)


# ---- numbers --------------------------------------------------------------------------------------------------------


def as_given(x: Floats) -> str:
    """Return float32 numbers as they are written, with the bits of each NaN."""
    return np.ascontiguousarray(x).view(np.uint32).astype(">u4").tobytes().hex()


def hexadecimal(x: Floats) -> str:
    """Return float32 numbers as they are written, every NaN as 7fc00000."""
    return as_given(np.where(np.isnan(x), NAN, x))


def typed(by: Arithmetic, x: Floats) -> str:
    """Return numbers of type T as they are written."""
    if by.dtype == "float32":
        return as_given(x)
    return (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(">u2").tobytes().hex()


def doubles(x: Iterable[float]) -> str:
    """Return float64 numbers as they are written."""
    return np.array([*x], dtype=">f8").tobytes().hex()


def rows(by: Arithmetic, x: Floats) -> list[str]:
    """Return a matrix of type T."""
    return [typed(by, row) for row in x]


def draw(label: str, *shape: int, low: int = 122, high: int = 130) -> Floats:
    """Return numbers of either sign with biased exponents in [low, high], evenly spread."""
    raw = np.frombuffer(shake_256(label.encode()).digest(8 * prod(shape)), dtype="<u4")
    first, second = raw[::2], raw[1::2]
    exponents = (low + second % (high - low + 1)).astype(np.uint32)
    return ((first & 0x807FFFFF) | exponents << 23).view(np.float32).reshape(shape)


def hostile(label: str, *shape: int) -> Floats:
    """Return ordinary, tiny and subnormal numbers, zeros and negative zeros."""
    kinds = np.frombuffer(shake_256(f"{label} kinds".encode()).digest(prod(shape)), dtype=np.uint8)
    kinds = kinds.reshape(shape) % 6
    values = np.where(kinds == 1, draw(label, *shape, low=50, high=80), draw(label, *shape))
    values = np.where(kinds == 2, draw(label, *shape, low=0, high=0), values)
    values = np.where(kinds == 3, np.float32(0), values)
    return np.where(kinds == 4, np.float32(-0.0), values)


def cut(by: Arithmetic, x: Floats) -> Floats:
    """Return numbers without the bits that T does not have; subnormal ones remain."""
    kept = 0xFFFF0000 if by.dtype == "bfloat16" else 0xFFFFFFFF
    return (x.view(np.uint32) & np.uint32(kept)).view(np.float32)


def singles(*values: float) -> Floats:
    """Return numbers as float32."""
    return np.array(values, dtype=np.float64).astype(np.float32)


def of_bits(*values: int) -> Floats:
    """Return float32 numbers of given bits."""
    return np.array(values, dtype=np.uint32).view(np.float32)


# ---- what all arithmetics share -------------------------------------------------------------------------------------


def exponents() -> Floats:
    """Return arguments of exp: its bounds, places where the reduction changes, and many between."""
    bounds = singles(0, -0.0, -86, -87, -np.inf, np.nan, -1e-30, -0.34657359, -0.3465736, -85.9)
    past = np.nextafter(np.float32(-86), -INFINITY)
    return np.concatenate([bounds, [past], TELLING, -np.abs(draw("exp", 40, low=110, high=133))])


def to_round() -> Floats:
    """Return arguments of rounding: ties, the largest and smallest numbers, NaN of several kinds."""
    special = of_bits(
        0x00000000, 0x80000000, 0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000, 0x00800000,
        0x80800000, 0x007FFFFF, 0x807FFFFF, 0x00000001, 0x00808000, 0x7F7F7FFF, 0x7F7F8000, 0xFF7F8000,
        0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0xFFC00001, 0xFFFFFFFF,
    )  # fmt: skip
    return np.concatenate([special, draw("round", 20, low=1, high=250)])


def functions() -> Json:
    """Return §7.2.6: functions at their bounds and between, and tables of angles."""
    spread = [(place * 0.6180339887498949) % 1 for place in range(1, 41)]
    down = [0.0, -700.0, -700.0000000000001, float("-inf"), -0.34657359027997264, -1e-300]
    down += [-40 * place for place in spread[:20]] + [-700 * place for place in spread[20:]]
    up = [1.0, 2.0**-1022, 0.7071067811865475, 0.7071067811865476, 1.4142135623730951, 22.18]
    up += [1 - 2.0**-33, 2.0**-33, 1.7e308, *spread]
    turned = [0.0, 0.7853981633974483, 1.5707963267948966, 3.141592653589793, 4194303.0]
    turned += [40 * place for place in spread[:20]] + [1e6 * place for place in spread[20:]]
    pairs = [reference.sine_cosine(x) for x in turned]
    x, given = exponents(), to_round()
    return {
        "exp": {"x": hexadecimal(x), "exp": hexadecimal(ARITHMETICS[0].exp(x))},
        "exp_64": {"x": doubles(down), "exp": doubles(reference.exp_64(x) for x in down)},
        "ln_64": {"x": doubles(up), "ln": doubles(reference.ln_64(x) for x in up)},
        "sine_cosine": {
            "x": doubles(turned),
            "sine": doubles(sine for sine, _ in pairs),
            "cosine": doubles(cosine for _, cosine in pairs),
        },
        "rounding": {
            "x": as_given(given),
            "bfloat16": typed(ARITHMETICS[1], ARITHMETICS[1].rounded(given)),
            "float32": typed(ARITHMETICS[0], ARITHMETICS[0].rounded(given)),
            "bfloat16, limited": typed(ARITHMETICS[3], ARITHMETICS[3].rounded(given)),
        },
        "angles": [_angles(width, rope) for width, rope in ROPES],
    }


def _angles(width: int, rope: Rope) -> Json:
    of = reference.frequencies(width, rope)
    tables = [reference.angles(of, range(place, place + 1)) for place in POSITIONS]
    return {
        "head_dim": width,
        "rope": asdict(rope),
        "frequencies": hexadecimal(of),
        "positions": list(POSITIONS),
        "cosines": [hexadecimal(cosines) for cosines, _ in tables],
        "sines": [hexadecimal(sines) for _, sines in tables],
    }


# ---- each arithmetic ------------------------------------------------------------------------------------------------


def products(by: Arithmetic) -> list[Json]:
    """Return rows times matrices, with and without padding and bias; sums that are tiny, or at the ends of what is defined."""
    found: list[tuple[str, Floats, Floats, Floats | None]] = []
    for name, width, biased in (("whole", 64, True), ("padded", 21, True), ("single", 1, False)):
        bias = draw(f"{name} bias", 3) if biased else None
        found.append((name, draw(f"{name} x", 2, width), draw(f"{name} w", 3, width), bias))
    found.append(("hostile", hostile("hostile x", 3, 45), hostile("hostile w", 4, 45), None))
    for width in (14, 16, 18, 32, 34):
        x, w = np.zeros((2, 1, width), np.float32)
        place = width - (1 if by.dtype == "float32" else 2)  # the last step but for padding
        x[0, place], w[0, place] = 2.0**-70, -(2.0**-70)
        found.append((f"negative zero, width {width}", x, w, None))
    x = np.zeros((1, 6), np.float32)
    x[0, [0, 2]] = 2.0**-63, 2.0**-75  # 0 goes before 2 in every order
    w = np.zeros((5, 6), np.float32)
    w[:, 0] = 2.0**-63
    w[:, 2] = [-(2.0**-80), -(2.0**-76), -(2.0**-75), 2.0**-75, -(2.0**-50)]
    found.append(("next to the smallest normal number", x, w, None))
    found += _aligned() if isinstance(by, Fused) else _unlimited()
    return [_product(by, *case) for case in found]


def _unlimited() -> list[tuple[str, Floats, Floats, Floats | None]]:
    """Return products at the ends of binary32's range, for arithmetics that are defined there."""
    found: list[tuple[str, Floats, Floats, Floats | None]] = []
    x = of_bits(0x007F0000, 0x807F0000, 0x00010000, 0x7F000000, 0x3F800000, 0x3F800000)[None]
    w = np.tile(of_bits(0x7F000000, 0xFF000000, 0xFF000000, 0x00010000, 0, 0), (3, 1))
    w[1:, 4] = of_bits(0x3F800000, 0x00800000)
    found.append(("subnormal factors and bias", x, w, of_bits(0x007FFFFF, 0x807FFFFF, 0x80800000)))
    x = singles(1, 0, 2.0**-24 * (1 - 2.0**-23), 0)[None]
    w = np.array([singles(1 + 2.0**-23, 0, 1 + 2.0**-23, 0), singles(1 + 2.0**-23, 0, 1, 0)])
    found.append(("next to the middle of two numbers", x, w, None))
    x = singles(2.0**100, 0, 1, 0, 2.0**100, 0)[None]
    w = np.array([singles(2.0**27, 0, 1, 0, 2.0**27, 0), singles(2.0**28, 0, 0, 0, -(2.0**28), 0),
                  singles(-(2.0**27), 0, 2, 0, -(2.0**27), 0), singles(2.0**27, 0, 0, 0, -(2.0**27), 0)])  # fmt: skip
    found.append(("overflow", x, w, None))
    x = np.array([singles(np.inf, 1, 1), singles(-np.inf, 0, 1), singles(1, np.nan, 1)])
    w = np.array([singles(1, 2, 3), singles(0, 2, 3), singles(-1, 0, 0)])
    found.append(("infinities and NaN", x, w, singles(1, -1, 0)))
    return found


def _aligned() -> list[tuple[str, Floats, Floats, Floats | None]]:
    """Return products in which alignment and truncation of fused sums decide, for arithmetics that have them."""
    found: list[tuple[str, Floats, Floats, Floats | None]] = []
    for name, low, high in (("wide", 87, 158), ("tiny", 0, 70), ("middling", 80, 95)):
        found.append(
            (
                name,
                draw(f"{name} x", 3, 48, low=low, high=high),
                draw(f"{name} w", 5, 48, low=low, high=high),
                None,
            )
        )
    alike = of_bits(0x3FFF0000)
    found.append(
        (
            "sums beyond 31 bits",
            np.tile(alike, (2, 32)),
            np.tile(np.array([[1], [-1]]) * alike, (1, 32)).astype(np.float32),
            None,
        )
    )
    x, w = np.zeros((4, 32), np.float32), np.zeros((6, 32), np.float32)
    x[:, 0], x[:, 16] = 1.0, 2.0**-26
    x[2, [0, 2]], x[3, [0, 2]] = (2.0**-66, 2.0**-66), (2.0**-75, -(2.0**-74))
    w[:, 0] = 1.0078125, -1.0078125, 2.0**-70, 2.0**-67, -(2.0**-73), 2.0**-75
    w[:, 2] = 2.0**-18, 2.0**-25, 0, 2.0**-80, 2.0**-75, -(2.0**-75)
    w[:, 16] = 1, -1, 2.0**30, 0, 1.9921875, 0
    w[3, 4] = 2.0**32  # times 0: an exponent of −94, which cuts off the other products of row 2
    x[3, 5:13], w[5, 5:13] = (
        2.0**-75,
        1.9921875 * 2.0**-76,
    )  # far below the exponent that a sum of zero might have
    found.append(
        (
            "terms that are cut off, zeros with exponents, and sums below 2^-149",
            x,
            w,
            singles(1, -0.0, 0, 2.0**-149, -(2.0**-130), -0.0),
        )
    )
    return found


def _product(by: Arithmetic, name: str, x: Floats, w: Floats, bias: Floats | None) -> Json:
    x, w = cut(by, x), cut(by, w)
    out = by.matrix(x, w, bias)
    return {
        "name": name,
        "x": rows(by, x),
        "weight": rows(by, w),
        "bias": None if bias is None else hexadecimal(bias),
        "out": [hexadecimal(row) for row in out],
    }


def norms(by: Arithmetic) -> list[Json]:
    """Return norms of ordinary rows, and of such whose squares overflow, vanish or are no numbers."""
    found = []
    for width, eps in ((48, 1e-5), (21, 1e-6), (1, 1e-3)):
        x = draw(f"norm {width}", 7, width)
        x[1] = draw("norm huge", width, low=200, high=254)
        x[2] = draw("norm tiny", width, low=1, high=40)
        x[3] = np.float32(-0.0)
        x[4, width // 2], x[5, 0] = INFINITY, NAN
        if isinstance(by, Fused):
            x[4], x[5] = (
                draw("norm edge", width, low=107, high=127),
                draw("norm wide", width, low=84, high=127),
            )
        x[6] = draw("norm small", width, low=80, high=100)
        x[6, 0] = of_bits(0x807FFFFF)[0]
        weight = draw("norm weight", width)
        out = by.rounded(by.norm(x, weight, eps))
        found.append(
            {
                "eps": eps,
                "x": [hexadecimal(row) for row in x],
                "weight": hexadecimal(weight),
                "out": rows(by, out),
            }
        )
    return found


def heads(by: Arithmetic) -> list[Json]:
    """Return heads from product to store: normed or not, rotated, and as query, key and value."""
    found = []
    large = singles(3.3e38, -3.39e38, np.inf, 1, -3.4e38, 2, np.inf, -np.inf, -np.inf, 0)
    if isinstance(by, Fused):
        large = singles(
            2.0**50,
            -(2.0**20) * 1.01,
            2.0**20,
            1,
            -(2.0**-60),
            0.99 * 2.0**-60,
            -(2.0**-75),
            -(2.0**41),
            2.0**40 * 0.999,
            0,
        )
    for name, width, position, normed in (
        ("first position", 10, 0, False),
        ("plain", 10, 69, False),
        ("large", 10, 1, False),
        ("large first", 10, 0, False),
        ("normed", 10, 69, True),
        ("normed, wide", 40, 4090, True),
        ("large, normed", 10, 3, True),
    ):
        head = large if "large" in name else draw(f"head {name}", width)
        weight = draw("head norm", width, low=126, high=127) if normed else None
        of = reference.frequencies(width, Rope())
        cosines, sines = (table[0] for table in reference.angles(of, range(position, position + 1)))
        before = head if weight is None else by.norm(head[None], weight, 1e-5)[0]
        after = by.rotated(before, cosines, sines)
        found.append(
            {
                "name": name,
                "position": position,
                "eps": 1e-5,
                "head": hexadecimal(head),
                "norm": None if weight is None else hexadecimal(weight),
                "cosines": hexadecimal(cosines),
                "sines": hexadecimal(sines),
                "rotated": hexadecimal(after),
                "query": typed(by, by.rounded(after)),
                "key": typed(by, by.stored(after)),
                "value": typed(by, by.stored_value(head)),
            }
        )
    return found


def gates(by: Arithmetic) -> Json:
    """Return silu(g) · u."""
    g = np.concatenate(
        [draw("gate", 30, low=110, high=134), singles(0, -0.0, 86, -86, 86.5, -86.5)]
    )
    ends = singles(2e-38, -2e-38, 3e38, -3e38, 3e38, np.inf, -np.inf, np.nan)
    if isinstance(by, Fused):
        ends = singles(2.0**-76, -(2.0**-76), 2.0**50, -(2.0**50), 2.0**30, 2.0**39, -86.0, -85.9)
    g = np.concatenate([g, TELLING, ends])
    u = draw("up", len(g))
    u[-4] = 2.0**30 if isinstance(by, Fused) else 3e38
    return {"g": hexadecimal(g), "u": hexadecimal(u), "out": typed(by, by.gated(g, u))}


def attention(by: Arithmetic) -> Json:
    """Return four query heads on two of keys and values, for the last of 96 positions, or of 290 where there are segments."""
    count, queries_at, width = (290, 286, 6) if isinstance(by, Fused) else (96, 92, 6)
    queries = by.rounded(draw("queries", count - queries_at, 4, width, low=126, high=130))
    keys = by.rounded(draw("keys", count, 2, width, low=124, high=129))
    values = by.rounded(draw("values", count, 2, width))
    queries[0, 3] = 0  # all weights are 1
    scores = np.einsum("rhd,td->rht", queries[:, 2:], keys[:, 1])
    # The first value of the second head is the smallest that is kept, negative, where no row's weight is 1. So chain-1, which
    # flushes all of its products, sums them to −0, and no padding follows that would take the sign away.
    values[:, 1, 0] = -(2.0**-60) if isinstance(by, Fused) else -LEAST
    for row, place in enumerate(range(queries_at, count)):
        values[scores[row, :, : place + 1].argmax(axis=-1), 1, 0] = 0
    if isinstance(by, Fused):
        values[::5, 0, 1], values[1::5, 0, 1] = 2.0**20, 2.0**-60
        # Two columns, of half a million, whose outputs show one more rounding where segments are merged: of an output, of a total.
        values[:, 0, 2] = by.rounded(draw("telling 6", count, 2000)[:, 597])
        values[:, 0, 3] = by.rounded(draw("telling 34", count, 2000)[:, 1740])
    else:
        queries[-1, 0, 2] = INFINITY
    windows = []
    for window in (0, 1, 20, 150) if isinstance(by, Fused) else (0, 1, 20):
        out = by.attention(queries, keys, values, queries_at, window)
        windows.append({"window": window, "out": rows(by, out.reshape(len(out), -1))})
    return {
        "heads": 4,
        "kv_heads": 2,
        "head_dim": width,
        "first_position": queries_at,
        "queries": rows(by, queries.reshape(len(queries), -1)),
        "keys": rows(by, keys.reshape(count, -1)),
        "values": rows(by, values.reshape(count, -1)),
        "windows": windows,
    }


# ---- a pass ---------------------------------------------------------------------------------------------------------


def pass_weights(dtype: str) -> dict[str, Floats]:
    """Return the small model's weights by RULE."""
    found = {}
    for name, shape in expected_shapes(replace(PASS, dtype=dtype)).items():
        size = 1 if dtype == "bfloat16" else 2
        raw = np.frombuffer(shake_256(name.encode()).digest(size * prod(shape)), dtype=f"<i{size}")
        u = (raw / 2.0 ** (8 * size - 1)).reshape(shape)
        values = u / 2 if len(shape) == 2 else 1 + u if "norm" in name else u
        found[name] = values.astype(np.float32)
    return found


def little_endian(by: Arithmetic, x: Floats) -> bytes:
    """Return rows of type T as they are hashed."""
    if by.dtype == "float32":
        return x.astype("<f4").tobytes()
    return (np.ascontiguousarray(x).view(np.uint32) >> 16).astype("<u2").tobytes()


def whole_pass(by: Arithmetic) -> Json:
    """Return hashes of a pass, and the first values of its first and last row."""
    model = Model(PASS, pass_weights(by.dtype), by)
    states = model.states(TOKENS)
    hidden = model.hidden(states)
    logits = model.logits(hidden)
    return {
        "states_sha256": sha256(states.astype("<f4").tobytes()).hexdigest(),
        "hidden_sha256": sha256(little_endian(by, hidden)).hexdigest(),
        "logits_sha256": sha256(logits.astype("<f4").tobytes()).hexdigest(),
        "rows": [
            {
                "row": row,
                "states": hexadecimal(states[row, :8]),
                "hidden": typed(by, hidden[row, :8]),
                "logits": hexadecimal(logits[row, :8]),
            }
            for row in (0, len(TOKENS) - 1)
        ],
    }


def arithmetic(by: Arithmetic) -> Json:
    """Return everything of one arithmetic and type."""
    return {
        "arithmetic": by.name,
        "dtype": by.dtype,
        "products": products(by),
        "norms": norms(by),
        "heads": heads(by),
        "gates": gates(by),
        "attention": attention(by),
        "pass": whole_pass(by),
    }


def model() -> Json:
    """Return what the passes run."""
    config = asdict(PASS)
    for name in ("dtype", "eos_token_ids"):
        del config[name]
    return {"config": config, "weights": RULE, "tokens": TOKENS, "chunks": list(CHUNKS)}


def vectors() -> Json:
    """Return what arithmetic.json holds."""
    return {
        "functions": functions(),
        "model": model(),
        "arithmetics": [arithmetic(by) for by in ARITHMETICS],
    }


def values_of(written: str, digits: int = 8) -> Floats:
    """Return float32 numbers that were written with so many digits each: 8, or 4 of bfloat16."""
    raw = np.frombuffer(bytes.fromhex(written), dtype=f">u{digits // 2}").astype(np.uint32)
    return (raw << np.uint32(32 - 4 * digits)).view(np.float32)


def doubles_of(written: str) -> Doubles:
    """Return float64 numbers that were written."""
    return np.frombuffer(bytes.fromhex(written), dtype=">f8").astype(np.float64)
