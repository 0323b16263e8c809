#include "kernels/ref/ref.h"

/* (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin); the inverse turns by the negative angle. */
REFERENCE(rotary, lt_rotary_args)
{
    int64_t half = a->cos.shape[1], heads = a->x.shape[2];
    int64_t rows = lt_row_count(&a->x); /* batch * length * heads */
    for (int64_t r = 0; r < rows; r++) {
        int64_t position = integers(&a->positions)[r / heads];
        const real *cosine = row(&a->cos, position), *sine = row(&a->sin, position);
        real *x = row(&a->x, r);
        for (int64_t i = 0; i < half; i++) {
            double c = cosine[i], s = a->inverse ? -sine[i] : sine[i];
            double x1 = x[i], x2 = x[i + half];
            x[i] = (real)(x1 * c - x2 * s);
            x[i + half] = (real)(x2 * c + x1 * s);
        }
    }
    return LT_OK;
}
