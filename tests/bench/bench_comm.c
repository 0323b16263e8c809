/* How fast processes exchange tensors of the CPU, over train/comm. Started by mpirun:
 *
 *     mpirun -n N bench_comm [BYTES]                                                    (4194304)
 *
 * A line for each collective and size: the median time of a call that is begun and waited for, and
 * bytes a second as a ring would have them: (N - 1) / N of a reduce-scatter's or all-gather's bytes
 * in that time, twice that of an all-reduce's. The last line has what tests/bench/bench_scaling
 * takes: seconds of a call without bytes, and bytes a second of an all-reduce, and of
 * reduce-scatter and all-gather together. */
#include "tests/bench/bench.h"
#include "train/comm/comm.h"

#define MUST(call) bench_check((call), &err)

enum { LATENCY_BYTES = 256, ROUNDS = 41 };

typedef enum operation { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, OPERATIONS } operation;
static const char *const names[OPERATIONS] = {"all_reduce", "reduce_scatter", "all_gather"};

static int by_value(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void exchange(lt_comm *comm, operation what, lt_tensor whole, lt_tensor part)
{
    lt_err err = {0};
    lt_comm_ticket ticket = {0};
    if (what == ALL_REDUCE)
        MUST(lt_comm_all_reduce(comm, whole, &ticket, &err));
    else if (what == REDUCE_SCATTER)
        MUST(lt_comm_reduce_scatter(comm, whole, part, &ticket, &err));
    else
        MUST(lt_comm_all_gather(comm, part, whole, &ticket, &err));
    MUST(lt_comm_wait(comm, &ticket, &err));
}

/* The median of a call's time, the same on all: the slowest process's. */
static double measure(lt_comm *comm, operation what, int64_t bytes)
{
    lt_err err = {0};
    double times[ROUNDS];
    int64_t size = lt_comm_size(comm), part_count = bytes / 4 / size;
    float *whole = bench_random(part_count * size, 1), *part = bench_random(part_count, 2);
    lt_tensor w = lt_tensor_1d(whole, LT_F32, part_count * size);
    lt_tensor p = lt_tensor_1d(part, LT_F32, part_count);
    for (int i = 0; i < ROUNDS; i++) {
        memset(whole, 0, (size_t)(part_count * size) * sizeof *whole); /* sums stay finite */
        MUST(lt_comm_barrier(comm, &err));
        times[i] = bench_now();
        exchange(comm, what, w, p);
        times[i] = bench_now() - times[i];
    }
    MUST(lt_comm_max(comm, times, ROUNDS, &err));
    qsort(times, ROUNDS, sizeof *times, by_value);
    free(whole);
    free(part);
    return times[ROUNDS / 2];
}

/* Seconds of each operation at this size, printed by rank 0. */
static void measure_all(lt_comm *comm, int64_t bytes, double seconds[OPERATIONS])
{
    double share = (double)(lt_comm_size(comm) - 1) / lt_comm_size(comm);
    for (int i = 0; i < OPERATIONS; i++) {
        seconds[i] = measure(comm, (operation)i, bytes);
        if (lt_comm_rank(comm) > 0) continue;
        double moved = (i == ALL_REDUCE ? 2 : 1) * share * (double)bytes;
        printf("%-16s %10lld bytes %9.3f ms %8.2f GB/s\n", names[i], (long long)bytes,
               1e3 * seconds[i], 1e-9 * moved / seconds[i]);
    }
}

int main(int argc, char **argv)
{
    lt_err err = {0};
    lt_comm *comm = NULL;
    lt_backend *backend = NULL;
    int64_t bytes = argc > 1 ? atoll(argv[1]) : 4 << 20;
    lt_comm_settings settings = {.identity = "", .timeout = 60};
    double empty[OPERATIONS], full[OPERATIONS];
    MUST(lt_backend_create(&(lt_backend_settings){.threads = 1}, &backend, &err));
    MUST(lt_launch_find_place(&settings.place, &err));
    MUST(lt_comm_choose(&settings.place, backend, &settings.kind, &err));
    settings.backend = backend;
    MUST(lt_comm_open(&settings, &comm, &err));
    double share = (double)(lt_comm_size(comm) - 1) / lt_comm_size(comm);
    if (lt_comm_rank(comm) == 0)
        printf("%d processes, %s\n", lt_comm_size(comm), lt_comm_name(comm));
    measure_all(comm, LATENCY_BYTES, empty);
    measure_all(comm, bytes, full);
    double latency = (empty[REDUCE_SCATTER] + empty[ALL_GATHER]) / 2;
    double halves = full[REDUCE_SCATTER] + full[ALL_GATHER] - 2 * latency;
    if (lt_comm_rank(comm) == 0)
        printf("exchange %.9f %.0f %.0f\n", latency,
               2 * share * (double)bytes / (full[ALL_REDUCE] - empty[ALL_REDUCE]),
               2 * share * (double)bytes / halves);
    lt_comm_close(comm);
    lt_backend_free(backend);
    return 0;
}
