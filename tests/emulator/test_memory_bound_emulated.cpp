/* The memory-bound kernels of kernels/cuda on the emulated GPU, against kernels/ref: odd sizes,
 * strides, aliases, absent tensors, both real types, f32 and bf16 gradients. */
#include "tests/emulator/emulated_test.h"

/* A matrix whose rows start `offset` columns into their storage and have `gap` unused ones behind:
 * with an offset of 1 no vector loads are possible. */
struct layout {
    int64_t offset, gap;
};

static const layout contiguous = {0, 0}, aligned_gap = {0, 8}, odd_gap = {0, 3}, shifted = {1, 8};
static const layout layouts[] = {contiguous, aligned_gap, odd_gap, shifted};

static lt_tensor tensor(test_run *t, array_use use, lt_dtype dtype, std::vector<int64_t> shape,
                        layout how)
{
    int64_t columns = shape.back();
    shape.back() += how.offset;
    lt_tensor whole = test_tensor(t, use, dtype, shape, how.gap);
    return lt_tensor_slice(whole, (int)shape.size() - 1, how.offset, columns);
}

static lt_tensor real(test_run *t, array_use use, std::vector<int64_t> shape, layout how = {0, 0})
{
    return tensor(t, use, t->real, shape, how);
}

/* For outputs of sums: the bound of the array made last. */
static void sums_of(test_run *t, double terms)
{
    test_array *last = &t->arrays.back();
    last->absolute =
        (last->dtype == LT_BF16 || last->absolute == 0x1p-8 ? 0x1p-8 : 2e-6) * (1 + sqrt(terms));
}

#define FORMAT(...) (snprintf(case_name, sizeof case_name, __VA_ARGS__), case_name)
static char case_name[200];

/* --- Norms -------------------------------------------------------------------------------------
 */

struct norm_case {
    bool layer;
    std::vector<int64_t> shape;
    layout how;
    bool residual, bias, statistics, in_place, accumulate, frozen;
};

/* One tensor that is the other where `same`. */
static lt_tensor output_or(test_run *t, bool same, lt_tensor other, const norm_case *c)
{
    return same ? other : real(t, OUTPUT, c->shape, c->how);
}

static void norm_forward(test_run *t)
{
    const norm_case *c = (const norm_case *)t->parameters;
    int64_t dim = c->shape.back(), rows = 1;
    for (size_t d = 0; d + 1 < c->shape.size(); d++)
        rows *= c->shape[d];
    lt_norm_args a = {};
    a.eps = 1e-5;
    a.x = real(t, c->in_place && !c->residual ? INOUT : INPUT, c->shape, c->how);
    if (c->residual) {
        a.residual = real(t, c->in_place ? INOUT : INPUT, c->shape, c->how);
        a.sum = output_or(t, c->in_place, a.residual, c);
    }
    a.y = output_or(t, c->in_place && !c->residual, a.x, c);
    if (t->real == LT_BF16) test_tolerance(t, 0x1p-6, 0x1p-7);
    a.weight = real(t, INPUT, {dim});
    if (c->bias) a.bias = real(t, INPUT, {dim});
    if (c->statistics) {
        if (c->layer) a.mean = test_tensor(t, OUTPUT, LT_F32, {rows});
        if (c->layer && t->real == LT_BF16) test_tolerance(t, 2e-3, 0);
        a.rstd = test_tensor(t, OUTPUT, LT_F32, {rows});
        if (t->real == LT_BF16) test_tolerance(t, 0, dim == 1 ? 1 : 1e-2);
    }
    if (c->layer)
        TEST_CALL(t, layer_norm_forward, a);
    else
        TEST_CALL(t, rms_norm_forward, a);
}

static void norm_backward(test_run *t)
{
    const norm_case *c = (const norm_case *)t->parameters;
    int64_t dim = c->shape.back(), rows = 1;
    for (size_t d = 0; d + 1 < c->shape.size(); d++)
        rows *= c->shape[d];
    lt_norm_backward_args a = {};
    a.x = real(t, INPUT, c->shape, c->how);
    a.weight = real(t, INPUT, {dim});
    if (c->layer) a.mean = test_tensor(t, INPUT, LT_F32, {rows});
    a.rstd = test_tensor(t, INPUT, LT_F32, {rows}); /* any numbers will do */
    a.dy = real(t, c->in_place ? INOUT : INPUT, c->shape, c->how);
    a.dx = c->in_place ? a.dy : real(t, c->accumulate ? INOUT : OUTPUT, c->shape, c->how);
    a.accumulate = c->accumulate;
    if (!c->frozen) {
        a.dweight = test_tensor(t, INOUT, gradient_dtype(t), {dim});
        sums_of(t, (double)rows);
        if (c->layer && c->bias) {
            a.dbias = test_tensor(t, INOUT, gradient_dtype(t), {dim});
            sums_of(t, (double)rows);
        }
    }
    if (c->layer)
        TEST_CALL(t, layer_norm_backward, a);
    else
        TEST_CALL(t, rms_norm_backward, a);
}

/* The sum is what is normalised, as it was rounded: normalising it again gives the same bits. */
static void norm_of_sum(test_run *t)
{
    std::vector<int64_t> shape = {2, *(const int64_t *)t->parameters};
    lt_norm_args a = {}, again = {};
    a.x = real(t, INPUT, shape);
    a.residual = real(t, INPUT, shape);
    a.sum = real(t, OUTPUT, shape);
    a.weight = real(t, INPUT, {shape[1]});
    again.weight = a.weight;
    again.x = a.sum;
    a.y = real(t, OUTPUT, shape);
    test_tolerance(t, 0x1p-6, 0x1p-7);
    again.y = real(t, OUTPUT, shape);
    test_tolerance(t, 0x1p-6, 0x1p-7);
    TEST_CALL(t, layer_norm_forward, a);
    TEST_CALL(t, layer_norm_forward, again);
    size_t bytes = (size_t)lt_tensor_count(a.y) * lt_dtype_size(a.y.dtype);
    std::vector<unsigned char> once(bytes), twice(bytes);
    cudaMemcpy(once.data(), a.y.data, bytes, cudaMemcpyDefault);
    cudaMemcpy(twice.data(), again.y.data, bytes, cudaMemcpyDefault);
    if (once != twice) TEST_FAIL(t, "not the norm of the rounded sum");
}

static void run_norm(norm_case c)
{
    const char *kind = c.layer ? "layer" : "rms";
    std::string shape;
    for (int64_t n : c.shape)
        shape += std::to_string(n) + " ";
    test_case(FORMAT("%s_norm_forward [%s] offset %d gap %d%s%s", kind, shape.c_str(),
                     (int)c.how.offset, (int)c.how.gap, c.residual ? " residual" : "",
                     c.in_place ? " in place" : ""),
              norm_forward, &c);
    if (c.in_place) c.accumulate = false;
    test_case(FORMAT("%s_norm_backward [%s] offset %d gap %d%s%s%s", kind, shape.c_str(),
                     (int)c.how.offset, (int)c.how.gap, c.accumulate ? " accumulate" : "",
                     c.in_place ? " in place" : "", c.frozen ? " frozen" : ""),
              norm_backward, &c);
}

static void test_norms()
{
    for (int64_t dim : {24, 2048, 8200})
        test_case(FORMAT("norm_of_sum %d", (int)dim), norm_of_sum, &dim);
    for (int i = 0; i < 2; i++) {
        bool layer = i == 0;
        for (int64_t dim : {1, 2, 7, 8, 64, 100, 256, 264, 768, 1023, 1024})
            run_norm({layer,
                      {11, dim},
                      contiguous,
                      dim % 2 == 0,
                      layer && dim != 8,
                      true,
                      false,
                      dim % 3 == 1,
                      false});
        for (layout how : layouts)
            for (bool in_place : {false, true})
                run_norm({layer,
                          {3, 5, 48},
                          how,
                          in_place,
                          layer,
                          !in_place,
                          in_place,
                          true,
                          in_place && how.gap == 3});
        run_norm({layer, {2, 3, 2, 16}, aligned_gap, false, layer, true, true, false, false});
        run_norm({layer, {150, 24}, contiguous, true, layer, true, false, true, false});
        for (int64_t dim : {1025, 1032, 2056, 8192})
            run_norm({layer,
                      {dim < 2000 ? 19 : 2, dim},
                      contiguous,
                      dim != 1032,
                      layer,
                      true,
                      dim == 1032,
                      dim == 2056,
                      false});
        run_norm({layer, {3, 8200}, contiguous, true, layer, true, false, true, false});
        run_norm({layer, {3, 8193}, contiguous, false, layer, true, true, false, false});
        run_norm({layer, {2, 8200}, shifted, true, layer, true, true, false, true});
        run_norm({layer, {0, 64}, contiguous, false, layer, true, false, false, false});
        run_norm({layer, {3, 0}, contiguous, false, layer, false, false, false, true});
    }
}

/* --- Elementwise -------------------------------------------------------------------------------
 */

struct element_case {
    std::vector<int64_t> shape;
    layout how;
    bool in_place;
    int variant;
};

static void activation(test_run *t)
{
    const element_case *c = (const element_case *)t->parameters;
    lt_activation kind = (lt_activation)c->variant;
    uint64_t stream = t->arrays.size();
    lt_tensor x =
        test_tensor_of(t, INPUT, t->real, c->shape, c->how.gap,
                       [=](int64_t r, int64_t i) { return 6 * test_random(stream, r * 1000 + i); });
    lt_tensor y = test_tensor(t, OUTPUT, t->real, c->shape, c->how.gap);
    lt_tensor dy = test_tensor(t, c->in_place ? INOUT : INPUT, t->real, c->shape, c->how.gap);
    lt_tensor dx = c->in_place ? dy : test_tensor(t, OUTPUT, t->real, c->shape, c->how.gap);
    TEST_CALL(t, activation_forward, lt_activation_args{kind, x, y});
    TEST_CALL(t, activation_backward, lt_activation_backward_args{kind, x, dy, dx});
}

static void activation_in_place(test_run *t)
{
    const element_case *c = (const element_case *)t->parameters;
    lt_tensor x = real(t, INOUT, c->shape, c->how);
    TEST_CALL(t, activation_forward, lt_activation_args{(lt_activation)c->variant, x, x});
}

static void swiglu(test_run *t)
{
    const element_case *c = (const element_case *)t->parameters;
    int64_t rows = c->shape[0], dim = c->shape[1];
    lt_tensor gate_up = real(t, c->in_place ? INOUT : INPUT, {rows, 2 * dim}, c->how);
    lt_tensor y = real(t, OUTPUT, {rows, dim}, c->how), dy = real(t, INPUT, {rows, dim}, c->how);
    lt_tensor d = c->in_place ? gate_up : real(t, OUTPUT, {rows, 2 * dim}, c->how);
    TEST_CALL(t, swiglu_forward, lt_swiglu_args{gate_up, y});
    TEST_CALL(t, swiglu_backward, lt_swiglu_backward_args{gate_up, dy, d});
}

static void add(test_run *t)
{
    const element_case *c = (const element_case *)t->parameters;
    lt_tensor a = real(t, c->variant == 1 ? INOUT : INPUT, c->shape, c->how);
    lt_tensor b = real(t, c->variant == 2 ? INOUT : INPUT, c->shape, contiguous);
    lt_tensor y = c->variant == 1 ? a : c->variant == 2 ? b : real(t, OUTPUT, c->shape, c->how);
    TEST_CALL(t, add, lt_add_args{a, b, y});
}

/* Gradients of one number type, which need not be real. */
static void add_gradients(test_run *t)
{
    const element_case *c = (const element_case *)t->parameters;
    lt_tensor a = test_tensor(t, INOUT, gradient_dtype(t), c->shape);
    lt_tensor b = test_tensor(t, INPUT, gradient_dtype(t), c->shape);
    TEST_CALL(t, add, lt_add_args{a, b, a});
}

/* No two dimensions lie behind each other as one. */
static void add_sliced(test_run *t)
{
    lt_tensor a = real(t, INOUT, {3, 4, 5, 8}), b = real(t, INPUT, {3, 2, 3, 8});
    a = lt_tensor_slice(lt_tensor_slice(a, 1, 1, 2), 2, 2, 3);
    TEST_CALL(t, add, lt_add_args{a, b, a});
}

static void scale(test_run *t)
{
    const element_case *c = (const element_case *)t->parameters;
    lt_tensor x = real(t, c->in_place ? INOUT : INPUT, c->shape, c->how);
    lt_tensor y = c->in_place ? x : real(t, OUTPUT, c->shape, contiguous);
    TEST_CALL(t, scale, lt_scale_args{x, y, -1.75});
}

/* variant: 1 bias, 2 residual, 4 accumulate, 8 y is the residual */
static void scale_columns(test_run *t)
{
    const element_case *c = (const element_case *)t->parameters;
    lt_scale_columns_args a = {};
    bool is_residual = c->variant & 8;
    int64_t n = c->shape[1];
    a.x = real(t, c->in_place ? INOUT : INPUT, c->shape, c->how);
    a.scale = test_tensor(t, INPUT, LT_F32, {n});
    if (c->variant & 1) a.bias = real(t, INPUT, {n});
    if (c->variant & 2) a.residual = real(t, is_residual ? INOUT : INPUT, c->shape, c->how);
    a.accumulate = c->variant & 4;
    a.shift = 1;
    a.y = is_residual   ? a.residual
          : c->in_place ? a.x
                        : real(t, a.accumulate ? INOUT : OUTPUT, c->shape, c->how);
    TEST_CALL(t, scale_columns, a);
}

static void dropout(test_run *t)
{
    const element_case *c = (const element_case *)t->parameters;
    lt_dropout_mask mask = {c->variant / 8.0, 0x123456789abcdefu, 0xfedcba9876543210u};
    lt_tensor x = test_tensor_of(t, c->in_place ? INOUT : INPUT, t->real, c->shape, 0,
                                 [](int64_t row, int64_t column) {
                                     return column % 16 == 5 ? INFINITY : (double)(row + column);
                                 });
    x = lt_tensor_slice(x, 0, c->how.offset, c->shape[0] - c->how.offset);
    lt_tensor y = c->in_place ? x : real(t, OUTPUT, {x.shape[0]});
    TEST_CALL(t, dropout, lt_dropout_args{x, y, mask});
}

static void zero(test_run *t)
{
    const element_case *c = (const element_case *)t->parameters;
    lt_tensor y = test_tensor(t, INOUT, (lt_dtype)c->variant, c->shape);
    TEST_CALL(t, zero, lt_zero_args{lt_tensor_slice(y, 0, 1, c->shape[0] - 1)});
}

static void test_elementwise()
{
    test_case("add sliced", add_sliced, nullptr);
    for (int64_t n : {0, 1, 37, 512, 2305}) {
        element_case c = {{n}, contiguous, true, 0};
        test_case(FORMAT("add gradients %d", (int)n), add_gradients, &c);
    }
    for (layout how : layouts)
        for (bool in_place : {false, true}) {
            int i = in_place;
            for (std::vector<int64_t> shape :
                 {std::vector<int64_t>{5, 37}, {3, 32}, {2, 3, 2, 8}, {300, 8}, {0, 8}, {2, 0}}) {
                element_case c = {shape, how, in_place, i++ % 3};
                const char *what =
                    FORMAT("offset %d gap %d%s %d dims, last %d", (int)how.offset, (int)how.gap,
                           in_place ? " in place" : "", (int)shape.size(), (int)shape.back());
                std::string name = what;
                test_case(("add " + name).c_str(), add, &c);
                test_case(("scale " + name).c_str(), scale, &c);
                c.variant = 1 + i % 5;
                test_case(("activation " + name).c_str(), activation_in_place, &c);
                if (shape.size() > 2) continue;
                test_case(("swiglu " + name).c_str(), swiglu, &c);
                for (int variant : {0, 1, 2, 4, 7, 10, 11}) {
                    c.variant = variant;
                    test_case(("scale_columns " + name).c_str(), scale_columns, &c);
                }
            }
        }
    for (int kind = LT_ACTIVATION_NONE; kind <= LT_ACTIVATION_TANH; kind++)
        for (int64_t columns : {33, 64}) {
            element_case c = {
                {3, columns}, columns == 64 ? aligned_gap : contiguous, kind % 2 == 0, kind};
            test_case(FORMAT("activation %d, %d columns", kind, (int)columns), activation, &c);
        }
    for (int rate : {0, 1, 4, 7})
        for (int64_t count : {0, 1, 6, 64, 1029, 4099}) {
            element_case c = {{count}, contiguous, rate == 4, rate};
            test_case(FORMAT("dropout %d/8 of %d", rate, (int)count), dropout, &c);
            c = {{count + 3}, {3, 0}, rate == 1, rate};
            test_case(FORMAT("dropout %d/8 of %d, shifted", rate, (int)count), dropout, &c);
        }
    for (int dtype : {LT_F32, LT_F64, LT_BF16, LT_F16, LT_I32, LT_U8}) {
        element_case c = {{77}, contiguous, false, dtype};
        test_case(FORMAT("zero %s", lt_dtype_name((lt_dtype)dtype)), zero, &c);
    }
}

/* --- Conversion --------------------------------------------------------------------------------
 */

struct convert_case {
    lt_dtype from, to;
    int64_t offset;
};

/* Numbers at and next to where roundings change, in steps of `dtype` where it is coarse. */
static double boundary(lt_dtype dtype, int64_t i)
{
    static const double near[] = {0,        1,          65504,       65520,    0x1p-14,  0x1p-24,
                                  0x1p-25,  0x1.8p-24,  0x1.002p0,   0x1.01p0, 0x1.03p0, 0x1p-133,
                                  0x1p-134, 0x1.FFp127, 0x1.FF8p127, 0x1p-149, 1e300,    INFINITY};
    int64_t count = (int64_t)(sizeof near / sizeof near[0]);
    double x = near[i % count] * (i / count % 2 ? -1 : 1);
    if (dtype == LT_F64) /* so that rounding twice would go wrong */
        for (int64_t k = i / count / 2 % 5; k > 0; k--)
            x = nextafter(x, k % 2 ? INFINITY : -INFINITY);
    if (dtype == LT_F32)
        for (int64_t k = i / count / 2 % 3; k > 0; k--)
            x = nextafterf((float)x, k == 1 ? INFINITY : 0);
    return i % 97 == 96 ? NAN : i / count / 2 > 5 ? x * test_random(1, i) : x;
}

static void convert(test_run *t)
{
    const convert_case *c = (const convert_case *)t->parameters;
    lt_dtype from = c->from;
    int64_t count = from == LT_F16 || from == LT_BF16 ? 65536 : 1003;
    lt_tensor x = test_tensor_of(
        t, INPUT, from, {count}, 0,
        [=](int64_t, int64_t i) {
            bf16 bits = {(uint16_t)i};
            return from == LT_F16    ? (double)i
                   : from == LT_BF16 ? to_float(bits)
                                     : boundary(from, i);
        },
        true);
    lt_tensor y = test_tensor_of(t, OUTPUT, c->to, {count}, 0, nullptr, true);
    test_tolerance(t, 0, 0);
    x = lt_tensor_slice(x, 0, c->offset, count - c->offset);
    y = lt_tensor_slice(y, 0, c->offset, count - c->offset);
    TEST_CALL(t, convert, lt_convert_args{x, y});
}

static void test_convert()
{
    for (lt_dtype from : {LT_F32, LT_F64, LT_BF16, LT_F16})
        for (lt_dtype to : {LT_F32, LT_F64, LT_BF16, LT_F16})
            for (int64_t offset : {0, 1}) {
                convert_case c = {from, to, offset};
                test_case(FORMAT("convert %s to %s, offset %d", lt_dtype_name(from),
                                 lt_dtype_name(to), (int)offset),
                          convert, &c);
            }
}

/* --- Rotary, rows, cache -----------------------------------------------------------------------
 */

struct rotary_case {
    int64_t batch, length, heads, head_dim, rotary_dim;
    layout how;
    bool inverse;
};

static void rotary(test_run *t)
{
    const rotary_case *c = (const rotary_case *)t->parameters;
    int64_t width = c->heads * c->head_dim, positions = 50;
    lt_tensor x = real(t, INOUT, {c->batch * c->length, width}, c->how);
    lt_tensor ids = test_integers(t, c->batch * c->length, positions);
    lt_tensor cos = test_tensor(t, INPUT, LT_F32, {positions, c->rotary_dim / 2}, c->how.gap);
    lt_tensor sin = test_tensor(t, INPUT, LT_F32, {positions, c->rotary_dim / 2}, c->how.gap);
    x = lt_tensor_as_heads(x, c->batch, c->heads, c->head_dim);
    TEST_CALL(t, rotary, lt_rotary_args{x, ids, cos, sin, c->inverse});
}

struct rows_case {
    int64_t rows, dim, table_rows;
    layout how;
    bool positions, bf16_table;
};

static void embedding(test_run *t)
{
    const rows_case *c = (const rows_case *)t->parameters;
    lt_embedding_args a = {};
    a.y = real(t, OUTPUT, {c->rows, c->dim}, c->how);
    a.ids = test_integers(t, c->rows, c->table_rows);
    a.token_table =
        tensor(t, INPUT, c->bf16_table ? LT_BF16 : t->real, {c->table_rows, c->dim}, c->how);
    if (c->positions) {
        a.positions = test_integers(t, c->rows, 5);
        a.position_table = real(t, INPUT, {5, c->dim}, c->how);
    }
    TEST_CALL(t, embedding_forward, a);
}

static void embedding_backward(test_run *t)
{
    const rows_case *c = (const rows_case *)t->parameters;
    lt_embedding_backward_args a = {};
    a.dy = real(t, INPUT, {c->rows, c->dim}, c->how);
    a.ids = test_integers(t, c->rows, c->table_rows);
    a.dtoken_table = tensor(t, INOUT, gradient_dtype(t), {c->table_rows, c->dim}, c->how);
    sums_of(t, 4);
    if (c->positions) {
        a.positions = test_integers(t, c->rows, 5);
        a.dposition_table = tensor(t, INOUT, gradient_dtype(t), {5, c->dim}, contiguous);
        sums_of(t, (double)c->rows / 5);
    }
    TEST_CALL(t, embedding_backward, a);
}

static lt_tensor permutation(test_run *t, int64_t count, int64_t bound)
{
    return test_tensor_of(t, INPUT, LT_I32, {count}, 0, [=](int64_t, int64_t i) {
        return (double)((i * 7 + 3) % bound); /* distinct: no bound is a multiple of 7 */
    });
}

static void gather_rows(test_run *t)
{
    const rows_case *c = (const rows_case *)t->parameters;
    lt_tensor x = real(t, INPUT, {c->table_rows, c->dim}, c->how);
    lt_tensor y = real(t, OUTPUT, {c->rows, c->dim}, aligned_gap);
    TEST_CALL(t, gather_rows, lt_rows_args{x, y, test_integers(t, c->rows, c->table_rows)});
}

static void scatter_rows(test_run *t)
{
    const rows_case *c = (const rows_case *)t->parameters;
    int64_t rows = c->rows < c->table_rows ? c->rows : c->table_rows;
    lt_tensor x = real(t, INPUT, {rows, c->dim}, aligned_gap);
    lt_tensor y = real(t, OUTPUT, {c->table_rows, c->dim}, c->how);
    TEST_CALL(t, scatter_rows, lt_rows_args{x, y, permutation(t, rows, c->table_rows)});
}

struct cache_case {
    int64_t batch, length, capacity, heads, head_dim;
    layout how;
};

static void cache_append(test_run *t)
{
    const cache_case *c = (const cache_case *)t->parameters;
    int64_t width = c->heads * c->head_dim, room = c->capacity - c->length;
    lt_tensor kv = real(t, INPUT, {c->batch * c->length, 2 * width}, c->how);
    lt_cache_append_args a = {};
    a.k = lt_tensor_as_heads(lt_tensor_slice(kv, 1, 0, width), c->batch, c->heads, c->head_dim);
    a.v = lt_tensor_as_heads(lt_tensor_slice(kv, 1, width, width), c->batch, c->heads, c->head_dim);
    a.k_cache = real(t, INOUT, {c->batch, c->capacity, c->heads, c->head_dim});
    a.v_cache = real(t, INOUT, {c->batch, c->capacity, c->heads, c->head_dim});
    a.offset = test_integers(t, c->batch, room + 1);
    TEST_CALL(t, cache_append, a);
}

static void test_rows()
{
    for (layout how : layouts) {
        for (rotary_case c : {rotary_case{2, 5, 3, 32, 32, how, false},
                              {1, 7, 2, 40, 16, how, true},
                              {2, 3, 1, 9, 6, how, true},
                              {1, 2, 2, 8, 0, how, false}})
            test_case(FORMAT("rotary %d of %d, offset %d gap %d", (int)c.rotary_dim,
                             (int)c.head_dim, (int)how.offset, (int)how.gap),
                      rotary, &c);
        for (rows_case c : {rows_case{20, 24, 7 * 9 + 1, how, true, false},
                            {9, 13, 5, how, false, true},
                            {3, 520, 20, how, true, true},
                            {0, 8, 3, how, false, false},
                            {1, 8, 1, how, true, false}}) {
            std::string name = FORMAT("%d rows of %d, table %d, offset %d gap %d", (int)c.rows,
                                      (int)c.dim, (int)c.table_rows, (int)how.offset, (int)how.gap);
            test_case(("embedding_forward " + name).c_str(), embedding, &c);
            test_case(("embedding_backward " + name).c_str(), embedding_backward, &c);
            test_case(("gather_rows " + name).c_str(), gather_rows, &c);
            test_case(("scatter_rows " + name).c_str(), scatter_rows, &c);
        }
        for (cache_case c : {cache_case{2, 3, 7, 2, 16, how}, {3, 1, 4, 1, 5, how}})
            test_case(FORMAT("cache_append head_dim %d offset %d gap %d", (int)c.head_dim,
                             (int)how.offset, (int)how.gap),
                      cache_append, &c);
    }
    /* several tiles of the sort; many rows of one id, more than a block's warps share; three digits
     */
    for (rows_case c : {rows_case{1100, 8, 300, contiguous, true, false},
                        {2500, 3, 5000, contiguous, false, false},
                        {1500, 272, 3, contiguous, true, false}}) {
        test_case(FORMAT("embedding_backward %d rows of %d, table %d", (int)c.rows, (int)c.dim,
                         (int)c.table_rows),
                  embedding_backward, &c);
    }
}

/* --- Column sums, DoRA -------------------------------------------------------------------------
 */

struct columns_case {
    int64_t rows, columns;
    layout how;
};

static void bias_backward(test_run *t)
{
    const columns_case *c = (const columns_case *)t->parameters;
    lt_tensor dy = real(t, INPUT, {c->rows, c->columns}, c->how);
    lt_tensor dbias = test_tensor(t, INOUT, gradient_dtype(t), {c->columns});
    sums_of(t, (double)c->rows);
    TEST_CALL(t, bias_backward, lt_bias_backward_args{dbias, dy});
}

static void dora_backward(test_run *t)
{
    const columns_case *c = (const columns_case *)t->parameters;
    lt_tensor dy = real(t, INPUT, {c->rows, c->columns}, c->how);
    lt_tensor z = real(t, INPUT, {c->rows, c->columns}, odd_gap);
    lt_tensor norm = test_tensor_of(t, INPUT, LT_F32, {c->columns}, 0, [](int64_t, int64_t i) {
        return i % 5 == 2 ? 0 : 1 + 0.1 * (double)(i % 7);
    });
    lt_tensor d = test_tensor(t, INOUT, gradient_dtype(t), {c->columns});
    sums_of(t, (double)c->rows);
    TEST_CALL(t, dora_backward, lt_dora_backward_args{dy, z, norm, d});
}

struct dora_case {
    int64_t out, in, rank;
    layout how;
    bool bf16_weight, magnitude;
};

static void dora_norm(test_run *t)
{
    const dora_case *c = (const dora_case *)t->parameters;
    lt_dora_norm_args a = {};
    int64_t zero_row = c->out / 2; /* of W and B: it has no direction */
    a.scaling = 0.75;
    a.weight = test_tensor_of(t, INPUT, c->bf16_weight ? LT_BF16 : t->real, {c->out, c->in},
                              c->how.gap, [=](int64_t row, int64_t column) {
                                  return row == zero_row ? 0 : test_random(7, row * 999 + column);
                              });
    a.a = real(t, INPUT, {c->rank, c->in}, c->how);
    a.b = test_tensor_of(t, INPUT, t->real, {c->out, c->rank}, c->how.gap,
                         [=](int64_t row, int64_t column) {
                             return row == zero_row ? 0 : test_random(8, row * 999 + column);
                         });
    a.norm = test_tensor(t, OUTPUT, LT_F32, {c->out});
    if (c->magnitude) {
        a.magnitude = real(t, INPUT, {c->out});
        a.scale = test_tensor(t, OUTPUT, LT_F32, {c->out});
    }
    TEST_CALL(t, dora_norm, a);
}

static void test_columns()
{
    for (layout how : layouts)
        for (columns_case c : {columns_case{5, 37, how},
                               {130, 64, how},
                               {1, 8, how},
                               {301, 300, how},
                               {0, 8, how},
                               {900, 1, how},
                               {3, 1048, how}}) {
            std::string name = FORMAT("%d x %d offset %d gap %d", (int)c.rows, (int)c.columns,
                                      (int)how.offset, (int)how.gap);
            test_case(("bias_backward " + name).c_str(), bias_backward, &c);
            test_case(("dora_backward " + name).c_str(), dora_backward, &c);
        }
    for (layout how : layouts)
        for (dora_case c : {dora_case{37, 64, 4, how, false, true},
                            {3, 300, 1, how, true, true},
                            {65, 17, 3, how, true, false},
                            {1, 8, 0, how, false, true},
                            {0, 8, 2, how, false, true}})
            test_case(FORMAT("dora_norm %d x %d rank %d offset %d gap %d", (int)c.out, (int)c.in,
                             (int)c.rank, (int)how.offset, (int)how.gap),
                      dora_norm, &c);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    test_norms();
    test_elementwise();
    test_convert();
    test_rows();
    test_columns();
    return test_end();
}
