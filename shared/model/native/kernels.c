/* The arithmetic of shared.model on CPUs: every arithmetic in every variant; the processor decides which are used. */
#define _GNU_SOURCE
#include "kernels.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Round to nearest; denormals are read and written as zero, as VDPBF16PS does, or kept. */
static unsigned set_denormals(int kept)
{
#if defined(__x86_64__)
    const unsigned before = _mm_getcsr();
    _mm_setcsr((before & ~0xe040u) | (kept ? 0 : 0x8040u));
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" ::"r"((before & ~0x1c00000ull) | (kept ? 0 : 0x1000000ull)));
    return (unsigned)before;
#else
    (void)kept;
    return 0;
#endif
}

static void restore_denormals(unsigned before)
{
#if defined(__x86_64__)
    _mm_setcsr(before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)before));
#else
    (void)before;
#endif
}

#if defined(__GNUC__) /* clang too */
#pragma GCC diagnostic ignored "-Wpsabi" /* vectors are passed between inlined functions only */
#endif

#include "pool.h"

/* Rows of one span for one key-value head. */
typedef struct {
    int64_t span, head, row, rows;
} Task;

typedef struct {
    const Shape *shape;
    const Layer *layers;
    int64_t count;
    const Batch *batch;
    float *states, *qkv;
    uint32_t *normed, *q, *attended, *gated;
    int64_t *positions, *row_blocks; /* of each row: position, and the block that holds it */
    Task *tasks;
    unsigned char *scratch;
    int64_t scratch_bytes, task_count;
} Pass;

typedef struct {
    const Shape *shape;
    const float *states, *weight;
    int64_t rows;
    uint32_t *out;
} NormCall;

typedef struct {
    const Matrix *matrix;
    const uint32_t *x;
    int64_t rows;
    float *out;
} LinearCall;

enum { PLAIN, ADD_TO, GATED };

typedef struct {
    const Matrix *matrix, *other; /* GATED: gate and up */
    const uint32_t *x;
    int64_t rows;
    int kind;
    void *out; /* PLAIN: float (rows, matrix rows); ADD_TO: the same, added to; GATED: units (rows, matrix rows) */
} Product;

typedef struct {
    const Pass *pass;
    const Layer *layer;
} Attention;

#define GROUP 16 /* units of a group of pairs-32 */
#define SEGMENT (2 * BLOCK) /* positions over which fused attention is summed at a time */
#define TILE (32 * 4 * LANES) /* elements of the largest tile */
#define PLACES (GROUPED ? 2 * GROUP : LANES) /* positions of one step of the sum over values */
#define PHASES 8 /* of one layer */
#define NEAR 4    /* rows of one piece where rows are dealt */
#define QUERIES 16 /* query rows of one task, heads of a group counted */

#define GLUE_(a, b, c) a##_##b##_##c
#define GLUE(a, b, c) GLUE_(a, b, c)
#define NAME(name) GLUE(name, SUFFIX, KIND)

#define LEAVE_TILES()
#define SUFFIX portable
#define TARGET
#define LANES_PORTABLE
#include "kinds.h"

#if defined(__x86_64__)
#define SUFFIX avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES_AVX2
#include "kinds.h"

#define SUFFIX avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define LANES_AVX512
#include "kinds.h"

#define SUFFIX avx512bf16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")))
#define LANES_AVX512BF16
#define WITHOUT_FUSED /* for which its instructions are of no use */
#include "kinds.h"

#if defined(__clang__) || __GNUC__ >= 11 /* older compilers do not know the unit */
#define WITH_AMX
static _Thread_local int tiles_of; /* how many rows this thread's tiles are configured for; 0: they are released */
#undef LEAVE_TILES
#define LEAVE_TILES() (_tile_release(), tiles_of = 0)
#define SUFFIX amx
#define TARGET __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")))
#define LANES_AMX
#define WITHOUT_CHAIN /* which this unit does not compute */
#define WITHOUT_FUSED
#include "kinds.h"
#endif
#endif

typedef struct {
    Region layers[KINDS], norm[KINDS], linear[KINDS];
} Variant;

#define KINDS_OF(f, s, t, u) {f##_##s##_singles, f##_##s##_pairs, f##_##t##_pairs32, f##_##u##_fused16, f##_##u##_fused8}
#define VARIANT(s, t, u) {KINDS_OF(layers, s, t, u), KINDS_OF(norm, s, t, u), KINDS_OF(linear, s, t, u)}
static const Variant variants[] = {
    VARIANT(portable, portable, portable),
#if defined(__x86_64__)
    VARIANT(avx2, avx2, avx2),
    VARIANT(avx512, avx512, avx512),
    VARIANT(avx512bf16, avx512bf16, avx512),
#ifdef WITH_AMX
    VARIANT(avx512bf16, amx, avx512),
#endif
#endif
};
static int chosen[KINDS];

static int keeps_denormals(int64_t kind) { return kind == FUSED_16 || kind == FUSED_8; }

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>

/* Whether there are tiles for bfloat16, and the system lets this process use them (it must be asked). */
static int have_amx(void)
{
#if defined(WITH_AMX) && defined(__linux__)
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return 0;
    return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */);
#else
    return 0;
#endif
}
#endif

int cf_variants(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512dq"))
        return 1;
    if (!__builtin_cpu_supports("avx512bf16")) return 2;
    return have_amx() ? 4 : 3;
#else
    return 0;
#endif
}

void cf_use(int kind, int variant)
{
    const int most = cf_variants();
    chosen[kind] = variant < 0 ? 0 : variant > most ? most : variant;
}

void cf_pack(const void *weight, int64_t rows, int64_t columns, int kind, uint32_t *data)
{
    const int64_t units = columns / (kind ? 2 : 1), panels = (rows + LANES - 1) / LANES;
    const uint32_t *source = weight;
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t first = 0; first < units; first += 16) /* a cache line of each row at a time */
            for (int64_t lane = 0; lane < LANES; lane++) {
                const int64_t row = panel * LANES + lane;
                for (int64_t u = first; u < units && u < first + 16; u++)
                    data[(panel * units + u) * LANES + lane] = row < rows ? source[row * units + u] : 0;
            }
}

void cf_embed(const Matrix *table, const int64_t *tokens, int64_t rows, int kind, float *out)
{
    for (int64_t row = 0; row < rows; row++) {
        const uint32_t *unit = table->data + tokens[row] / LANES * table->units * LANES + tokens[row] % LANES;
        for (int64_t u = 0; u < table->units; u++) {
            uint32_t word = unit[u * LANES];
            if (kind) {
                const uint32_t low = word << 16, high = word & 0xffff0000u;
                memcpy(out++, &low, 4);
                memcpy(out++, &high, 4);
            } else {
                memcpy(out++, &word, 4);
            }
        }
    }
}

/* Sine and cosine of x >= 0 by reduction to [−π/4, π/4] (Cody and Waite, two parts) and Taylor's series: plain double operations, so
 * that every processor and library makes the same table. Good to 1e-15 for x up to 2^20. */
static void sine_cosine(double x, double *sine, double *cosine)
{
    const double quarter = __builtin_floor(x * 0.63661977236758134308 + 0.5);
    double r = __builtin_fma(-quarter, 0x1.921fb54442d18p+0, x);
    r = __builtin_fma(-quarter, 0x1.1a62633145c07p-54, r);
    const double z = r * r;
    double s = 0.0, c = 0.0;
    for (int k = 10; k >= 1; k--) {
        s = (1.0 + s) * -z / ((2.0 * k) * (2.0 * k + 1.0));
        c = (1.0 + c) * -z / ((2.0 * k - 1.0) * (2.0 * k));
    }
    s = r + r * s;
    c = 1.0 + c;
    const int64_t turn = (int64_t)quarter & 3;
    *sine = turn == 0 ? s : turn == 1 ? c : turn == 2 ? -s : -c;
    *cosine = turn == 0 ? c : turn == 1 ? -s : turn == 2 ? -c : s;
}

void cf_rotary(const float *frequencies, int64_t half, int64_t positions, float magnitude, float *cosines, float *sines)
{
    for (int64_t position = 0; position < positions; position++)
        for (int64_t i = 0; i < half; i++) {
            double sine, cosine;
            sine_cosine((double)position * (double)frequencies[i], &sine, &cosine);
            cosines[position * half + i] = (float)cosine * magnitude;
            sines[position * half + i] = (float)sine * magnitude;
        }
}

/* Natural logarithm of normal numbers above 0 and exponential of numbers in [−700, 0], below that 0: the methods and coefficients of
 * FreeBSD's msun (e_log.c, e_exp.c; errors below 1 ulp), in plain double operations, so that every processor gives the same bits. */
static double one_ln(double x)
{
    uint64_t b;
    memcpy(&b, &x, 8);
    const uint64_t above = (b + (0x3ff0000000000000ull - 0x3fe6a09e667f3bcdull)) >> 52; /* biased exponent of x / sqrt(1/2) … */
    const double k = (double)((int64_t)above - 0x3ff);
    b -= (above - 0x3ff) << 52;
    memcpy(&x, &b, 8); /* … so that x is in [sqrt(1/2), sqrt(2)) */
    const double f = x - 1.0, s = f / (2.0 + f), z = s * s, w = z * z;
    const double even = w * (0x1.999999997fa04p-2 + w * (0x1.c71c51d8e78afp-3 + w * 0x1.39a09d078c69fp-3));
    const double odd = z * (0x1.5555555555593p-1 + w * (0x1.2492494229359p-2 + w * (0x1.7466496cb03dep-3 + w * 0x1.2f112df3e5244p-3)));
    const double half = 0.5 * f * f;
    return k * 0x1.62e42feep-1 - ((half - (s * (half + (even + odd)) + k * 0x1.a39ef35793c76p-33)) - f);
}

static double one_exp(double x)
{
    if (x < -700.0) return 0.0;
    const double k = __builtin_floor(x * 0x1.71547652b82fep+0 + 0.5);
    const double high = x - k * 0x1.62e42feep-1, low = k * 0x1.a39ef35793c76p-33, r = high - low, z = r * r;
    const double c = r - z * (0x1.555555555553ep-3 + z * (-0x1.6c16c16bebd93p-9 + z * (0x1.1566aaf25de2cp-14 + z * (-0x1.bbd41c5d26bf1p-20 + z * 0x1.6376972bea4d0p-25))));
    double y = 1.0 - ((low - (r * c) / (2.0 - c)) - high);
    uint64_t b;
    memcpy(&b, &y, 8);
    b += (uint64_t)(int64_t)k << 52;
    memcpy(&y, &b, 8);
    return y;
}

void cf_ln(const double *x, int64_t count, double *out)
{
    for (int64_t i = 0; i < count; i++) out[i] = one_ln(x[i]);
}

void cf_exp(const double *x, int64_t count, double *out)
{
    for (int64_t i = 0; i < count; i++) out[i] = one_exp(x[i]);
}

typedef struct {
    int64_t phases, qkv, normed, q, attended, gated, positions, row_blocks, tasks, scratch, scratch_bytes; /* scratch comes last, once for each thread */
} Layout;

static int64_t lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static int64_t rows_per_task(const Shape *shape)
{
    const int64_t group = shape->heads / shape->kv_heads;
    return group >= QUERIES ? 1 : QUERIES / group;
}

static Layout layout(const Shape *shape, int64_t layers, const Batch *batch)
{
    const int64_t element = shape->kind ? 2 : 4, rows = batch->rows, attended = shape->heads * shape->head_dim;
    const int64_t queries = rows_per_task(shape) * (shape->heads / shape->kv_heads);
    int64_t longest = 0, tasks = 0;
    for (int64_t i = 0; i < batch->spans; i++) {
        const int64_t blocks = (batch->span[i].position + batch->span[i].count - 1) / BLOCK + 1;
        longest = blocks > longest ? blocks : longest;
        tasks += (batch->span[i].count + rows_per_task(shape) - 1) / rows_per_task(shape);
    }
    Layout at;
    int64_t end = 0;
#define PART(name, bytes) at.name = end; end += lines(bytes)
    PART(phases, (int64_t)sizeof(Phase) * PHASES * layers);
    PART(qkv, rows * (attended + 2 * shape->kv_heads * shape->head_dim) * 4);
    PART(normed, rows * shape->hidden * element);
    PART(q, rows * attended * element);
    PART(attended, rows * attended * element);
    PART(gated, rows * shape->inner * element);
    PART(positions, rows * 8);
    PART(row_blocks, rows * 8);
    PART(tasks, tasks * shape->kv_heads * (int64_t)sizeof(Task));
    if (keeps_denormals(shape->kind)) at.scratch_bytes = lines(queries * (8 + shape->head_dim * 6 + SEGMENT * 4));
    else at.scratch_bytes = lines(16 * longest + queries * (4 + shape->head_dim * 4 + longest * BLOCK * 4) + 8 * 8 * LANES * 4);
    at.scratch = end;
#undef PART
    return at;
}

int64_t cf_workspace(const Shape *shape, int64_t layers, const Batch *batch)
{
    const Layout at = layout(shape, layers, batch);
    return at.scratch + at.scratch_bytes * team.count + 64;
}

void cf_layers(const Shape *shape, const Layer *layers, int64_t count, const Batch *batch, float *states, void *workspace, int64_t bytes)
{
    const Layout at = layout(shape, count, batch);
    unsigned char *base = (unsigned char *)(((uintptr_t)workspace + 63) / 64 * 64);
    Pass pass = {
        .shape = shape, .layers = layers, .count = count, .batch = batch, .states = states,
        .qkv = (float *)(base + at.qkv), .normed = (uint32_t *)(base + at.normed), .q = (uint32_t *)(base + at.q),
        .attended = (uint32_t *)(base + at.attended), .gated = (uint32_t *)(base + at.gated),
        .positions = (int64_t *)(base + at.positions), .row_blocks = (int64_t *)(base + at.row_blocks),
        .tasks = (Task *)(base + at.tasks), .scratch = base + at.scratch, .scratch_bytes = at.scratch_bytes,
    };
    for (int64_t i = 0; i < batch->spans; i++) {
        const Span *span = batch->span + i;
        for (int64_t row = 0; row < span->count; row++) {
            pass.positions[span->first + row] = span->position + row;
            pass.row_blocks[span->first + row] = span->blocks[(span->position + row) / BLOCK];
        }
        for (int64_t head = 0; head < shape->kv_heads; head++)
            for (int64_t row = 0; row < span->count; row += rows_per_task(shape)) {
                const int64_t left = span->count - row, most = rows_per_task(shape);
                pass.tasks[pass.task_count++] = (Task){i, head, row, left < most ? left : most};
            }
    }
    run(variants[chosen[shape->kind]].layers[shape->kind], &pass, (Phase *)(base + at.phases), PHASES * count,
        (bytes - 64 - at.scratch) / at.scratch_bytes, keeps_denormals(shape->kind)); /* threads may have been added since the workspace was measured */
}

void cf_norm(const Shape *shape, const float *states, const float *weight, int64_t rows, void *out)
{
    run(variants[chosen[shape->kind]].norm[shape->kind], &(NormCall){shape, states, weight, rows, out}, &(Phase){0}, 1, MAX_THREADS,
        keeps_denormals(shape->kind));
}

void cf_linear(const Matrix *matrix, const void *x, int64_t rows, int kind, float *out)
{
    run(variants[chosen[kind]].linear[kind], &(LinearCall){matrix, x, rows, out}, &(Phase){0}, 1, MAX_THREADS, keeps_denormals(kind));
}
