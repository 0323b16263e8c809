/* Block-quantised numbers, byte for byte as ggml has them (ggml/src/ggml-quants.c; the reference in
 * Python is the `gguf` package's quants.py). A row is cut into blocks of 32 values (Q4_0, Q5_0,
 * Q8_0) or 256 (Q4_K, Q6_K). */
#ifndef LT_MODEL_FORMATS_QUANTS_H
#define LT_MODEL_FORMATS_QUANTS_H

#include "model/formats/gguf.h"

/* NULL for a type that Lathe does not have. */
const char *lt_gguf_type_name(uint32_t type);    /* "Q4_K" */
int64_t lt_gguf_block_values(lt_gguf_type type); /* 1 for F32, F16, BF16 */
size_t lt_gguf_block_bytes(lt_gguf_type type);
/* Bytes of a row; columns must be whole blocks. */
size_t lt_gguf_row_bytes(lt_gguf_type type, int64_t columns);

/* `count` values: whole blocks. Round to nearest even for F16 and BF16. Decoding equals ggml's
 * dequantize_row_* bit for bit; encoding equals quantize_row_*_ref (without importance matrix) bit
 * for bit. Deterministic. A value that is not finite, or beyond what the type's f16 scales
 * can say, is LT_ERR_NUMERIC. */
lt_status lt_gguf_encode(lt_gguf_type type, const float *values, int64_t count, void *out,
                         lt_err *err);
void lt_gguf_decode(lt_gguf_type type, const void *blocks, int64_t count, float *out);

#endif
