/* Sixteen float32 lanes, and the one multiply-add that every sum of products is made of.
 *
 * Included once for each variant and kind (see kernels.c), with SUFFIX, KIND, TARGET and exactly one of LANES_AMX, LANES_AVX512BF16,
 * LANES_AVX512, LANES_AVX2, LANES_PORTABLE defined. Every operation here is one IEEE 754 operation per lane (round to nearest even, denormals
 * flushed or kept: see `set_denormals` in kernels.c), so all variants give the same bits.
 */

#define FN static inline __attribute__((always_inline, unused)) TARGET

#if defined(LANES_AMX) || defined(LANES_AVX512BF16) || defined(LANES_AVX512)

typedef __m512 NAME(v16);
typedef __m512i NAME(u16x);
#define V16 NAME(v16)
#define U16 NAME(u16x)
FN V16 NAME(load)(const float *p) { return _mm512_loadu_ps(p); }
FN void NAME(store)(float *p, V16 a) { _mm512_storeu_ps(p, a); }
FN V16 NAME(set1)(float a) { return _mm512_set1_ps(a); }
FN V16 NAME(add)(V16 a, V16 b) { return _mm512_add_ps(a, b); }
FN V16 NAME(mul)(V16 a, V16 b) { return _mm512_mul_ps(a, b); }
FN V16 NAME(divide)(V16 a, V16 b) { return _mm512_div_ps(a, b); }
FN V16 NAME(fma)(V16 a, V16 b, V16 c) { return _mm512_fmadd_ps(a, b, c); }
/* The second operand where either is a NaN. */
FN V16 NAME(max)(V16 a, V16 b) { return _mm512_max_ps(a, b); }
FN U16 NAME(bits)(V16 a) { return _mm512_castps_si512(a); }
FN V16 NAME(floats)(U16 a) { return _mm512_castsi512_ps(a); }
FN U16 NAME(loadu)(const uint32_t *p) { return _mm512_loadu_si512(p); }
FN void NAME(storeu)(uint32_t *p, U16 a) { _mm512_storeu_si512(p, a); }
FN U16 NAME(set1u)(uint32_t a) { return _mm512_set1_epi32((int)a); }
FN U16 NAME(addu)(U16 a, U16 b) { return _mm512_add_epi32(a, b); }
FN U16 NAME(andu)(U16 a, U16 b) { return _mm512_and_si512(a, b); }
FN U16 NAME(oru)(U16 a, U16 b) { return _mm512_or_si512(a, b); }
FN U16 NAME(left)(U16 a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
FN U16 NAME(right)(U16 a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
/* a where x > y (unsigned, below 2^31), else b. */
FN U16 NAME(select_above)(U16 x, U16 y, U16 a, U16 b) { return _mm512_mask_blend_epi32(_mm512_cmpgt_epi32_mask(x, y), b, a); }
FN void NAME(store_lower)(uint16_t *p, U16 a) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a)); }

#elif defined(LANES_AVX2)

typedef struct { __m256 l, h; } NAME(v16);
typedef struct { __m256i l, h; } NAME(u16x);
#define V16 NAME(v16)
#define U16 NAME(u16x)
#define BOTH(T, e) ((T){e(l), e(h)})
FN V16 NAME(load)(const float *p) { return (V16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
FN void NAME(store)(float *p, V16 a) { _mm256_storeu_ps(p, a.l); _mm256_storeu_ps(p + 8, a.h); }
FN V16 NAME(set1)(float a) { return (V16){_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
FN V16 NAME(add)(V16 a, V16 b) { return (V16){_mm256_add_ps(a.l, b.l), _mm256_add_ps(a.h, b.h)}; }
FN V16 NAME(mul)(V16 a, V16 b) { return (V16){_mm256_mul_ps(a.l, b.l), _mm256_mul_ps(a.h, b.h)}; }
FN V16 NAME(divide)(V16 a, V16 b) { return (V16){_mm256_div_ps(a.l, b.l), _mm256_div_ps(a.h, b.h)}; }
FN V16 NAME(fma)(V16 a, V16 b, V16 c) { return (V16){_mm256_fmadd_ps(a.l, b.l, c.l), _mm256_fmadd_ps(a.h, b.h, c.h)}; }
FN V16 NAME(max)(V16 a, V16 b) { return (V16){_mm256_max_ps(a.l, b.l), _mm256_max_ps(a.h, b.h)}; }
FN U16 NAME(bits)(V16 a) { return (U16){_mm256_castps_si256(a.l), _mm256_castps_si256(a.h)}; }
FN V16 NAME(floats)(U16 a) { return (V16){_mm256_castsi256_ps(a.l), _mm256_castsi256_ps(a.h)}; }
FN U16 NAME(loadu)(const uint32_t *p) { return (U16){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))}; }
FN void NAME(storeu)(uint32_t *p, U16 a) { _mm256_storeu_si256((__m256i *)p, a.l); _mm256_storeu_si256((__m256i *)(p + 8), a.h); }
FN U16 NAME(set1u)(uint32_t a) { return (U16){_mm256_set1_epi32((int)a), _mm256_set1_epi32((int)a)}; }
FN U16 NAME(addu)(U16 a, U16 b) { return (U16){_mm256_add_epi32(a.l, b.l), _mm256_add_epi32(a.h, b.h)}; }
FN U16 NAME(andu)(U16 a, U16 b) { return (U16){_mm256_and_si256(a.l, b.l), _mm256_and_si256(a.h, b.h)}; }
FN U16 NAME(oru)(U16 a, U16 b) { return (U16){_mm256_or_si256(a.l, b.l), _mm256_or_si256(a.h, b.h)}; }
FN U16 NAME(left)(U16 a, int n) { return (U16){_mm256_slli_epi32(a.l, n), _mm256_slli_epi32(a.h, n)}; }
FN U16 NAME(right)(U16 a, int n) { return (U16){_mm256_srli_epi32(a.l, n), _mm256_srli_epi32(a.h, n)}; }
FN U16 NAME(select_above)(U16 x, U16 y, U16 a, U16 b)
{
    return (U16){_mm256_blendv_epi8(b.l, a.l, _mm256_cmpgt_epi32(x.l, y.l)), _mm256_blendv_epi8(b.h, a.h, _mm256_cmpgt_epi32(x.h, y.h))};
}
FN void NAME(store_lower)(uint16_t *p, U16 a)
{
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(_mm256_packus_epi32(a.l, a.h), 0xd8));
}

#else

typedef struct { float v[16]; } NAME(v16);
typedef struct { uint32_t v[16]; } NAME(u16x);
#define V16 NAME(v16)
#define U16 NAME(u16x)
#define EACH(T, e) T r; for (int i = 0; i < 16; i++) r.v[i] = (e); return r
FN V16 NAME(load)(const float *p) { EACH(V16, p[i]); }
FN void NAME(store)(float *p, V16 a) { memcpy(p, a.v, sizeof a.v); }
FN V16 NAME(set1)(float a) { EACH(V16, a); }
FN V16 NAME(add)(V16 a, V16 b) { EACH(V16, a.v[i] + b.v[i]); }
FN V16 NAME(mul)(V16 a, V16 b) { EACH(V16, a.v[i] * b.v[i]); }
FN V16 NAME(divide)(V16 a, V16 b) { EACH(V16, a.v[i] / b.v[i]); }
FN V16 NAME(fma)(V16 a, V16 b, V16 c) { EACH(V16, __builtin_fmaf(a.v[i], b.v[i], c.v[i])); }
FN V16 NAME(max)(V16 a, V16 b) { EACH(V16, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
FN U16 NAME(bits)(V16 a) { U16 r; memcpy(r.v, a.v, sizeof r.v); return r; }
FN V16 NAME(floats)(U16 a) { V16 r; memcpy(r.v, a.v, sizeof r.v); return r; }
FN U16 NAME(loadu)(const uint32_t *p) { EACH(U16, p[i]); }
FN void NAME(storeu)(uint32_t *p, U16 a) { memcpy(p, a.v, sizeof a.v); }
FN U16 NAME(set1u)(uint32_t a) { EACH(U16, a); }
FN U16 NAME(addu)(U16 a, U16 b) { EACH(U16, a.v[i] + b.v[i]); }
FN U16 NAME(andu)(U16 a, U16 b) { EACH(U16, a.v[i] & b.v[i]); }
FN U16 NAME(oru)(U16 a, U16 b) { EACH(U16, a.v[i] | b.v[i]); }
FN U16 NAME(left)(U16 a, int n) { EACH(U16, a.v[i] << n); }
FN U16 NAME(right)(U16 a, int n) { EACH(U16, a.v[i] >> n); }
FN U16 NAME(select_above)(U16 x, U16 y, U16 a, U16 b) { EACH(U16, x.v[i] > y.v[i] ? a.v[i] : b.v[i]); }
FN void NAME(store_lower)(uint16_t *p, U16 a)
{
    uint16_t lower[16];
    for (int i = 0; i < 16; i++) lower[i] = (uint16_t)a.v[i];
    memcpy(p, lower, sizeof lower);
}
#undef EACH

#endif

/* One step of a sum of products over units of four bytes: acc + w·x.
 *
 * A unit is one float32, or two bfloat16 of which the second (odd) is multiplied and added first, then the first. A product of two
 * bfloat16 is exact in float32, so each addition rounds once. VDPBF16PS is defined as just that (Intel SDM), and
 * tests compare the variants with each other.
 */
FN V16 NAME(madd_pairs)(V16 acc, U16 w, U16 x)
{
#if defined(LANES_AVX512BF16)
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
#else
    const U16 odd = NAME(set1u)(0xffff0000u);
    acc = NAME(fma)(NAME(floats)(NAME(andu)(w, odd)), NAME(floats)(NAME(andu)(x, odd)), acc);
    return NAME(fma)(NAME(floats)(NAME(left)(w, 16)), NAME(floats)(NAME(left)(x, 16)), acc);
#endif
}

FN V16 NAME(madd)(V16 acc, U16 w, U16 x, int pairs)
{
    return pairs ? NAME(madd_pairs)(acc, w, x) : NAME(fma)(NAME(floats)(w), NAME(floats)(x), acc);
}

/* The bits of each lane rounded to bfloat16 (nearest, ties to even) in the lower half, of numbers whose denormals are kept.
 * Integer operations do it, so all variants agree. */
FN U16 NAME(number_to_bf16)(V16 a)
{
    const U16 b = NAME(bits)(a), odd = NAME(andu)(NAME(right)(b, 16), NAME(set1u)(1));
    return NAME(right)(NAME(addu)(NAME(addu)(b, NAME(set1u)(0x7fff)), odd), 16);
}

/* The same; denormals become zero, and a NaN 0x7fc0. */
FN U16 NAME(to_bf16)(V16 a)
{
    U16 b = NAME(bits)(a), magnitude = NAME(andu)(b, NAME(set1u)(0x7fffffffu)), rounded = NAME(number_to_bf16)(a);
    rounded = NAME(select_above)(NAME(set1u)(0x00800000u), magnitude, NAME(andu)(NAME(right)(b, 16), NAME(set1u)(0x8000)), rounded);
    return NAME(select_above)(magnitude, NAME(set1u)(0x7f800000u), NAME(set1u)(0x7fc0), rounded);
}

/* exp(x) for x at most 0 and no NaN, relative error below 2e-7; below −86 it is 0. Cody and Waite's reduction, Taylor to the sixth power. */
FN V16 NAME(exp_number)(V16 x)
{
    const V16 lowest = NAME(set1)(-86.0f);
    V16 clamped = NAME(max)(x, lowest);
    V16 shifted = NAME(fma)(clamped, NAME(set1)(0x1.715476p+0f), NAME(set1)(0x1.8p+23f)); /* n + 1.5·2^23, n whole */
    V16 n = NAME(add)(shifted, NAME(set1)(-0x1.8p+23f));
    V16 r = NAME(fma)(n, NAME(set1)(-0x1.62e4p-1f), clamped);
    r = NAME(fma)(n, NAME(set1)(-0x1.7f7d1cp-20f), r);
    V16 p = NAME(set1)(0x1.6c16c2p-10f);
    p = NAME(fma)(p, r, NAME(set1)(0x1.111112p-7f));
    p = NAME(fma)(p, r, NAME(set1)(0x1.555556p-5f));
    p = NAME(fma)(p, r, NAME(set1)(0x1.555556p-3f));
    p = NAME(fma)(p, r, NAME(set1)(0.5f));
    p = NAME(fma)(p, r, NAME(set1)(1.0f));
    p = NAME(fma)(p, r, NAME(set1)(1.0f));
    V16 scaled = NAME(floats)(NAME(addu)(NAME(bits)(p), NAME(left)(NAME(bits)(shifted), 23)));
    U16 magnitude = NAME(andu)(NAME(bits)(x), NAME(set1u)(0x7fffffffu)); /* −x > 86 exactly where its bits are larger */
    return NAME(floats)(NAME(select_above)(magnitude, NAME(set1u)(0x42ac0000u), NAME(set1u)(0), NAME(bits)(scaled)));
}

/* The same; a NaN stays as it is. */
FN V16 NAME(exp_negative)(V16 x)
{
    const U16 magnitude = NAME(andu)(NAME(bits)(x), NAME(set1u)(0x7fffffffu));
    return NAME(floats)(NAME(select_above)(magnitude, NAME(set1u)(0x7f800000u), NAME(bits)(x), NAME(bits)(NAME(exp_number)(x))));
}

/* The sum of sixteen lanes, by halves. */
FN float NAME(sum)(V16 a)
{
    float s[16];
    NAME(store)(s, a);
    for (int half = 8; half; half >>= 1)
        for (int i = 0; i < half; i++) s[i] = s[i] + s[i + half];
    return s[0];
}

/* The largest of sixteen lanes, none of which is a NaN. */
FN float NAME(largest)(V16 a)
{
    float s[16];
    NAME(store)(s, a);
    for (int half = 8; half; half >>= 1)
        for (int i = 0; i < half; i++) s[i] = s[i] > s[i + half] ? s[i] : s[i + half];
    return s[0];
}
