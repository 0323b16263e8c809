/* CUDA's built-in variables and functions for device code: those that kernels/cuda uses or may come
 * to use. There is deliberately no __shared__ (see shared_memory in ptx.cuh), no __activemask and
 * no atomic on floating-point numbers. */
#ifndef LT_EMULATOR_INTRINSICS_H
#define LT_EMULATOR_INTRINSICS_H

#include <math.h>
#include <string.h>

#include "tests/emulator/machine.h"

#define threadIdx (*emulator_thread_index)
#define blockIdx  (emulator_block_index)
#define blockDim  (emulator_block_dim)
#define gridDim   (emulator_grid_dim)

static const int warpSize = 32;

/* --- Barriers, fences -------------------------------------------------------------------- */

static inline void __syncthreads()
{
    emulator_barrier(0, 0, false);
}

static inline int __syncthreads_count(int predicate)
{
    return emulator_barrier(0, 0, predicate != 0);
}

static inline int __syncthreads_or(int predicate)
{
    return emulator_barrier(0, 0, predicate != 0) != 0;
}

static inline int __syncthreads_and(int predicate)
{
    return emulator_barrier(0, 0, predicate == 0) == 0;
}

static inline void emulator_meet_only(uint32_t, void *const[32])
{
}

static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    emulator_warp_meet(mask, "__syncwarp", emulator_meet_only, nullptr);
}

/* One thread runs at a time, so memory is always up to date. */
static inline void __threadfence()
{
}

static inline void __threadfence_block()
{
}

[[noreturn]] static inline void __trap()
{
    emulator_fail("__trap");
}

/* --- Shuffles ---------------------------------------------------------------------------- */

template <typename T> struct emulator_shuffle {
    T value, result;
    int source; /* lane */
};

template <typename T> static void emulator_do_shuffle(uint32_t mask, void *const requests[32])
{
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        auto *request = static_cast<emulator_shuffle<T> *>(requests[lane]);
        if (!(mask >> request->source & 1))
            emulator_fail("shuffle: lane %d reads lane %d, which is not in the mask %08x", lane,
                          request->source, mask);
        request->result = static_cast<emulator_shuffle<T> *>(requests[request->source])->value;
    }
}

template <typename T>
static inline T emulator_shuffle_from(unsigned mask, const char *name, T value, int source)
{
    emulator_shuffle<T> request = {value, value, source};
    emulator_warp_meet(mask, name, emulator_do_shuffle<T>, &request);
    return request.result;
}

static inline int emulator_lane()
{
    const uint3 &i = *emulator_thread_index;
    return (i.x + emulator_block_dim.x * (i.y + emulator_block_dim.y * i.z)) % 32;
}

/* Lanes outside of the group of `width` lanes give the caller its own value back, except that
 * __shfl_xor_sync reaches groups before its own (PTX ISA, "shfl.sync"). */
#define EMULATOR_SHUFFLES(T)                                                              \
    static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32)       \
    {                                                                                     \
        int lane = emulator_lane();                                                       \
        return emulator_shuffle_from(mask, "__shfl_sync", value,                          \
                                     (lane & ~(width - 1)) | (source & (width - 1)));     \
    }                                                                                     \
    static inline T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32)       \
    {                                                                                     \
        int lane = emulator_lane(), source = lane ^ (by & 31);                            \
        return emulator_shuffle_from(mask, "__shfl_xor_sync", value,                      \
                                     source > (lane | (width - 1)) ? lane : source);      \
    }                                                                                     \
    static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) \
    {                                                                                     \
        int lane = emulator_lane(), source = lane + (int)(by & 31);                       \
        return emulator_shuffle_from(mask, "__shfl_down_sync", value,                     \
                                     source > (lane | (width - 1)) ? lane : source);      \
    }                                                                                     \
    static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32)   \
    {                                                                                     \
        int lane = emulator_lane(), source = lane - (int)(by & 31);                       \
        return emulator_shuffle_from(mask, "__shfl_up_sync", value,                       \
                                     source < (lane & ~(width - 1)) ? lane : source);     \
    }

EMULATOR_SHUFFLES(int)
EMULATOR_SHUFFLES(unsigned)
EMULATOR_SHUFFLES(long)
EMULATOR_SHUFFLES(unsigned long)
EMULATOR_SHUFFLES(long long)
EMULATOR_SHUFFLES(unsigned long long)
EMULATOR_SHUFFLES(float)
EMULATOR_SHUFFLES(double)
#undef EMULATOR_SHUFFLES

/* --- Votes, sums over a warp ------------------------------------------------------------- */

struct emulator_vote {
    bool predicate;
    unsigned ballot;
};

static inline void emulator_do_vote(uint32_t mask, void *const requests[32])
{
    unsigned ballot = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && static_cast<emulator_vote *>(requests[lane])->predicate)
            ballot |= 1u << lane;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) static_cast<emulator_vote *>(requests[lane])->ballot = ballot;
}

static inline unsigned emulator_ballot(unsigned mask, const char *name, int predicate)
{
    emulator_vote request = {predicate != 0, 0};
    emulator_warp_meet(mask, name, emulator_do_vote, &request);
    return request.ballot;
}

static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    return emulator_ballot(mask, "__ballot_sync", predicate);
}

static inline int __any_sync(unsigned mask, int predicate)
{
    return emulator_ballot(mask, "__any_sync", predicate) != 0;
}

static inline int __all_sync(unsigned mask, int predicate)
{
    return emulator_ballot(mask, "__all_sync", predicate) == mask;
}

template <typename T> struct emulator_reduction {
    T value, result;
    T (*combine)(T, T);
};

template <typename T> static void emulator_do_reduce(uint32_t mask, void *const requests[32])
{
    emulator_reduction<T> *first = nullptr;
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        auto *request = static_cast<emulator_reduction<T> *>(requests[lane]);
        if (!first)
            (first = request)->result = request->value;
        else
            first->result = first->combine(first->result, request->value);
    }
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1)
            static_cast<emulator_reduction<T> *>(requests[lane])->result = first->result;
}

template <typename T>
static inline T emulator_reduce(unsigned mask, const char *name, T value, T (*combine)(T, T))
{
    emulator_reduction<T> request = {value, value, combine};
    emulator_warp_meet(mask, name, emulator_do_reduce<T>, &request);
    return request.result;
}

#define EMULATOR_REDUCTION(name, T, expression)                                                  \
    static inline T name(unsigned mask, T value)                                                 \
    {                                                                                            \
        return emulator_reduce<T>(mask, #name, value, [](T a, T b) -> T { return expression; }); \
    }
EMULATOR_REDUCTION(__reduce_add_sync, unsigned, a + b)
EMULATOR_REDUCTION(__reduce_add_sync, int, (int)((unsigned)a + (unsigned)b))
EMULATOR_REDUCTION(__reduce_min_sync, unsigned, a < b ? a : b)
EMULATOR_REDUCTION(__reduce_min_sync, int, a < b ? a : b)
EMULATOR_REDUCTION(__reduce_max_sync, unsigned, a > b ? a : b)
EMULATOR_REDUCTION(__reduce_max_sync, int, a > b ? a : b)
EMULATOR_REDUCTION(__reduce_and_sync, unsigned, a &b)
EMULATOR_REDUCTION(__reduce_or_sync, unsigned, a | b)
EMULATOR_REDUCTION(__reduce_xor_sync, unsigned, a ^ b)
#undef EMULATOR_REDUCTION

/* --- Atomics: on integers ---------------------------------------------------------------- */

#define EMULATOR_ATOMIC(name, T, expression)  \
    static inline T name(T *address, T value) \
    {                                         \
        T old = *address;                     \
        *address = expression;                \
        return old;                           \
    }
#define EMULATOR_ATOMICS(T)                                   \
    EMULATOR_ATOMIC(atomicMax, T, old > value ? old : value)  \
    EMULATOR_ATOMIC(atomicMin, T, old < value ? old : value)  \
    EMULATOR_ATOMIC(atomicOr, T, old | value)                 \
    EMULATOR_ATOMIC(atomicAnd, T, old &value)                 \
    EMULATOR_ATOMIC(atomicXor, T, old ^ value)                \
    EMULATOR_ATOMIC(atomicExch, T, value)                     \
    static inline T atomicCAS(T *address, T compare, T value) \
    {                                                         \
        T old = *address;                                     \
        *address = old == compare ? value : old;              \
        return old;                                           \
    }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(unsigned long long)
EMULATOR_ATOMIC(atomicAdd, int, (int)((unsigned)old + (unsigned)value))
EMULATOR_ATOMIC(atomicAdd, unsigned, old + value)
EMULATOR_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATOR_ATOMIC(atomicSub, int, (int)((unsigned)old - (unsigned)value))
EMULATOR_ATOMIC(atomicSub, unsigned, old - value)
static inline unsigned atomicInc(unsigned *address, unsigned limit)
{
    unsigned old = *address;
    *address = old >= limit ? 0 : old + 1;
    return old;
}
#undef EMULATOR_ATOMICS
#undef EMULATOR_ATOMIC

/* --- Loads and stores with a hint -------------------------------------------------------- */

#define EMULATOR_LOAD(name)                                \
    template <typename T> static inline T name(const T *p) \
    {                                                      \
        return *p;                                         \
    }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldlu)
EMULATOR_LOAD(__ldcv)
#undef EMULATOR_LOAD
#define EMULATOR_STORE(name)                                     \
    template <typename T> static inline void name(T *p, T value) \
    {                                                            \
        *p = value;                                              \
    }
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stwt)
#undef EMULATOR_STORE

/* --- Bits -------------------------------------------------------------------------------- */

template <typename To, typename From> static inline To emulator_bits(From x)
{
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

static inline int __float_as_int(float x)
{
    return emulator_bits<int>(x);
}

static inline unsigned __float_as_uint(float x)
{
    return emulator_bits<unsigned>(x);
}

static inline float __int_as_float(int x)
{
    return emulator_bits<float>(x);
}

static inline float __uint_as_float(unsigned x)
{
    return emulator_bits<float>(x);
}

static inline long long __double_as_longlong(double x)
{
    return emulator_bits<long long>(x);
}

static inline double __longlong_as_double(long long x)
{
    return emulator_bits<double>(x);
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}

static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}

static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}

static inline unsigned __brev(unsigned x)
{
    unsigned y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1) << (31 - i);
    return y;
}

static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned pick = selector >> 4 * i & 15, byte = (unsigned)(both >> 8 * (pick & 7)) & 0xff;
        if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
        result |= byte << 8 * i;
    }
    return result;
}

static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by)
{
    return (unsigned)(((uint64_t)high << 32 | low) << (by & 31) >> 32);
}

static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31));
}

static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}

static inline int __mulhi(int a, int b)
{
    return (int)((int64_t)a * b >> 32);
}

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

/* --- Arithmetic -------------------------------------------------------------------------- */

/* glibc declares some of these names itself, hence macros. */
#define __expf(x)          expf(x)
#define __exp10f(x)        exp10f(x)
#define __logf(x)          logf(x)
#define __log2f(x)         log2f(x)
#define __log10f(x)        log10f(x)
#define __sinf(x)          sinf(x)
#define __cosf(x)          cosf(x)
#define __powf(x, y)       powf(x, y)
#define __fdividef(x, y)   ((float)(x) / (float)(y))
#define __fadd_rn(x, y)    ((float)(x) + (float)(y))
#define __fsub_rn(x, y)    ((float)(x) - (float)(y))
#define __fmul_rn(x, y)    ((float)(x) * (float)(y))
#define __fdiv_rn(x, y)    ((float)(x) / (float)(y))
#define __frcp_rn(x)       (1.0f / (float)(x))
#define __fsqrt_rn(x)      sqrtf(x)
#define __fmaf_rn(x, y, z) fmaf(x, y, z)
#define __fma_rn(x, y, z)  fma(x, y, z)
#define __dadd_rn(x, y)    ((double)(x) + (double)(y))
#define __dmul_rn(x, y)    ((double)(x) * (double)(y))

static inline float rsqrtf(float x)
{
    return 1 / sqrtf(x);
}

static inline double rsqrt(double x)
{
    return 1 / sqrt(x);
}

static inline float __saturatef(float x)
{
    return x > 0 ? x < 1 ? x : 1 : 0; /* NaN: 0 */
}

/* Conversions to integers stop at the ends of their range, and NaN gives 0. */
template <typename To> static inline To emulator_to_integer(double x)
{
    const double low = sizeof(To) == 4 ? ((To)-1 < 0 ? -0x1p31 : 0) : ((To)-1 < 0 ? -0x1p63 : 0);
    const double end =
        sizeof(To) == 4 ? ((To)-1 < 0 ? 0x1p31 : 0x1p32) : ((To)-1 < 0 ? 0x1p63 : 0x1p64);
    if (x != x) return 0;
    if (x < low) return (To)low;
    if (x >= end)
        return (To)((To)-1 < 0 ? ~((unsigned long long)1 << (8 * sizeof(To) - 1)) : ~0ull);
    return (To)x;
}

#define EMULATOR_CONVERSIONS(from, name, To)          \
    static inline To __##from##2##name##_rn(from x)   \
    {                                                 \
        return emulator_to_integer<To>(nearbyint(x)); \
    }                                                 \
    static inline To __##from##2##name##_rz(from x)   \
    {                                                 \
        return emulator_to_integer<To>(trunc(x));     \
    }                                                 \
    static inline To __##from##2##name##_rd(from x)   \
    {                                                 \
        return emulator_to_integer<To>(floor(x));     \
    }                                                 \
    static inline To __##from##2##name##_ru(from x)   \
    {                                                 \
        return emulator_to_integer<To>(ceil(x));      \
    }
EMULATOR_CONVERSIONS(float, int, int)
EMULATOR_CONVERSIONS(float, uint, unsigned)
EMULATOR_CONVERSIONS(float, ll, long long)
EMULATOR_CONVERSIONS(float, ull, unsigned long long)
EMULATOR_CONVERSIONS(double, int, int)
EMULATOR_CONVERSIONS(double, uint, unsigned)
EMULATOR_CONVERSIONS(double, ll, long long)
EMULATOR_CONVERSIONS(double, ull, unsigned long long)
#undef EMULATOR_CONVERSIONS

static inline float __int2float_rn(int x)
{
    return (float)x;
}

static inline float __uint2float_rn(unsigned x)
{
    return (float)x;
}

static inline float __double2float_rn(double x)
{
    return (float)x;
}

#define EMULATOR_MIN_MAX(T)       \
    static inline T min(T a, T b) \
    {                             \
        return b < a ? b : a;     \
    }                             \
    static inline T max(T a, T b) \
    {                             \
        return a < b ? b : a;     \
    }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
#undef EMULATOR_MIN_MAX

/* As fminf: of a number and NaN, the number. */
static inline float min(float a, float b)
{
    return fminf(a, b);
}

static inline float max(float a, float b)
{
    return fmaxf(a, b);
}

static inline double min(double a, double b)
{
    return fmin(a, b);
}

static inline double max(double a, double b)
{
    return fmax(a, b);
}

#endif
