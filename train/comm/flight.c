/* The last collectives of a process: what each was, when it began and ended. Written while training
 * goes on and read by the watchdog, which must not wait for a lock. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <xxhash.h>

#include "train/comm/internal.h"

int64_t lt_comm_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static const char *operation_name(lt_comm_operation operation)
{
    static const char *const names[LT_COMM_OPERATION_COUNT] = {[LT_COMM_ALL_REDUCE] = "all_reduce",
                                                               [LT_COMM_MAX] = "max",
                                                               [LT_COMM_REDUCE_SCATTER] =
                                                                   "reduce_scatter",
                                                               [LT_COMM_ALL_GATHER] = "all_gather",
                                                               [LT_COMM_BROADCAST] = "broadcast"};
    return (unsigned)operation < LT_COMM_OPERATION_COUNT ? names[operation] : "unknown";
}

void lt_flight_begin(lt_flight *flight, lt_collective *collective, bool host)
{
    uint64_t sequence = atomic_load(&flight->begun) + 1;
    lt_flight_entry *entry = &flight->entries[sequence % LT_FLIGHT_LENGTH];
    const int64_t what[] = {collective->operation, collective->dtype, collective->count, host};

    collective->sequence = sequence;
    flight->hash = XXH3_64bits_withSeed(what, sizeof what, flight->hash);
    atomic_store(&entry->sequence, 0); /* not to be read while it changes */
    atomic_store(&entry->operation, collective->operation);
    atomic_store(&entry->dtype, collective->dtype);
    atomic_store(&entry->host, host);
    atomic_store(&entry->count, collective->count);
    atomic_store(&entry->ended, 0);
    atomic_store(&entry->begun, lt_comm_clock());
    atomic_store(&entry->sequence, sequence);
    atomic_store(&flight->begun, sequence);
}

void lt_comm_ended(lt_comm *comm, uint64_t sequence)
{
    lt_flight *flight = &comm->flight;
    uint64_t before = atomic_load(&flight->ended);
    while (before < sequence && !atomic_compare_exchange_weak(&flight->ended, &before, sequence))
        ;
    if (before >= sequence) return;
    int64_t now = lt_comm_clock();
    uint64_t first = sequence > LT_FLIGHT_LENGTH ? sequence - LT_FLIGHT_LENGTH : 0;
    for (uint64_t s = (before > first ? before : first) + 1; s <= sequence; s++) {
        lt_flight_entry *entry = &flight->entries[s % LT_FLIGHT_LENGTH];
        if (atomic_load(&entry->sequence) == s) atomic_store(&entry->ended, now);
    }
}

static int format_entry(const lt_flight_entry *entry, int64_t now, char *out, size_t size)
{
    uint64_t sequence = atomic_load(&entry->sequence);
    if (!sequence) return 0;
    int64_t begun = atomic_load(&entry->begun), ended = atomic_load(&entry->ended);
    int length = snprintf(out, size, "#%" PRIu64 " %s%s %s x %" PRId64 ", begun %.3f s ago, ",
                          sequence, atomic_load(&entry->host) ? "host " : "",
                          operation_name(atomic_load(&entry->operation)),
                          lt_dtype_name(atomic_load(&entry->dtype)), atomic_load(&entry->count),
                          (double)(now - begun) * 1e-9);
    if (length < 0 || (size_t)length >= size) return 0;
    int more = ended ? snprintf(out + length, size - (size_t)length, "took %.3f ms\n",
                                (double)(ended - begun) * 1e-6)
                     : snprintf(out + length, size - (size_t)length, "not ended\n");
    return more < 0 || (size_t)(length + more) >= size ? 0 : length + more;
}

size_t lt_flight_format(const lt_flight *flight, char *out, size_t size)
{
    uint64_t last = atomic_load(&flight->begun);
    uint64_t first = last > LT_FLIGHT_LENGTH ? last - LT_FLIGHT_LENGTH + 1 : 1;
    int64_t now = lt_comm_clock();
    size_t length = 0;
    for (uint64_t s = first; s <= last; s++)
        length += (size_t)format_entry(&flight->entries[s % LT_FLIGHT_LENGTH], now, out + length,
                                       size - length);
    out[length] = '\0';
    return length;
}

lt_status lt_comm_flight_record(const lt_comm *comm, lt_buffer *out, lt_err *err)
{
    char text[LT_FLIGHT_TEXT];
    size_t length = lt_flight_format(&comm->flight, text, sizeof text);
    return lt_buffer_append(out, text, length, err);
}
