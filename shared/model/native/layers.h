/* What a range of layers does around its products: norms, rotation, keys and values, attention. Included like product.h, after it.
 *
 * Sums other than of products (a norm's squares, the weights of a softmax) run in sixteen lanes and then by halves, as stated there.
 */

/* ---- rows ------------------------------------------------------------------------------------------------------------ */

#if FUSED

/* 1 / sqrt(mean of squares + eps), the squares as integers in units of the largest one's 2^−40: see protocol §7.2.4. */
static TARGET float NAME(norm_scale)(const float *x, int64_t width, int64_t own, float eps)
{
    uint32_t largest = 0;
    int64_t total = 0;
    for (int64_t i = 0; i < width; i++) {
        const float square = x[i] * x[i];
        uint32_t bits;
        memcpy(&bits, &square, 4);
        largest = bits > largest ? bits : largest;
    }
    largest >>= 23;
    for (int64_t i = 0; i < width; i++) {
        const float square = x[i] * x[i];
        uint32_t bits;
        memcpy(&bits, &square, 4);
        const uint32_t field = bits >> 23, down = largest - field;
        const int64_t term = (int64_t)((bits & 0x7fffff) | 0x800000) << 17 >> (down < 63 ? down : 63);
        total += field ? term : 0;
    }
    const uint32_t bits = largest > 40 ? (largest - 40) << 23 : 0;
    float power;
    memcpy(&power, &bits, 4);
    return 1.0f / __builtin_sqrtf((float)total / (float)own * power + eps);
}

#else

/* 1 / sqrt(mean of squares + eps); lane i sums elements i, i+16, … in order, then the lanes by halves. The mean is over `own` elements:
 * those that pad the width are zero and change no sum of squares. */
FN float NAME(norm_scale)(const float *x, int64_t width, int64_t own, float eps)
{
    V16 squares = NAME(set1)(0.0f);
    for (int64_t i = 0; i < width; i += LANES) {
        const V16 v = NAME(load)(x + i);
        squares = NAME(fma)(v, v, squares);
    }
    return 1.0f / __builtin_sqrtf(NAME(sum)(squares) / (float)own + eps);
}

#endif

static TARGET void NAME(norm_row)(const Shape *shape, const float *x, const float *weight, uint32_t *out)
{
    const V16 scale = NAME(set1)(NAME(norm_scale)(x, shape->hidden, shape->own_hidden, shape->eps));
    for (int64_t i = 0; i < shape->hidden; i += LANES)
        NAME(store_units)(out, i, NAME(mul)(NAME(mul)(NAME(load)(x + i), scale), NAME(load)(weight + i)));
}

static TARGET void NAME(norm_rows)(Thread *me, const Shape *shape, const float *x, const float *weight, int64_t rows, uint32_t *out)
{
    for (int64_t first; (first = deal(me) * NEAR) < rows; done(me))
        for (int64_t row = first; row < rows && row < first + NEAR; row++)
            NAME(norm_row)(shape, x + row * shape->hidden, weight, out + row * (shape->hidden / (PAIRS + 1)));
    meet(me, (rows + NEAR - 1) / NEAR);
}

/* Norm (where the family has one) and rotation of one head, in place, as float32; the zeros that pad it stay. */
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

#if FUSED

/* What is stored of keys and of values: products of a hidden value and a weight of zero must cut nothing off. */
FN V16 NAME(kept_key)(V16 a) { return a; }
FN V16 NAME(kept_value)(V16 a)
{
    const U16 magnitude = NAME(andu)(NAME(bits)(a), NAME(set1u)(0x7fffffffu));
    const U16 tiny = NAME(bits)(NAME(set1)(0x1p-60f)), limited = NAME(bits)(NAME(limit)(a, 0x1p20f));
    return NAME(floats)(NAME(select_above)(tiny, magnitude, NAME(set1u)(0), limited));
}

#else

/* What is stored is finite: attention multiplies whatever is beyond a row's length by zero, and that must stay zero. */
FN V16 NAME(kept_key)(V16 a)
{
    const U16 most = NAME(set1u)(PAIRS ? 0x7f7f0000u : 0x7f7fffffu), sign = NAME(andu)(NAME(bits)(a), NAME(set1u)(0x80000000u));
    const U16 magnitude = NAME(andu)(NAME(bits)(a), NAME(set1u)(0x7fffffffu));
    const U16 clamped = NAME(select_above)(magnitude, most, NAME(oru)(sign, most), NAME(bits)(a));
    return NAME(floats)(NAME(select_above)(magnitude, NAME(set1u)(0x7f800000u), NAME(set1u)(0), clamped));
}
FN V16 NAME(kept_value)(V16 a) { return NAME(kept_key)(a); }

#endif

/* Store one position's key and value of one head in their place of a KV block. */
FN void NAME(keep)(const float *k, const float *v, int64_t width, int64_t place, uint32_t *keys, uint32_t *values)
{
    uint32_t part[LANES];
    for (int64_t i = 0; i < width; i += LANES) {
        NAME(store_units)(part, 0, NAME(kept_key)(NAME(load)(k + i)));
        for (int u = 0; u < LANES / (PAIRS + 1); u++) keys[(i / (PAIRS + 1) + u) * BLOCK + place] = part[u];
        NAME(store_units)(part, 0, NAME(kept_value)(NAME(load)(v + i)));
#if PAIRS
        for (int e = 0; e < LANES; e++) ((uint16_t *)(values + place / 2 * width + i + e))[place % 2] = ((uint16_t *)part)[e];
#else
        memcpy(values + place * width + i, part, sizeof part);
#endif
    }
}

/* Rotate one row's heads; leave q as units, store k and v. */
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

/* Scores of `rows` query rows against places [0, needed) of some blocks of one head: (rows, blocks · BLOCK), neither masked nor scaled. What follows
 * in memory (the next keys, these values) is prefetched meanwhile. */
static TARGET void NAME(scores)(const Shape *shape, const uint32_t *q, int rows, const uint32_t *const *keys, const uint32_t *const *values,
                                int64_t blocks, int64_t needed, float *out)
{
    const int64_t units = shape->head_dim / (PAIRS + 1), stride = blocks * BLOCK;
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t left = needed - block * BLOCK, panels = left < BLOCK ? (left + LANES - 1) / LANES : BLOCK / LANES;
        NAME(fetch)(values[block], (left < BLOCK ? left : BLOCK) * units * 4);
        if (left > 2 * BLOCK) NAME(fetch)(keys[block + 1], BLOCK * units * 4);
        for (int row = 0; row < rows; row += TALL) {
            const int tall = rows - row < TALL ? rows - row : TALL;
            const int64_t step = NAME(width)(tall);
            for (int64_t panel = 0; panel < panels; panel += step) {
                const int wide = panels - panel < step ? (int)(panels - panel) : (int)step;
                NAME(any_tile)(tall, wide, q + row * units, units, keys[block] + panel * LANES, BLOCK, LANES, units,
                               out + row * stride + block * BLOCK + panel * LANES, stride, 0);
            }
        }
    }
}

/* Scale a row of products in place, those outside [from, to) being −∞; returns the largest score, NaN aside. *numbers becomes whether
 * it is finite and no score is NaN. */
FN float NAME(scaled)(float *row, int64_t from, int64_t to, int64_t places, float scale, int *numbers)
{
    for (int64_t i = 0; i < from; i++) row[i] = -__builtin_inff();
    for (int64_t i = to; i < places; i++) row[i] = -__builtin_inff();
    const V16 by = NAME(set1)(scale);
    V16 most = NAME(set1)(-__builtin_inff()), sum = NAME(set1)(0.0f); /* the sum is NaN if any score is */
    for (int64_t i = 0; i < places; i += LANES) {
        const V16 score = NAME(mul)(NAME(load)(row + i), by);
        NAME(store)(row + i, score);
        most = NAME(max)(score, most);
        sum = NAME(add)(sum, score);
    }
    float sums[LANES];
    NAME(store)(sums, sum);
    const float largest = NAME(largest)(most);
    *numbers = __builtin_fabsf(largest) < __builtin_inff();
    for (int i = 0; i < LANES; i++) *numbers &= sums[i] == sums[i];
    return largest;
}

#if !FUSED

/* Scores of a row, less something, to units of their exponentials in place; returns those's sum. `numbers`: no score is NaN. */
FN float NAME(exponentials)(float *row, int64_t places, V16 less, const int numbers)
{
    V16 total = NAME(set1)(0.0f);
    for (int64_t i = 0; i < places; i += LANES) {
        const V16 x = NAME(add)(NAME(load)(row + i), less), p = numbers ? NAME(exp_number)(x) : NAME(exp_negative)(x);
#if PAIRS
        const U16 half = numbers ? NAME(number_to_bf16)(p) : NAME(to_bf16)(p);
        total = NAME(add)(total, NAME(floats)(NAME(left)(half, 16)));
        NAME(store_lower)((uint16_t *)row + i, half); /* units end before the scores that are still to be read */
#else
        total = NAME(add)(total, p);
        NAME(store)(row + i, p);
#endif
    }
    return NAME(sum)(total);
}

/* Softmax of scores of places [from, to) of a row of `places`, in place as units of weights (zero elsewhere); returns their sum: lane i sums
 * places i, i+16, … in order, then the lanes by halves. The largest score is exact in any order. */
static TARGET float NAME(softmax)(float *row, int64_t from, int64_t to, int64_t places, float scale)
{
    int numbers;
    const V16 less = NAME(set1)(-NAME(scaled)(row, from, to, places, scale, &numbers));
    return numbers ? NAME(exponentials)(row, places, less, 1) : NAME(exponentials)(row, places, less, 0);
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
    const int64_t needed = position + task.rows - first * BLOCK, used = (needed + PLACES - 1) / PLACES * PLACES;
    NAME(scores)(shape, q, rows, keys, values, blocks, needed, scores);
    for (int row = 0; row < rows; row++) {
        const int64_t own = position + row / group;
        const int64_t from = window && own + 1 > window ? own + 1 - window : 0;
        totals[row] = NAME(softmax)(scores + row * places, from - first * BLOCK, own + 1 - first * BLOCK, used, shape->scale);
    }
    for (int row = 0; row < rows; row += TALL) {
        const int tall = rows - row < TALL ? rows - row : TALL;
        const int64_t step = NAME(width)(tall);
        for (int64_t panel = 0; panel < width / LANES; panel += step) {
            const int wide = width / LANES - panel < step ? (int)(width / LANES - panel) : (int)step;
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t left = used - block * BLOCK;
                NAME(any_tile)(tall, wide, (const uint32_t *)(scores + row * places) + block * (BLOCK / (PAIRS + 1)), places,
                               values[block] + panel * LANES, width, LANES, (left < BLOCK ? left : BLOCK) / (PAIRS + 1), acc, wide * LANES, block > 0);
            }
            for (int m = 0; m < tall; m++) {
                const int64_t at = span->first + task.row + (row + m) / group, head = task.head * group + (row + m) % group;
                for (int n = 0; n < wide; n++)
                    NAME(store_units)(pass->attended + (at * shape->heads + head) * units, (panel + n) * LANES,
                                      NAME(divide)(NAME(add)(NAME(load)(acc + (m * wide + n) * LANES), NAME(set1)(0.0f)), NAME(set1)(totals[row + m])));
            }
        }
    }
}

#else

/* Weights of one row's scores in one segment, of which [from, to) are seen and `places` may be read: in place as units, zero elsewhere.
 * Returns the largest score; *units becomes the weights' sum in units of 2^−23. */
static TARGET float NAME(weights)(float *row, int64_t from, int64_t to, int64_t places, float scale, int32_t *units)
{
    int numbers; /* always */
    const float largest = NAME(scaled)(row, from, to, places, scale, &numbers);
    const V16 less = NAME(set1)(-largest), one = NAME(set1)(1.0f);
    U16 sum = NAME(set1u)(0);
    for (int64_t i = 0; i < places; i += LANES) {
        const V16 distance = NAME(add)(NAME(load)(row + i), less);
        const U16 magnitude = NAME(andu)(NAME(bits)(distance), NAME(set1u)(0x7fffffffu)), p = NAME(bits)(NAME(exp_number)(distance));
        const U16 weight = NAME(to_units)(NAME(floats)(NAME(select_above)(magnitude, NAME(set1u)(0x41d80000u), NAME(set1u)(0), p))); /* 27 */
        NAME(store_lower)((uint16_t *)row + i, weight); /* units end before the scores that are still to be read */
        const V16 above_one = NAME(add)(NAME(floats)(NAME(left)(weight, 16)), one);
        sum = NAME(addu)(sum, NAME(addu)(NAME(bits)(above_one), NAME(set1u)(-0x3f800000u)));
    }
    uint32_t lanes[LANES];
    NAME(storeu)(lanes, sum);
    *units = 0;
    for (int lane = 0; lane < LANES; lane++) *units += (int32_t)lanes[lane];
    return largest;
}

FN float NAME(exp_of)(float x)
{
    float lanes[LANES];
    NAME(store)(lanes, NAME(exp_negative)(NAME(set1)(x)));
    return lanes[0];
}

/* What one query row has so far. */
typedef struct {
    float largest, total;
} NAME(running);

/* One task: up to QUERIES/group rows of one span, one key-value head, segment by segment. */
static TARGET void NAME(attend)(const Attention *job, Task task, unsigned char *scratch)
{
    const Pass *pass = job->pass;
    const Shape *shape = pass->shape;
    const Span *span = pass->batch->span + task.span;
    const int64_t width = shape->head_dim, units = width / 2, group = shape->heads / shape->kv_heads;
    const int64_t position = span->position + task.row, window = job->layer->window;
    const int64_t begin = window && position + 1 > window ? position + 1 - window : 0, end = position + task.rows;
    const int rows = (int)(task.rows * group);
    NAME(running) *running = (NAME(running) *)scratch;
    uint32_t *q = (uint32_t *)(running + rows);
    float *out = (float *)(q + rows * units), *row_scores = out + rows * width;
    for (int row = 0; row < rows; row++) running[row] = (NAME(running)){-__builtin_inff(), 0.0f};
    memset(out, 0, (size_t)(rows * width) * sizeof *out);
    for (int64_t row = 0; row < task.rows; row++)
        memcpy(q + row * group * units, pass->q + ((span->first + task.row + row) * shape->heads + task.head * group) * units,
               (size_t)(group * units) * 4);
    for (int64_t first = begin / SEGMENT * SEGMENT; first < end; first += SEGMENT) {
        const int64_t needed = end - first < SEGMENT ? end - first : SEGMENT, used = (needed + LANES - 1) / LANES * LANES;
        const int64_t blocks = (needed + BLOCK - 1) / BLOCK;
        const uint32_t *keys[SEGMENT / BLOCK], *values[SEGMENT / BLOCK];
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t at = span->blocks[first / BLOCK + block] * shape->kv_heads + task.head;
            keys[block] = job->layer->keys + at * units * BLOCK;
            values[block] = job->layer->values + at * width * (BLOCK / 2);
        }
        NAME(scores)(shape, q, rows, keys, values, blocks, needed, row_scores);
        float alpha[TALL], beta[TALL], acc[TILE];
        for (int tile = 0; tile < rows; tile += TALL) {
            const int tall = rows - tile < TALL ? rows - tile : TALL;
            for (int m = 0; m < tall; m++) {
                const int64_t own = position + (tile + m) / group, from = window && own + 1 > window ? own + 1 - window : 0;
                const int64_t left = from > first ? from - first : 0, right = own + 1 - first < used ? own + 1 - first : used;
                float *row = row_scores + (tile + m) * blocks * BLOCK;
                NAME(running) *so_far = running + tile + m;
                if (left >= right) { /* it sees nothing of this segment */
                    memset(row, 0, (size_t)used * 2);
                    alpha[m] = beta[m] = -1.0f;
                    continue;
                }
                int32_t sum;
                const float largest = NAME(weights)(row, left, right, used, shape->scale, &sum), before = so_far->largest;
                const float d = NAME(exp_of)(-__builtin_fabsf(before - largest));
                alpha[m] = largest > before ? d : 1.0f;
                beta[m] = largest > before ? 1.0f : d;
                so_far->total = __builtin_fmaf(beta[m], (float)sum * 0x1p-23f, alpha[m] * so_far->total);
                so_far->largest = largest > before ? largest : before;
            }
            const int64_t step = NAME(width)(tall);
            for (int64_t panel = 0; panel < width / LANES; panel += step) {
                const int wide = width / LANES - panel < step ? (int)(width / LANES - panel) : (int)step;
                for (int64_t block = 0; block < blocks; block++) {
                    const int64_t left = used - block * BLOCK;
                    NAME(any_tile)(tall, wide, (const uint32_t *)(row_scores + tile * blocks * BLOCK) + block * (BLOCK / 2), blocks * BLOCK,
                                   values[block] + panel * LANES, width, LANES, (left < BLOCK ? left : BLOCK) / 2, acc, wide * LANES, block > 0);
                }
                for (int m = 0; m < tall; m++)
                    for (int n = 0; n < wide; n++) {
                        float *at = out + (tile + m) * width + (panel + n) * LANES;
                        if (alpha[m] < 0.0f) continue;
                        const V16 now = NAME(add)(NAME(load)(acc + (m * wide + n) * LANES), NAME(set1)(0.0f));
                        NAME(store)(at, NAME(fma)(NAME(set1)(beta[m]), now, NAME(mul)(NAME(set1)(alpha[m]), NAME(load)(at))));
                    }
            }
        }
    }
    for (int row = 0; row < rows; row++) {
        const int64_t at = span->first + task.row + row / group, head = task.head * group + row % group;
        for (int64_t i = 0; i < width; i += LANES)
            NAME(store_units)(pass->attended + (at * shape->heads + head) * units, i,
                              NAME(divide)(NAME(load)(out + row * width + i), NAME(set1)(running[row].total)));
    }
}

#endif

static TARGET void NAME(attention)(Thread *me, const Attention *job)
{
    const Pass *pass = job->pass;
    for (int64_t task; (task = deal(me)) < pass->task_count; done(me))
        NAME(attend)(job, pass->tasks[task], pass->scratch + me->index * pass->scratch_bytes);
    meet(me, pass->task_count);
}

/* ---- a range of layers ----------------------------------------------------------------------------------------------- */

static TARGET void NAME(layers)(Thread *me, void *argument)
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
    LEAVE_TILES();
}

static TARGET void NAME(norm)(Thread *me, void *argument)
{
    const NormCall *call = argument;
    NAME(norm_rows)(me, call->shape, call->states, call->weight, call->rows, call->out);
}

static TARGET void NAME(linear)(Thread *me, void *argument)
{
    const LinearCall *call = argument;
    NAME(product)(me, &(Product){call->matrix, NULL, call->x, call->rows, PLAIN, call->out});
    LEAVE_TILES();
}

