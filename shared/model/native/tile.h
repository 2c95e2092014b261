/* Sums of products in tiles. Included once for each variant and kind of unit, with NAME and PAIRS defined.
 *
 * Every result is one chain over the units in order, acc = madd(acc, w, x) from +0: by itself, so neither the rows that share a tile
 * nor the thread that computes it can change it.
 */

/* MR rows of x (stride in units) times 16·NR columns; `acc` is (MR, 16·NR), continued where `add`. */
FN void NAME(tile)(const int MR, const int NR, const uint32_t *x, int64_t x_stride, const uint32_t *w, int64_t w_unit,
                   int64_t w_panel, int64_t units, float *acc, const int add)
{
    V16 sum[8][8];
#pragma GCC unroll 8
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
        for (int n = 0; n < NR; n++)
            sum[m][n] = add ? NAME(load)(acc + (m * NR + n) * LANES) : NAME(set1)(0.0f);
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
        for (int n = 0; n < NR; n++) NAME(store)(acc + (m * NR + n) * LANES, sum[m][n]);
}

/* Panels that fit the registers beside so many rows. */
FN int NAME(width)(int rows)
{
#if defined(LANES_AVX512BF16) || defined(LANES_AVX512)
    static const int widths[9] = {0, 8, 8, 6, 6, 4, 4, 3, 3};
    return widths[rows];
#else
    return rows == 1 ? 4 : 1;
#endif
}

#if defined(LANES_AVX512BF16) || defined(LANES_AVX512)
#define TALL 8
#else
#define TALL 4
#endif

/* As `tile`, for 1 to TALL rows and 1 to width(rows) panels; `acc` is (rows, 16·panels). */
static TARGET void NAME(any_tile)(int rows, int panels, const uint32_t *x, int64_t x_stride, const uint32_t *w, int64_t w_unit,
                                  int64_t w_panel, int64_t units, float *acc, int add)
{
#define WITH(M, N) NAME(tile)(M, N, x, x_stride, w, w_unit, w_panel, units, acc, add)
#define CASE(M, N) case (M) * 16 + (N): WITH(M, N); return;
    switch (rows * 16 + panels) {
        CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1) CASE(1, 2) CASE(1, 3) CASE(1, 4)
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

/* ---- matrix products ------------------------------------------------------------------------------------------------ */

/* silu(g) · u, as g · (1 or e) / (1 + e) with e = exp(−|g|). */
FN V16 NAME(silu_times)(V16 g, V16 u)
{
    const V16 e = NAME(exp_negative)(NAME(floats)(NAME(oru)(NAME(bits)(g), NAME(set1u)(0x80000000u))));
    const U16 negative = NAME(right)(NAME(bits)(g), 31);
    const V16 top = NAME(floats)(NAME(select_above)(negative, NAME(set1u)(0), NAME(bits)(e), NAME(bits)(NAME(set1)(1.0f))));
    return NAME(mul)(NAME(divide)(NAME(mul)(g, top), NAME(add)(NAME(set1)(1.0f), e)), u);
}

/* Store sixteen floats as elements column … column+15 of a row of units. */
FN void NAME(store_units)(uint32_t *row, int64_t column, V16 a)
{
#if PAIRS
    NAME(store_lower)((uint16_t *)row + column, NAME(to_bf16)(a));
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
    a = NAME(biased)(job->matrix, panel, a);
    if (column + LANES <= columns) {
        NAME(store)(out, job->kind == ADD_TO ? NAME(add)(NAME(load)(out), a) : a);
        return;
    }
    float last[LANES];
    NAME(store)(last, a);
    for (int64_t i = 0; i < columns - column; i++) out[i] = job->kind == ADD_TO ? out[i] + last[i] : last[i];
}

static TARGET void NAME(product)(Worker *me, const Product *job)
{
    const int64_t panels = (job->matrix->rows + LANES - 1) / LANES, units = job->matrix->units;
    const int tallest = job->rows < TALL ? (int)job->rows : TALL;
    const int width = NAME(width)(tallest);
    /* Pieces of a few columns: small enough to share fairly, large enough to stream. */
    int64_t chunk = panels / (me->count * 4) / width * width;
    const int64_t most = (1 << 17) / (units * 64) / width * width;
    chunk = chunk > most ? most : chunk;
    chunk = chunk < width ? width : chunk;
    float a[8 * 8 * LANES], b[8 * 8 * LANES];
    for (int64_t first; (first = deal(me) * chunk) < panels; done(me)) {
        const int64_t last = first + chunk < panels ? first + chunk : panels;
        for (int64_t row = 0; row < job->rows; row += TALL) {
            const int tall = job->rows - row < TALL ? (int)(job->rows - row) : TALL;
            const int64_t step = NAME(width)(tall);
            for (int64_t panel = first; panel < last; panel += step) {
                const int wide = last - panel < step ? (int)(last - panel) : (int)step;
                const uint32_t *x = job->x + row * units;
                NAME(any_tile)(tall, wide, x, units, job->matrix->data + panel * units * LANES, LANES, units * LANES, units, a, 0);
                if (job->kind == GATED)
                    NAME(any_tile)(tall, wide, x, units, job->other->data + panel * units * LANES, LANES, units * LANES, units, b, 0);
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

/* ---- rows ------------------------------------------------------------------------------------------------------------ */

/* 1 / sqrt(mean of squares + eps); lane i sums elements i, i+16, … in order, then the lanes by halves. The mean is over `own` elements:
 * those that fill up the width are zero and change no sum of squares. */
FN float NAME(norm_scale)(const float *x, int64_t width, int64_t own, float eps)
{
    V16 squares = NAME(set1)(0.0f);
    for (int64_t i = 0; i < width; i += LANES) {
        const V16 v = NAME(load)(x + i);
        squares = NAME(fma)(v, v, squares);
    }
    return 1.0f / __builtin_sqrtf(NAME(sum)(squares) / (float)own + eps);
}

static TARGET void NAME(norm_row)(const Shape *shape, const float *x, const float *weight, uint32_t *out)
{
    const V16 scale = NAME(set1)(NAME(norm_scale)(x, shape->hidden, shape->own_hidden, shape->eps));
    for (int64_t i = 0; i < shape->hidden; i += LANES)
        NAME(store_units)(out, i, NAME(mul)(NAME(mul)(NAME(load)(x + i), scale), NAME(load)(weight + i)));
}

static TARGET void NAME(norm_rows)(Worker *me, const Shape *shape, const float *x, const float *weight, int64_t rows, uint32_t *out)
{
    for (int64_t first; (first = deal(me) * NEAR) < rows; done(me))
        for (int64_t row = first; row < rows && row < first + NEAR; row++)
            NAME(norm_row)(shape, x + row * shape->hidden, weight, out + row * (shape->hidden / (PAIRS + 1)));
    meet(me, (rows + NEAR - 1) / NEAR);
}

/* Norm (where the family has one) and rotation of one head, in place, as float32; the zeros that fill it up stay. */
static TARGET void NAME(turn_head)(const Shape *shape, float *head, const float *norm, int64_t position)
{
    const int64_t half = shape->own_head_dim / 2;
    const float *cosines = shape->cosines + position * half, *sines = shape->sines + position * half;
    const float scale = norm ? NAME(norm_scale)(head, shape->head_dim, shape->own_head_dim, shape->eps) : 1.0f;
    for (int64_t i = 0; i < half; i++) {
        float low = head[i], high = head[i + half];
        if (norm) {
            low = low * scale * norm[i];
            high = high * scale * norm[i + half];
        }
        const float low_cos = low * cosines[i], high_cos = high * cosines[i];
        head[i] = __builtin_fmaf(-high, sines[i], low_cos);
        head[i + half] = __builtin_fmaf(low, sines[i], high_cos);
    }
}

/* What is stored is finite: attention multiplies what lies beyond a row's length by zero, and that must stay zero. */
FN V16 NAME(finite)(V16 a)
{
    const U16 most = NAME(set1u)(PAIRS ? 0x7f7f0000u : 0x7f7fffffu), sign = NAME(andu)(NAME(bits)(a), NAME(set1u)(0x80000000u));
    const U16 magnitude = NAME(andu)(NAME(bits)(a), NAME(set1u)(0x7fffffffu));
    const U16 clamped = NAME(select_above)(magnitude, most, NAME(oru)(sign, most), NAME(bits)(a));
    return NAME(floats)(NAME(select_above)(magnitude, NAME(set1u)(0x7f800000u), NAME(set1u)(0), clamped));
}

/* One position's key and value of one head into its place of a block. */
FN void NAME(keep)(const float *k, const float *v, int64_t width, int64_t place, uint32_t *keys, uint32_t *values)
{
    uint32_t part[LANES];
    for (int64_t i = 0; i < width; i += LANES) {
        NAME(store_units)(part, 0, NAME(finite)(NAME(load)(k + i)));
        for (int u = 0; u < LANES / (PAIRS + 1); u++) keys[(i / (PAIRS + 1) + u) * BLOCK + place] = part[u];
        NAME(store_units)(part, 0, NAME(finite)(NAME(load)(v + i)));
#if PAIRS
        for (int e = 0; e < LANES; e++) ((uint16_t *)(values + place / 2 * width + i + e))[place % 2] = ((uint16_t *)part)[e];
#else
        memcpy(values + place * width + i, part, sizeof part);
#endif
    }
}

/* Turn one row's heads; leave q as units, store k and v. */
static TARGET void NAME(store_row)(const Shape *shape, const Layer *layer, float *qkv, int64_t position, int64_t block, uint32_t *q)
{
    const int64_t width = shape->head_dim, units = width / (PAIRS + 1), place = position % BLOCK;
    float *k = qkv + shape->heads * width, *v = k + shape->kv_heads * width;
    for (int64_t head = 0; head < shape->heads; head++) {
        NAME(turn_head)(shape, qkv + head * width, layer->norm_q, position);
        for (int64_t i = 0; i < width; i += LANES) NAME(store_units)(q + head * units, i, NAME(load)(qkv + head * width + i));
    }
    for (int64_t head = 0; head < shape->kv_heads; head++) {
        NAME(turn_head)(shape, k + head * width, layer->norm_k, position);
        uint32_t *keys = layer->keys + (block * shape->kv_heads + head) * units * BLOCK;
        uint32_t *values = layer->values + (block * shape->kv_heads + head) * width * (BLOCK / (PAIRS + 1));
        NAME(keep)(k + head * width, v + head * width, width, place, keys, values);
    }
}

/* ---- attention ------------------------------------------------------------------------------------------------------- */

FN void NAME(fetch)(const void *from, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch((const char *)from + at, 0, 2);
}

/* Scores of `rows` query rows against places [0, needed) of some blocks of one head: (rows, blocks · BLOCK), unmasked, scaled. What follows
 * in memory (the next keys, these values) is asked for meanwhile. */
static TARGET void NAME(scores)(const Shape *shape, const uint32_t *q, int rows, const uint32_t *const *keys, const uint32_t *const *values,
                                int64_t blocks, int64_t needed, float *out)
{
    const int64_t units = shape->head_dim / (PAIRS + 1), stride = blocks * BLOCK;
    const V16 scale = NAME(set1)(shape->scale);
    float acc[8 * 8 * LANES];
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t left = needed - block * BLOCK, panels = left < BLOCK ? (left + LANES - 1) / LANES : BLOCK / LANES;
        NAME(fetch)(values[block], (left < BLOCK ? left : BLOCK) * units * 4);
        if (left > 2 * BLOCK) NAME(fetch)(keys[block + 1], BLOCK * units * 4);
        for (int row = 0; row < rows; row += TALL) {
            const int tall = rows - row < TALL ? rows - row : TALL;
            const int64_t step = NAME(width)(tall);
            for (int64_t panel = 0; panel < panels; panel += step) {
                const int wide = panels - panel < step ? (int)(panels - panel) : (int)step;
                NAME(any_tile)(tall, wide, q + row * units, units, keys[block] + panel * LANES, BLOCK, LANES, units, acc, 0);
                for (int m = 0; m < tall; m++)
                    for (int n = 0; n < wide; n++)
                        NAME(store)(out + (row + m) * stride + block * BLOCK + (panel + n) * LANES,
                                    NAME(mul)(NAME(load)(acc + (m * wide + n) * LANES), scale));
            }
        }
    }
}

/* Softmax of places [from, to) of a row of `places`, in place as units of weights (zero elsewhere); returns their sum: lane i sums
 * places i, i+16, … in order, then the lanes by halves. The largest score is exact in any order. */
static TARGET float NAME(softmax)(float *row, int64_t from, int64_t to, int64_t places)
{
    for (int64_t i = 0; i < from; i++) row[i] = -__builtin_inff();
    for (int64_t i = to; i < places; i++) row[i] = -__builtin_inff();
    V16 most = NAME(set1)(-__builtin_inff()), total = NAME(set1)(0.0f);
    for (int64_t i = 0; i < places; i += LANES) most = NAME(max)(NAME(load)(row + i), most);
    const V16 less = NAME(set1)(-NAME(largest)(most));
    for (int64_t i = 0; i < places; i += LANES) {
        const V16 p = NAME(exp_negative)(NAME(add)(NAME(load)(row + i), less));
#if PAIRS
        const U16 half = NAME(to_bf16)(p);
        total = NAME(add)(total, NAME(floats)(NAME(left)(half, 16)));
        NAME(store_units)((uint32_t *)row, i, p); /* units lie before the scores that are still to be read */
#else
        total = NAME(add)(total, p);
        NAME(store)(row + i, p);
#endif
    }
    return NAME(sum)(total);
}

/* One task: up to QUERIES/group rows of one span, one key-value head. */
static TARGET void NAME(attend)(const Attention *job, Task task, unsigned char *scratch)
{
    const Pass *pass = job->pass;
    const Shape *shape = pass->shape;
    const Span *span = pass->batch->span + task.span;
    const int64_t width = shape->head_dim, units = width / (PAIRS + 1), group = shape->heads / shape->kv_heads;
    const int64_t position = span->position + task.row, window = job->layer->window;
    const int64_t begin = window && position + 1 > window ? position + 1 - window : 0;
    const int64_t first = begin / BLOCK, blocks = (position + task.rows - 1) / BLOCK + 1 - first, places = blocks * BLOCK;
    const int rows = (int)(task.rows * group);
    const uint32_t **keys = (const uint32_t **)scratch, **values = keys + blocks;
    float *totals = (float *)(values + blocks);
    uint32_t *q = (uint32_t *)(totals + rows);
    float *scores = (float *)(q + rows * units), *acc = scores + rows * places;
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t at = (span->blocks[first + block] * shape->kv_heads + task.head);
        keys[block] = job->layer->keys + at * units * BLOCK;
        values[block] = job->layer->values + at * width * (BLOCK / (PAIRS + 1));
    }
    for (int64_t row = 0; row < task.rows; row++)
        memcpy(q + row * group * units, pass->q + ((span->first + task.row + row) * shape->heads + task.head * group) * units,
               (size_t)(group * units) * 4);
    const int64_t needed = position + task.rows - first * BLOCK, used = (needed + LANES - 1) / LANES * LANES;
    NAME(scores)(shape, q, rows, keys, values, blocks, needed, scores);
    for (int row = 0; row < rows; row++) {
        const int64_t own = position + row / group;
        const int64_t from = window && own + 1 > window ? own + 1 - window : 0;
        totals[row] = NAME(softmax)(scores + row * places, from - first * BLOCK, own + 1 - first * BLOCK, used);
    }
    for (int row = 0; row < rows; row += TALL) {
        const int tall = rows - row < TALL ? rows - row : TALL;
        const int64_t step = NAME(width)(tall);
        for (int64_t panel = 0; panel < width / LANES; panel += step) {
            const int wide = width / LANES - panel < step ? (int)(width / LANES - panel) : (int)step;
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t left = used - block * BLOCK;
                NAME(any_tile)(tall, wide, (const uint32_t *)(scores + row * places) + block * (BLOCK / (PAIRS + 1)), places,
                               values[block] + panel * LANES, width, LANES, (left < BLOCK ? left : BLOCK) / (PAIRS + 1), acc, block > 0);
            }
            for (int m = 0; m < tall; m++) {
                const int64_t at = span->first + task.row + (row + m) / group, head = task.head * group + (row + m) % group;
                for (int n = 0; n < wide; n++)
                    NAME(store_units)(pass->attended + (at * shape->heads + head) * units, (panel + n) * LANES,
                                      NAME(divide)(NAME(load)(acc + (m * wide + n) * LANES), NAME(set1)(totals[row + m])));
            }
        }
    }
}

static TARGET void NAME(attention)(Worker *me, const Attention *job)
{
    const Pass *pass = job->pass;
    for (int64_t task; (task = deal(me)) < pass->task_count; done(me))
        NAME(attend)(job, pass->tasks[task], pass->scratch + me->index * pass->scratch_bytes);
    meet(me, pass->task_count);
}

/* ---- a range of layers ----------------------------------------------------------------------------------------------- */

static TARGET void NAME(layers)(Worker *me, void *argument)
{
    const Pass *pass = argument;
    const Shape *shape = pass->shape;
    const int64_t rows = pass->batch->rows, turned = (shape->heads + 2 * shape->kv_heads) * shape->head_dim;
    const int64_t q_units = shape->heads * shape->head_dim / (PAIRS + 1);
    for (int64_t index = 0; index < pass->count; index++) {
        const Layer *layer = pass->layers + index;
        NAME(norm_rows)(me, shape, pass->states, layer->norm_in, rows, pass->normed);
        NAME(product)(me, &(Product){&layer->qkv, NULL, pass->normed, rows, PLAIN, pass->qkv});
        for (int64_t first; (first = deal(me) * NEAR) < rows; done(me))
            for (int64_t row = first; row < rows && row < first + NEAR; row++)
                NAME(store_row)(shape, layer, pass->qkv + row * turned, pass->positions[row], pass->row_blocks[row], pass->q + row * q_units);
        meet(me, (rows + NEAR - 1) / NEAR);
        NAME(attention)(me, &(Attention){pass, layer});
        NAME(product)(me, &(Product){&layer->o, NULL, pass->attended, rows, ADD_TO, pass->states});
        NAME(norm_rows)(me, shape, pass->states, layer->norm_out, rows, pass->normed);
        NAME(product)(me, &(Product){&layer->gate, &layer->up, pass->normed, rows, GATED, pass->gated});
        NAME(product)(me, &(Product){&layer->down, NULL, pass->gated, rows, ADD_TO, pass->states});
    }
}

static TARGET void NAME(norm)(Worker *me, void *argument)
{
    const NormCall *call = argument;
    NAME(norm_rows)(me, call->shape, call->states, call->weight, call->rows, call->out);
}

static TARGET void NAME(linear)(Worker *me, void *argument)
{
    const LinearCall *call = argument;
    NAME(product)(me, &(Product){call->matrix, NULL, call->x, call->rows, PLAIN, call->out});
}

#undef TALL
