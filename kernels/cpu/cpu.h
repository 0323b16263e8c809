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

#endif
