/* The TensorBoard event format, without files: records with their checksums, and the few Protocol
 * Buffer messages in them. A record is u64 length, masked CRC-32C of those 8 bytes, payload, masked
 * CRC-32C of the payload, all little-endian. */
#ifndef LT_TRAIN_MONITOR_TENSORBOARD_FORMAT_H
#define LT_TRAIN_MONITOR_TENSORBOARD_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

uint32_t lt_crc32c(const void *data, size_t size);
/* The checksum as the format stores it: rotated and offset, so that a checksum of checksums is
 * safe. */
uint32_t lt_crc32c_masked(const void *data, size_t size);

/* Each appends one record. `wall_time`: seconds since 1970. */
lt_status lt_events_append_version(lt_buffer *out, double wall_time, lt_err *err);
/* Tells TensorBoard to forget what earlier files say of `step` and later. */
lt_status lt_events_append_session_start(lt_buffer *out, double wall_time, int64_t step,
                                         lt_err *err);
lt_status lt_events_append_scalar(lt_buffer *out, double wall_time, int64_t step, const char *tag,
                                  double value, lt_err *err);

#endif
