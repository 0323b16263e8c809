/* Tensor views: shapes and strides, no memory. */
#include "kernels/kernels.h"

size_t lt_dtype_size(lt_dtype dtype)
{
    static const size_t sizes[LT_DTYPE_COUNT] = {
        [LT_F32] = 4, [LT_F64] = 8, [LT_BF16] = 2, [LT_F16] = 2, [LT_I32] = 4, [LT_U8] = 1};
    return (unsigned)dtype < LT_DTYPE_COUNT ? sizes[dtype] : 0;
}

const char *lt_dtype_name(lt_dtype dtype)
{
    static const char *const names[LT_DTYPE_COUNT] = {
        [LT_F32] = "f32", [LT_F64] = "f64", [LT_BF16] = "bf16",
        [LT_F16] = "f16", [LT_I32] = "i32", [LT_U8] = "u8"};
    return (unsigned)dtype < LT_DTYPE_COUNT ? names[dtype] : "unknown dtype";
}

static lt_tensor contiguous(void *data, lt_dtype dtype, int ndim, const int64_t *shape)
{
    lt_tensor t = {.data = data, .dtype = dtype, .ndim = ndim};
    int64_t stride = 1;
    for (int d = ndim - 1; d >= 0; d--) {
        t.shape[d] = shape[d];
        t.stride[d] = stride;
        stride *= shape[d];
    }
    return t;
}

lt_tensor lt_tensor_1d(void *data, lt_dtype dtype, int64_t n0)
{
    return contiguous(data, dtype, 1, &n0);
}

lt_tensor lt_tensor_2d(void *data, lt_dtype dtype, int64_t n0, int64_t n1)
{
    return contiguous(data, dtype, 2, (const int64_t[]){n0, n1});
}

lt_tensor lt_tensor_3d(void *data, lt_dtype dtype, int64_t n0, int64_t n1, int64_t n2)
{
    return contiguous(data, dtype, 3, (const int64_t[]){n0, n1, n2});
}

lt_tensor lt_tensor_4d(void *data, lt_dtype dtype, int64_t n0, int64_t n1, int64_t n2, int64_t n3)
{
    return contiguous(data, dtype, 4, (const int64_t[]){n0, n1, n2, n3});
}

lt_tensor lt_tensor_slice(lt_tensor t, int dim, int64_t start, int64_t count)
{
    t.shape[dim] = count;
    if (t.data) {
        int64_t bytes = start * t.stride[dim] * (int64_t)lt_dtype_size(t.dtype);
        t.data = (unsigned char *)t.data + bytes;
    }
    return t;
}

lt_tensor lt_tensor_as_heads(lt_tensor t, int64_t batch, int64_t heads, int64_t head_dim)
{
    int64_t length = batch ? t.shape[0] / batch : 0;
    int64_t row = t.stride[0];
    return (lt_tensor){.data = t.data,
                       .dtype = t.dtype,
                       .ndim = 4,
                       .shape = {batch, length, heads, head_dim},
                       .stride = {length * row, row, head_dim, 1}};
}

int64_t lt_tensor_count(lt_tensor t)
{
    if (!t.data) return 0;
    int64_t count = 1;
    for (int d = 0; d < t.ndim; d++)
        count *= t.shape[d];
    return count;
}

bool lt_tensor_is_contiguous(lt_tensor t)
{
    int64_t stride = 1;
    for (int d = t.ndim - 1; d >= 0; d--) {
        if (t.shape[d] > 1 && t.stride[d] != stride) return false;
        stride *= t.shape[d];
    }
    return true;
}
