#include "train/monitor/tensorboard_format.h"

#include <string.h>

/* --- CRC-32C ---------------------------------------------------------------------------------- */

/* Polynomial 0x1EDC6F41 with its bits reversed. A few records per second: bit by bit is enough. */
#define CRC32C_POLYNOMIAL 0x82F63B78u

uint32_t lt_crc32c(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? CRC32C_POLYNOMIAL : 0);
    }
    return ~crc;
}

uint32_t lt_crc32c_masked(const void *data, size_t size)
{
    uint32_t crc = lt_crc32c(data, size);
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

/* --- Protocol Buffers ------------------------------------------------------------------------- */

/* Field numbers of the messages Event, SessionLog, Summary and Summary.Value. */
enum { EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_FILE_VERSION = 3, EVENT_SUMMARY = 5 };
enum { EVENT_SESSION_LOG = 7 };
enum { SESSION_LOG_STATUS = 1, SESSION_STATUS_START = 1 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_SIMPLE = 2 };
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

static lt_status append_little_endian(lt_buffer *out, uint64_t value, int size, lt_err *err)
{
    unsigned char bytes[8];
    for (int i = 0; i < size; i++)
        bytes[i] = (unsigned char)(value >> (8 * i));
    return lt_buffer_append(out, bytes, (size_t)size, err);
}

static lt_status append_varint(lt_buffer *out, uint64_t value, lt_err *err)
{
    unsigned char bytes[10];
    size_t size = 0;
    do {
        bytes[size] = (unsigned char)((value & 0x7F) | (value > 0x7F ? 0x80 : 0));
        value >>= 7;
        size++;
    } while (value != 0);
    return lt_buffer_append(out, bytes, size, err);
}

static lt_status append_tag(lt_buffer *out, int field, int wire, lt_err *err)
{
    return append_varint(out, (uint64_t)field << 3 | (uint64_t)wire, err);
}

static lt_status append_double(lt_buffer *out, int field, double value, lt_err *err)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    LT_TRY(append_tag(out, field, WIRE_FIXED64, err));
    return append_little_endian(out, bits, 8, err);
}

static lt_status append_float(lt_buffer *out, int field, double value, lt_err *err)
{
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    LT_TRY(append_tag(out, field, WIRE_FIXED32, err));
    return append_little_endian(out, bits, 4, err);
}

static lt_status append_bytes(lt_buffer *out, int field, const void *data, size_t size, lt_err *err)
{
    LT_TRY(append_tag(out, field, WIRE_BYTES, err));
    LT_TRY(append_varint(out, size, err));
    return lt_buffer_append(out, data, size, err);
}

/* The fields that every event begins with; step 0 is the default and is left out. */
static lt_status append_head(lt_buffer *event, double wall_time, int64_t step, lt_err *err)
{
    LT_TRY(append_double(event, EVENT_WALL_TIME, wall_time, err));
    if (step == 0) return LT_OK;
    LT_TRY(append_tag(event, EVENT_STEP, WIRE_VARINT, err));
    return append_varint(event, (uint64_t)step, err);
}

/* --- Records ---------------------------------------------------------------------------------- */

static lt_status append_record(lt_buffer *out, const lt_buffer *event, lt_err *err)
{
    size_t start = out->size;
    LT_TRY(append_little_endian(out, event->size, 8, err));
    LT_TRY(append_little_endian(out, lt_crc32c_masked(out->data + start, 8), 4, err));
    LT_TRY(lt_buffer_append(out, event->data, event->size, err));
    return append_little_endian(out, lt_crc32c_masked(event->data, event->size), 4, err);
}

lt_status lt_events_append_version(lt_buffer *out, double wall_time, lt_err *err)
{
    static const char version[] = "brain.Event:2";
    lt_buffer event = {0};
    lt_status status;
    LT_TRY_GOTO(status, append_head(&event, wall_time, 0, err), done);
    LT_TRY_GOTO(status, append_bytes(&event, EVENT_FILE_VERSION, version, sizeof version - 1, err),
                done);
    status = append_record(out, &event, err);
done:
    lt_buffer_free(&event);
    return status;
}

lt_status lt_events_append_session_start(lt_buffer *out, double wall_time, int64_t step,
                                         lt_err *err)
{
    static const unsigned char session_log[] = {SESSION_LOG_STATUS << 3 | WIRE_VARINT,
                                                SESSION_STATUS_START};
    lt_buffer event = {0};
    lt_status status;
    LT_TRY_GOTO(status, append_head(&event, wall_time, step, err), done);
    LT_TRY_GOTO(status,
                append_bytes(&event, EVENT_SESSION_LOG, session_log, sizeof session_log, err),
                done);
    status = append_record(out, &event, err);
done:
    lt_buffer_free(&event);
    return status;
}

lt_status lt_events_append_scalar(lt_buffer *out, double wall_time, int64_t step, const char *tag,
                                  double value, lt_err *err)
{
    lt_buffer event = {0}, summary = {0}, entry = {0};
    lt_status status;
    LT_TRY_GOTO(status, append_bytes(&entry, VALUE_TAG, tag, strlen(tag), err), done);
    LT_TRY_GOTO(status, append_float(&entry, VALUE_SIMPLE, value, err), done);
    LT_TRY_GOTO(status, append_bytes(&summary, SUMMARY_VALUE, entry.data, entry.size, err), done);
    LT_TRY_GOTO(status, append_head(&event, wall_time, step, err), done);
    LT_TRY_GOTO(status, append_bytes(&event, EVENT_SUMMARY, summary.data, summary.size, err), done);
    status = append_record(out, &event, err);
done:
    lt_buffer_free(&event);
    lt_buffer_free(&summary);
    lt_buffer_free(&entry);
    return status;
}
