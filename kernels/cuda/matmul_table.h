/* Where cuBLAS is faster than our own matmul: what "--matmul auto" goes by.
 *
 * Native is the default; a line here is an exception, and needs a reason: a measured ratio of more
 * than 1.03 (scripts/gpu_bench.sh prints the lines), or, as long as nobody has measured on that
 * architecture, published figures. mma.sync is the native path of every architecture. It is all
 * that Ampere, Ada and the small Blackwells have; on Hopper and the large Blackwells it reaches
 * about half of what their own instructions (wgmma, tcgen05) do, and cuBLAS has those. A small
 * product does not keep the tensor cores busy for either. */
#ifndef LT_CUDA_MATMUL_TABLE_H
#define LT_CUDA_MATMUL_TABLE_H

typedef struct matmul_rule {
    int capability;       /* of this one and later ones of the same major version */
    int layout;           /* LT_MATMUL_NT, ..., or ANY_LAYOUT */
    double multiply_adds; /* m n k is at least this */
    lt_matmul_choice choice;
    double ratio;       /* time of native / time of cuBLAS */
    const char *source; /* "measured" or "published" */
} matmul_rule;

#define ANY_LAYOUT (-1)

/* The last line that fits decides. */
static const matmul_rule matmul_rules[] = {
    /* FlashAttention-2 and others' mma.sync kernels: 300 .. 400 TFLOP/s on an H100; cuBLAS: 750 */
    {90, ANY_LAYOUT, 0x1p31, LT_MATMUL_CUBLAS, 2.0, "published"},
    /* tcgen05 is further ahead of mma.sync than wgmma is */
    {100, ANY_LAYOUT, 0x1p31, LT_MATMUL_CUBLAS, 2.0, "published"},
};

#endif
