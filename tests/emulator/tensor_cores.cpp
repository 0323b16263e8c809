/* ldmatrix and mma: the last lane to come does the work of the whole warp. Fragments are laid out
 * as kernels/cuda/ptx.cuh says. */
#include <string.h>

#include "tests/emulator/intrinsics.h"
#include "tests/emulator/machine.h"

struct matrix_request {
    uint32_t *r;
    const void *row;
};

template <int Matrices, bool Transposed>
static void do_load_matrix(uint32_t, void *const requests[32])
{
    for (int i = 0; i < Matrices; i++) {
        uint16_t matrix[8][8];
        for (int row = 0; row < 8; row++)
            memcpy(matrix[row], static_cast<matrix_request *>(requests[8 * i + row])->row, 16);
        for (int lane = 0; lane < 32; lane++) {
            int row = lane / 4, column = 2 * (lane % 4);
            uint32_t low = Transposed ? matrix[column][row] : matrix[row][column];
            uint32_t high = Transposed ? matrix[column + 1][row] : matrix[row][column + 1];
            static_cast<matrix_request *>(requests[lane])->r[i] = low | high << 16;
        }
    }
}

void emulator_load_matrix(uint32_t *r, const void *row, int matrices, bool transposed)
{
    /* lanes whose address is not used must still give one */
    bool used = emulator_lane() < 8 * matrices;
    emulator_check_shared("load_matrix", row, used ? 16 : 0, used ? 16 : 1);
    matrix_request request = {r, row};
    if (matrices == 4)
        emulator_warp_meet(0xffffffffu, transposed ? "load_matrix_x4_transposed" : "load_matrix_x4",
                           transposed ? do_load_matrix<4, true> : do_load_matrix<4, false>,
                           &request);
    else
        emulator_warp_meet(0xffffffffu, transposed ? "load_matrix_x2_transposed" : "load_matrix_x2",
                           transposed ? do_load_matrix<2, true> : do_load_matrix<2, false>,
                           &request);
}

struct mma_request {
    float *c;
    const uint32_t *a, *b;
};

static inline void unpack(uint32_t packed, float *low, float *high)
{
    uint32_t bits[2] = {packed << 16, packed & 0xffff0000u};
    memcpy(low, &bits[0], sizeof *low);
    memcpy(high, &bits[1], sizeof *high);
}

/* The fragments of all lanes (see ptx.cuh) to whole matrices, their product, and back. */
static void do_mma(uint32_t, void *const requests[32])
{
    typedef float row __attribute__((vector_size(32)));
    float a[16][16], b[16][8];
    row c[16];
    for (int lane = 0; lane < 32; lane++) {
        const auto *from = static_cast<const mma_request *>(requests[lane]);
        int g = lane / 4, t = 2 * (lane % 4);
        unpack(from->a[0], &a[g][t], &a[g][t + 1]);
        unpack(from->a[1], &a[g + 8][t], &a[g + 8][t + 1]);
        unpack(from->a[2], &a[g][t + 8], &a[g][t + 9]);
        unpack(from->a[3], &a[g + 8][t + 8], &a[g + 8][t + 9]);
        unpack(from->b[0], &b[t][g], &b[t + 1][g]);
        unpack(from->b[1], &b[t + 8][g], &b[t + 9][g]);
        for (int i = 0; i < 4; i++)
            c[g + i / 2 * 8][t + i % 2] = from->c[i];
    }
    row b_rows[16];
    memcpy(b_rows, b, sizeof b_rows);
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++)
            c[m] += a[m][k] * b_rows[k];
    for (int lane = 0; lane < 32; lane++) {
        const auto *to = static_cast<const mma_request *>(requests[lane]);
        for (int i = 0; i < 4; i++)
            to->c[i] = c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
    }
}

void emulator_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    mma_request request = {c, a, b};
    emulator_warp_meet(0xffffffffu, "mma_bf16", do_mma, &request);
}
