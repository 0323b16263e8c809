/* Which operations kernels/cpu takes over from kernels/ref. */
#include "kernels/cpu/cpu.h"

void CPU(fill)(lt_ops *ops)
{
    ops->matmul = CPU(matmul);
}
