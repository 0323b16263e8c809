/* The operations for x86 with SIMD and threads. Every file here is compiled once for AVX2 and once
 * for AVX-512; vec.h hides the difference. */
#ifndef LT_KERNELS_CPU_H
#define LT_KERNELS_CPU_H

#include "kernels/internal.h"

#ifdef __AVX512F__
#define CPU(name) lt_avx512_##name
#else
#define CPU(name) lt_avx2_##name
#endif

#define LT_DECLARE(name, args) \
    lt_status CPU(name)(const lt_backend *backend, const args *a, lt_err *err);
LT_OPERATIONS(LT_DECLARE)
#undef LT_DECLARE

/* What a vectorised operation leaves to the reference. */
lt_status lt_ref_f32_convert(const lt_backend *backend, const lt_convert_args *a, lt_err *err);

/* Threads for `elements` of elementwise work: one when starting the others would cost more. */
static inline int threads_for(const lt_backend *backend, int64_t elements)
{
    return elements < (16 << 10) ? 1 : backend->threads;
}

/* Elementwise operations on rows are cut into pieces of a row, whatever the shape. */
#define PIECE 4096

typedef struct pieces {
    int64_t count, per_row, length; /* length of a row */
} pieces;

static inline pieces pieces_of(const lt_tensor *t)
{
    int64_t length = lt_row_length(t), per_row = (length + PIECE - 1) / PIECE;
    pieces p = {lt_row_count(t) * per_row, per_row, length};
    return p;
}

static inline float *piece_of(const lt_tensor *t, const pieces *p, int64_t piece)
{
    return (float *)t->data + lt_row_offset(t, piece / p->per_row) + piece % p->per_row * PIECE;
}

static inline int64_t piece_length(const pieces *p, int64_t piece)
{
    int64_t left = p->length - piece % p->per_row * PIECE;
    return left < PIECE ? left : PIECE;
}

#endif
