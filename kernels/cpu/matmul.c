/* Matrix product. Three ways through it:
 *
 *   few rows (m <= DOT_ROWS, NT): every row of b is read once and multiplied with all rows of a.
 *   Limited by memory; b is not packed. This is decoding.
 *
 *   otherwise: blocked and packed, after Goto and van de Geijn, "Anatomy of High-Performance Matrix
 *   Multiplication", 2008. The smaller operand is packed once, by all threads, and shared. The
 *   larger one is cut into chunks that stay in L2; a task packs its chunk and multiplies it with
 *   the shared operand, tile by tile (tile.h). The layouts differ only in packing.
 *
 * The extra pair is more of k: blocks and dot products run on into it.
 *
 * One element of c is always summed by one thread, over blocks of k that depend on k alone: its
 * bits depend neither on the number of threads nor on the row it stands in. */
#include <omp.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vec_math.h"

#define DEPTH_MAX    384        /* k of one block: a panel of 14 rows is 21 KB, in L1 */
#define DEPTH_EXTRA  64         /* by which an extra pair may lengthen blocks: up to 25 KB */
#define CHUNK_FLOATS (48 << 10) /* streamed chunk: 192 KB, in L2 */
#define SHARED_MAX   ((int64_t)4 << 20) /* floats of the shared operand packed at a time: 16 MB */
#define DOT_ROWS     8
#define DOT_LINE     32     /* weights in bf16 of one cache line */
#define DOT_AHEAD    2048   /* of them to fetch ahead */
#define PARALLEL_MIN 500000 /* products (10 us) below which threads cost more than they gain */

typedef struct product {
    const lt_matmul_args *args;
    int64_t m, n, k;    /* k with the extra pair */
    int64_t border;     /* k without it: from there on x[1] goes on where x[0] ends */
    operand a[2], b[2]; /* lines: rows of c and columns of c */
    int64_t depth;      /* of a block of k; the last may be smaller */
    bool early;         /* residual and old c are added with the first block, not at the end */
    lt_tensor partial;  /* where sums wait between blocks */
    int threads;
} product;

/* --- Epilogue -------------------------------------------------------------------------------- */

static float *at(const lt_tensor *t, int64_t i, int64_t j)
{
    return (float *)t->data + i * t->stride[0] + j;
}

/* One vector of c from the finished sum: bias, preactivation, activation, residual, accumulate. */
INLINE void finish(const product *x, int64_t i, int64_t j, int64_t count, vec v)
{
    const lt_matmul_args *a = x->args;
    if (a->bias.data) v += vec_load_first((float *)a->bias.data + j, count);
    if (a->preactivation.data) vec_store_first(at(&a->preactivation, i, j), v, count);
    if (a->activation != LT_ACTIVATION_NONE) v = vec_activate(a->activation, v);
    if (!x->early) {
        if (a->residual.data) v += vec_load_first(at(&a->residual, i, j), count);
        if (a->accumulate) v += vec_load_first(at(&a->c, i, j), count);
    }
    vec_store_first(at(&a->c, i, j), v, count);
}

/* Adds a tile of one block of k to what came before. */
static void write_tile(const product *x, const float *tile, int64_t i0, int64_t rows, int64_t j0,
                       int64_t columns, bool first, bool last)
{
    const lt_matmul_args *a = x->args;
    for (int64_t i = i0; i < i0 + rows; i++, tile += TILE_COLUMNS) {
        for (int64_t j = 0; j < columns; j += LANES) {
            int64_t count = columns - j;
            vec v = vec_load(tile + j);
            if (!first) v += vec_load_first(at(&x->partial, i, j0 + j), count);
            if (first && x->early) {
                if (a->accumulate) v += vec_load_first(at(&a->c, i, j0 + j), count);
                if (a->residual.data) v += vec_load_first(at(&a->residual, i, j0 + j), count);
            }
            if (last)
                finish(x, i, j0 + j, count, v);
            else
                vec_store_first(at(&x->partial, i, j0 + j), v, count);
        }
    }
}

/* --- Few rows -------------------------------------------------------------------------------- */

/* a with the vectors of all rows side by side, [k / LANES][rows][LANES], 0 past the end: one
 * address for all of them. Returns where the next goes. */
static float *interleave(const operand *a, int64_t rows, int64_t k, float *dst)
{
    for (int64_t p = 0; p < k; p += LANES)
        for (int64_t i = 0; i < rows; i++, dst += LANES)
            vec_store(dst, vec_load_first((const float *)a->data + i * a->line + p, k - p));
    return dst;
}

/* One vector along k for all sums of a block. */
INLINE void dot_step(int rows, int columns, const float *a, const vec *right, vec sum[][8])
{
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        vec left = vec_load(a + i * LANES);
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++)
            sum[i][c] = vec_fma(left, right[c], sum[i][c]);
    }
}

/* sum += the products with columns [j, j + columns) along k; returns where a goes on. */
INLINE const float *dot_columns(const operand *b, bool bf16, const float *a, int rows, int columns,
                                int64_t j, int64_t k, vec sum[][8])
{
    vec right[8];
    int64_t at = j * b->line, line = b->line, p = 0;
    for (; p + LANES <= k; p += LANES, a += rows * LANES) {
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++)
            right[c] = vec_load_weight(b->data, bf16, at + c * line + p, LANES);
        if (bf16 && rows > 1) /* with one row the processor itself looks far enough ahead */
            __builtin_prefetch((const uint16_t *)b->data + at + p + DOT_AHEAD);
        dot_step(rows, columns, a, right, sum);
    }
    if (p == k) return a;
#pragma GCC unroll 8
    for (int c = 0; c < columns; c++)
        right[c] = vec_load_weight(b->data, bf16, at + c * line + p, k - p);
    dot_step(rows, columns, a, right, sum);
    return a + rows * LANES;
}

/* tile[0:rows, 0:columns]: dot products along k, one vector of partial sums for each. */
INLINE void dot_tile(const product *x, bool bf16, const float *a, int rows, int columns, int64_t j,
                     float *tile)
{
    vec sum[DOT_ROWS][8];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++)
            sum[i][c] = vec_zero();
    a = dot_columns(&x->b[0], bf16, a, rows, columns, j, x->border, sum);
    if (x->k > x->border) dot_columns(&x->b[1], false, a, rows, columns, j, x->k - x->border, sum);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++)
            tile[i * TILE_COLUMNS + c] = vec_sum(sum[i][c]);
}

/* c[0:rows, j:j+columns], `together` columns at a time. */
INLINE void dot_block(const product *x, bool bf16, const float *a, int rows, int columns,
                      int together, int64_t j)
{
    float tile[DOT_ROWS * TILE_COLUMNS];
    for (int c = 0; c < columns; c += together)
        dot_tile(x, bf16, a, rows, together, j + c, tile + c);
    write_tile(x, tile, 0, rows, j, columns, true, true);
}

/* So many columns at a time that rows * columns sums fit in the registers; in bf16 one after the
 * other: the weights of several are too short to be read from memory side by side. */
typedef void dot_function(const product *x, const float *a, int64_t begin, int64_t end);

#define DOT_OF(name, rows, columns, together, bf16)                                \
    static void name(const product *x, const float *a, int64_t begin, int64_t end) \
    {                                                                              \
        int64_t j = begin;                                                         \
        for (; j + (columns) <= end; j += (columns))                               \
            dot_block(x, bf16, a, rows, columns, together, j);                     \
        for (; j < end; j++)                                                       \
            dot_block(x, bf16, a, rows, 1, 1, j);                                  \
    }
#define DOT(rows, columns)                                  \
    DOT_OF(dot_##rows##_f32, rows, columns, columns, false) \
    DOT_OF(dot_##rows##_bf16, rows, 8, 1, true)
#if LANES == 16
DOT(1, 8)
DOT(2, 8)
DOT(3, 4)
DOT(4, 4)
DOT(5, 4)
DOT(6, 4)
DOT(7, 2)
DOT(8, 2)
#else
DOT(1, 8)
DOT(2, 4)
DOT(3, 2)
DOT(4, 2)
DOT(5, 2)
DOT(6, 1)
DOT(7, 1)
DOT(8, 1)
#endif

static lt_status dot_product(const lt_backend *backend, const product *x, lt_err *err)
{
    static dot_function *const functions[DOT_ROWS][2] = {
        {dot_1_f32, dot_1_bf16}, {dot_2_f32, dot_2_bf16}, {dot_3_f32, dot_3_bf16},
        {dot_4_f32, dot_4_bf16}, {dot_5_f32, dot_5_bf16}, {dot_6_f32, dot_6_bf16},
        {dot_7_f32, dot_7_bf16}, {dot_8_f32, dot_8_bf16}};
    int64_t threads = x->threads, extra = x->k - x->border;
    size_t vectors = lt_align_up((size_t)x->border, LANES) + lt_align_up((size_t)extra, LANES);
    float *a;
    LT_TRY(lt_scratch_get(backend, LT_SCRATCH_SHARED, vectors * (size_t)x->m * sizeof *a,
                          (void **)&a, err));
    interleave(&x->a[1], x->m, extra, interleave(&x->a[0], x->m, x->border, a));
#pragma omp parallel for schedule(static) num_threads(x->threads)
    for (int64_t t = 0; t < threads; t++)
        functions[x->m - 1][x->b[0].bf16](x, a, x->n * t / threads, x->n * (t + 1) / threads);
    return LT_OK;
}

/* --- Blocked --------------------------------------------------------------------------------- */

typedef void tile_function(int64_t depth, const float *a, const float *b, float *tile);

#define TILE(rows)                                                                            \
    static void tile_##rows##_1(int64_t depth, const float *a, const float *b, float *tile)   \
    {                                                                                         \
        tile_product(rows, 1, depth, a, 1, rows, b, LANES, tile, TILE_COLUMNS, false);        \
    }                                                                                         \
    static void tile_##rows##_2(int64_t depth, const float *a, const float *b, float *tile)   \
    {                                                                                         \
        tile_product(rows, 2, depth, a, 1, rows, b, TILE_COLUMNS, tile, TILE_COLUMNS, false); \
    }
#define PAIR(rows)                       \
    {                                    \
        tile_##rows##_1, tile_##rows##_2 \
    }

TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)
#if TILE_ROWS == 14
TILE(7)
TILE(8)
TILE(9)
TILE(10)
TILE(11)
TILE(12)
TILE(13)
TILE(14)
#endif

static tile_function *const tiles[TILE_ROWS][2] = {
    PAIR(1), PAIR(2), PAIR(3), PAIR(4),  PAIR(5),  PAIR(6),
#if TILE_ROWS == 14
    PAIR(7), PAIR(8), PAIR(9), PAIR(10), PAIR(11), PAIR(12), PAIR(13), PAIR(14),
#endif
};

/* An operand cut into panels of `width` lines. `slot` floats hold a packed panel of one block of k,
 * with room for what packing spills. */
typedef struct side {
    const operand *x; /* [2]: x[1] goes on from `border` */
    int64_t border, lines, width, slot;
} side;

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static void pack(float *dst, int64_t width, const operand *x, int64_t first, int64_t count,
                 int64_t p0, int64_t depth)
{
    operand known = *x; /* so that `bf16` is a constant in each loop */
    if (depth == 0) return;
    if (known.bf16)
        pack_panel(dst, width, &known, first, count, p0, depth);
    else
        pack_panel(dst, width, &known, first, count, p0, depth);
}

/* A block that reaches over the border is packed in two pieces without a seam. */
static void pack_side(const side *s, float *dst, int64_t panel, int64_t p0, int64_t depth)
{
    int64_t first = panel * s->width, count = lt_min_i64(s->width, s->lines - first);
    int64_t width = count; /* rows: just as many as there are; columns: whole vectors */
    if (s->width == TILE_COLUMNS) width = count > LANES ? TILE_COLUMNS : LANES;
    int64_t before = lt_max_i64(lt_min_i64(s->border - p0, depth), 0);
    pack(dst, width, &s->x[0], first, count, p0, before);
    pack(dst + before * width, width, &s->x[1], first, count, p0 + before - s->border,
         depth - before);
}

/* One part of the product that is done between two barriers: shared panels [first, last), and
 * blocks of k [p0, p1). */
typedef struct part {
    const product *x;
    side shared, streamed;
    bool stream_b;
    int64_t chunk; /* streamed panels of one task */
    int64_t first, last, p0, p1;
    int64_t splits; /* the shared panels are divided among so many tasks */
    float *packed, *local;
} part;

static float *shared_slot(const part *t, int64_t block, int64_t panel)
{
    return t->packed + (block * (t->last - t->first) + panel - t->first) * t->shared.slot;
}

static void pack_shared(const part *t, int64_t item)
{
    int64_t panels = t->last - t->first, block = item / panels, panel = t->first + item % panels;
    int64_t p = t->p0 + block * t->x->depth;
    pack_side(&t->shared, shared_slot(t, block, panel), panel, p,
              lt_min_i64(t->x->depth, t->p1 - p));
}

static void multiply_tile(const part *t, int64_t shared_panel, const float *shared,
                          int64_t streamed_panel, const float *streamed, int64_t p, int64_t depth)
{
    float tile[TILE_ROWS * TILE_COLUMNS] __attribute__((aligned(64)));
    const product *x = t->x;
    int64_t i0 = (t->stream_b ? shared_panel : streamed_panel) * TILE_ROWS;
    int64_t j0 = (t->stream_b ? streamed_panel : shared_panel) * TILE_COLUMNS;
    int64_t rows = lt_min_i64(TILE_ROWS, x->m - i0), columns = lt_min_i64(TILE_COLUMNS, x->n - j0);
    tiles[rows - 1][columns > LANES](depth, t->stream_b ? shared : streamed,
                                     t->stream_b ? streamed : shared, tile);
    write_tile(x, tile, i0, rows, j0, columns, p == 0, p + depth == x->k);
}

static void run_task(const part *t, int64_t task, float *local)
{
    int64_t total = divide_up(t->streamed.lines, t->streamed.width), split = task % t->splits;
    int64_t from = task / t->splits * t->chunk, to = lt_min_i64(from + t->chunk, total);
    int64_t panels = t->last - t->first;
    int64_t begin = t->first + panels * split / t->splits;
    int64_t end = t->first + panels * (split + 1) / t->splits;
    int64_t block = 0, p = t->p0;
    do { /* once even for k == 0: then the sums are 0 and the epilogue is all there is */
        int64_t depth = lt_min_i64(t->x->depth, t->p1 - p);
        for (int64_t s = from; s < to; s++)
            pack_side(&t->streamed, local + (s - from) * t->streamed.slot, s, p, depth);
        for (int64_t h = begin; h < end; h++)
            for (int64_t s = from; s < to; s++)
                multiply_tile(t, h, shared_slot(t, block, h), s,
                              local + (s - from) * t->streamed.slot, p, depth);
        p += depth;
        block++;
    } while (p < t->p1);
}

static void run_part(const part *t, int64_t local_floats)
{
    int64_t blocks = divide_up(t->p1 - t->p0, t->x->depth);
    int64_t items = blocks * (t->last - t->first);
    int64_t chunks = divide_up(divide_up(t->streamed.lines, t->streamed.width), t->chunk);
    int64_t tasks = chunks * t->splits;
#pragma omp parallel num_threads(t->x->threads)
    {
        float *local = t->local + omp_get_thread_num() * local_floats;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < items; i++)
            pack_shared(t, i);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tasks; i++)
            run_task(t, i, local);
    }
}

static lt_status blocked_product(const lt_backend *backend, const product *x, lt_err *err)
{
    side rows = {x->a, x->border, x->m, TILE_ROWS, TILE_ROWS * x->depth + LANES};
    side columns = {x->b, x->border, x->n, TILE_COLUMNS, TILE_COLUMNS * x->depth + LANES};
    part t = {.x = x, .stream_b = x->n >= x->m};
    t.shared = t.stream_b ? rows : columns;
    t.streamed = t.stream_b ? columns : rows;
    int64_t panels = divide_up(t.shared.lines, t.shared.width);
    int64_t streamed = divide_up(t.streamed.lines, t.streamed.width);
    /* chunks for some rounds over all threads, so that a slow thread is made up for */
    t.chunk = lt_min_i64(lt_max_i64(CHUNK_FLOATS / t.streamed.slot, 1),
                         divide_up(streamed, 3 * (int64_t)x->threads));
    int64_t chunks = divide_up(streamed, t.chunk);
    int64_t panels_at_once = lt_min_i64(panels, lt_max_i64(SHARED_MAX / t.shared.slot, 1));
    t.splits = lt_min_i64(divide_up(2 * (int64_t)x->threads, chunks), panels_at_once);
    if (x->threads == 1 || chunks >= 2 * x->threads) t.splits = 1;
    int64_t blocks_at_once = lt_max_i64(SHARED_MAX / (panels_at_once * t.shared.slot), 1);
    blocks_at_once = lt_min_i64(blocks_at_once, lt_max_i64(divide_up(x->k, x->depth), 1));
    int64_t local_floats = t.chunk * t.streamed.slot;
    size_t shared_bytes = (size_t)(blocks_at_once * panels_at_once * t.shared.slot) * sizeof(float);
    size_t local_bytes = (size_t)(local_floats * x->threads) * sizeof(float);
    LT_TRY(lt_scratch_get(backend, LT_SCRATCH_SHARED, shared_bytes, (void **)&t.packed, err));
    LT_TRY(lt_scratch_get(backend, LT_SCRATCH_THREADS, local_bytes, (void **)&t.local, err));
    for (t.first = 0; t.first < panels; t.first = t.last) {
        t.last = lt_min_i64(t.first + panels_at_once, panels);
        t.p0 = 0;
        do {
            t.p1 = lt_min_i64(t.p0 + blocks_at_once * x->depth, x->k);
            run_part(&t, local_floats);
            t.p0 = t.p1;
        } while (t.p0 < x->k);
    }
    return LT_OK;
}

/* --- The operation --------------------------------------------------------------------------- */

/* A matrix by its lines along k, which are its rows or, with `turned`, its columns. */
static operand operand_of(const lt_tensor *t, bool turned)
{
    operand x = {t->data, turned ? 1 : t->stride[0], turned ? t->stride[0] : 1,
                 t->dtype == LT_BF16};
    return x;
}

/* Blocks of k of nearly equal depth, in whole vectors. */
static int64_t block_depth(const product *x)
{
    int64_t blocks =
        lt_max_i64(divide_up(x->border, DEPTH_MAX), divide_up(x->k, DEPTH_MAX + DEPTH_EXTRA));
    return lt_max_i64(divide_up(divide_up(x->k, lt_max_i64(blocks, 1)), 16) * 16, 16);
}

/* v to preactivation, then silu(gate) * up of it. */
static lt_status swiglu_product(const lt_backend *backend, const lt_matmul_args *a, lt_err *err)
{
    lt_matmul_args product = *a;
    product.c = a->preactivation;
    product.preactivation = (lt_tensor){0};
    product.activation = LT_ACTIVATION_NONE;
    LT_TRY(CPU(matmul)(backend, &product, err));
    lt_swiglu_args swiglu = {.gate_up = a->preactivation, .y = a->c};
    return CPU(swiglu_forward)(backend, &swiglu, err);
}

lt_status CPU(matmul)(const lt_backend *backend, const lt_matmul_args *a, lt_err *err)
{
    if (a->activation == LT_ACTIVATION_SWIGLU) return swiglu_product(backend, a, err);
    bool a_turned = a->layout == LT_MATMUL_TN, b_turned = a->layout == LT_MATMUL_NT;
    product x = {.args = a, .m = a->c.shape[0], .n = a->c.shape[1]};
    if (x.m == 0 || x.n == 0) return LT_OK;
    x.border = x.k = a->a.shape[a_turned ? 0 : 1];
    x.a[0] = operand_of(&a->a, a_turned);
    x.b[0] = operand_of(&a->b, !b_turned);
    if (a->a_extra.data) {
        x.k += a->a_extra.shape[1];
        x.a[1] = operand_of(&a->a_extra, a_turned);
        x.b[1] = operand_of(&a->b_extra, !b_turned);
    }
    x.threads = (double)x.m * (double)x.n * (double)x.k < PARALLEL_MIN ? 1 : backend->threads;
    x.depth = block_depth(&x);
    x.early = a->activation == LT_ACTIVATION_NONE && !a->preactivation.data;
    x.partial = a->preactivation.data ? a->preactivation : a->c;
    /* Sums can wait in c only while nothing that c holds, or may alias, is needed at the end. */
    bool c_needed = !x.early && (a->accumulate || a->residual.data);
    if (c_needed && !a->preactivation.data) x.depth = lt_max_i64(x.k, 1);
    if (b_turned && x.m <= DOT_ROWS) return dot_product(backend, &x, err);
    return blocked_product(backend, &x, err);
}
