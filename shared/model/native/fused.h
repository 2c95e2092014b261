/* Tiles of fused-16 and fused-8 (protocol §7.2.4). Included like product.h, before it, with FUSED defined: the pairs of one sum, 16 or 8.
 *
 * A step takes sixteen pairs of bfloat16 (eight units) for sixteen output lanes: one fused sum, or two. There are two ways:
 *   exact   in integers, as the definition is written: right for everything
 *   fast    in floats: each product is scaled by 2^(FRACTION − E), truncated to an integer and summed. Right where E ≥ −75, or where
 *           no term has a bit below 2^(−75 − FRACTION), so that a smaller E cuts nothing; and where the sum fits in 31 bits
 * A step is `plain` where its factors are 0 or from 2^−37 on: then E need not be looked at.
 */
#define FRACTION (FUSED == 16 ? 25 : 24)
#define STEP 8                       /* units */
#define STEP_UNITS (FUSED / 2)       /* units of one sum */
#define LEAST_FIELD 52               /* −75 as the exponent field of a binary32 */
#define SMALL (90u << 7)             /* 2^−37, as bfloat16 has it: products of such have bits from 2^−88 on only */
#define HEAVY 3980                   /* significands of sixteen factors whose products may add up to 2^31 */
#define TALL 32

FN int NAME(width)(int rows) { return rows > 0 ? 4 : 0; }

/* ---- exact ------------------------------------------------------------------------------------------------------------ */

typedef int32_t NAME(i16) __attribute__((vector_size(64)));
#define I16 NAME(i16)
typedef struct { I16 exponent, size, sign; } NAME(factors); /* the value is size · 2^(exponent − 7), negative where sign is −1 */
#define FACTORS NAME(factors)

FN FACTORS NAME(split)(I16 bits)
{
    const I16 field = bits >> 7 & 0xff;
    return (FACTORS){(field | ((field == 0) & 1)) - 127, (bits & 0x7f) | ((field != 0) & 0x80), -(bits >> 15 & 1)};
}

/* acc (16) = fused(acc, x · w) for each lane: x is one row's units, w a panel's. */
static TARGET __attribute__((noinline)) void NAME(exact)(const uint32_t *x, const uint32_t *w, int64_t w_unit, float *acc)
{
    I16 exponents[FUSED], terms[FUSED], c, largest;
    memcpy(&c, acc, sizeof c);
    const I16 field = c >> 23 & 0xff, own = (field | ((field == 0) & 1)) - 127, some = (c & 0x7fffffff) != 0;
    largest = (own & some) | (-1000 & ~some);
#pragma GCC unroll 1
    for (int i = 0; i < FUSED; i++) {
        I16 column;
        memcpy(&column, w + i / 2 * w_unit, sizeof column);
        const int shift = i % 2 * 16;
        const FACTORS one = NAME(split)(column >> shift & 0xffff), row = NAME(split)((I16){} + (int32_t)(x[i / 2] >> shift & 0xffff));
        exponents[i] = one.exponent + row.exponent;
        const I16 sign = one.sign ^ row.sign;
        terms[i] = ((one.size * row.size) ^ sign) - sign;
        const I16 above = exponents[i] > largest;
        largest = (exponents[i] & above) | (largest & ~above);
    }
    I16 sums[2] = {{}, {}}; /* each of at most eight terms, all below 2^27 */
#pragma GCC unroll 1
    for (int i = 0; i < FUSED; i++) {
        const I16 down = largest - exponents[i], sign = terms[i] >> 31, far = down > 31;
        const I16 size = ((terms[i] ^ sign) - sign) << (FRACTION - 14), cut = (size >> (down & ~far)) & ~far;
        sums[i / 8] += (cut ^ sign) - sign;
    }
    const I16 down = largest - own, far = down > 31, size = ((c & 0x7fffff) | ((field != 0) & 0x800000)) << (FRACTION - 23);
    const I16 cut = (size >> (down & ~far)) & ~far & some, sign = c >> 31, addend = (cut ^ sign) - sign;
#pragma GCC unroll 1
    for (int lane = 0; lane < LANES; lane++) {
        const int64_t total = (int64_t)sums[0][lane] + sums[1][lane] + addend[lane];
        const uint64_t power = (uint64_t)(largest[lane] - FRACTION + 1023) << 52;
        double scale, value;
        memcpy(&scale, &power, 8);
        value = (double)(total < 0 ? -total : total) * scale;
        uint32_t bits;
        if (value < 0x1p-126) {
            bits = (uint32_t)(value * 0x1p149); /* a subnormal number's bits are its multiple of 2^−149 */
        } else {
            uint64_t wide;
            memcpy(&wide, &value, 8);
            wide &= ~(uint64_t)0x1fffffff; /* 24 bits are left */
            memcpy(&value, &wide, 8);
            const float narrow = (float)value;
            memcpy(&bits, &narrow, 4);
        }
        bits |= total < 0 ? 0x80000000u : 0;
        memcpy(acc + lane, &bits, 4);
    }
}

#undef FACTORS
#undef I16

#if defined(LANES_PORTABLE)

static TARGET void NAME(any_tile)(int rows, int panels, const uint32_t *x, int64_t x_stride, const uint32_t *w, int64_t w_unit,
                                  int64_t w_panel, int64_t units, float *acc, int64_t stride, int add)
{
    for (int m = 0; m < rows && !add; m++) memset(acc + m * stride, 0, (size_t)(panels * LANES) * sizeof *acc);
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < panels; n++)
            for (int64_t u = 0; u < units; u += STEP_UNITS)
                NAME(exact)(x + m * x_stride + u, w + u * w_unit + n * w_panel, w_unit, acc + m * stride + n * LANES);
}

#else

/* ---- fast ------------------------------------------------------------------------------------------------------------- */

#if defined(LANES_AVX2)
#define EITHER(f, a, b) ((U16){f(a.l, b.l), f(a.h, b.h)})
FN U16 NAME(max8)(U16 a, U16 b) { return EITHER(_mm256_max_epu8, a, b); }
FN U16 NAME(less8)(U16 a, U16 b) { return EITHER(_mm256_subs_epu8, a, b); } /* saturated */
FN U16 NAME(add16)(U16 a, U16 b) { return EITHER(_mm256_add_epi16, a, b); }
FN U16 NAME(max16)(U16 a, U16 b) { return EITHER(_mm256_max_epu16, a, b); }
FN U16 NAME(min16)(U16 a, U16 b) { return EITHER(_mm256_min_epu16, a, b); }
FN U16 NAME(maxu)(U16 a, U16 b) { return EITHER(_mm256_max_epi32, a, b); } /* of numbers below 2^31 */
FN U16 NAME(minu)(U16 a, U16 b) { return EITHER(_mm256_min_epi32, a, b); }
FN U16 NAME(subu)(U16 a, U16 b) { return EITHER(_mm256_sub_epi32, a, b); }
/* a in the halves in which x is not zero, else 0. */
FN U16 NAME(where16)(U16 x, U16 a)
{
    const __m256i zero = _mm256_setzero_si256();
    return (U16){_mm256_andnot_si256(_mm256_cmpeq_epi16(x.l, zero), a.l), _mm256_andnot_si256(_mm256_cmpeq_epi16(x.h, zero), a.h)};
}
FN int NAME(any_below)(U16 a, uint32_t b)
{
    const __m256i limit = _mm256_set1_epi32((int)b);
    return _mm256_movemask_epi8(_mm256_or_si256(_mm256_cmpgt_epi32(limit, a.l), _mm256_cmpgt_epi32(limit, a.h))) != 0;
}
FN int NAME(any_below16)(U16 a, uint16_t b)
{
    const __m256i limit = _mm256_set1_epi16((short)b), least = _mm256_min_epu16(a.l, a.h);
    return _mm256_movemask_epi8(_mm256_cmpeq_epi16(_mm256_min_epu16(least, limit), limit)) != -1;
}
FN U16 NAME(truncate)(V16 a) { return (U16){_mm256_cvttps_epi32(a.l), _mm256_cvttps_epi32(a.h)}; }
FN __m256 NAME(half_to_floats)(__m256i a)
{
    const __m256i size = _mm256_abs_epi32(a);
    const __m256i near = _mm256_castps_si256(_mm256_cvtepi32_ps(size)), back = _mm256_cvttps_epi32(_mm256_castsi256_ps(near));
    const __m256i over = _mm256_or_si256(_mm256_cmpgt_epi32(back, size), _mm256_srai_epi32(back, 31)); /* −1 where it was rounded up */
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_add_epi32(near, over), _mm256_and_si256(a, _mm256_set1_epi32(INT32_MIN))));
}
FN V16 NAME(to_floats)(U16 a) { return (V16){NAME(half_to_floats)(a.l), NAME(half_to_floats)(a.h)}; } /* toward zero */
#undef EITHER
#else
FN U16 NAME(max8)(U16 a, U16 b) { return _mm512_max_epu8(a, b); }
FN U16 NAME(less8)(U16 a, U16 b) { return _mm512_subs_epu8(a, b); } /* saturated */
FN U16 NAME(add16)(U16 a, U16 b) { return _mm512_add_epi16(a, b); }
FN U16 NAME(max16)(U16 a, U16 b) { return _mm512_max_epu16(a, b); }
FN U16 NAME(min16)(U16 a, U16 b) { return _mm512_min_epu16(a, b); }
FN U16 NAME(maxu)(U16 a, U16 b) { return _mm512_max_epu32(a, b); }
FN U16 NAME(minu)(U16 a, U16 b) { return _mm512_min_epu32(a, b); }
FN U16 NAME(subu)(U16 a, U16 b) { return _mm512_sub_epi32(a, b); }
/* a in the halves in which x is not zero, else 0. */
FN U16 NAME(where16)(U16 x, U16 a) { return _mm512_maskz_mov_epi16(_mm512_test_epi16_mask(x, x), a); }
FN int NAME(any_below)(U16 a, uint32_t b) { return _mm512_cmplt_epu32_mask(a, _mm512_set1_epi32((int)b)) != 0; }
FN int NAME(any_below16)(U16 a, uint16_t b) { return _mm512_cmplt_epu16_mask(a, _mm512_set1_epi16((short)b)) != 0; }
FN U16 NAME(truncate)(V16 a) { return _mm512_cvttps_epi32(a); }
FN V16 NAME(to_floats)(U16 a) { return _mm512_cvt_roundepi32_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
#endif

/* One step's factors as the fast way reads them. A product's exponent field is the saturated difference of its columns' byte
 * (field + 50) and its rows' byte (177 − field); zeros are 0 and 255, so theirs is 0. Four bytes of a word are factors 0, 2, 1 and 3. */
typedef struct {
    float value[TALL][16];
    uint32_t exponent[TALL][4];
    int some, plain, heavy; /* whether any is not zero; whether all are 0 or not small; whether any row is heavy */
} NAME(rows);
typedef struct {
    U16 value[STEP], exponent[4];
    int plain;
} NAME(columns);

FN void NAME(read_rows)(NAME(rows) *to, int rows, const uint32_t *x, int64_t x_stride)
{
    const __m256i one = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
    __m256i least = _mm256_set1_epi16(-1), all = zero, most = zero;
    for (int m = 0; m < rows; m++) {
        const __m256i bits = _mm256_loadu_si256((const __m256i *)(x + m * x_stride));
        const __m256i size = _mm256_and_si256(bits, _mm256_set1_epi16(0x7fff)), nothing = _mm256_cmpeq_epi16(size, zero);
        const __m256i field = _mm256_max_epi16(_mm256_srli_epi16(size, 7), one);
        const __m256i byte = _mm256_or_si256(_mm256_sub_epi16(_mm256_set1_epi16(177), field), nothing);
        const __m256i low = _mm256_and_si256(byte, _mm256_set1_epi16(0xff)), words = _mm256_or_si256(low, _mm256_srli_epi64(low, 24));
        least = _mm256_min_epu16(least, _mm256_sub_epi16(size, one)); /* zero becomes the largest */
        all = _mm256_or_si256(all, size);
        const __m256i significand = _mm256_andnot_si256(nothing, _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi16(0x7f)), _mm256_set1_epi16(0x80)));
        most = _mm256_max_epi16(most, _mm256_sad_epu8(significand, zero)); /* four parts of the sum over this row */
        uint32_t word[8];
        _mm256_storeu_si256((__m256i *)word, words);
        for (int i = 0; i < 4; i++) to->exponent[m][i] = word[2 * i];
        for (int u = 0; u < STEP; u++) {
            const uint32_t pair[2] = {x[m * x_stride + u] << 16, x[m * x_stride + u] & 0xffff0000u};
            memcpy(to->value[m] + 2 * u, pair, sizeof pair);
        }
    }
    to->some = !_mm256_testz_si256(all, all);
    const __m256i small = _mm256_set1_epi16(SMALL - 1);
    to->plain = _mm256_movemask_epi8(_mm256_cmpeq_epi16(_mm256_min_epu16(least, small), small)) == -1;
    uint64_t parts[4];
    _mm256_storeu_si256((__m256i *)parts, most);
    to->heavy = FUSED == 16 && parts[0] + parts[1] + parts[2] + parts[3] >= HEAVY;
}

FN void NAME(read_columns)(NAME(columns) *to, const uint32_t *w, int64_t w_unit)
{
    U16 least = NAME(set1u)(0xffffffffu);
    for (int u = 0; u < STEP; u += 2) {
        U16 word[2];
        for (int i = 0; i < 2; i++) {
            const U16 bits = to->value[u + i] = NAME(loadu)(w + (u + i) * w_unit), size = NAME(andu)(bits, NAME(set1u)(0x7fff7fffu));
            const U16 field = NAME(max16)(NAME(andu)(NAME(right)(size, 7), NAME(set1u)(0x00ff00ffu)), NAME(set1u)(0x00010001u));
            word[i] = NAME(where16)(size, NAME(add16)(field, NAME(set1u)(0x00320032u)));
            least = NAME(min16)(least, NAME(add16)(size, NAME(set1u)(0xffffffffu)));
        }
        to->exponent[u / 2] = NAME(oru)(word[0], NAME(left)(word[1], 8));
    }
    to->plain = !NAME(any_below16)(least, SMALL - 1);
}

/* Whether the significands of any lane's sixteen columns may make a sum too large. */
FN int NAME(heavy)(const NAME(columns) *columns)
{
    U16 sum = NAME(set1u)(0);
    for (int u = 0; u < STEP; u++) {
        const U16 one = NAME(oru)(NAME(andu)(columns->value[u], NAME(set1u)(0x007f007fu)), NAME(set1u)(0x00800080u));
        sum = NAME(addu)(sum, NAME(addu)(NAME(andu)(one, NAME(set1u)(0xffff)), NAME(right)(one, 16)));
    }
    return NAME(any_below)(NAME(subu)(NAME(set1u)(0xffff), sum), 0x10000 - HEAVY);
}

/* acc (R, stride) = fused sums over units [first, first + STEP_UNITS) for R rows from `row` on; 0, and nothing done, where E may be too small. */
FN int NAME(fast)(const int R, const int first, const int plain, const NAME(rows) *rows, int row, const NAME(columns) *columns, float *acc, int64_t stride)
{
    const U16 fields = NAME(set1u)(0x7f800000u), lowest = NAME(set1u)(LEAST_FIELD << 23);
    V16 scale[8];
    U16 sum[8], least = fields;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        U16 most = NAME(set1u)(0);
#pragma GCC unroll 4
        for (int i = first / 2; i < (first + STEP_UNITS) / 2; i++)
            most = NAME(max8)(most, NAME(less8)(columns->exponent[i], NAME(set1u)(rows->exponent[row + r][i])));
        most = NAME(max8)(most, NAME(left)(most, 16));
        most = NAME(max8)(most, NAME(left)(most, 8)); /* the upper byte has them all */
        const V16 own = NAME(load)(acc + r * stride);
        most = NAME(maxu)(NAME(andu)(NAME(right)(most, 1), fields), NAME(andu)(NAME(bits)(own), fields));
        if (plain) most = NAME(maxu)(most, lowest);
        else least = NAME(minu)(least, most);
        scale[r] = NAME(floats)(NAME(subu)(NAME(set1u)((254u + FRACTION) << 23), most));
        sum[r] = NAME(truncate)(NAME(mul)(own, scale[r]));
    }
    if (!plain && NAME(any_below)(least, LEAST_FIELD << 23)) return 0;
#pragma GCC unroll 8
    for (int u = first; u < first + STEP_UNITS; u++) {
        const V16 low = NAME(floats)(NAME(left)(columns->value[u], 16)), high = NAME(floats)(NAME(andu)(columns->value[u], NAME(set1u)(0xffff0000u)));
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const V16 product = NAME(mul)(NAME(mul)(low, NAME(set1)(rows->value[row + r][2 * u])), scale[r]);
            sum[r] = NAME(addu)(sum[r], NAME(truncate)(product));
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const V16 product = NAME(mul)(NAME(mul)(high, NAME(set1)(rows->value[row + r][2 * u + 1])), scale[r]);
            sum[r] = NAME(addu)(sum[r], NAME(truncate)(product));
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        const V16 unit = NAME(floats)(NAME(subu)(NAME(set1u)(254u << 23), NAME(bits)(scale[r])));
        NAME(store)(acc + r * stride, NAME(mul)(NAME(to_floats)(sum[r]), unit));
    }
    return 1;
}

#if defined(LANES_AVX2)
#define ABREAST 2
#else
#define ABREAST 8
#endif

/* As `fast`, for 1, 2, 4 or ABREAST rows, one function for each. */
#define FAST(R) \
    static TARGET __attribute__((noinline)) int NAME(fast_##R)(int first, int plain, const NAME(rows) *rows, int row, const NAME(columns) *columns, float *acc, int64_t stride) \
    { \
        if (FUSED == 16) return plain ? NAME(fast)(R, 0, 1, rows, row, columns, acc, stride) : NAME(fast)(R, 0, 0, rows, row, columns, acc, stride); \
        if (first) return plain ? NAME(fast)(R, 4, 1, rows, row, columns, acc, stride) : NAME(fast)(R, 4, 0, rows, row, columns, acc, stride); \
        return plain ? NAME(fast)(R, 0, 1, rows, row, columns, acc, stride) : NAME(fast)(R, 0, 0, rows, row, columns, acc, stride); \
    }
FAST(1)
FAST(2)
#if ABREAST == 8
FAST(4)
FAST(8)
#endif
#undef FAST

static TARGET int NAME(some_rows)(int count, int first, int plain, const NAME(rows) *rows, int row, const NAME(columns) *columns, float *acc, int64_t stride)
{
    switch (count) {
#if ABREAST == 8
    case 8: return NAME(fast_8)(first, plain, rows, row, columns, acc, stride);
    case 4: return NAME(fast_4)(first, plain, rows, row, columns, acc, stride);
#endif
    case 2: return NAME(fast_2)(first, plain, rows, row, columns, acc, stride);
    default: return NAME(fast_1)(first, plain, rows, row, columns, acc, stride);
    }
}

/* Whether any number is not zero, and so small that it may have bits below 2^(LEAST_E − FRACTION). */
static int NAME(any_small)(const float *acc, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (acc[i] != 0.0f && __builtin_fabsf(acc[i]) < 0x1p-75f) return 1;
    return 0;
}

static TARGET void NAME(any_tile)(int rows, int panels, const uint32_t *x, int64_t x_stride, const uint32_t *w, int64_t w_unit,
                                  int64_t w_panel, int64_t units, float *acc, int64_t stride, int add)
{
    int plain = 1; /* whether the sums so far have no bits that a step may cut off */
    for (int m = 0; m < rows; m++)
        if (!add) memset(acc + m * stride, 0, (size_t)(panels * LANES) * sizeof *acc);
        else plain &= !NAME(any_small)(acc + m * stride, panels * LANES);
    for (int64_t u = 0; u < units; u += STEP) {
        NAME(rows) group;
        NAME(read_rows)(&group, rows, x + u, x_stride);
        if (!group.some) continue; /* nothing is added, and nothing cut off */
        for (int n = 0; n < panels; n++) {
            NAME(columns) columns;
            const uint32_t *panel = w + u * w_unit + n * w_panel;
            NAME(read_columns)(&columns, panel, w_unit);
            const int heavy = group.heavy && NAME(heavy)(&columns);
            for (int first = 0; first < STEP; first += STEP_UNITS)
                for (int row = 0, count; row < rows; row += count) {
                    for (count = ABREAST; count > rows - row; count /= 2) {}
                    float *at = acc + row * stride + n * LANES;
                    if (!heavy && NAME(some_rows)(count, first, plain && group.plain && columns.plain, &group, row, &columns, at, stride)) continue;
                    for (int r = 0; r < count; r++) NAME(exact)(x + (row + r) * x_stride + u + first, panel + first * w_unit, w_unit, at + r * stride);
                    plain = 0;
                }
        }
    }
}

#undef ABREAST
#endif
#undef FRACTION
#undef STEP
#undef STEP_UNITS
#undef LEAST_FIELD
#undef SMALL
#undef HEAVY
