/* Which operations kernels/cpu takes over from kernels/ref. */
#include "kernels/cpu/cpu.h"

void CPU(fill)(lt_ops *ops)
{
    ops->matmul = CPU(matmul);
    ops->attention_forward = CPU(attention_forward);
    ops->attention_backward = CPU(attention_backward);
}
