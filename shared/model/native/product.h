/* Matrix products, in tiles. Included once for each variant and kind, with NAME, PAIRS, GROUPED and FUSED defined.
 *
 * An element of a product is a sum over the units in one of these orders (protocol §7.2); neither the rows that share a tile nor
 * the thread can change it:
 *   chain-1   one chain, acc = madd(acc, w, x) from +0 (within a unit of two bfloat16 as `madd_pairs` in vector.h)
 *   pairs-32  (GROUPED) over groups of 16 units, acc = acc + (even + odd): chains of fma from +0 over the even and over the odd elements
 *   fused-16, fused-8   see fused.h, which has their tiles
 */
#if !FUSED
#if !GROUPED

/* MR rows of x (stride in units) times 16·NR columns; `acc` is (MR, 16·NR), its rows `stride` apart, continued if `add`. */
FN void NAME(tile)(const int MR, const int NR, const uint32_t *x, int64_t x_stride, const uint32_t *w, int64_t w_unit,
                   int64_t w_panel, int64_t units, float *acc, int64_t stride, const int add)
{
    V16 sum[8][8];
#pragma GCC unroll 8
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++)
            sum[m][n] = add ? NAME(load)(acc + m * stride + n * LANES) : NAME(set1)(0.0f);
    for (int64_t u = 0; u < units; u++) {
        U16 column[8];
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++) column[n] = NAME(loadu)(w + u * w_unit + n * w_panel);
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++) {
            const U16 row = NAME(set1u)(x[m * x_stride + u]);
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) sum[m][n] = NAME(madd)(sum[m][n], column[n], row, PAIRS);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++) NAME(store)(acc + m * stride + n * LANES, sum[m][n]);
}

#elif !defined(LANES_AMX)

/* As above; whole groups only. */
FN void NAME(tile)(const int MR, const int NR, const uint32_t *x, int64_t x_stride, const uint32_t *w, int64_t w_unit,
                   int64_t w_panel, int64_t units, float *acc, int64_t stride, const int add)
{
    const U16 upper = NAME(set1u)(0xffff0000u);
    if (!add)
        for (int m = 0; m < MR; m++)
            for (int n = 0; n < NR; n++) NAME(store)(acc + m * stride + n * LANES, NAME(set1)(0.0f));
    for (int64_t first = 0; first < units; first += GROUP) {
        V16 even[4][8], odd[4][8];
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) even[m][n] = odd[m][n] = NAME(set1)(0.0f);
        for (int64_t u = first; u < first + GROUP; u++) {
            V16 low[8], high[8];
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) {
                const U16 column = NAME(loadu)(w + u * w_unit + n * w_panel);
                low[n] = NAME(floats)(NAME(left)(column, 16));
                high[n] = NAME(floats)(NAME(andu)(column, upper));
            }
#pragma GCC unroll 8
            for (int m = 0; m < MR; m++) {
                const uint32_t unit = x[m * x_stride + u];
                const V16 x_low = NAME(floats)(NAME(set1u)(unit << 16)), x_high = NAME(floats)(NAME(set1u)(unit & 0xffff0000u));
#pragma GCC unroll 8
                for (int n = 0; n < NR; n++) {
                    even[m][n] = NAME(fma)(low[n], x_low, even[m][n]);
                    odd[m][n] = NAME(fma)(high[n], x_high, odd[m][n]);
                }
            }
        }
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
            for (int n = 0; n < NR; n++) {
                float *at = acc + m * stride + n * LANES;
                NAME(store)(at, NAME(add)(NAME(load)(at), NAME(add)(even[m][n], odd[m][n])));
            }
    }
}

#endif

#if GROUPED && defined(LANES_AMX)

/* TDPBF16PS is one group of pairs-32 for sixteen rows and sixteen columns; a panel's groups are its second operand as they are.
 * Tiles 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 columns. */
#define TALL 32
FN int NAME(width)(int rows) { return rows > 16 ? 2 : 4; }

FN void NAME(configure)(int rows)
{
    if (tiles_of == rows) return;
    const uint8_t low = rows > 16 ? 16 : (uint8_t)rows, high = rows > 16 ? (uint8_t)(rows - 16) : (uint8_t)rows;
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } tiles = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {low, low, high, high, low, high, 16, 16}};
    _tile_loadconfig(&tiles);
    tiles_of = rows;
}

/* As below, for 1 to TALL rows and 1 to width(rows) panels, whole groups only. */
static TARGET void NAME(any_tile)(int rows, int panels, const uint32_t *x, int64_t x_stride, const uint32_t *w, int64_t w_unit,
                                  int64_t w_panel, int64_t units, float *acc, int64_t stride, int add)
{
    const int64_t row = stride * 4;
    NAME(configure)(rows);
#define BEGIN(t, at) if (add) _tile_loadd(t, at, row); else _tile_zero(t)
    if (rows > 16) {
        float *below = acc + 16 * stride;
        BEGIN(0, acc);
        BEGIN(2, below);
        if (panels > 1) {
            BEGIN(1, acc + LANES);
            BEGIN(3, below + LANES);
        }
        for (int64_t u = 0; u < units; u += GROUP) {
            _tile_loadd(4, x + u, x_stride * 4);
            _tile_loadd(5, x + 16 * x_stride + u, x_stride * 4);
            _tile_loadd(6, w + u * w_unit, w_unit * 4);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(2, 5, 6);
            if (panels > 1) {
                _tile_loadd(7, w + u * w_unit + w_panel, w_unit * 4);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        _tile_stored(0, acc, row);
        _tile_stored(2, below, row);
        if (panels > 1) {
            _tile_stored(1, acc + LANES, row);
            _tile_stored(3, below + LANES, row);
        }
        return;
    }
#define ADD(n, c) if (panels > n) { _tile_loadd(c, w + u * w_unit + n * w_panel, w_unit * 4); _tile_dpbf16ps(n, 4, c); }
    BEGIN(0, acc);
    if (panels > 1) { BEGIN(1, acc + LANES); }
    if (panels > 2) { BEGIN(2, acc + 2 * LANES); }
    if (panels > 3) { BEGIN(3, acc + 3 * LANES); }
    for (int64_t u = 0; u < units; u += GROUP) {
        _tile_loadd(4, x + u, x_stride * 4);
        ADD(0, 6)
        ADD(1, 7)
        ADD(2, 6)
        ADD(3, 7)
    }
    _tile_stored(0, acc, row);
    if (panels > 1) _tile_stored(1, acc + LANES, row);
    if (panels > 2) _tile_stored(2, acc + 2 * LANES, row);
    if (panels > 3) _tile_stored(3, acc + 3 * LANES, row);
#undef ADD
#undef BEGIN
}

#else

/* Panels that fit in the registers along with this many rows. */
FN int NAME(width)(int rows)
{
#if GROUPED && (defined(LANES_AVX512BF16) || defined(LANES_AVX512))
    static const int widths[5] = {0, 8, 6, 4, 3};
    return widths[rows];
#elif GROUPED
    return rows > 0;
#elif defined(LANES_AVX512BF16) || defined(LANES_AVX512)
    static const int widths[9] = {0, 8, 8, 6, 6, 4, 4, 3, 3};
    return widths[rows];
#else
    return rows == 1 ? 4 : 1;
#endif
}

#if !GROUPED && (defined(LANES_AVX512BF16) || defined(LANES_AVX512))
#define TALL 8
#else
#define TALL 4
#endif

/* As `tile`, for 1 to TALL rows and 1 to width(rows) panels. */
static TARGET void NAME(any_tile)(int rows, int panels, const uint32_t *x, int64_t x_stride, const uint32_t *w, int64_t w_unit,
                                  int64_t w_panel, int64_t units, float *acc, int64_t stride, int add)
{
#define WITH(M, N) NAME(tile)(M, N, x, x_stride, w, w_unit, w_panel, units, acc, stride, add)
#define CASE(M, N) case (M) * 16 + (N): WITH(M, N); return;
    switch (rows * 16 + panels) {
        CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1)
#if !GROUPED
        CASE(1, 2) CASE(1, 3) CASE(1, 4)
#elif defined(LANES_AVX512BF16) || defined(LANES_AVX512)
        CASE(1, 2) CASE(1, 3) CASE(1, 4) CASE(1, 5) CASE(1, 6) CASE(1, 7) CASE(1, 8)
        CASE(2, 2) CASE(2, 3) CASE(2, 4) CASE(2, 5) CASE(2, 6)
        CASE(3, 2) CASE(3, 3) CASE(3, 4) CASE(4, 2) CASE(4, 3)
#endif
#if TALL == 8
        CASE(5, 1) CASE(6, 1) CASE(7, 1) CASE(8, 1)
        CASE(1, 5) CASE(1, 6) CASE(1, 7) CASE(1, 8)
        CASE(2, 2) CASE(2, 3) CASE(2, 4) CASE(2, 5) CASE(2, 6) CASE(2, 7) CASE(2, 8)
        CASE(3, 2) CASE(3, 3) CASE(3, 4) CASE(3, 5) CASE(3, 6)
        CASE(4, 2) CASE(4, 3) CASE(4, 4) CASE(4, 5) CASE(4, 6)
        CASE(5, 2) CASE(5, 3) CASE(5, 4) CASE(6, 2) CASE(6, 3) CASE(6, 4)
        CASE(7, 2) CASE(7, 3) CASE(8, 2) CASE(8, 3)
#endif
    default: __builtin_trap();
    }
#undef CASE
#undef WITH
}

#endif
#endif

/* ---- matrix products ------------------------------------------------------------------------------------------------ */

/* silu(g) · u, as g · (1 or e) / (1 + e) with e = exp(−|g|). */
FN V16 NAME(silu_times)(V16 g, V16 u)
{
    const V16 e = NAME(exp_negative)(NAME(floats)(NAME(oru)(NAME(bits)(g), NAME(set1u)(0x80000000u))));
    const U16 negative = NAME(right)(NAME(bits)(g), 31);
    const V16 top = NAME(floats)(NAME(select_above)(negative, NAME(set1u)(0), NAME(bits)(e), NAME(bits)(NAME(set1)(1.0f))));
    return NAME(mul)(NAME(divide)(NAME(mul)(g, top), NAME(add)(NAME(set1)(1.0f), e)), u);
}

/* a within ±most. */
FN V16 NAME(limit)(V16 a, float most)
{
    const U16 sign = NAME(andu)(NAME(bits)(a), NAME(set1u)(0x80000000u)), magnitude = NAME(andu)(NAME(bits)(a), NAME(set1u)(0x7fffffffu));
    const U16 bound = NAME(bits)(NAME(set1)(most));
    return NAME(floats)(NAME(select_above)(magnitude, bound, NAME(oru)(sign, bound), NAME(bits)(a)));
}

/* Each lane rounded to bfloat16, in the lower half. */
FN U16 NAME(to_units)(V16 a)
{
#if FUSED
    return NAME(number_to_bf16)(NAME(limit)(a, 0x1p40f));
#else
    return NAME(to_bf16)(a);
#endif
}

/* Store sixteen floats as elements column … column+15 of a row of units. */
FN void NAME(store_units)(uint32_t *row, int64_t column, V16 a)
{
#if PAIRS
    NAME(store_lower)((uint16_t *)row + column, NAME(to_units)(a));
#else
    const U16 magnitude = NAME(andu)(NAME(bits)(a), NAME(set1u)(0x7fffffffu));
    NAME(storeu)(row + column, NAME(select_above)(magnitude, NAME(set1u)(0x7f800000u), NAME(set1u)(0x7fc00000u), NAME(bits)(a)));
#endif
}

FN V16 NAME(biased)(const Matrix *matrix, int64_t panel, V16 a)
{
    if (!matrix->bias) return a;
    return NAME(add)(a, NAME(load)(matrix->bias + panel * LANES));
}

FN void NAME(finish)(const Product *job, int64_t row, int64_t panel, V16 a, V16 b)
{
    const int64_t columns = job->matrix->rows, column = panel * LANES;
    if (job->kind == GATED) {
        NAME(store_units)((uint32_t *)job->out + row * (columns / (PAIRS + 1)), column, NAME(silu_times)(a, b));
        return;
    }
    float *out = (float *)job->out + row * columns + column;
#if FUSED
    a = NAME(add)(a, NAME(set1)(0.0f)); /* the sign of a zero is not defined before */
#endif
    a = NAME(biased)(job->matrix, panel, a);
    if (column + LANES <= columns) {
        NAME(store)(out, job->kind == ADD_TO ? NAME(add)(NAME(load)(out), a) : a);
        return;
    }
    float last[LANES];
    NAME(store)(last, a);
    for (int64_t i = 0; i < columns - column; i++) out[i] = job->kind == ADD_TO ? out[i] + last[i] : last[i];
}

static TARGET void NAME(product)(Thread *me, const Product *job)
{
    const int64_t panels = (job->matrix->rows + LANES - 1) / LANES, units = job->matrix->units;
    const int tallest = job->rows < TALL ? (int)job->rows : TALL;
    const int width = NAME(width)(tallest);
    /* Pieces of a few columns: small enough to share fairly, large enough to stream. */
    int64_t chunk = panels / (me->count * 4) / width * width;
    const int64_t most = (1 << 17) / (units * 64) / width * width;
    chunk = chunk > most ? most : chunk;
    chunk = chunk < width ? width : chunk;
    float a[TILE], b[TILE];
    for (int64_t first; (first = deal(me) * chunk) < panels; done(me)) {
        const int64_t last = first + chunk < panels ? first + chunk : panels;
        for (int64_t row = 0; row < job->rows; row += TALL) {
            const int tall = job->rows - row < TALL ? (int)(job->rows - row) : TALL;
            const int64_t step = NAME(width)(tall);
            for (int64_t panel = first; panel < last; panel += step) {
                const int wide = last - panel < step ? (int)(last - panel) : (int)step;
                const uint32_t *x = job->x + row * units;
                NAME(any_tile)(tall, wide, x, units, job->matrix->data + panel * units * LANES, LANES, units * LANES, units, a, wide * LANES, 0);
                if (job->kind == GATED)
                    NAME(any_tile)(tall, wide, x, units, job->other->data + panel * units * LANES, LANES, units * LANES, units, b, wide * LANES, 0);
                for (int m = 0; m < tall; m++)
                    for (int n = 0; n < wide; n++) {
                        const int64_t at = (m * wide + n) * LANES;
                        NAME(finish)(job, row + m, panel + n, NAME(load)(a + at), job->kind == GATED ? NAME(load)(b + at) : NAME(load)(a + at));
                    }
            }
        }
    }
    meet(me, (panels + chunk - 1) / chunk);
}
