"""The kernels, in Triton: protocol §7.2.4 operation by operation.

How the bits hold, whatever the tiles, the batch and the chunks:

- Every product is a `tl.dot` of bfloat16 over ascending k that starts from zero, which the matrix unit computes as the chain of
  fused sums that its arithmetic defines. No sum over k is split.
- Every other sum is one of integers. A maximum has no order anyway.
- Everything else is one IEEE operation on each element. Launches set `enable_fp_fusion=False`, so that a multiplication and an
  addition are contracted only where `tl.fma` says so, and division and root are `div_rn` and `sqrt_rn`.
- What is added to a product is added by `after_dot`, since the compiler turns `dot(a, b) + c` into a dot that starts from c.
  The matrix unit may give zeros of either sign, so +0 is added to every product but scores, whose sign does not matter then.

Axes: R rows of a pass, D hidden size, K and N inputs and outputs of a product, H query heads, G key heads, E head width, P padded
head width, S segments, C positions of a segment. Widths of products are padded with zeros (see `layout`), so their loads need no
masks. Pointers to states and caches are counted in 64 bits, all other numbers in 32.
"""

# ruff: noqa: ANN001, ANN202  # signatures are Triton's: pointers, sizes and compile-time constants have no types
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from shared.model.cuda.tiles import Epilogue
from shared.model.fused import SEGMENT as _SEGMENT

__all__ = ["TensorDescriptor"]  # what `operations` needs of Triton besides the kernels
_hex = float.fromhex
SEGMENT = tl.constexpr(_SEGMENT)
LOG2_E, ROUNDER = tl.constexpr(_hex("0x1.715476p+0")), tl.constexpr(_hex("0x1.8p+23"))
LN2_HIGH, LN2_LOW = tl.constexpr(_hex("-0x1.62e4p-1")), tl.constexpr(_hex("-0x1.7f7d1cp-20"))
P6, P5 = tl.constexpr(_hex("0x1.6c16c2p-10")), tl.constexpr(_hex("0x1.111112p-7"))
P4, P3 = tl.constexpr(_hex("0x1.555556p-5")), tl.constexpr(_hex("0x1.555556p-3"))
EXP_LEAST = tl.constexpr(-86.0)
"""Below this, an exponential is zero."""
WEIGHT_LEAST = tl.constexpr(-27.0)
"""Below this, a weight of attention is zero."""
MOST = tl.constexpr(2.0**40)
VALUE_LEAST, VALUE_MOST = tl.constexpr(2.0**-60), tl.constexpr(2.0**20)
HIDDEN = tl.constexpr(float("-inf"))
UNIT = tl.constexpr(2.0**-23)
ADDED, GATED = tl.constexpr(int(Epilogue.ADDED)), tl.constexpr(int(Epilogue.GATED))


# ---- functions ------------------------------------------------------------------------------------------------------


@triton.jit
def rounded(x):
    """Limit to ±2^40 and round to bfloat16 (rule 3)."""
    return tl.minimum(tl.maximum(x, -MOST), MOST).to(tl.bfloat16)


@triton.jit
def exp(x, LEAST: tl.constexpr):
    """Exponential of x ≤ 0 (§7.2.6); 0 where x < LEAST."""
    near = tl.maximum(x, EXP_LEAST)
    t = tl.fma(near, LOG2_E, ROUNDER)
    n = t - ROUNDER
    r = tl.fma(n, LN2_HIGH, near)
    r = tl.fma(n, LN2_LOW, r)
    p = tl.fma(r, P6, P5)
    p = tl.fma(p, r, P4)
    p = tl.fma(p, r, P3)
    p = tl.fma(p, r, 0.5)
    p = tl.fma(p, r, 1.0)
    p = tl.fma(p, r, 1.0)
    # The low bits of t are n, in two's complement: added to the exponent field, they multiply by 2^n.
    scaled = p.to(tl.int32, bitcast=True) + (t.to(tl.int32, bitcast=True) << 23)
    return tl.where(x < LEAST, 0.0, scaled.to(tl.float32, bitcast=True))


@triton.jit
def after_dot(product, other):
    """The sum of a product and what is added to it, in one rounding: written as an fma, see above."""
    return tl.fma(product, 1.0, other)


@triton.jit
def exponent_of(square):
    """The biased exponent of a number ≥ 0."""
    return square.to(tl.int32, bitcast=True) >> 23


@triton.jit
def in_units(square, largest):
    """Squares as multiples of 2^(largest − 167), rounded down (rule 7b)."""
    bits = square.to(tl.int32, bitcast=True)
    exponent = bits >> 23
    significand = tl.where(exponent > 0, (bits & 0x7FFFFF) | 0x800000, 0).to(tl.int64)
    return (significand << 17) >> tl.minimum(largest - exponent, 63).to(tl.int64)


@triton.jit
def inverse_root(total, largest, width, eps):
    """1 / sqrt(mean + eps), of a sum of squares in units and their number (rule 7c)."""
    field = tl.where(largest > 40, (largest - 40) << 23, 0)
    mean = tl.div_rn(total.to(tl.float32), width) * field.to(tl.float32, bitcast=True)
    return tl.div_rn(1.0, tl.sqrt_rn(mean + eps))


# ---- states ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows"])
def embed_kernel(
    table, tokens, states, rows,
    D: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr, BR: tl.constexpr
):  # fmt: skip
    """states (R, D) float32 = rows of the table (V, STRIDE)."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)[:, None]
    place = tl.arange(0, BLOCK)[None, :]
    token = tl.load(tokens + row, mask=row < rows, other=0)
    there = (row < rows) & (place < D)
    tl.store(
        states + row * D + place,
        tl.load(table + token * STRIDE + place, mask=there).to(tl.float32),
        mask=there,
    )


@triton.jit(do_not_specialize=["rows"])
def norm_kernel(
    states, weight, out, rows, eps,
    D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr, BR: tl.constexpr
):  # fmt: skip
    """out (R, DP) bfloat16 = the norm of states (R, DP), whose width is D."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)[:, None]
    place = tl.arange(0, BLOCK)[None, :]
    x = tl.load(states + row * DP + place, mask=(row < rows) & (place < D), other=0.0)
    square = x * x
    largest = tl.max(exponent_of(square), 1, keep_dims=True)
    total = tl.sum(in_units(square, largest), 1, keep_dims=True)
    r = inverse_root(total, largest, D * 1.0, eps)
    w = tl.load(weight + place, mask=place < D, other=0.0)
    tl.store(out + row * DP + place, rounded((x * r) * w), mask=(row < rows) & (place < DP))


# ---- products -------------------------------------------------------------------------------------------------------


@triton.jit
def finish(
    sums, out, bias, row, column, rows,
    N: tl.constexpr, EPILOGUE: tl.constexpr, BIASED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """Store a tile (BM, BN) of products, or what comes of them."""
    m, n = row + tl.arange(0, BM)[:, None], column + tl.arange(0, BN)[None, :]
    inside = m < rows
    sums = after_dot(sums, 0.0)
    if BIASED:
        sums = after_dot(sums, tl.load(bias + n))
    if EPILOGUE == GATED:
        g, u = tl.split(tl.reshape(sums, (BM, BN // 2, 2)))
        e = exp(-tl.abs(g), EXP_LEAST)
        silu = tl.div_rn(tl.where(g >= 0, g, g * e), 1.0 + e)
        half = column // 2 + tl.arange(0, BN // 2)[None, :]
        tl.store(out + m.to(tl.int64) * (N // 2) + half, rounded(silu * u), mask=inside)
    else:
        place = out + m.to(tl.int64) * N + n
        if EPILOGUE == ADDED:
            sums = after_dot(sums, tl.load(place, mask=inside, other=0.0))
        tl.store(place, sums, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def product_kernel(
    x, weight, out, bias, rows,
    N: tl.constexpr, K: tl.constexpr, EPILOGUE: tl.constexpr, BIASED: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, SWAP: tl.constexpr
):  # fmt: skip
    """Products of x (R, K) with a weight (N, K).

    PLAIN: out (R, N) float32. ADDED: the same, added to what out holds. GATED: rows of the weight alternate between gate and up,
    and out is (R, N / 2) bfloat16. SWAP multiplies from the other side, which suits few rows.
    """
    across = tl.cdiv(rows, BM)
    row, column = tl.program_id(0) % across * BM, tl.program_id(0) // across * BN
    m, n, k = (
        row + tl.arange(0, BM)[:, None],
        column + tl.arange(0, BN)[:, None],
        tl.arange(0, BK)[None, :],
    )
    x_at, w_at = x + m.to(tl.int64) * K + k, weight + n.to(tl.int64) * K + k
    if SWAP:
        turned = tl.zeros((BN, BM), tl.float32)
        for _ in range(0, K, BK):
            turned = tl.dot(
                tl.load(w_at), tl.trans(tl.load(x_at, mask=m < rows, other=0.0)), turned
            )
            x_at += BK
            w_at += BK
        sums = tl.trans(turned)
    else:
        sums = tl.zeros((BM, BN), tl.float32)
        for _ in range(0, K, BK):
            sums = tl.dot(tl.load(x_at, mask=m < rows, other=0.0), tl.trans(tl.load(w_at)), sums)
            x_at += BK
            w_at += BK
    finish(sums, out, bias, row, column, rows, N, EPILOGUE, BIASED, BM, BN)


@triton.jit(do_not_specialize=["rows"])
def product_copied_kernel(
    x, weight, out, bias, rows,
    N: tl.constexpr, K: tl.constexpr, EPILOGUE: tl.constexpr, BIASED: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """`product_kernel` for many rows: x and weight are descriptors, whose tiles the card's copy engine fetches."""
    across = tl.cdiv(rows, BM)
    row, column = tl.program_id(0) % across * BM, tl.program_id(0) // across * BN
    sums = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        sums = tl.dot(x.load([row, k]), weight.load([column, k]).T, sums)
    finish(sums, out, bias, row, column, rows, N, EPILOGUE, BIASED, BM, BN)


# ---- heads ----------------------------------------------------------------------------------------------------------


@triton.jit
def limited(x):
    """A value as it is stored, but for the rounding (rule 8)."""
    return tl.where(
        tl.abs(x) < VALUE_LEAST, 0.0, tl.minimum(tl.maximum(x, -VALUE_MOST), VALUE_MOST)
    )


@triton.jit(do_not_specialize=["rows"])
def heads_kernel(
    qkv, queries, keys, values, q_norm, k_norm, cosines, sines, positions, blocks, rows, eps,
    H: tl.constexpr, G: tl.constexpr, E: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, HALF: tl.constexpr,
    NORMED: tl.constexpr, BH: tl.constexpr, BR: tl.constexpr
):  # fmt: skip
    """BH heads of BR rows of qkv (R, STRIDE): norm, rotation, and where they belong.

    Queries go to (R, H, P), keys and values to (blocks, G, C, P), all bfloat16. Of their P places only the first E are written;
    the others hold zeros. HALF is a power of two from E / 2 on. Blocks are those of the rows' positions.
    """
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)[:, None, None]
    first = tl.program_id(1) * BH
    head, pair = first + tl.arange(0, BH)[None, :, None], tl.arange(0, HALF)[None, None, :]
    there = (row < rows) & (head < H + 2 * G) & (pair < E // 2)
    at = qkv + row * STRIDE + head * E + pair
    a, b = tl.load(at, mask=there, other=0.0), tl.load(at + E // 2, mask=there, other=0.0)
    position = tl.load(positions + row, mask=row < rows, other=0)
    block = tl.load(blocks + row, mask=row < rows, other=0).to(tl.int64)
    slot = (block * G * SEGMENT + position % SEGMENT) * P + pair
    is_query, is_key = head < H, (head >= H) & (head < H + G)

    x, y = a, b
    if NORMED:
        aa, bb = a * a, b * b
        largest = tl.max(tl.maximum(exponent_of(aa), exponent_of(bb)), 2, keep_dims=True)
        total = tl.sum(in_units(aa, largest) + in_units(bb, largest), 2, keep_dims=True)
        r = inverse_root(total, largest, E * 1.0, eps)
        inside = pair < E // 2
        q_low, k_low = tl.load(q_norm + pair, mask=inside), tl.load(k_norm + pair, mask=inside)
        q_high, k_high = (
            tl.load(q_norm + pair + E // 2, mask=inside),
            tl.load(k_norm + pair + E // 2, mask=inside),
        )
        x, y = (
            (a * r) * tl.where(is_query, q_low, k_low),
            (b * r) * tl.where(is_query, q_high, k_high),
        )
    turn = position.to(tl.int64) * (E // 2) + pair
    cosine = tl.load(cosines + turn, mask=(row < rows) & (pair < E // 2), other=0.0)
    sine = tl.load(sines + turn, mask=(row < rows) & (pair < E // 2), other=0.0)
    # Triton's minus is a subtraction from +0, which loses the sign of zeros.
    low, high = tl.fma(y * -1.0, sine, x * cosine), tl.fma(x, sine, y * cosine)

    query_at, key_at = (
        queries + (row * H + head) * P + pair,
        keys + slot + (head - H) * (SEGMENT * P),
    )
    value_at = values + slot + (head - H - G) * (SEGMENT * P)
    is_value = head >= H + G
    tl.store(query_at, rounded(low), mask=there & is_query)
    tl.store(query_at + E // 2, rounded(high), mask=there & is_query)
    tl.store(key_at, rounded(low), mask=there & is_key)
    tl.store(key_at + E // 2, rounded(high), mask=there & is_key)
    tl.store(value_at, limited(a).to(tl.bfloat16), mask=there & is_value)
    tl.store(value_at + E // 2, limited(b).to(tl.bfloat16), mask=there & is_value)


# ---- attention ------------------------------------------------------------------------------------------------------


@triton.jit
def weigh(products, seen, scale):
    """One segment (rules 9a to 9c): the largest score m of each row, its weights (bfloat16), and their sum L in units of 2^−23."""
    scores = tl.where(seen, products * scale, HIDDEN)
    m = tl.max(scores, 1)
    anchor = tl.where(
        m == HIDDEN, 0.0, m
    )  # a row that sees nothing of the segment has weights of zero
    weights = exp(scores - anchor[:, None], WEIGHT_LEAST).to(tl.bfloat16)
    units = (weights.to(tl.float32) + 1.0).to(tl.int32, bitcast=True) - 0x3F800000
    return m, weights, tl.sum(units, 1)


@triton.jit
def merge(most, total, m, units):
    """One more segment (rules 9e and 9f): the new M and N, and the factors a and b of the old and the new output."""
    d = exp(-tl.abs(most - m), EXP_LEAST)
    a, b = tl.where(m > most, d, 1.0), tl.where(m > most, 1.0, d)
    return tl.maximum(most, m), tl.fma(b, units.to(tl.float32) * UNIT, a * total), a, b


@triton.jit(do_not_specialize=["stride", "segments", "window"])
def decode_kernel(
    queries, keys, values, positions, decoded, table, stride, segments, window, scale, outs, mosts, sums,
    H: tl.constexpr, G: tl.constexpr, P: tl.constexpr, BG: tl.constexpr
):  # fmt: skip
    """One query of each of some sequences over one segment that it sees, the query heads of one key head together.

    `decoded` (Q, 2) holds each query's row of the pass and its sequence's row of the table of blocks (sequences, stride). What
    each segment gives goes to outs (Q, segments, H, P), mosts and sums (Q, segments, H).
    """
    query, kv = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(decoded + 2 * query).to(tl.int64)
    sequence = tl.load(decoded + 2 * query + 1).to(tl.int64)
    position = tl.load(positions + row)
    lowest = tl.where(window > 0, tl.maximum(position + 1 - window, 0), 0)
    s = lowest // SEGMENT + tl.program_id(2)
    if s * SEGMENT <= position:
        g, c, e = tl.arange(0, BG), tl.arange(0, SEGMENT), tl.arange(0, P)
        head, inside = kv * (H // G) + g, g < H // G
        q = tl.load(
            queries + (row * H + head[:, None]) * P + e[None, :], mask=inside[:, None], other=0.0
        )
        block = tl.load(table + sequence * stride + s).to(tl.int64)
        at = (block * G + kv) * (SEGMENT * P) + c[:, None] * P + e[None, :]
        k, v = tl.load(keys + at), tl.load(values + at)
        place = s * SEGMENT + c
        seen = (place <= position) & (place >= lowest)
        m, weights, units = weigh(tl.dot(q, tl.trans(k)), seen[None, :], scale)
        o = after_dot(tl.dot(weights, v), 0.0)
        slot = (query * segments + s) * H + head
        tl.store(mosts + slot, m, mask=inside)
        tl.store(sums + slot, units, mask=inside)
        tl.store(outs + slot[:, None] * P + e[None, :], o, mask=inside[:, None])


@triton.jit(do_not_specialize=["segments", "window"])
def merge_kernel(
    outs, mosts, sums, positions, decoded, segments, window, out,
    H: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr
):  # fmt: skip
    """What `decode_kernel` left of the segments of one query head, merged in ascending order, to out (R, STRIDE)."""
    query, head, e = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, P)
    row = tl.load(decoded + 2 * query).to(tl.int64)
    position = tl.load(positions + row)
    lowest = tl.where(window > 0, tl.maximum(position + 1 - window, 0), 0)
    most, total = tl.full((), HIDDEN, tl.float32), tl.full((), 0.0, tl.float32)
    output = tl.zeros((P,), tl.float32)
    for s in tl.range(lowest // SEGMENT, position // SEGMENT + 1, loop_unroll_factor=4):
        slot = (query * segments + s) * H + head
        m, units, o = tl.load(mosts + slot), tl.load(sums + slot), tl.load(outs + slot * P + e)
        most, total, a, b = merge(most, total, m, units)
        output = tl.fma(b, o, a * output)
    tl.store(out + row * STRIDE + head * P + e, rounded(tl.div_rn(output, total)))


@triton.jit(do_not_specialize=["stride", "window"])
def chunk_kernel(
    queries, keys, values, tiles, table, stride, window, scale, out,
    H: tl.constexpr, G: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, BM: tl.constexpr, STAGES: tl.constexpr
):  # fmt: skip
    """Attention of up to BM consecutive queries of one sequence, segment after segment, to out (R, STRIDE).

    A tile is four numbers: the first row of the pass, how many rows, the first one's position, and the sequence's row of the
    table of blocks (sequences, stride).
    """
    head, tile = tl.program_id(0), tl.program_id(1)
    row, rows = tl.load(tiles + 4 * tile).to(tl.int64), tl.load(tiles + 4 * tile + 1)
    position, sequence = tl.load(tiles + 4 * tile + 2), tl.load(tiles + 4 * tile + 3).to(tl.int64)
    i, c, e = tl.arange(0, BM), tl.arange(0, SEGMENT), tl.arange(0, P)
    kv, inside = head // (H // G), i[:, None] < rows
    q = tl.load(queries + ((row + i[:, None]) * H + head) * P + e[None, :], mask=inside, other=0.0)
    place = position + i
    lowest = tl.where(window > 0, tl.maximum(place + 1 - window, 0), 0)
    first = tl.where(window > 0, tl.maximum(position + 1 - window, 0), 0) // SEGMENT
    most, total = tl.full((BM,), HIDDEN, tl.float32), tl.zeros((BM,), tl.float32)
    output = tl.zeros((BM, P), tl.float32)
    for s in tl.range(first, (position + rows - 1) // SEGMENT + 1, num_stages=STAGES):
        block = tl.load(table + sequence * stride + s).to(tl.int64)
        near = (block * G + kv) * (SEGMENT * P) + c[:, None] * P + e[None, :]
        there = s * SEGMENT + c[None, :]
        seen = (there <= place[:, None]) & (there >= lowest[:, None])
        m, weights, units = weigh(tl.dot(q, tl.trans(tl.load(keys + near))), seen, scale)
        o = after_dot(tl.dot(weights, tl.load(values + near)), 0.0)
        passed = (s * SEGMENT <= place) & (s * SEGMENT + SEGMENT > lowest)
        now, more, a, b = merge(most, total, m, units)
        most, total = tl.where(passed, now, most), tl.where(passed, more, total)
        output = tl.where(passed[:, None], tl.fma(b[:, None], o, a[:, None] * output), output)
    result = rounded(tl.div_rn(output, total[:, None]))
    tl.store(out + (row + i[:, None]) * STRIDE + head * P + e[None, :], result, mask=inside)
