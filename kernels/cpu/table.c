/* Which operations kernels/cpu takes over from kernels/ref. The others move little. */
#include "kernels/cpu/cpu.h"

void CPU(fill)(lt_ops *ops)
{
    ops->matmul = CPU(matmul);
    ops->bias_backward = CPU(bias_backward);
    ops->attention_forward = CPU(attention_forward);
    ops->attention_backward = CPU(attention_backward);
    ops->layer_norm_forward = CPU(layer_norm_forward);
    ops->layer_norm_backward = CPU(layer_norm_backward);
    ops->rms_norm_forward = CPU(rms_norm_forward);
    ops->rms_norm_backward = CPU(rms_norm_backward);
    ops->rotary = CPU(rotary);
    ops->activation_forward = CPU(activation_forward);
    ops->activation_backward = CPU(activation_backward);
    ops->swiglu_forward = CPU(swiglu_forward);
    ops->swiglu_backward = CPU(swiglu_backward);
    ops->embedding_forward = CPU(embedding_forward);
    ops->embedding_backward = CPU(embedding_backward);
    ops->cache_append = CPU(cache_append);
    ops->cross_entropy = CPU(cross_entropy);
    ops->dropout = CPU(dropout);
    ops->add = CPU(add);
    ops->scale_columns = CPU(scale_columns);
    ops->dora_norm = CPU(dora_norm);
    ops->dora_backward = CPU(dora_backward);
    ops->zero = CPU(zero);
    ops->convert = CPU(convert);
    ops->sum_squares = CPU(sum_squares);
    ops->adamw = CPU(adamw);
}
