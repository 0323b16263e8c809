/* The bytes of a hello and of a verdict, read without trust; and whether two ranks fit together. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "train/comm/rendezvous_internal.h"

/* Two, so that a rank that reaches itself, which TCP allows, takes its own hello for no answer. */
static const char hello_magic[8] = "LATHERDV", verdict_magic[8] = "LATHEVDT";

enum {
    AT_PROTOCOL = 8, /* what every protocol starts with */
    AT_WORLD_SIZE = 12,
    AT_RANK = 16,
    AT_PAYLOAD = 20,
    AT_HOST = 24,
    AT_VERSION = 28,
    AT_IDENTITY = 32,
    AT_HASH = 36,
    HELLO_HEAD = 44,
};

void lt_rendezvous_put_u32(char *out, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        out[i] = (char)(value >> 8 * i);
}

uint32_t lt_rendezvous_get_u32(const char *data)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++)
        value |= (uint32_t)(unsigned char)data[i] << 8 * i;
    return value;
}

static void put_u64(char *out, uint64_t value)
{
    lt_rendezvous_put_u32(out, (uint32_t)value);
    lt_rendezvous_put_u32(out + 4, (uint32_t)(value >> 32));
}

static uint64_t get_u64(const char *data)
{
    return lt_rendezvous_get_u32(data) | (uint64_t)lt_rendezvous_get_u32(data + 4) << 32;
}

void lt_rendezvous_make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

/* --- Hello ------------------------------------------------------------------------------------ */

lt_status lt_rendezvous_hello_write(const lt_rendezvous_settings *settings, size_t payload_bytes,
                                    lt_buffer *out, lt_err *err)
{
    const char *host = settings->host, *version = settings->version, *identity = settings->identity;
    char head[HELLO_HEAD];
    memcpy(head, hello_magic, sizeof hello_magic);
    lt_rendezvous_put_u32(head + AT_PROTOCOL, RENDEZVOUS_PROTOCOL);
    lt_rendezvous_put_u32(head + AT_WORLD_SIZE, (uint32_t)settings->world_size);
    lt_rendezvous_put_u32(head + AT_RANK, (uint32_t)settings->rank);
    lt_rendezvous_put_u32(head + AT_PAYLOAD, (uint32_t)payload_bytes);
    lt_rendezvous_put_u32(head + AT_HOST, (uint32_t)strlen(host));
    lt_rendezvous_put_u32(head + AT_VERSION, (uint32_t)strlen(version));
    lt_rendezvous_put_u32(head + AT_IDENTITY, (uint32_t)strlen(identity));
    LT_TRY(lt_buffer_append(out, head, sizeof head, err));
    LT_TRY(lt_buffer_printf(out, err, "%s%s%s", host, version, identity));
    put_u64(out->data + AT_HASH, XXH3_64bits(out->data + HELLO_HEAD, out->size - HELLO_HEAD));
    return LT_OK;
}

/* The size of the whole hello, from its head; 0: these are no sizes of ours. */
static size_t hello_size(const char *data)
{
    uint32_t host = lt_rendezvous_get_u32(data + AT_HOST);
    uint32_t version = lt_rendezvous_get_u32(data + AT_VERSION);
    uint32_t identity = lt_rendezvous_get_u32(data + AT_IDENTITY);
    if (host > RENDEZVOUS_MAX_NAME || version > RENDEZVOUS_MAX_NAME ||
        identity > RENDEZVOUS_MAX_IDENTITY)
        return 0;
    return HELLO_HEAD + (size_t)host + version + identity;
}

/* As much as is known: the head, then all of it. */
static size_t hello_wanted(const char *data, size_t size)
{
    if (size < AT_WORLD_SIZE) return AT_WORLD_SIZE;
    if (lt_rendezvous_get_u32(data + AT_PROTOCOL) != RENDEZVOUS_PROTOCOL) return AT_WORLD_SIZE;
    return size < HELLO_HEAD ? HELLO_HEAD : hello_size(data);
}

size_t lt_rendezvous_hello_missing(const char *data, size_t size)
{
    size_t wanted = hello_wanted(data, size);
    return wanted > size ? wanted - size : 0;
}

static const char *take_text(const char *data, uint32_t bytes, char *out)
{
    memcpy(out, data, bytes);
    out[bytes] = '\0';
    lt_rendezvous_make_printable(out);
    return data + bytes;
}

lt_rendezvous_parse lt_rendezvous_hello_read(const char *data, size_t size,
                                             lt_rendezvous_hello *out)
{
    *out = (lt_rendezvous_hello){0};
    if (memcmp(data, hello_magic, size < sizeof hello_magic ? size : sizeof hello_magic) != 0)
        return RENDEZVOUS_FOREIGN;
    if (size < AT_WORLD_SIZE) return RENDEZVOUS_MORE;
    out->protocol = lt_rendezvous_get_u32(data + AT_PROTOCOL);
    if (out->protocol != RENDEZVOUS_PROTOCOL) return RENDEZVOUS_DONE;
    if (size < HELLO_HEAD) return RENDEZVOUS_MORE;
    size_t whole = hello_size(data);
    if (whole == 0) return RENDEZVOUS_FOREIGN;
    if (size < whole) return RENDEZVOUS_MORE;
    if (get_u64(data + AT_HASH) != XXH3_64bits(data + HELLO_HEAD, whole - HELLO_HEAD))
        return RENDEZVOUS_FOREIGN;
    uint32_t identity_bytes = lt_rendezvous_get_u32(data + AT_IDENTITY);
    out->world_size = lt_rendezvous_get_u32(data + AT_WORLD_SIZE);
    out->rank = lt_rendezvous_get_u32(data + AT_RANK);
    out->payload_bytes = lt_rendezvous_get_u32(data + AT_PAYLOAD);
    const char *at = take_text(data + HELLO_HEAD, lt_rendezvous_get_u32(data + AT_HOST), out->host);
    at = take_text(at, lt_rendezvous_get_u32(data + AT_VERSION), out->version);
    out->identity = strndup(at, identity_bytes);
    return out->identity ? RENDEZVOUS_DONE : RENDEZVOUS_FOREIGN;
}

/* --- Verdict ---------------------------------------------------------------------------------- */

enum { WELCOME, REFUSED, INCOMPLETE, STOPPED };
static const lt_status verdicts[] = {LT_OK, LT_ERR_USAGE, LT_ERR_IO, LT_ERR_INTERRUPTED};

static uint32_t verdict_of(lt_status status)
{
    uint32_t kind = STOPPED;
    while (kind != REFUSED && verdicts[kind] != status)
        kind--;
    return status == LT_OK ? WELCOME : kind;
}

lt_status lt_rendezvous_verdict_write(lt_status status, const char *host, const void *data,
                                      size_t bytes, lt_buffer *out, lt_err *err)
{
    char head[RENDEZVOUS_VERDICT_HEAD];
    memcpy(head, verdict_magic, sizeof verdict_magic);
    lt_rendezvous_put_u32(head + 8, verdict_of(status));
    lt_rendezvous_put_u32(head + 12, (uint32_t)strlen(host));
    lt_rendezvous_put_u32(head + 16, (uint32_t)bytes);
    LT_TRY(lt_buffer_append(out, head, sizeof head, err));
    LT_TRY(lt_buffer_append_text(out, host, err));
    return lt_buffer_append(out, data, bytes, err);
}

bool lt_rendezvous_verdict_read(const char head[RENDEZVOUS_VERDICT_HEAD],
                                lt_rendezvous_verdict *out)
{
    uint32_t kind = lt_rendezvous_get_u32(head + 8);
    if (kind > STOPPED) return false;
    out->status = verdicts[kind];
    out->host_bytes = lt_rendezvous_get_u32(head + 12);
    out->bytes = lt_rendezvous_get_u32(head + 16);
    uint32_t limit = kind == WELCOME ? LT_RENDEZVOUS_PAYLOAD : RENDEZVOUS_MAX_MESSAGE;
    return memcmp(head, verdict_magic, sizeof verdict_magic) == 0 &&
           out->host_bytes <= RENDEZVOUS_MAX_NAME && out->bytes <= limit;
}

/* --- Comparing -------------------------------------------------------------------------------- */

/* To the start of the first line that differs. */
static void skip_same_lines(const char **a, const char **b)
{
    size_t start = 0;
    for (size_t i = 0; (*a)[i] && (*a)[i] == (*b)[i]; i++)
        if ((*a)[i] == '\n') start = i + 1;
    *a += start;
    *b += start;
}

enum { SHOWN_LINE = 304 };

/* A line as a message shows it. */
static void show_line(const char *text, char out[SHOWN_LINE])
{
    size_t length = strcspn(text, "\n");
    bool cut = length >= SHOWN_LINE;
    if (cut) length = SHOWN_LINE - 4;
    memcpy(out, text, length);
    strcpy(out + length, cut ? "..." : "");
    if (!*text) strcpy(out, "nothing more");
    lt_rendezvous_make_printable(out);
}

static lt_status compare_identities(const lt_rendezvous_hello *mine,
                                    const lt_rendezvous_hello *theirs, lt_err *err)
{
    char here[SHOWN_LINE], there[SHOWN_LINE];
    const char *a = mine->identity, *b = theirs->identity;
    if (strcmp(a, b) == 0) return LT_OK;
    skip_same_lines(&a, &b);
    show_line(a, here);
    show_line(b, there);
    return lt_fail(err, LT_ERR_USAGE,
                   "rank %u (%s) has %s, rank 0 (%s) has %s; all processes need the same command, "
                   "data and program",
                   theirs->rank, theirs->host, there, mine->host, here);
}

lt_status lt_rendezvous_compare(const lt_rendezvous_hello *mine, const lt_rendezvous_hello *theirs,
                                lt_err *err)
{
    if (theirs->protocol != mine->protocol)
        return lt_fail(err, LT_ERR_USAGE,
                       "a process of another version of lathe has come (rendezvous protocol %u; "
                       "rank 0 (%s) has %u); start the same lathe on all hosts",
                       theirs->protocol, mine->host, mine->protocol);
    if (strcmp(theirs->version, mine->version) != 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "the processes are of different versions of lathe: %s on rank 0 (%s) and "
                       "%s on rank %u (%s); start the same lathe on all hosts",
                       mine->version, mine->host, theirs->version, theirs->rank, theirs->host);
    if (theirs->world_size != mine->world_size)
        return lt_fail(err, LT_ERR_USAGE,
                       "the processes do not agree how many they are: WORLD_SIZE is %u on rank 0 "
                       "(%s) and %u on rank %u (%s)",
                       mine->world_size, mine->host, theirs->world_size, theirs->rank,
                       theirs->host);
    if (theirs->rank >= mine->world_size)
        return lt_fail(err, LT_ERR_USAGE, "RANK is %u on %s; with WORLD_SIZE %u it must be 0 to %u",
                       theirs->rank, theirs->host, mine->world_size, mine->world_size - 1);
    if (theirs->rank == mine->rank)
        return lt_fail(err, LT_ERR_USAGE, "two processes are rank %u (on %s and on %s)", mine->rank,
                       mine->host, theirs->host);
    if (theirs->payload_bytes != mine->payload_bytes)
        return lt_fail(err, LT_ERR_USAGE,
                       "rank %u (%s) waits for %u bytes and rank 0 (%s) sends %u; start the same "
                       "lathe on all hosts",
                       theirs->rank, theirs->host, theirs->payload_bytes, mine->host,
                       mine->payload_bytes);
    return compare_identities(mine, theirs, err);
}
