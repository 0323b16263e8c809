#include "data_pipeline/record_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

enum { BLOCK = 1 << 17 };

/* A record beyond this is a mistake (a file that is no JSONL, a decompression bomb). */
static const size_t max_record = (size_t)256 << 20;
/* A plain-text file is one document held in memory. */
static const size_t max_text = (size_t)4 << 30;

typedef enum compression { NONE, GZIP, ZSTANDARD } compression;

typedef enum layout { UNKNOWN, LINES, ARRAY } layout;

struct lt_record_stream {
    char *path;
    int fd;
    compression compression;
    z_stream gzip;
    ZSTD_DStream *zstd;
    bool inside; /* a compressed member has begun and not ended */
    bool ended;  /* no more bytes in the file */

    unsigned char raw[BLOCK]; /* as in the file; [raw_at, raw_size) is not used yet */
    size_t raw_at, raw_size;
    unsigned char plain[BLOCK]; /* decompressed */
    size_t plain_at, plain_size;

    layout layout;
    bool first_element; /* of an array is still to come */
    bool array_ended;
    int64_t line; /* of the next byte */
};

/* --- Bytes --- */

static lt_status fill_raw(lt_record_stream *s, lt_err *err)
{
    s->raw_at = s->raw_size = 0;
    while (s->raw_size < sizeof s->raw) {
        ssize_t got = read(s->fd, s->raw + s->raw_size, sizeof s->raw - s->raw_size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return lt_fail(err, LT_ERR_IO, "%s: read: %s", s->path, strerror(errno));
        if (got == 0) {
            s->ended = true;
            break;
        }
        s->raw_size += (size_t)got;
    }
    return LT_OK;
}

static lt_status damaged(const lt_record_stream *s, const char *kind, const char *why, lt_err *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s:%lld: the %s data is damaged: %s", s->path,
                   (long long)s->line, kind, why);
}

static lt_status inflate_some(lt_record_stream *s, lt_err *err)
{
    s->gzip.next_in = s->raw + s->raw_at;
    s->gzip.avail_in = (uInt)(s->raw_size - s->raw_at);
    s->gzip.next_out = s->plain;
    s->gzip.avail_out = sizeof s->plain;
    int code = inflate(&s->gzip, Z_NO_FLUSH);
    s->raw_at = s->raw_size - s->gzip.avail_in;
    s->plain_size = sizeof s->plain - s->gzip.avail_out;
    s->inside = code != Z_STREAM_END;
    if (code == Z_STREAM_END)
        inflateReset(&s->gzip); /* another member may follow */
    else if (code != Z_OK && code != Z_BUF_ERROR)
        return damaged(s, "gzip", s->gzip.msg ? s->gzip.msg : zError(code), err);
    return LT_OK;
}

static lt_status unzstd_some(lt_record_stream *s, lt_err *err)
{
    ZSTD_inBuffer in = {s->raw, s->raw_size, s->raw_at};
    ZSTD_outBuffer out = {s->plain, sizeof s->plain, 0};
    size_t code = ZSTD_decompressStream(s->zstd, &out, &in);
    if (ZSTD_isError(code)) return damaged(s, "zstd", ZSTD_getErrorName(code), err);
    s->raw_at = in.pos;
    s->plain_size = out.pos;
    s->inside = code != 0;
    return LT_OK;
}

/* Refills `plain`; it stays empty at the end of the file only. */
static lt_status fill_plain(lt_record_stream *s, lt_err *err)
{
    s->plain_at = s->plain_size = 0;
    while (s->plain_size == 0) {
        if (s->raw_at == s->raw_size) {
            if (!s->ended) LT_TRY(fill_raw(s, err));
            /* A decompressor may still hold output when its input has ended. */
            if (s->raw_at == s->raw_size && !s->inside) return LT_OK;
        }
        if (s->compression == NONE) {
            memcpy(s->plain, s->raw + s->raw_at, s->raw_size - s->raw_at);
            s->plain_size = s->raw_size - s->raw_at;
            s->raw_at = s->raw_size;
            continue;
        }
        bool no_input = s->raw_at == s->raw_size;
        const char *kind = s->compression == GZIP ? "gzip" : "zstd";
        if (s->compression == GZIP)
            LT_TRY(inflate_some(s, err));
        else
            LT_TRY(unzstd_some(s, err));
        if (no_input && s->plain_size == 0)
            return s->inside ? damaged(s, kind, "it is cut short", err) : LT_OK;
    }
    return LT_OK;
}

/* The next byte without taking it, or -1 at the end. */
static lt_status peek(lt_record_stream *s, int *byte, lt_err *err)
{
    if (s->plain_at == s->plain_size) LT_TRY(fill_plain(s, err));
    *byte = s->plain_at < s->plain_size ? s->plain[s->plain_at] : -1;
    return LT_OK;
}

/* Takes the next `count` bytes, which are in `plain`, into *text. */
static lt_status take(lt_record_stream *s, size_t count, size_t limit, lt_buffer *text, lt_err *err)
{
    if (count > limit - text->size)
        return lt_fail(err, LT_ERR_LIMIT,
                       "%s:%lld: a record is larger than %zu MiB; is every record "
                       "on a line of its own?",
                       s->path, (long long)s->line, limit >> 20);
    LT_TRY(lt_buffer_append(text, s->plain + s->plain_at, count, err));
    s->plain_at += count;
    return LT_OK;
}

static lt_status skip_space(lt_record_stream *s, int *byte, lt_err *err)
{
    for (;;) {
        LT_TRY(peek(s, byte, err));
        if (*byte != ' ' && *byte != '\t' && *byte != '\r' && *byte != '\n') return LT_OK;
        s->line += *byte == '\n';
        s->plain_at++;
    }
}

/* --- Life --- */

static lt_status start_decompressor(lt_record_stream *s, lt_err *err)
{
    static const unsigned char gzip_magic[] = {0x1f, 0x8b}, zstd_magic[] = {0x28, 0xb5, 0x2f, 0xfd};
    if (s->raw_size >= 2 && memcmp(s->raw, gzip_magic, 2) == 0) {
        if (inflateInit2(&s->gzip, 16 + MAX_WBITS) != Z_OK) return lt_fail_nomem(err, 0, "gzip");
        s->compression = GZIP;
    } else if (s->raw_size >= 4 && memcmp(s->raw, zstd_magic, 4) == 0) {
        if (!(s->zstd = ZSTD_createDStream())) return lt_fail_nomem(err, 0, "zstd");
        s->compression = ZSTANDARD;
    }
    return LT_OK;
}

static lt_status skip_byte_order_mark(lt_record_stream *s, lt_err *err)
{
    int byte;
    LT_TRY(peek(s, &byte, err));
    if (s->plain_size - s->plain_at >= 3 && memcmp(s->plain + s->plain_at, "\xEF\xBB\xBF", 3) == 0)
        s->plain_at += 3;
    return LT_OK;
}

lt_status lt_record_stream_open(const char *path, lt_record_stream **out, lt_err *err)
{
    lt_record_stream *s = calloc(1, sizeof *s);
    if (!s) return lt_fail_nomem(err, sizeof *s, "a reader");
    lt_status status = LT_OK;
    s->line = 1;
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    s->path = strdup(path);
    if (!s->path)
        status = lt_fail_nomem(err, strlen(path), "a path");
    else if (s->fd < 0)
        status = lt_fail(err, LT_ERR_IO, "%s: %s", path, strerror(errno));
    if (status == LT_OK) status = fill_raw(s, err);
    if (status == LT_OK) status = start_decompressor(s, err);
    if (status == LT_OK) status = skip_byte_order_mark(s, err);
    if (status != LT_OK) {
        lt_record_stream_close(s);
        return status;
    }
    *out = s;
    return LT_OK;
}

void lt_record_stream_close(lt_record_stream *s)
{
    if (!s) return;
    if (s->compression == GZIP) inflateEnd(&s->gzip);
    ZSTD_freeDStream(s->zstd);
    if (s->fd >= 0) close(s->fd);
    free(s->path);
    free(s);
}

/* --- JSON texts --- */

static lt_status next_line(lt_record_stream *s, lt_buffer *text, lt_err *err)
{
    for (;;) {
        int byte;
        LT_TRY(peek(s, &byte, err));
        if (byte < 0) return LT_OK;
        const unsigned char *from = s->plain + s->plain_at;
        size_t rest = s->plain_size - s->plain_at;
        const unsigned char *end = memchr(from, '\n', rest);
        LT_TRY(take(s, end ? (size_t)(end - from) : rest, max_record, text, err));
        if (end) return LT_OK; /* the line feed itself is white space before the next */
    }
}

/* Where the scan through a JSON value stands. */
typedef struct scan {
    int64_t depth;
    bool in_string, escaped;
    bool closed; /* an object or array has just ended, and the value with it */
} scan;

/* True when the value ends before `byte`. */
static bool ends_value(scan *at, unsigned char byte)
{
    if (at->in_string) {
        if (at->escaped)
            at->escaped = false;
        else if (byte == '\\')
            at->escaped = true;
        else if (byte == '"')
            at->in_string = false;
        return false;
    }
    if (at->closed || (at->depth == 0 && (byte == ',' || byte == ']' || byte == '}'))) return true;
    at->in_string = byte == '"';
    at->depth += (byte == '{' || byte == '[') - (byte == '}' || byte == ']');
    at->closed = at->depth == 0 && (byte == '}' || byte == ']');
    return false;
}

static lt_status next_element(lt_record_stream *s, lt_buffer *text, lt_err *err)
{
    scan at = {0};
    for (;;) {
        int byte;
        LT_TRY(peek(s, &byte, err));
        if (byte < 0)
            return lt_fail(err, LT_ERR_FORMAT, "%s:%lld: the file ends inside a JSON array",
                           s->path, (long long)s->line);
        size_t rest = s->plain_size - s->plain_at, count = 0;
        int64_t lines = 0;
        while (count < rest && !ends_value(&at, s->plain[s->plain_at + count]))
            lines += s->plain[s->plain_at + count++] == '\n';
        LT_TRY(take(s, count, max_record, text, err));
        s->line += lines;
        if (count < rest) return LT_OK;
    }
}

/* Goes past "," to the next element, or past "]" to the end of the file. An element that is missing
 * is left to the JSON parser, which says so. */
static lt_status begin_element(lt_record_stream *s, bool *more, lt_err *err)
{
    int byte;
    LT_TRY(skip_space(s, &byte, err));
    *more = byte != ']';
    if (*more && s->first_element) {
        s->first_element = false;
        return LT_OK;
    }
    if (*more && byte != ',')
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s:%lld: %s where ',' or ']' of the JSON array was expected", s->path,
                       (long long)s->line, byte < 0 ? "the file ends" : "there is something else");
    s->plain_at++;
    LT_TRY(skip_space(s, &byte, err));
    if (*more) return LT_OK;
    s->array_ended = true;
    if (byte >= 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s:%lld: there is more text after the JSON array",
                       s->path, (long long)s->line);
    return LT_OK;
}

static lt_status find_layout(lt_record_stream *s, lt_err *err)
{
    int byte;
    LT_TRY(skip_space(s, &byte, err));
    if (byte == '[') {
        s->plain_at++;
        s->layout = ARRAY;
        s->first_element = true;
    } else if (byte == '{' || byte < 0) {
        s->layout = LINES;
    } else {
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s:%lld: begins with neither '{' (a JSON record on each line) nor '[' (a "
                       "JSON array of records); for plain text give --format text",
                       s->path, (long long)s->line);
    }
    return LT_OK;
}

lt_status lt_record_stream_next(lt_record_stream *s, lt_buffer *text, int64_t *line, bool *more,
                                lt_err *err)
{
    lt_buffer_clear(text);
    *more = false;
    if (s->layout == UNKNOWN) LT_TRY(find_layout(s, err));
    if (s->array_ended) return LT_OK;
    int byte;
    if (s->layout == ARRAY) {
        LT_TRY(begin_element(s, more, err));
        *line = s->line;
        return *more ? next_element(s, text, err) : LT_OK;
    }
    LT_TRY(skip_space(s, &byte, err));
    *line = s->line;
    *more = byte >= 0;
    return *more ? next_line(s, text, err) : LT_OK;
}

lt_status lt_record_stream_read_all(lt_record_stream *s, lt_buffer *text, lt_err *err)
{
    lt_buffer_clear(text);
    for (;;) {
        int byte;
        LT_TRY(peek(s, &byte, err));
        if (byte < 0) return LT_OK;
        LT_TRY(take(s, s->plain_size - s->plain_at, max_text, text, err));
    }
}

/* --- UTF-8 --- */

/* Length of the UTF-8 sequence at `text`, 0 when it is none. */
static size_t sequence_length(const unsigned char *text, size_t size)
{
    unsigned char lead = text[0];
    size_t length = lead < 0x80   ? 1
                    : lead < 0xC2 ? 0
                    : lead < 0xE0 ? 2
                    : lead < 0xF0 ? 3
                    : lead < 0xF5 ? 4
                                  : 0;
    if (length == 0 || length > size) return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xC0) != 0x80) return 0;
    if (lead == 0xE0 && text[1] < 0xA0) return 0; /* overlong */
    if (lead == 0xED && text[1] > 0x9F) return 0; /* surrogate */
    if (lead == 0xF0 && text[1] < 0x90) return 0; /* overlong */
    if (lead == 0xF4 && text[1] > 0x8F) return 0; /* beyond U+10FFFF */
    return length;
}

lt_status lt_check_record_text(const char *path, int64_t line, const lt_buffer *text, lt_err *err)
{
    const unsigned char *data = (const unsigned char *)text->data;
    size_t line_begin = 0;
    for (size_t at = 0; at < text->size;) {
        size_t length = sequence_length(data + at, text->size - at);
        if (length == 0 || data[at] == 0)
            return lt_fail(err, LT_ERR_FORMAT,
                           "%s:%lld: %s at byte %zu of the line (0x%02x); the file must be UTF-8 "
                           "text: convert it, for example with iconv",
                           path, (long long)line, length ? "a NUL" : "invalid UTF-8",
                           at - line_begin + 1, data[at]);
        if (data[at] == '\n') {
            line++;
            line_begin = at + 1;
        }
        at += length;
    }
    return LT_OK;
}
