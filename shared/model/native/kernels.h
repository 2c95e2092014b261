/* What Python calls (see library.py). All sums have one order, stated at each function, whatever the number of rows or threads.
 *
 * A unit is four bytes of a row: one float32, or two neighbouring bfloat16. A matrix (rows, columns) is packed in panels of
 * sixteen output rows: unit u of output rows 16p … 16p+15 is at data[(p · units + u) · 16], missing rows are zero.
 */
#ifndef COUNTERFOIL_KERNELS_H
#define COUNTERFOIL_KERNELS_H

#include <stdint.h>

#define LANES 16
#define BLOCK 64 /* positions of one KV block */

enum { SINGLES, PAIRS_CHAIN, PAIRS_32, FUSED_16, FUSED_8, KINDS }; /* float32 by chain-1; bfloat16 by each arithmetic */

typedef struct {
    const uint32_t *data; /* packed weight */
    const float *bias;    /* (rows) or NULL */
    int64_t rows, units;
} Matrix;

typedef struct {
    int64_t kind;
    int64_t hidden, heads, kv_heads, head_dim, inner; /* widths are multiples of LANES, of 32 for pairs-32: the model's own, padded with zeros */
    float eps, scale; /* of the norms; of the scores */
    const float *cosines, *sines; /* (positions, own_head_dim / 2) */
    int64_t own_hidden, own_head_dim; /* without the padding: what a mean divides by, and what is rotated */
} Shape;

typedef struct {
    Matrix qkv, o, gate, up, down;
    const float *norm_in, *norm_out; /* (hidden) */
    const float *norm_q, *norm_k;    /* (head_dim) or NULL */
    uint32_t *keys;   /* (blocks, kv_heads, head_dim units, BLOCK) */
    uint32_t *values; /* (blocks, kv_heads, BLOCK units, head_dim) */
    int64_t window;   /* a row attends to that many positions up to its own; 0: to all */
} Layer;

/* Consecutive rows of one sequence, in order of position. */
typedef struct {
    int64_t first, count, position;
    const int32_t *blocks;
} Span;

typedef struct {
    int64_t rows, spans;
    const Span *span;
} Batch;

int cf_variants(void);      /* highest variant of this processor: 0 portable, 1 AVX2, 2 AVX-512, 3 AVX-512-BF16, 4 AMX */
void cf_use(int kind, int variant); /* at most cf_variants() */
int cf_threads(int wanted); /* threads of the whole process, including the caller's; returns how many there are */
void cf_pack(const void *weight, int64_t rows, int64_t columns, int kind, uint32_t *data);
void cf_embed(const Matrix *table, const int64_t *tokens, int64_t rows, int kind, float *out);
void cf_ln(const double *x, int64_t count, double *out);  /* of normal numbers above 0 */
void cf_exp(const double *x, int64_t count, double *out); /* of numbers up to 0 */
void cf_rotary(const float *frequencies, int64_t half, int64_t positions, float magnitude, float *cosines, float *sines);
int64_t cf_workspace(const Shape *shape, int64_t layers, const Batch *batch); /* bytes that cf_layers needs */
void cf_layers(const Shape *shape, const Layer *layers, int64_t count, const Batch *batch, float *states, void *workspace, int64_t bytes);
void cf_norm(const Shape *shape, const float *states, const float *weight, int64_t rows, void *out);
void cf_linear(const Matrix *matrix, const void *x, int64_t rows, int kind, float *out);

#endif
